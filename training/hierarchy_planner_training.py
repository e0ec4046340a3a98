"""Train the planners of the ring world: one per way to roll out, equal steps and equal tokens.

Design of hierarchical latents, sections 2.2, 2.3, 7.3 and 8.2.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..memory.hierarchy_planner import (
    HierarchyPlanner,
    PlannerConfig,
    TokenSpan,
    mixed,
    signal_and_noise,
)
from .checkpoints import MovingAverage, learning_rate, load_checkpoint, save_checkpoint
from .hierarchy_ring import CONDITION, Method, RingSteps

Draw = Callable[[np.random.Generator, int, int], tuple[list[TokenSpan], list[TokenSpan]]]
"""Targets and context of a batch, clean and not scaled, from a generator, the number of the step
and the size of the batch."""


@dataclass(frozen=True)
class PlannerTrainingConfig:
    """Everything that the result depends on.

    `truncation` are the shares of samples without any history and with a part of it: without them
    a planner cannot begin a film (design, 7.3). `blind` is the share of samples that see noise in
    place of the context and no condition, for guidance; `context_noise` the share whose context has
    a little noise, up to `most_noise`, against drift.
    """

    seed: int = 0
    steps: int = 3600
    batch: int = 32
    truncation: tuple[float, float] = (0.1, 0.25)
    blind: float = 0.1
    context_noise: float = 0.3
    most_noise: float = 0.1
    peak_learning_rate: float = 1e-3
    warm_up: int = 200
    decay_from: float = 0.7
    weight_decay: float = 0.01
    average_decay: float = 0.998
    threads: int = 1


def planner_loss(
    planner: HierarchyPlanner,
    targets: Sequence[TokenSpan],
    context: Sequence[TokenSpan],
    centres: Sequence[Tensor],
    config: PlannerTrainingConfig,
    generator: torch.Generator,
) -> Tensor:
    """Squared error of the velocity of the targets, which share one noise level per sample."""
    batch = len(targets[0].codes)
    noise = torch.rand(batch, generator=generator)
    draw, little, blind = torch.rand(3, batch, generator=generator)
    clean = torch.where(draw < config.context_noise, little * config.most_noise, 0.0)
    told = blind >= config.blind
    context_noise = torch.where(told, clean, 1.0)
    wanted, given = [], []
    for span in targets:
        codes = planner.scaled(span.level, span.codes)
        random = torch.randn(codes.shape, generator=generator)
        alpha, sigma = (x.view(-1, 1, 1, 1) for x in signal_and_noise(noise))
        wanted.append(alpha * random - sigma * codes)
        given.append(_noisy(span, alpha * codes + sigma * random, noise, told))
    seen = []
    for span in context:
        codes = planner.scaled(span.level, span.codes)
        random = torch.randn(codes.shape, generator=generator)
        seen.append(_noisy(span, mixed(codes, random, context_noise), context_noise, told))
    made = planner(given, seen, centres)
    errors = [(a - b).square().flatten() for a, b in zip(made, wanted, strict=True)]
    return torch.cat(errors).mean()


def _noisy(span: TokenSpan, codes: Tensor, noise: Tensor, told: Tensor) -> TokenSpan:
    """A span with its noise, its condition kept where `told`."""
    condition = span.condition
    if condition is not None:
        condition = condition * told.to(condition)[:, None, None]
    return replace(span, codes=codes, noise=noise, condition=condition)


def train_planner(
    planner: HierarchyPlanner,
    draw: Draw,
    centres: Sequence[Tensor],
    folder: Path,
    config: PlannerTrainingConfig,
    checkpoint_seconds: float = 180.0,
) -> MovingAverage:
    """Train or resume in `folder`; a step's data and noise follow from its number."""
    torch.set_num_threads(config.threads)
    average = MovingAverage(planner, config.average_decay)
    optimiser = torch.optim.AdamW(
        planner.parameters(), betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    path = folder / "checkpoint.safetensors"
    start = load_checkpoint(path, planner, average, optimiser) if path.exists() else 0
    saved, losses = time.monotonic(), dict[int, list[float]]()
    for step in range(start, config.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(
                step, config.steps, config.peak_learning_rate, config.warm_up, config.decay_from
            )
        targets, context = draw(np.random.default_rng([config.seed, step]), step, config.batch)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        # bfloat16 products, weights and residual stream stay float32: 0.20 s -> 0.11 s a step
        with torch.autocast("cpu", torch.bfloat16):
            loss = planner_loss(planner, targets, context, centres, config, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(planner.parameters(), 1.0)
        optimiser.step()
        average.add(planner, step)
        losses.setdefault(targets[0].level, []).append(loss.item())
        if (step + 1) % 100 == 0:
            means = {level: round(float(np.mean(x)), 4) for level, x in sorted(losses.items())}
            clock = time.strftime("%H:%M:%S")
            print(f"{clock} step {step + 1}/{config.steps} loss by level {means}", flush=True)
            losses = {}
        if time.monotonic() - saved > checkpoint_seconds or step + 1 == config.steps:
            save_checkpoint(path, planner, average, optimiser, step + 1, config)
            saved = time.monotonic()
    return average


def ring_planner(method: Method, data: RingSteps, seed: int) -> HierarchyPlanner:
    """A planner with random weights for one method of the ring world."""
    torch.manual_seed(seed)
    planner = HierarchyPlanner(PlannerConfig(method.head.code_channels, condition=CONDITION))
    planner.gain.copy_(data.gain)
    return planner
