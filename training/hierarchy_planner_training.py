"""Train the planners of the ring world: one per way to roll out, equal steps and equal tokens.

Design of hierarchical latents, sections 2.2, 2.3, 7.3 and 8.2.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..adapters.demo_models import VAE_FILE, WEIGHTS
from ..memory.hierarchy_format import (
    PlannerCard,
    read_head_file,
    read_planner_file,
    write_planner_file,
)
from ..memory.hierarchy_planner import (
    HierarchyPlanner,
    PlannerConfig,
    TokenSpan,
    mixed,
    signal_and_noise,
)
from ..planning.rollout_choice import COARSE_TO_FINE, FRAME_PACK, FULL_RESOLUTION
from .checkpoints import MovingAverage, learning_rate, load_checkpoint, save_checkpoint
from .hierarchy_data import ensure_tables
from .hierarchy_ring import CONDITION, FULL_WINDOW, WINDOWS, Method, RingSteps, methods
from .hierarchy_training import CONFIGS, FOLDER, HEADS, RING_HEAD_FILE
from .matrix_optimiser import MatrixOptimiser
from .noise_levels import shifted

PLANNERS = WEIGHTS / "hierarchy_planners"
CONDITION_LOUDNESS = 0.6  # of each of the three one-hot parts that are added to a token
ROLLOUTS = {
    "learned": COARSE_TO_FINE,
    "pooled": COARSE_TO_FINE,
    "full-resolution": FULL_RESOLUTION,
    "framepack": FRAME_PACK,
}
"""The methods and the names of their rollouts."""

Draw = Callable[[np.random.Generator, int, int], tuple[list[TokenSpan], list[TokenSpan]]]
"""Targets and context of a batch, clean and not scaled, from a generator, the number of the step
and the size of the batch."""


@dataclass(frozen=True)
class PlannerTrainingConfig:
    """Everything that the result depends on.

    `truncation` are the shares of samples without any history and with a part of it: without them
    a planner cannot begin a film (design, 7.3). `blind` is the share of samples that see noise in
    place of the context and no condition, for guidance; `context_noise` the share whose context has
    a little noise, up to `most_noise`, against drift. `noise_shift` above 1 draws high noise levels
    more often, where a planner has to recall and not to clean. What is not said is the film
    planner's.
    """

    seed: int = 0
    steps: int = 2_800
    batch: int = 32
    truncation: tuple[float, float] = (0.05, 0.15)
    blind: float = 0.1
    context_noise: float = 0.3
    most_noise: float = 0.1
    noise_shift: float = 3.0
    peak_learning_rate: float = 1.5e-3
    warm_up: int = 200
    decay_from: float = 0.7
    weight_decay: float = 0.01
    average_decay: float = 0.998
    threads: int = 1


RING = PlannerTrainingConfig(steps=24_000, peak_learning_rate=3e-3)
RING_WIDTH = 192
"""128 is too narrow for codes of 128 channels beside pose, place and noise (docs/log.md)."""


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
    uniform = torch.rand(batch, generator=generator)
    noise = shifted(uniform, config.noise_shift)
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
    optimiser = MatrixOptimiser(planner, planner.blocks, config.weight_decay)
    path = folder / "checkpoint.safetensors"
    start = load_checkpoint(path, planner, average, optimiser) if path.exists() else 0
    saved, losses = time.monotonic(), dict[int, list[float]]()
    for step in range(start, config.steps):
        rate = learning_rate(
            step, config.steps, config.peak_learning_rate, config.warm_up, config.decay_from
        )
        optimiser.set_rate(rate)
        targets, context = draw(np.random.default_rng([config.seed, step]), step, config.batch)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        # bfloat16 products, weights and residual stream stay float32: 0.20 s -> 0.11 s a step
        with torch.autocast("cpu", torch.bfloat16):
            loss = planner_loss(planner, targets, context, centres, config, generator)
        optimiser.zero_grad()
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


def ring_planner(method: Method, data: RingSteps, width: int, seed: int) -> HierarchyPlanner:
    """A planner with random weights for one method of the ring world.

    What is told of a frame begins as loud as its codes are: with torch's own beginning, five times
    quieter, no planner had learned to find a seen pose again after 3,000 steps.
    """
    torch.manual_seed(seed)
    planner = HierarchyPlanner(
        PlannerConfig(method.head.code_channels, width=width, condition=CONDITION)
    )
    assert planner.condition is not None and planner.condition_in is not None
    with torch.no_grad():
        planner.condition.weight.normal_(std=1.0)
        planner.condition_in.weight.normal_(std=CONDITION_LOUDNESS)
        planner.gain.copy_(data.gain)
    return planner


def planner_file(method: str) -> str:
    """The name of a shipped planner of the ring world."""
    return f"throughline_demo_ring_{method.replace('-', '_')}.safetensors"


def export_planner(
    planner: HierarchyPlanner, average: MovingAverage, method: Method, path: Path
) -> None:
    """Write the averaged weights as bfloat16; the scales of the codes stay as they are."""
    state = {name: value.to(torch.bfloat16) for name, value in average.values.items()}
    windows = (FULL_WINDOW,) if method.name == "full-resolution" else WINDOWS.frames
    card = PlannerCard(
        config=planner.config,
        head=method.head.name,
        latent_format="Wan21",
        rollout=ROLLOUTS[method.name],
        windows=windows,
        reads="poses",
        title=f"Throughline demo ring planner, {method.name}",
        license="GPL-3.0-or-later",
    )
    write_planner_file(path, {**state, "gain": planner.gain}, card)


def load_method(name: str) -> tuple[Method, HierarchyPlanner]:
    """A method of the ring world with its shipped planner, over the codes that it learned."""
    planner = read_planner_file(PLANNERS / planner_file(name))[0]
    _, card = read_planner_file(PLANNERS / planner_file("learned"))
    heads = (read_head_file(path)[0] for path in sorted(HEADS.glob("*.safetensors")))
    learned = next(head for head in heads if head.name == card.head)
    return methods(learned)[name], planner


def main(arguments: Sequence[str]) -> int:
    """Train the planners that are named, one after the other; `--ship` replaces shipped files."""
    from .vae_export import load_vae

    parser = argparse.ArgumentParser(prog="dev.py train hierarchy-planner", description=__doc__)
    parser.add_argument("methods", nargs="*", help=f"of {', '.join(ROLLOUTS)}; default learned")
    parser.add_argument("--ship", action="store_true", help="write into weights/")
    parser.add_argument("--places", type=int, default=CONFIGS["ring"].places)
    parser.add_argument("--steps", type=int, default=RING.steps)
    parser.add_argument("--batch", type=int, default=RING.batch)
    parser.add_argument("--seed", type=int, default=RING.seed)
    options = parser.parse_args(arguments)
    if not RING_HEAD_FILE.exists():
        parser.error(
            f"{RING_HEAD_FILE.name} must be there, got none: dev.py train hierarchy ring --ship"
        )
    known = methods(read_head_file(RING_HEAD_FILE)[0])
    for name in options.methods:
        if name not in known:
            parser.error(f"a method must be one of {', '.join(known)}, got {name}")
    config = replace(RING, steps=options.steps, batch=options.batch, seed=options.seed)
    torch.set_num_threads(config.threads)
    tables = ensure_tables(load_vae(VAE_FILE), FOLDER, options.places)
    latents = torch.cat([load_file(path)["latents"] for path in tables])[: options.places]
    for name in options.methods or ["learned"]:
        data = RingSteps(known[name], latents, config.truncation)
        planner = ring_planner(known[name], data, RING_WIDTH, config.seed)
        average = train_planner(planner, data.draw, data.centres, FOLDER / name, config)
        path = (PLANNERS if options.ship else FOLDER) / planner_file(name)
        export_planner(planner, average, known[name], path)
        print(f"wrote {path.name} into {path.parent.name}", flush=True)
    return 0
