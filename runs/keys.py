"""What a segment is made from, as one hash: equal keys mean that the same latents are wanted."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import blake3

if TYPE_CHECKING:
    from ..planning.segments import Segment

POSITION_FIELDS = frozenset(
    {
        "index",
        "shot",
        "shot_id",
        "chain",
        "recalls",
        "start_keyframe",
        "end_keyframe",
        "context_keyframes",
        "guided_by",
    }
)
"""Fields of a segment that say where it stands and change no pixel. Every other field, also one
that is added later, is part of its key. Of the segments in `recalls` and `guided_by` the keys are,
of the keyframes what KEYFRAMES says."""

STARTS = "starts"
"""Reserved entry of the run's parameters: by kind of start ("image", "latent", "memory"), what such
a segment starts from. It enters the keys of those segments only, so that another start image does
not throw away the shots that start from text."""

MEMORY = "memory"
"""Reserved entry of the run's parameters: how the film is remembered. It enters the keys of the
segments that remember something, so that the others are reused when a memory is connected."""

LORAS = "loras"
"""Reserved entry of the run's parameters: by index of a segment, as text, the LoRAs it is made
with, each as "digest strength". It enters the key of that segment only."""

KEYFRAMES = "keyframes"
"""Reserved entry of the run's parameters: by index of a segment, as text, how it uses which
pictures, each as "use digest". It enters the key of that segment only."""

PLANNED = "planned"
"""Reserved entry of the run's parameters: by index of a segment, as text, what of a plan it
follows: its layout and length while it is planned, the plan's content when it is filled."""

GUIDE = "coarse plan"
"""Reserved entry of the run's parameters: by index of a segment, as text, the coarse plan that it
follows and where it stands in it."""

BY_SEGMENT = (LORAS, KEYFRAMES, PLANNED, GUIDE)
"""The entries that are kept by index of a segment."""


def canonical(value: object, name: str = "parameters") -> Any:
    """`value` as plain JSON data: tuples become lists and 4.0 becomes 4, since graphs say either.

    Raises ValueError naming the entry for what JSON cannot say (NaN, tensors, keys that are not
    text).
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{name} must be Unicode text, got half a character in {value!r:.60}")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise ValueError(f"{name} must have text keys, got {wrong[0]!r}")
        return {key: canonical(value[key], f"{name}.{key}") for key in value}
    if isinstance(value, list | tuple):
        return [canonical(item, f"{name}[{i}]") for i, item in enumerate(value)]
    raise ValueError(f"{name} must be JSON data, got {type(value).__name__}")


def canonical_json(value: object, name: str = "parameters") -> bytes:
    """`value` as JSON with sorted keys and no spaces: the same data give the same bytes."""
    data = canonical(value, name)
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def hash_json(value: object) -> str:
    """BLAKE3 of the canonical JSON, as 64 hexadecimal digits."""
    return blake3.blake3(canonical_json(value)).hexdigest()


KIND = "kind"
"""Entry of the run's parameters: what the run holds, where that is no film ("keyframes")."""

FILM, PLAN, FILL = "film", "plan", "fill"
"""Kinds of runs: segments that continue each other (where KIND is missing), anchors, and segments
filled between anchors."""


def segment_keys(parameters: Mapping[str, Any], segments: Sequence["Segment"]) -> tuple[str, ...]:
    """The key of each segment: run parameters, its own, the key of the segment it continues, and
    those of the segments it remembers.

    Raises ValueError for a first segment that starts from a tail.
    """
    base = shared_key(parameters)
    keys: list[str] = []
    for segment in segments:
        keys.append(segment_key(base, parameters, segment, keys))
    return tuple(keys)


def shared_key(parameters: Mapping[str, Any]) -> str:
    """One hash over the parameters that every segment follows from."""
    reserved = (STARTS, MEMORY, *BY_SEGMENT)
    return hash_json({name: value for name, value in parameters.items() if name not in reserved})


def segment_key(
    base: str, parameters: Mapping[str, Any], segment: "Segment", keys: Sequence[str]
) -> str:
    """The key of one segment; `base` is `shared_key`, `keys` are those of the segments before it.

    Raises ValueError for a first segment that starts from a tail.
    """
    starts = parameters.get(STARTS, {})
    own = {
        name: value
        for name, value in dataclasses.asdict(segment).items()
        if name not in POSITION_FIELDS
    }
    parent = None
    if segment.start == "tail":
        if not keys:
            raise ValueError("segment 1 cannot start from a tail: nothing comes before it")
        parent = keys[-1]
    made_from = [base, own, starts.get(segment.start), parent]
    if segment.recalls is not None:
        made_from += [parameters.get(MEMORY), [keys[index] for index in segment.recalls]]
    if segment.guided_by:
        made_from.append({"guided by": [keys[index] for index in segment.guided_by]})
    for name in BY_SEGMENT:
        entry = parameters.get(name, {}).get(str(segment.index))
        if entry:
            made_from.append({name: entry})
    return hash_json(made_from)
