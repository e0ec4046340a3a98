"""Which keyframes a step of the interleaved training sees and how noisy each is: numbers only.

Captain Cinema (arXiv 2507.18634), section "training": keyframes of a film as (caption, picture)
pairs, from single pictures to 8, 16 and 32 pairs, sampled with a dynamic stride. The paper names
these things without their algorithm; what is inferred says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STAGE_PAIRS = (1, 8, 16, 32)
"""Pairs of a sequence, stage by stage; going to long ones directly collapses (App. B, Fig. 8)."""

STAGE_STEPS = 20_000
"""Steps of a stage (Tab. 4; the main text says 40,000 in all, App. A, which looks stale, 2,500)."""

MOST_OVERLAP = 0.25
"""Share of its keyframes that a sequence may have in common with another of the same epoch. The
paper states the threshold, not what it is measured against; over all epochs it cannot hold (of 32
keyframes no more than 3 sets of 16 are that different), so it is per epoch (inferred)."""

OFFSET_PRIME = 7919
"""Moves the first keyframe from epoch to epoch (inferred: any prime above the strides)."""

CONTEXT_NOISE = (0.001, 0.25)
"""Noise levels of what is context: 1 to 250 of 1000, which keeps faces best (Fig. 10)."""

ATTEMPTS = 4
"""Walks tried from each first keyframe, each with jitter of its own (our choice)."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """`pairs` of a sequence, for `steps` optimiser steps."""

    pairs: int
    steps: int

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.steps < 1:
            raise ValueError(
                f"a stage needs 1 pair and 1 step or more, got {self.pairs} and {self.steps}"
            )


def check_stages(stages: Sequence[Stage]) -> None:
    """Raises ValueError for stages that do not grow: the order is what keeps training stable."""
    pairs = [stage.pairs for stage in stages]
    if not pairs or pairs != sorted(set(pairs)):
        raise ValueError(f"pairs must grow from stage to stage, got {pairs}")


def most_stride(length: int, pairs: int) -> int:
    """The longest stride that leaves room for `pairs` keyframes in a film of `length`."""
    return max(1, (length - 1) // (pairs - 1)) if pairs > 1 else max(1, length)


def epoch_sequences(
    length: int, pairs: int, epoch: int, generator: np.random.Generator
) -> tuple[tuple[int, ...], ...]:
    """Sequences of `pairs` keyframes of a film of `length` for one epoch, each in order (inferred).

    One stride is drawn for the epoch, the first keyframe shifts with the epoch's number, each step
    is the stride and -1, 0 or 1; a sequence that has more than MOST_OVERLAP in common with one that
    was taken is dropped. Raises ValueError for a film that is too short.
    """
    if length < pairs:
        raise ValueError(f"a film needs {pairs} keyframes here, got {length}")
    stride = int(generator.integers(1, most_stride(length, pairs) + 1))
    offset = (epoch * OFFSET_PRIME) % stride
    taken: list[tuple[int, ...]] = []
    for first in (*range(offset, length), *range(offset)):
        for _ in range(ATTEMPTS):
            walk = _walk(first, pairs, stride, generator)
            if walk[-1] < length and all(overlap(walk, other) <= MOST_OVERLAP for other in taken):
                taken.append(walk)
                break
    if not taken:  # the jitter led every walk out of the film
        first = int(generator.integers(length - pairs + 1))
        taken.append(tuple(range(first, first + pairs)))
    return tuple(taken)


def _walk(first: int, pairs: int, stride: int, generator: np.random.Generator) -> tuple[int, ...]:
    steps = np.maximum(1, stride + generator.integers(-1, 2, size=pairs - 1))
    return tuple(int(place) for place in first + np.concatenate([[0], np.cumsum(steps)]))


def overlap(sequence: Sequence[int], other: Sequence[int]) -> float:
    """The share of `sequence` that `other` has as well."""
    return len(set(sequence) & set(other)) / len(sequence)


@dataclass(frozen=True)
class StepPlan:
    """One sequence for each entry: the film, its keyframes in order, and each one's noise level."""

    films: tuple[int, ...]
    keyframes: tuple[tuple[int, ...], ...]
    levels: tuple[tuple[float, ...], ...]


class SequencePlanner:
    """Draws the steps of a stage: epoch after epoch over all films that are long enough.

    Step n is the same whoever asks and whenever, so that a training resumes on the same data.
    """

    def __init__(
        self, lengths: Sequence[int], pairs: int, batch: int, seed: int, context_share: float
    ) -> None:
        """`lengths` are the films' keyframes. Raises ValueError when no film is long enough."""
        self._films = [film for film, length in enumerate(lengths) if length >= pairs]
        if not self._films:
            raise ValueError(
                f"a stage of {pairs} pairs needs a film of {pairs} keyframes or more, got "
                f"{max(lengths, default=0)} in the longest"
            )
        self._lengths, self._pairs, self._batch = tuple(lengths), pairs, batch
        self._seed, self._context_share = seed, context_share
        self._counts: list[int] = []  # sequences of each epoch that was drawn
        self._held: tuple[int, tuple[tuple[int, tuple[int, ...]], ...]] = (-1, ())

    def step(self, number: int, process: int = 0, processes: int = 1) -> StepPlan:
        """The step `number` of one of several processes: each takes its own share of the epoch."""
        first = (number * processes + process) * self._batch
        chosen = [self._sequence(first + place) for place in range(self._batch)]
        generator = np.random.default_rng([self._seed, self._pairs, number, process, 1])
        return StepPlan(
            tuple(film for film, _ in chosen),
            tuple(keyframes for _, keyframes in chosen),
            tuple(noise_levels(self._pairs, generator, self._context_share) for _ in chosen),
        )

    def _sequence(self, number: int) -> tuple[int, tuple[int, ...]]:
        """Sequence `number` counted through all epochs, whose lengths vary with their strides."""
        epoch = 0
        while True:
            if epoch == len(self._counts):
                self._counts.append(len(self._epoch(epoch)))
            if number < self._counts[epoch]:
                return self._epoch(epoch)[number]
            number -= self._counts[epoch]
            epoch += 1

    def _epoch(self, epoch: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
        if self._held[0] != epoch:
            generator = np.random.default_rng([self._seed, self._pairs, epoch, 0])
            found = [
                (film, keyframes)
                for film in self._films
                for keyframes in epoch_sequences(self._lengths[film], self._pairs, epoch, generator)
            ]
            order = generator.permutation(len(found))
            self._held = epoch, tuple(found[place] for place in order)
        return self._held[1]


def noise_levels(
    pairs: int, generator: np.random.Generator, context_share: float
) -> tuple[float, ...]:
    """A noise level 0..1 for each pair of a sequence, each drawn by itself (diffusion forcing).

    Levels are logit-normal as Flux's family is trained (SD3, arXiv 2403.03206, section 3.1). With
    probability `context_share` the first pairs, any number but all, are context with levels of
    CONTEXT_NOISE: that is what a keyframe is made from later (inferred).
    """
    levels = 1.0 / (1.0 + np.exp(-generator.standard_normal(pairs)))
    if pairs > 1 and generator.uniform() < context_share:
        context = int(generator.integers(1, pairs))
        levels[:context] = generator.uniform(*CONTEXT_NOISE, size=context)
    return tuple(float(level) for level in levels)
