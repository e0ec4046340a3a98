"""FramePack's rollout: the past in patches that grow with its age, a few fine frames per round.

As MilliVid compares itself with it (arXiv 2606.09056; shared design `hierarchical-latents.md`,
section 3.8): the past is level-0 latents, put together in patches of 2 ** level by 2 ** level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .rollout import Kind, RolloutStep, Span, Windows, check_start, cut


@dataclass(frozen=True)
class PackedPast:
    """A rollout that sees `windows` latent frames of the past per level, newest finest, and keeps
    as many frames of level 0 per step as it sees there."""

    windows: Windows

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(range(len(self.windows.frames)))

    @property
    def history(self) -> int:
        return sum(self.windows.frames)

    @property
    def chunk(self) -> int:
        return self.windows.frames[0]

    @property
    def steps_per_chunk(self) -> int:
        return 1


@dataclass(frozen=True)
class FramePack(PackedPast):
    """Each step makes the next frames of level 0 and nothing else."""

    @property
    def kind(self) -> Kind:
        return "patchified"

    def steps(self, start: int, first: int = 0) -> Iterator[RolloutStep]:
        check_start(start, first)
        yield RolloutStep(
            Span(0, start, start + self.chunk), cut(past_of(self.windows, start), first)
        )


def past_of(windows: Windows, start: int) -> list[Span]:
    """The past of frame `start`, newest finest, each level behind the finer ones."""
    spans = []
    for level, frames in enumerate(windows.frames):
        spans.append(Span(level, start - frames, start))
        start -= frames
    return spans
