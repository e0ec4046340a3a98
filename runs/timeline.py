"""Where the segments of a run stand in the film, from its manifest alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..planning.anchor_pictures import LAYOUT as PICTURES
from ..planning.layout import HANDED, middle_anchors
from .keys import FILL, FILM, KIND, PLAN, PLANNED

if TYPE_CHECKING:
    from .manifest import Manifest, SegmentRecord


def run_kind(manifest: Manifest) -> str:
    """What a run holds: "film" where it does not say, "plan", "fill", "keyframes"."""
    kind = manifest.parameters.get(KIND, FILM)
    return kind if isinstance(kind, str) else FILM


def added_latent_frames(manifest: Manifest, record: SegmentRecord) -> int:
    """Latent frames that a segment adds to the film, 1 or more.

    A plan stores its anchors alone; how long it is stands in the parameters with the layout. Where
    the next segment starts from the middle anchors, the film goes on from their end.
    """
    kind = run_kind(manifest)
    if kind == PLAN:
        whole = _planned_latent_frames(manifest, record)
        return max(1, whole - (HANDED if record.continues else 0))
    if kind == FILL:
        return max(1, record.latent_frames - record.known_latent_frames)
    return max(1, record.film_latent_frames)


def _planned_latent_frames(manifest: Manifest, record: SegmentRecord) -> int:
    planned = manifest.parameters.get(PLANNED)
    entry = planned.get(str(record.index)) if isinstance(planned, dict) else None
    if not isinstance(entry, list) or len(entry) < 2 or not isinstance(entry[1], int):
        return record.latent_frames
    name, length = entry[:2]
    if manifest.parameters.get("seed_from") == "middle" and name != PICTURES:
        return middle_anchors(length)[-1] + 1
    return int(length)
