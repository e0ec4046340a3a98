"""What packed context is trained on: steps of MilliVid's schedule over encoded stories.

A story's segments are one film, one after the other. Which frames a step sees is drawn in ints,
then cut from the story (shared design `hierarchical-latents.md`, sections 3.3 and 7.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..memory.hierarchy import HierarchyGrid, HierarchyHead
from ..memory.packed_context import cell_positions
from ..planning.packed import finest_steps
from ..planning.rollout import CoarseToFine, RolloutStep, Span, Windows
from .memory_data import StoryFolder

COLD, CUT = 0.15, 0.5
"""Shares of steps without any history, and of those plus steps with a part of it (7.3)."""


@dataclass(frozen=True)
class PackedTrainingConfig:
    """Everything that the result depends on. `head` names what made the codes."""

    seed: int = 0
    stories: int = 1000
    steps: int = 4000
    batch: int = 4
    windows: tuple[int, ...] = (3, 12, 48)
    head: str = "pooled"
    lora_rank: int = 64
    lora_name: str = "packed"
    noise_shift: float = 5.0
    context_dropout: float = 0.1
    peak_learning_rate: float = 5e-4
    warm_up: int = 100
    decay_from: float = 0.7
    weight_decay: float = 0.01
    average_decay: float = 0.998
    gradient_clip: float = 1.0
    threads: int = 1


@dataclass(frozen=True)
class PackedStep:
    """One step in ints: what is made and seen (`step`), of which stories, and the noise's seed."""

    step: RolloutStep
    stories: tuple[int, ...]
    noise_seed: int


def draw_step(
    config: PackedTrainingConfig, stories: int, frames: int, step: int, rank: int = 0
) -> PackedStep:
    """The step of this number on this process: a resumed training sees the same.

    Raises ValueError for stories that are shorter than the finest window.
    """
    generator = np.random.default_rng([config.seed, step, rank])
    chosen = draw_rollout_step(CoarseToFine(Windows(config.windows)), frames, generator)
    if generator.uniform() < config.context_dropout:
        chosen = RolloutStep(chosen.target, ())
    picked = generator.choice(stories, size=config.batch, replace=stories < config.batch)
    return PackedStep(chosen, tuple(map(int, picked)), int(generator.integers(2**62)))


def draw_rollout_step(
    rollout: CoarseToFine, frames: int, generator: np.random.Generator
) -> RolloutStep:
    """A step that makes level 0 somewhere in a film of so many latent frames, nothing seen beyond
    its end and before its history's."""
    window = rollout.windows.frames[0]
    if frames < window:
        raise ValueError(f"stories must have {window} latent frames or more, got {frames}")
    begins = int(generator.integers(frames - window + 1))
    kind, cut = generator.uniform(), int(generator.integers(rollout.history + 1))
    seen = 0 if kind < COLD else cut if kind < CUT else rollout.history
    steps = [
        step
        for step in finest_steps(rollout, begins, max(0, begins - seen))
        if step.target.stop <= frames
    ]
    chosen = steps[int(generator.integers(len(steps)))]
    context = (Span(s.level, s.start, min(s.stop, frames)) for s in chosen.context)
    return RolloutStep(chosen.target, tuple(span for span in context if span.frames > 0))


@dataclass(frozen=True)
class PackedTensors:
    """`targets` b c f h w with their `text` b n d; per span of the context its latents `b c f h w`
    (level 0) or codes `b f n c`; `positions` m 3 of all their tokens, in that order."""

    targets: Tensor
    text: Tensor
    context: tuple[Tensor, ...]
    positions: Tensor


def step_tensors(data: StoryFolder, drawn: PackedStep, head: HierarchyHead) -> PackedTensors:
    """What the step's model is given. A story's segments are one film, one after the other."""
    target, films, text = drawn.step.target, [], []
    for index in drawn.stories:
        latents = data.stories[index]["latents"]  # s c t h w
        films.append(latents.float().transpose(0, 1).flatten(1, 2))
        segment = min(target.start // latents.shape[2], len(latents) - 1)
        text.append(data.text(data.stories[index], [segment])[0])
    film = torch.stack(films)
    height, width = film.shape[-2:]
    grid = HierarchyGrid(height, width, head.levels)
    context, positions = [], [torch.zeros(0, 3)]
    for span in drawn.step.context:
        latents = film[:, :, span.start : span.stop]
        context.append(latents if span.level == 0 else _codes(head, latents, span.level))
        places = cell_positions(grid, span.level, span.frames)
        positions.append(places + torch.tensor([float(span.start), 0.0, 0.0]))
    return PackedTensors(
        film[:, :, target.start : target.stop],
        torch.stack(text),
        tuple(context),
        torch.cat(positions),
    )


@torch.no_grad()
def _codes(head: HierarchyHead, latents: Tensor, level: int) -> Tensor:
    return head.encode(latents)[level].float()
