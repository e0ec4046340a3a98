"""What is to be made again, and why, decided without making anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .keys import BY_SEGMENT, MEMORY, STARTS, hash_json
from .manifest import Manifest, SegmentRecord
from .segment_file import (
    KEY_DIGITS,
    DamagedSegmentError,
    StoredSegment,
    file_name,
    read_segment_file,
)

if TYPE_CHECKING:
    from ..planning.segments import Segment

Status = Literal["reused", "missing", "changed", "damaged", "depends"]

COMPARED_FIELDS = (
    "prompt",
    "negative",
    "seed",
    "take",
    "start",
    "latent_frames",
    "known_latent_frames",
)
LONGEST_VALUE = 40
"""Characters of a value quoted in a reason."""


@dataclass(frozen=True, kw_only=True)
class SegmentState:
    """What happens to segment `index` (0-based) when the run is made, and why, in words.

    reused: it is on disk as planned. missing: never made. changed: made from something else.
    damaged: its file is not whole. depends: itself as planned, but the segment it continues, or one
    that it remembers, is made again or came out different; it is reused if that one comes out the
    same bytes.
    """

    index: int
    status: Status
    reason: str

    @property
    def needs_render(self) -> bool:
        """Final when every segment before it is reused; a loop in order therefore asks anew."""
        return self.status != "reused"


@dataclass(frozen=True)
class Damage:
    """Why the file of a planned segment cannot be used."""

    reason: str


Found = StoredSegment | Damage | None


def find_stored(folder: Path, keys: Mapping[int, str], lengths: Sequence[int]) -> list[Found]:
    """Look in segments/ for the segments whose `keys` are given by index, in that order; every file
    found is verified.

    `lengths` are the planned latent frames of all segments. A take that was made earlier under the
    same key counts, also when it stood at another place in the film.
    """
    by_key: dict[str, list[str]] = {}
    names = sorted(path.name for path in folder.glob("*.safetensors")) if folder.is_dir() else []
    for name in names:
        by_key.setdefault(name.removesuffix(".safetensors").rpartition("-")[2], []).append(name)
    found: list[Found] = []
    for index, key in keys.items():
        own = file_name(index, key)
        candidates = sorted(by_key.get(key[:KEY_DIGITS], []), key=lambda name: name != own)
        result: Found = None
        for name in candidates:
            result = _verify(folder / name, key, lengths[index])
            if isinstance(result, StoredSegment):
                break
        found.append(result)
    return found


def _verify(path: Path, key: str, latent_frames: int) -> StoredSegment | Damage:
    try:
        stored, _, _ = read_segment_file(path)
    except DamagedSegmentError as error:
        return Damage(f"{path.name} is damaged: {error}")
    except OSError as error:
        return Damage(f"{path.name} cannot be read: {error}")
    if stored.key != key:
        return Damage(f"{path.name} holds another segment than its name says")
    if stored.shape[2] != latent_frames:
        return Damage(f"{path.name} has {stored.shape[2]} latent frames, {latent_frames} planned")
    return stored


def recalled_content(segment: "Segment", found: Sequence[Found]) -> str | None:
    """One hash over the contents of the segments that a segment or its coarse plan remembers.

    None where it remembers none, or where one of them is not on disk.
    """
    stored = [found[index] for index in segment.looks_back_at]
    contents = [one.content for one in stored if isinstance(one, StoredSegment)]
    return hash_json(contents) if contents and len(contents) == len(stored) else None


def segment_states(
    segments: Sequence["Segment"],
    keys: Sequence[str],
    found: Sequence[Found],
    parameters: Mapping[str, Any],
    before: Manifest | None,
) -> tuple[SegmentState, ...]:
    """Decide each segment in order. `before` is the manifest of the last time, for the reasons."""
    states: list[SegmentState] = []
    for i, segment in enumerate(segments):
        states.append(_state(i, segment, keys, found, states, parameters, before))
    return tuple(states)


def _state(
    i: int,
    segment: "Segment",
    keys: Sequence[str],
    found: Sequence[Found],
    states: Sequence[SegmentState],
    parameters: Mapping[str, Any],
    before: Manifest | None,
) -> SegmentState:
    stored = found[i]
    if isinstance(stored, Damage):
        return SegmentState(index=i, status="damaged", reason=stored.reason)
    if stored is None:
        return _absent(i, segment, keys, states, parameters, before)
    again = _recalled_again(segment, states)
    if again is not None:
        return SegmentState(
            index=i,
            status="depends",
            reason=f"remembers segment {again}, which is made again; reused if that comes out the "
            "same",
        )
    if stored.recalled_content != recalled_content(segment, found):
        return SegmentState(
            index=i, status="depends", reason="remembers a segment that came out different"
        )
    if segment.start != "tail":
        return SegmentState(index=i, status="reused", reason="on disk as planned")
    parent, parent_file = states[i - 1], found[i - 1]
    if parent.needs_render:
        return SegmentState(
            index=i,
            status="depends",
            reason=f"continues segment {i}, which is made again; reused if that comes out the same",
        )
    assert isinstance(parent_file, StoredSegment)
    if stored.parent_content != parent_file.content:
        return SegmentState(
            index=i, status="depends", reason=f"continues segment {i}, which came out different"
        )
    return SegmentState(index=i, status="reused", reason="on disk as planned")


def _absent(
    i: int,
    segment: "Segment",
    keys: Sequence[str],
    states: Sequence[SegmentState],
    parameters: Mapping[str, Any],
    before: Manifest | None,
) -> SegmentState:
    """The state of a segment that no file has been made for under this key."""
    if before is None or i >= len(before.segments) or not before.segments[i].finished:
        return SegmentState(index=i, status="missing", reason="not made yet")
    record = before.segments[i]
    if record.key == keys[i]:
        return SegmentState(index=i, status="missing", reason="its file is gone")
    changes = _changes(record, segment, before.parameters, parameters)
    if changes:
        return SegmentState(index=i, status="changed", reason="; ".join(changes))
    if segment.start == "tail" and states[i - 1].needs_render:
        return SegmentState(
            index=i, status="depends", reason=f"continues segment {i}, which is made again"
        )
    again = _recalled_again(segment, states)
    if again is not None:
        return SegmentState(
            index=i, status="depends", reason=f"remembers segment {again}, which is made again"
        )
    return SegmentState(index=i, status="changed", reason="made from something else")


def _recalled_again(segment: "Segment", states: Sequence[SegmentState]) -> int | None:
    """Number of the first remembered segment that is made again."""
    return next((i + 1 for i in segment.looks_back_at if states[i].needs_render), None)


def _changes(
    record: SegmentRecord,
    segment: "Segment",
    old: Mapping[str, Any],
    new: Mapping[str, Any],
) -> list[str]:
    """What differs between the segment that was made and the planned one, in words."""
    changes = []
    for field in COMPARED_FIELDS:
        was, now = getattr(record, field), getattr(segment, field)
        if was != now:
            changes.append(f"{field.replace('_', ' ')} {_short(was)} -> {_short(now)}")
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        if name == STARTS:
            was, now = (was or {}).get(segment.start), (now or {}).get(segment.start)
        if name in BY_SEGMENT:
            was, now = (was or {}).get(str(segment.index)), (now or {}).get(str(segment.index))
        if name == MEMORY and segment.recalls is None:
            continue
        if was != now:
            changes.append(f"{name.replace('_', ' ')} {_short(was)} -> {_short(now)}")
    return changes


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return repr(text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "...")
