"""A mirrored FramePack: what lies ahead is made coarsely with the next frame, and thrown away.

The next frame is made at every level at once, since the past is seen at every level.

A variant that MilliVid was compared with (arXiv 2606.09056; shared design
`hierarchical-latents.md`, section 3.8), over the codes of a hierarchy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .rollout import Kind, RolloutStep, Span, Windows, check_start, cut
from .rollout_framepack import PackedPast, past_of

MIRRORED = Windows((1, 2, 8, 32))
"""Latent frames per level on either side, as released."""


@dataclass(frozen=True)
class Mirrored(PackedPast):
    """The same windows, finest nearest, on both sides of the present."""

    windows: Windows = MIRRORED

    @property
    def kind(self) -> Kind:
        return "hierarchy"

    def steps(self, start: int, first: int = 0) -> Iterator[RolloutStep]:
        check_start(start, first)
        past = past_of(self.windows, start)
        target, *ahead = [
            Span(level, 2 * start - stop, 2 * start - begin) for level, begin, stop in past
        ]
        beside = [Span(level, *target[1:]) for level in self.levels[1:]]
        yield RolloutStep(target, cut(past, first), tuple(beside), tuple(ahead))
