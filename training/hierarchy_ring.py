"""What the planners of the ring world are trained on: steps of a rollout along camera paths.

Design of hierarchical latents, sections 2.3, 7.3 and 8.1. A sample is one place, one camera path
and one step of the rollout; its codes are read from a table (hierarchy_data) by pose and move. The
condition of a latent frame says the pose, the move that led there and the place's word, never how
anything looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..memory.hierarchy import HierarchyGrid, HierarchyHead, PatchHead, PooledHead
from ..memory.hierarchy_planner import TokenSpan
from ..planning.rollout import CoarseToFine, Rollout, RolloutStep, Windows
from ..planning.rollout_framepack import FramePack
from ..planning.rollout_full import FullResolution
from .hierarchy_data import MOVES, RUN_LENGTHS, ring_place
from .world import NUM_POSES, PLACE_WORDS, Split

LEVELS, CHANNELS, LATENT_SIZE = 3, 16, 8
WINDOWS = Windows((1, 4, 16))
FULL_WINDOW = 4  # as many tokens per step as the others (design, 8.2)
CONDITION = NUM_POSES + len(MOVES) + len(PLACE_WORDS)
TURN_SHARE = 0.5  # of the camera paths of a training
PANEL_POSES = 2  # poses that look alike but for a whole panel: numbers may be shifted by them


@dataclass(frozen=True)
class Method:
    """A way to roll out the ring world and the head whose codes it reads."""

    name: str
    rollout: Rollout
    head: HierarchyHead

    @property
    def grid(self) -> HierarchyGrid:
        return HierarchyGrid(LATENT_SIZE, LATENT_SIZE, self.head.levels)


def methods(learned: HierarchyHead) -> dict[str, Method]:
    """The four ways that are compared, at 64 tokens per step each."""
    pooled = PooledHead(CHANNELS, LEVELS)
    rows = (
        Method("full-resolution", FullResolution(FULL_WINDOW), pooled),
        Method("framepack", FramePack(WINDOWS), PatchHead(CHANNELS, LEVELS)),
        Method("pooled", CoarseToFine(WINDOWS), pooled),
        Method("learned", CoarseToFine(WINDOWS), learned),
    )
    return {row.name: row for row in rows}


@torch.no_grad()
def code_tables(head: HierarchyHead, latents: Tensor) -> list[Tensor]:
    """The table `places poses moves c h w` as codes `places poses moves n c` per level."""
    parts = []
    for place in latents:
        flat = place.float().flatten(0, 1).transpose(0, 1)[None]
        parts.append([codes[0].unflatten(0, place.shape[:2]) for codes in head.encode(flat)])
    return [torch.stack(level) for level in zip(*parts, strict=True)]


def random_moves(generator: np.random.Generator, frames: int) -> NDArray[np.int64]:
    """Moves of a camera that keeps one of three directions for some latent frames."""
    runs: list[NDArray[np.int64]] = []
    while sum(map(len, runs)) < frames:
        length = int(generator.integers(RUN_LENGTHS[0], RUN_LENGTHS[1] + 1))
        runs.append(np.full(length, int(generator.choice(MOVES))))
    return np.concatenate(runs)[:frames]


def training_moves(generator: np.random.Generator, frames: int) -> NDArray[np.int64]:
    """Random moves, half of them after a whole turn of the camera, in which everything is seen.

    Without turns too little of what comes was ever seen, and finding it again is learned late.
    """
    moves = random_moves(generator, frames)
    if generator.uniform() < TURN_SHARE:
        moves[:NUM_POSES] = generator.choice([-1, 1])
    return moves


def conditions(poses: NDArray[np.int64], moves: NDArray[np.int64], word: str) -> Tensor:
    """What is told about latent frames at `poses` after `moves`: one-hot numbers, `f k`."""
    eye = np.eye(CONDITION, dtype=np.float32)
    told = eye[poses % NUM_POSES] + eye[NUM_POSES + moves + 1]
    told += eye[NUM_POSES + len(MOVES) + PLACE_WORDS.index(word)]
    return torch.from_numpy(told)


@dataclass(frozen=True)
class StepFrames:
    """Latent frames of the steps that make one level: of the target `s f`, of the context `s f` per
    level. All of them read equally many."""

    level: int
    target: NDArray[np.int64]
    context: dict[int, NDArray[np.int64]]


def step_frames(rollout: Rollout) -> list[StepFrames]:
    """The steps of a chunk that begins after the whole history, by the level that they make."""
    steps = list(rollout.steps(rollout.history))
    return [
        StepFrames(
            level,
            np.stack([_frames([step.target]) for step in steps if step.target.level == level]),
            {
                of: np.stack([_context(step, of) for step in steps if step.target.level == level])
                for of in rollout.levels
            },
        )
        for level in sorted({step.target.level for step in steps})
    ]


def _context(step: RolloutStep, level: int) -> NDArray[np.int64]:
    return _frames([span for span in step.context if span.level == level])


def _frames(spans: Sequence[tuple[int, int, int]]) -> NDArray[np.int64]:
    parts = [np.arange(start, stop) for _, start, stop in spans]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


class RingSteps:
    """Draws batches of steps; the levels take turns, the steps of a level are equally likely."""

    def __init__(self, method: Method, latents: Tensor, truncation: tuple[float, float]) -> None:
        self.tables = code_tables(method.head, latents)
        self.rollout = method.rollout
        self.by_level = step_frames(method.rollout)
        self.centres = [method.grid.centres(level) for level in range(method.head.levels)]
        self.words = [ring_place(seed, Split.TRAINING).word for seed in range(len(latents))]
        self.truncation = truncation

    @property
    def gain(self) -> Tensor:
        """What brings the codes of every level to one standard deviation."""
        return torch.stack([1.0 / table.std() for table in self.tables])

    def draw(
        self, generator: np.random.Generator, step: int, batch: int
    ) -> tuple[list[TokenSpan], list[TokenSpan]]:
        """Targets and context of a batch, clean and not yet scaled."""
        frames = self.by_level[step % len(self.by_level)]
        length = self.rollout.history + self.rollout.chunk
        places = generator.integers(len(self.words), size=batch)
        moves = np.stack([training_moves(generator, length) for _ in range(batch)])
        poses = (generator.integers(NUM_POSES, size=(batch, 1)) + moves.cumsum(1)) % NUM_POSES
        shift = PANEL_POSES * generator.integers(NUM_POSES // PANEL_POSES, size=(batch, 1))
        told = torch.stack(
            [
                conditions(pose + by, move, self.words[place])
                for pose, by, move, place in zip(poses, shift, moves, places, strict=True)
            ]
        )
        oldest = self.rollout.history - self._kept(generator, batch)
        chosen = generator.integers(len(frames.target), size=batch)
        begin = frames.target[chosen, :1]

        def span(level: int, index: NDArray[np.int64], valid: bool) -> TokenSpan:
            rows = np.arange(batch)[:, None]
            place = places[:, None], poses[rows, index], moves[rows, index] + 1
            return TokenSpan(
                level,
                self.tables[level][place],
                torch.from_numpy(index - begin),
                torch.zeros(batch),
                told[rows, index],
                torch.from_numpy(index >= oldest[:, None]) if valid else None,
            )

        target = span(frames.level, frames.target[chosen], False)
        context = [
            span(level, index[chosen], True)
            for level, index in frames.context.items()
            if index.shape[1]
        ]
        return [target], context

    def _kept(self, generator: np.random.Generator, batch: int) -> NDArray[np.int64]:
        """How many latent frames of the history each sample sees: none, some or all."""
        none, some = self.truncation
        share = generator.uniform(size=batch)
        part = generator.integers(0, self.rollout.history + 1, size=batch)
        return np.where(share < none, 0, np.where(share < none + some, part, self.rollout.history))
