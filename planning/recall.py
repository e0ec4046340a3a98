"""Which earlier segments each segment of a film remembers, and where they stand in time. All ints.

Field experience (ecosystem.md, H3-Multishot's measurement): recent generated frames that are fed
back make drift worse, so a memory that nothing was trained for remembers anchors only, unless asked
to; a trained one remembers everything.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from .segments import Segment

Stream = Literal["chain", "segment"]


@dataclass(frozen=True, kw_only=True)
class RecallPolicy:
    """What of a film is remembered while it is made.

    `recent`: segments as they come. `pin_first_shot`: the segments of the first shot, always.
    `latent_frames`: how far back `recent` reaches, 0 for all. `stream`: `chain` where a segment
    adds only its new latent frames, `segment` where it is remembered with the frames that it was
    handed, as a clip of its own.
    """

    recent: bool
    pin_first_shot: bool
    latent_frames: int
    stream: Stream


class Placed(Protocol):
    """What of a segment says how long it is: a planned one, or one of a finished run."""

    @property
    def start(self) -> str: ...

    @property
    def latent_frames(self) -> int: ...

    @property
    def known_latent_frames(self) -> int: ...


def remembered_latent_frames(segment: Placed, stream: Stream) -> int:
    """Latent frames of a segment that a memory holds."""
    handed = segment.known_latent_frames if segment.start == "tail" else 0
    return segment.latent_frames - (handed if stream == "chain" else 0)


def segment_starts(segments: Sequence[Placed], stream: Stream) -> tuple[int, ...]:
    """Time of each segment's first latent frame, the handed ones included, on the film's line.

    In a `chain` a handed frame has the time of the frame it copies; with `segment` the segments lie
    one after the other.
    """
    starts, end = [], 0
    for segment in segments:
        end += remembered_latent_frames(segment, stream)
        starts.append(end - segment.latent_frames)
    return tuple(starts)


def pinned_segments(segments: Sequence[Segment], policy: RecallPolicy) -> frozenset[int]:
    """Indices of the segments that are anchors."""
    if not policy.pin_first_shot:
        return frozenset()
    return frozenset(segment.index for segment in segments if segment.shot == 0)


def recalled_segments(
    segments: Sequence[Segment], index: int, policy: RecallPolicy
) -> tuple[int, ...]:
    """Indices, in order, of the earlier segments that segment `index` remembers."""
    pinned = pinned_segments(segments, policy)
    chosen, reach = [i for i in range(index) if i in pinned], 0
    for earlier in reversed(segments[:index]):
        if not policy.recent or (policy.latent_frames and reach >= policy.latent_frames):
            break
        reach += remembered_latent_frames(earlier, policy.stream)
        if earlier.index not in pinned:
            chosen.append(earlier.index)
    return tuple(sorted(chosen))


def with_recall(
    segments: Sequence[Segment], policy: RecallPolicy, anything_given: bool
) -> tuple[Segment, ...]:
    """The segments with what each remembers; a cut that remembers something starts from memory.

    `anything_given` is whether the memory holds something before the film begins.
    """
    planned = []
    for segment in segments:
        recalls = recalled_segments(segments, segment.index, policy)
        if recalls or anything_given:
            start = "memory" if segment.start == "text" else segment.start
            segment = replace(segment, start=start, recalls=recalls)
        planned.append(segment)
    return tuple(planned)


def parse_shots(text: str) -> frozenset[int] | None:
    """Read "1-3, 5" to {1, 2, 3, 5}; empty means every shot, None.

    Raises ValueError naming the entry that does not read.
    """
    shots: set[int] = set()
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\d{1,5})(?:\s*-\s*(\d{1,5}))?", entry)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else 0
        if match is None or first < 1 or last < first:
            raise ValueError(f"shots must read like '1-3, 5', got '{entry}'")
        shots |= set(range(first, last + 1))
    return frozenset(shots) or None
