"""Which anchors of a plan are pictures that somebody brought, instead of what a model would plan.

A picture fixes where a segment is at its middle or at its end and says nothing about how it gets
there (planner P5 of the shared design `macro-micro-planning.md`, section 8); the filler finds the
way. What a segment begins with is given elsewhere: by a start image, a keyframe, or the segment
before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, cast

from .layout import HANDED, Layout, layout_of_steps, middle_anchors
from .macro import MacroSegment

Place = Literal["middle", "end"]
PLACES: tuple[Place, ...] = ("middle", "end")

LAYOUT = "pictures"
"""Name of the layouts of such segments."""

Places = Mapping[int, tuple[Place, ...]]
"""By index of a segment (0-based), where its pictures are."""


def parse_places(text: str) -> tuple[tuple[int, Place], ...]:
    """Read "2:end, 3:middle" (a segment and a place for each picture in turn) with 0-based indices.

    Raises ValueError for what does not read like that and for a place that is named twice.
    """
    places: list[tuple[int, Place]] = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\d{1,6})\s*:\s*(middle|end)", entry)
        if match is None or int(match[1]) < 1:
            raise ValueError(
                "anchor_places must read like '2:end, 3:middle' (segment:place, the start of a "
                f"film or a cut is start_image or a keyframe), got '{entry}'"
            )
        place = (int(match[1]) - 1, cast(Place, match[2]))
        if place in places:
            raise ValueError(f"anchor_places must name each place once, got '{entry}' twice")
        places.append(place)
    return tuple(places)


def place_id(place: Place, latent_frames: int) -> int:
    """The latent frame of a segment that a picture stands for: the middle one of the middle
    anchors, or the last."""
    if place == "end":
        return latent_frames - 1
    middle = middle_anchors(latent_frames)
    return middle[len(middle) // 2]


def picture_layout(latent_frames: int, known: int, places: Sequence[Place]) -> Layout:
    """The known latent frames, the pictures, then each gap between them in turn.

    Raises ValueError for a segment that is too short.
    """
    start = min(known, HANDED)
    ids = [place_id(place, latent_frames) for place in places]
    if min(ids) < start or len(set(ids)) < len(ids):
        raise ValueError(
            f"a segment of {latent_frames} latent frames has no room for pictures at its "
            f"{' and '.join(places)} behind the {start} that it starts from"
        )
    steps, step = [0] * latent_frames, 1
    for i in range(start, latent_frames):
        before = steps[i - 1]
        if i in ids:
            steps[i] = 1
        else:
            step = before if before > 1 else step + 1
            steps[i] = step
    return layout_of_steps(LAYOUT, steps)


def with_pictures(
    segments: Sequence[MacroSegment], places: Places, alone: bool = False
) -> tuple[MacroSegment, ...]:
    """The plan with those segments planned from pictures; `alone`: no other segments may be there.

    Raises ValueError naming the segment for one that is not there, that has nothing to start from,
    or that is to be continued and has no picture at its end, and with `alone` for one without any.
    """
    surplus = sorted(index + 1 for index in places if index >= len(segments))
    if surplus:
        raise ValueError(f"anchor_places name segments 1 to {len(segments)} only, got {surplus[0]}")
    planned = []
    for index, one in enumerate(segments):
        own = tuple(place for place in PLACES if place in places.get(index, ()))
        after = segments[index + 1].segment if index + 1 < len(segments) else None
        if not own:
            _check_bare(one, alone)
            planned.append(one)
            continue
        name = f"segment {one.segment.number} ({one.segment.shot_id})"
        if not one.segment.known_latent_frames:
            raise ValueError(
                f"{name} has pictures and nothing to start from: connect start_image, or a "
                "keyframe of its shot"
            )
        if after is not None and after.start == "tail" and "end" not in own:
            raise ValueError(
                f"{name} must have a picture at its end, because segment {after.number} continues "
                f"it, got one at its {own[0]} only"
            )
        length, known = one.kept_latent_frames, one.segment.known_latent_frames
        try:
            layout = picture_layout(length, known, own)
        except ValueError as error:
            raise ValueError(f"{name} is too short: {error}") from None
        planned.append(replace(one, layout=layout, places=own))
    return tuple(planned)


def _check_bare(one: MacroSegment, alone: bool) -> None:
    if alone:
        raise ValueError(
            f"planner 'pictures alone' needs pictures of every segment, segment "
            f"{one.segment.number} ({one.segment.shot_id}) has none at its middle or end: give it "
            "one, or choose a planner that makes its anchors"
        )
