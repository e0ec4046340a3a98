"""Rollout at full resolution: each round sees the last frames and makes the next, all at level 0.

The baseline of MilliVid (arXiv 2606.09056; shared design `hierarchical-latents.md`, section 3.8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .rollout import Kind, RolloutStep, Span, check_start, cut


@dataclass(frozen=True)
class FullResolution:
    """`window` latent frames per step: the first half is context, the second half is made.

    The paper takes 14 in its main comparison and 4 in its small one (section 3.8).
    """

    window: int

    def __post_init__(self) -> None:
        if self.window < 2 or self.window % 2:
            raise ValueError(
                f"a window at full resolution must be even and hold 2 latent frames or more, got "
                f"{self.window}"
            )

    @property
    def kind(self) -> Kind:
        return "hierarchy"

    @property
    def levels(self) -> tuple[int, ...]:
        return (0,)

    @property
    def history(self) -> int:
        return self.window // 2

    @property
    def chunk(self) -> int:
        return self.window // 2

    @property
    def steps_per_chunk(self) -> int:
        return 1

    def steps(self, start: int, first: int = 0) -> Iterator[RolloutStep]:
        check_start(start, first)
        context = cut([Span(0, start - self.history, start)], first)
        yield RolloutStep(Span(0, start, start + self.chunk), context)
