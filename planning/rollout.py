"""Which latent frames of a long video are made when, at which level, seeing which others.

MilliVid (arXiv 2606.09056): a chunk of the video is first made as coarse codes, then block by block
at finer levels, and each step sees the near past fine, the far past coarse, and what is already
planned ahead at the level that it has. The schedule is written here as the shared design states it
(`hierarchical-latents.md`, sections 3.1 to 3.4), where it was compared with the released strategy.

Frames are latent frames of one timeline, 0-based, intervals half-open; level 0 is the finest. The
other ways to roll out a video have a file each: `rollout_full`, `rollout_framepack`,
`rollout_mirrored`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol

Kind = Literal["hierarchy", "patchified"]
"""What stands at the coarser levels of a step: codes of the hierarchy, or level-0 latents that were
put together in larger patches (FramePack)."""


class Span(NamedTuple):
    """The latent frames [start, stop) at one level; empty when they are equal."""

    level: int
    start: int
    stop: int

    @property
    def frames(self) -> int:
        return self.stop - self.start


class State(IntEnum):
    """What a step does with the cell of a frame and a level."""

    UNSEEN = 0
    CONTEXT = 1
    TARGET = 2


@dataclass(frozen=True)
class RolloutStep:
    """One denoising: `target` is made from the clean `context`.

    `context` is sorted by level, then by start; a level may have several spans, none is empty.
    Two more kinds of spans, of the mirrored rollout only, are denoised together with the target:
    `beside`, the same frames at coarser levels, is kept like it; `ahead`, later frames at coarser
    levels, is thrown away.
    """

    target: Span
    context: tuple[Span, ...]
    beside: tuple[Span, ...] = ()
    ahead: tuple[Span, ...] = ()

    @property
    def noisy(self) -> tuple[Span, ...]:
        return (self.target, *self.beside, *self.ahead)

    @property
    def written(self) -> tuple[Span, ...]:
        return (self.target, *self.beside)


class Rollout(Protocol):
    """A way to make a long video in rounds of `chunk` latent frames."""

    @property
    def kind(self) -> Kind: ...

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels that its steps see or make, finest first."""
        ...

    @property
    def history(self) -> int:
        """Latent frames before a chunk that its steps look back over, when there are as many."""
        ...

    @property
    def chunk(self) -> int: ...

    @property
    def steps_per_chunk(self) -> int: ...

    def steps(self, start: int, first: int = 0) -> Iterator[RolloutStep]:
        """The steps of the chunk that begins at latent frame `start`.

        Frames before `first` do not exist: they are cut away (cold start). Raises ValueError when
        `start` lies before `first`.
        """
        ...


@dataclass(frozen=True)
class Windows:
    """Latent frames that one step makes, per level, finest first; each divides the next.

    With k * 4 ** level frames and four times fewer tokens per level, every step costs the same
    (paper, section 3; shared design, 3.1).
    """

    frames: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.frames or self.frames[0] < 1:
            raise ValueError(f"windows must hold 1 latent frame or more, got {self}")
        for finer, coarser in pairwise(self.frames):
            if coarser <= finer or coarser % finer:
                raise ValueError(
                    "windows must nest: each a multiple of the finer one before it, got "
                    f"{coarser} after {finer} in {self}"
                )

    def __str__(self) -> str:
        return ", ".join(map(str, self.frames)) or "none"

    @classmethod
    def from_text(cls, text: str) -> Windows:
        """Windows written as numbers between commas, as `str` writes them."""
        parts = [part.strip() for part in text.split(",")]
        if not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError(
                f"windows must be whole numbers between commas, such as 1, 4, 16, got {text!r}"
            )
        return cls(tuple(map(int, parts)))


PRESETS = (Windows((1, 4, 16)), Windows((1, 4, 16, 64)), Windows((3, 12, 48, 192)))
"""The layouts of the paper: 21, 85 and 85 steps per chunk (arXiv 2606.09056, pages 7, 15 and 19).
Given in latent frames: the authors' autoencoder has no stride in time."""


@dataclass(frozen=True)
class CoarseToFine:
    """The rollout of MilliVid: the coarsest level of a chunk first, then depth first to the finest.

    `finest` leaves out the levels below it: a planner that hands its plan to a video model stops
    at level 1, say, and `windows` still counts from level 0 (shared design, 7.3).
    """

    windows: Windows
    finest: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.finest < len(self.windows.frames):
            raise ValueError(
                f"the finest level must be one of the {len(self.windows.frames)} levels of "
                f"windows {self.windows}, counted from 0, got {self.finest}"
            )

    @property
    def kind(self) -> Kind:
        return "hierarchy"

    @property
    def levels(self) -> tuple[int, ...]:
        return tuple(range(self.finest, len(self.windows.frames)))

    @property
    def history(self) -> int:
        return sum(self.windows.frames[self.finest :])

    @property
    def chunk(self) -> int:
        return self.windows.frames[-1]

    @property
    def steps_per_chunk(self) -> int:
        return sum(self.chunk // window for window in self.windows.frames[self.finest :])

    def steps(self, start: int, first: int = 0) -> Iterator[RolloutStep]:
        check_start(start, first)
        fronts = {level: start - self.windows.frames[level] for level in self.levels}
        return self._visit(self.levels[-1], fronts, first)

    def _visit(self, level: int, fronts: dict[int, int], first: int) -> Iterator[RolloutStep]:
        """Traversal of section 3.2; `fronts` holds the start of the newest block per level."""
        window = self.windows.frames[level]
        fronts[level] += window
        yield self._step(level, fronts, first)
        if level > self.finest:
            for _ in range(window // self.windows.frames[level - 1]):
                yield from self._visit(level - 1, fronts, first)

    def _step(self, target: int, fronts: dict[int, int], first: int) -> RolloutStep:
        """Selection of section 3.3: [seen, ahead) is what finer levels cover already, and a frame
        that they cover gives its place at a coarser level to the past."""
        seen = ahead = fronts[self.finest]
        context = []
        for level in self.levels:
            window, front = self.windows.frames[level], fronts[level]
            if level == target:
                covered, new = window, 0
            else:
                covered = min(window, max(0, ahead - front))
                new = window - covered
            context.append(Span(level, seen - covered, seen))
            context.append(Span(level, ahead, ahead + new))
            seen, ahead = seen - covered, ahead + new
        start = fronts[target]
        return RolloutStep(
            Span(target, start, start + self.windows.frames[target]), cut(context, first)
        )


def check_start(start: int, first: int) -> None:
    """Raises ValueError when a chunk would begin before the first latent frame."""
    if start < first:
        raise ValueError(
            f"a chunk must not begin before the first latent frame {first}, got {start}"
        )


def cut(spans: Sequence[Span], first: int) -> tuple[Span, ...]:
    """The spans without the frames before `first`, sorted, those that touch joined, none empty."""
    kept: list[Span] = []
    for level, start, stop in sorted(spans):
        start = max(start, first)
        if start >= stop:
            continue
        if kept and kept[-1].level == level and kept[-1].stop == start:
            start = kept.pop().start
        kept.append(Span(level, start, stop))
    return tuple(kept)


def tokens(step: RolloutStep, per_level: Sequence[int]) -> int:
    """Tokens that the network is given in this step, with so many per latent frame and level."""
    return sum(span.frames * per_level[span.level] for span in (*step.noisy, *step.context))


def states(step: RolloutStep, levels: int, start: int, stop: int) -> tuple[tuple[State, ...], ...]:
    """The step as a picture: a row per level, finest first, of what it does with each frame of
    [start, stop)."""
    rows = [[State.UNSEEN] * (stop - start) for _ in range(levels)]
    marked = [(span, State.CONTEXT) for span in step.context]
    marked += [(span, State.TARGET) for span in step.noisy]
    for span, state in marked:
        for frame in range(max(span.start, start), min(span.stop, stop)):
            rows[span.level][frame - start] = state
    return tuple(map(tuple, rows))


def chunk_starts(rollout: Rollout, start: int, frames: int) -> range:
    """Where the chunks begin that make `frames` latent frames from `start` on; the last may reach
    beyond them."""
    return range(start, start + frames, rollout.chunk)
