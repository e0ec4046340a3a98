"""Train heads of the hierarchy over the demo VAE's latents: every level a whole code of a frame.

There are two. `film`, which is shipped, learns from ring places (hierarchy_data) and, half of the
time, from the stories of `train memory`, where people stand before the walls and each shot begins
with a single picture; its codes are as small as the paper's. `ring` learns from ring places alone,
with codes as wide as the planners that read them, so that what comes back looks as it did.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..adapters.demo_models import VAE_FILE, WEIGHTS
from ..memory.hierarchy import HierarchyHead, PooledHead, as_latents, grid_of
from ..memory.hierarchy_format import HeadCard, read_head_file, write_head_file
from ..memory.hierarchy_heads import (
    HeadConfig,
    LearnedHead,
    build_head,
    head_loss,
    psnr_of_latents,
)
from .checkpoints import MovingAverage, learning_rate, load_checkpoint, save_checkpoint
from .hierarchy_data import encode_table, ensure_tables, ring_place, story_files
from .matrix_optimiser import MatrixOptimiser
from .vae_training import BUILD
from .world import Split

FOLDER = BUILD / "hierarchy"
HEADS = WEIGHTS / "hierarchy_heads"
HEAD_FILE = HEADS / "throughline_demo_hierarchy.safetensors"
RING_HEAD_FILE = HEADS / "throughline_demo_ring_hierarchy.safetensors"


@dataclass(frozen=True)
class HeadTrainingConfig:
    """Everything that the result depends on."""

    seed: int = 0
    places: int = 500
    stories: int = 1000
    steps: int = 2400
    batch: int = 64  # latent frames
    story_share: float = 0.5
    peak_learning_rate: float = 1.5e-3
    warm_up: int = 100
    decay_from: float = 0.4
    weight_decay: float = 0.01
    average_decay: float = 0.998
    threads: int = 1
    head: HeadConfig = field(default_factory=HeadConfig)


CONFIGS = {
    "film": HeadTrainingConfig(),
    "ring": HeadTrainingConfig(stories=0, steps=4000, story_share=0.0, head=HeadConfig(code=128)),
}
FILES = {"film": HEAD_FILE, "ring": RING_HEAD_FILE}
TITLES = {
    "film": "Throughline demo hierarchy head",
    "ring": "Throughline demo ring hierarchy head",
}


@dataclass(frozen=True)
class LatentFrames:
    """Latent frames of rings `n c h w` and of stories `m c h w`, float16, and which of the stories'
    are single pictures, bool `m`."""

    rings: Tensor
    stories: Tensor
    single: Tensor

    @classmethod
    def read(cls, tables: Sequence[Path], stories: Sequence[Path]) -> LatentFrames:
        """Read shards of tables and encoded stories, of which there may be none."""
        rings = torch.cat([load_file(path)["latents"].flatten(0, 2) for path in tables])
        shots = [load_file(path)["latents"] for path in stories]
        if not shots:
            return cls(rings, rings[:0], torch.zeros(0, dtype=torch.bool))
        frames = torch.cat([shot.transpose(1, 2).flatten(0, 1) for shot in shots])
        single = torch.cat([single_pictures(*shot.shape[:3:2]) for shot in shots])
        return cls(rings, frames, single)

    def draw(self, config: HeadTrainingConfig, step: int) -> tuple[Tensor, Tensor]:
        """Frames `f c h w` and marks `f` of a step, by its number."""
        generator = np.random.default_rng([config.seed, step])
        of_stories = int(config.batch * config.story_share)
        rings = generator.integers(len(self.rings), size=config.batch - of_stories)
        stories = generator.integers(max(1, len(self.stories)), size=of_stories)
        frames = torch.cat([self.rings[rings], self.stories[stories]]).float()
        marks = torch.cat([torch.zeros(len(rings), dtype=torch.bool), self.single[stories]])
        return frames, marks


def single_pictures(shots: int, frames: int) -> Tensor:
    """Marks of the first latent frame of every shot, bool `(shots frames)`."""
    return (torch.arange(frames) == 0).repeat(shots)


def train_head(
    data: LatentFrames, folder: Path, config: HeadTrainingConfig, checkpoint_seconds: float = 120.0
) -> tuple[LearnedHead, MovingAverage]:
    """Train or resume in `folder`; the levels take turns."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    head = build_head(config.head)
    average = MovingAverage(head, config.average_decay)
    blocks = nn.ModuleList(
        module for module in head.children() if isinstance(module, nn.ModuleList)
    )
    optimiser = MatrixOptimiser(head, blocks, config.weight_decay)
    path = folder / "checkpoint.safetensors"
    start = load_checkpoint(path, head, average, optimiser) if path.exists() else 0
    saved, losses = time.monotonic(), []
    for step in range(start, config.steps):
        rate = learning_rate(
            step, config.steps, config.peak_learning_rate, config.warm_up, config.decay_from
        )
        optimiser.set_rate(rate)
        frames, marks = data.draw(config, step)
        level = 1 + step % (config.head.levels - 1)
        with torch.autocast("cpu", torch.bfloat16):
            loss = head_loss(head, frames, marks, level)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        average.add(head, step)
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            by_level = [np.mean(losses[i :: config.head.levels - 1]) for i in range(2)]
            clock = time.strftime("%H:%M:%S")
            print(f"{clock} step {step + 1}/{config.steps} loss {by_level}", flush=True)
            losses = []
        if time.monotonic() - saved > checkpoint_seconds or step + 1 == config.steps:
            save_checkpoint(path, head, average, optimiser, step + 1, config)
            saved = time.monotonic()
    return head, average


def export_head(head: LearnedHead, average: MovingAverage, title: str, path: Path) -> None:
    """Write the averaged weights as bfloat16."""
    state = {name: value.to(torch.bfloat16) for name, value in average.values.items()}
    card = HeadCard(head.config, "Wan21", title, "GPL-3.0-or-later")
    write_head_file(path, state, card)


@torch.no_grad()
def held_out_quality(head: HierarchyHead, vae: nn.Module, places: int = 8) -> list[float]:
    """Decibels per level between latents of held-out ring places and what comes back."""
    table = encode_table(vae, [ring_place(seed, Split.HELD_OUT) for seed in range(places)])
    latents = as_latents(table.float().flatten(0, 2), 1)
    grid, codes = grid_of(latents, head.levels), head.encode(latents)
    return [
        psnr_of_latents(head.decode(level, codes[level], grid), latents)
        for level in range(head.levels)
    ]


def main(arguments: Sequence[str]) -> int:
    """Encode what is missing, train a head; `--ship` replaces the shipped file."""
    from .vae_export import load_vae

    parser = argparse.ArgumentParser(prog="dev.py train hierarchy", description=__doc__)
    parser.add_argument("head", nargs="?", choices=tuple(CONFIGS), default="film")
    parser.add_argument("--ship", action="store_true", help="write into weights/")
    parser.add_argument("--places", type=int)
    parser.add_argument("--stories", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--kind", choices=("tokens", "convolution"))
    parser.add_argument("--seed", type=int)
    options = parser.parse_args(arguments)
    config = CONFIGS[options.head]
    names = ("places", "stories", "steps", "seed")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    head_config = replace(config.head, kind=options.kind or config.head.kind)
    config = replace(config, **given, head=head_config)
    torch.set_num_threads(config.threads)
    vae = load_vae(VAE_FILE)
    tables = ensure_tables(vae, FOLDER, config.places)
    data = LatentFrames.read(tables, story_files(config.stories))
    path = FILES[options.head]
    head, average = train_head(data, FOLDER / f"{options.head}_head", config)
    path = path if options.ship else FOLDER / path.name
    export_head(head, average, TITLES[options.head], path)
    pooled = PooledHead(config.head.channels, config.head.levels)
    for name, each in (("learned", read_head_file(path)[0]), ("pooled", pooled)):
        quality = ", ".join(f"{value:.1f}" for value in held_out_quality(each, vae)[1:])
        print(f"held-out places, {name}: {quality} dB at level 1 and above")
    print(f"wrote {path.name} into {path.parent.name}")
    return 0
