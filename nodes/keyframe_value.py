"""Keyframes: one picture for each shot of a storyboard, with what the storyboard says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from ..planning.storyboard import Storyboard


@dataclass(frozen=True, kw_only=True)
class Keyframes:
    """What travels on TL_KEYFRAMES: the first picture of every shot that has one.

    `images` is [n, height, width, 3] in 0..1 on the CPU, `shot_ids` the n shots of `storyboard`
    that they belong to, in the storyboard's order. `run_name` is the run folder that they were made
    in, "" for pictures that an artist brought.
    """

    storyboard: Storyboard
    shot_ids: tuple[str, ...]
    images: Tensor
    run_name: str = ""

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[-1] != 3:
            raise ValueError(
                f"keyframes must be [n, height, width, 3], got {tuple(self.images.shape)}"
            )
        if len(self.shot_ids) != len(self.images) or not self.shot_ids:
            raise ValueError(
                f"keyframes need one shot id each, got {len(self.shot_ids)} ids for "
                f"{len(self.images)} pictures"
            )
        known = {shot.id: place for place, shot in enumerate(self.storyboard.shots)}
        foreign = [name for name in self.shot_ids if name not in known]
        if foreign:
            raise ValueError(
                f"keyframes must belong to shots of the storyboard, got {foreign[0]!r}"
            )
        places = [known[name] for name in self.shot_ids]
        if places != sorted(set(places)):
            raise ValueError(
                f"keyframes must be in the storyboard's order, one per shot, got {self.shot_ids}"
            )

    def of(self, shot_id: str) -> Tensor | None:
        """The picture [1, height, width, 3] of a shot, None where it has none."""
        if shot_id not in self.shot_ids:
            return None
        place = self.shot_ids.index(shot_id)
        return self.images[place : place + 1]
