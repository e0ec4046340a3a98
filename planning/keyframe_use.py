"""Which keyframe starts a segment, which ends it, and which it sees beside: all in shot indices.

A keyframe is the first frame of its shot (Captain Cinema, arXiv 2507.18634, section 3). Where a
shot continues the one before, no segment begins with it; the segment before may end on it instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .segments import Segment
    from .storyboard import Storyboard

FEWEST_NEW_LATENT_FRAMES = 2
"""New latent frames of a segment that ends on a keyframe: the last one is the keyframe's, so one
that is made must lie before it."""


@dataclass(frozen=True, kw_only=True)
class KeyframePlan:
    """What a film does with its keyframes. `shots` are the indices of the shots that have one.

    `ends`: the segment before a shot that continues ends on that shot's keyframe. `most_context`:
    how many keyframes beside its first and last frame a segment sees. `context_is_shared`: all
    segments see the same ones, all keyframes in the order of the film, as a memory gives them.
    """

    shots: frozenset[int] = frozenset()
    ends: bool = False
    most_context: int = 0
    context_is_shared: bool = False


def with_keyframes(
    segments: Sequence[Segment], storyboard: Storyboard, plan: KeyframePlan
) -> tuple[Segment, ...]:
    """The segments with the keyframes that each uses; those that start from one say so already."""
    planned = []
    for index, segment in enumerate(segments):
        start = segment.shot if segment.start == "keyframe" else None
        after = segments[index + 1] if index + 1 < len(segments) else None
        end = _end(segment, after, plan)
        planned.append(
            replace(
                segment,
                start_keyframe=start,
                end_keyframe=end,
                context_keyframes=_context(segment.shot, {start, end}, storyboard, plan),
            )
        )
    return tuple(planned)


def _end(segment: Segment, after: Segment | None, plan: KeyframePlan) -> int | None:
    """The shot on whose keyframe a segment ends."""
    if after is None or not plan.ends or after.shot == segment.shot or after.start != "tail":
        return None
    if after.shot not in plan.shots or segment.new_latent_frames < FEWEST_NEW_LATENT_FRAMES:
        return None
    return after.shot


def _context(
    shot: int, shown: set[int | None], storyboard: Storyboard, plan: KeyframePlan
) -> tuple[int, ...]:
    if plan.context_is_shared:
        return tuple(sorted(plan.shots))
    others = [other for other in sorted(plan.shots) if other not in shown]
    others.sort(key=lambda other: _closeness(storyboard, shot, other), reverse=True)
    return tuple(others[: plan.most_context])


def _closeness(storyboard: Storyboard, shot: int, other: int) -> tuple[bool, bool, int, bool, int]:
    """How much the keyframe of `other` says about `shot`, to be compared.

    Its own first, then what the script recalls by hand, then who is in both, then the same place,
    then the nearest in the film (our choice; the paper ranks by meaning, see memory/retrieval.py,
    and does not say how its video model orders keyframes).
    """
    here, there = storyboard.shots[shot], storyboard.shots[other]
    same_place = here.location is not None and here.location == there.location
    return (
        shot == other,
        there.id in here.recall,
        len(set(here.characters) & set(there.characters)),
        same_place,
        -abs(shot - other),
    )


def unused_keyframes(segments: Sequence[Segment], plan: KeyframePlan) -> tuple[int, ...]:
    """Shots whose keyframe no segment uses in any way."""
    used: set[int | None] = set()
    for segment in segments:
        used |= {segment.start_keyframe, segment.end_keyframe, *segment.context_keyframes}
    return tuple(sorted(plan.shots - used))
