"""Latents for the hierarchy and its planner: the ring of the demo world as a table, and stories.

A long take of the ring is described by the pose of every latent frame. Its latents depend on the
pose, on the move that led there and hardly on anything else: the demo VAE's convolutions over time
reach two latent frames back, and cutting them to one changes a latent by 0.5 to 2.5 % of its
deviation (measured). So each place is encoded once, at 16 poses after 3 moves, and any camera path
is read from that table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .checkpoints import write_tensors
from .vae_network import encode_clip
from .vae_training import BUILD, clip_tensor
from .video_data import encoder_digest
from .world import (
    NUM_POSES,
    PLACE_WORDS,
    Place,
    Split,
    Take,
    draw_place,
    seeded_generator,
)
from .world_rendering import render_take

MOVES = (-1, 0, 1)
SHARD_PLACES = 50
RUN_LENGTHS = (2, 12)
"""Latent frames that a camera keeps to one direction (design of hierarchical latents, 8.1)."""


def ring_place(seed: int, split: Split = Split.TRAINING) -> Place:
    """The place of a ring world: one panorama, nobody in it."""
    generator = seeded_generator(seed, split, "ring")
    return draw_place(str(generator.choice(PLACE_WORDS)), generator)


def table_path() -> tuple[int, ...]:
    """A camera path that ends at every pose after every move: right and stay around the ring, then
    left around it. 49 latent frames, of which the first is not used."""
    right = [pose for start in range(NUM_POSES) for pose in ((start + 1) % NUM_POSES,) * 2]
    left = [-turn % NUM_POSES for turn in range(1, NUM_POSES + 1)]
    return (0, *right, *left)


@torch.no_grad()
def encode_table(vae: nn.Module, places: Sequence[Place]) -> Tensor:
    """Normalised latents `n poses moves c h w` of places, float16; moves as in MOVES."""
    import comfy.latent_formats

    form = comfy.latent_formats.Wan21()
    path = table_path()
    tables = []
    for place in places:
        frames = render_take(Take(place, None, None, path, ()))
        with torch.autocast("cpu", torch.bfloat16):  # 0.64 s -> 0.44 s for 33 latent frames
            raw = encode_clip(vae, clip_tensor(frames)[None])
        latents = form.process_in(raw.float())[0].transpose(0, 1)  # t c h w
        table = torch.full((NUM_POSES, len(MOVES), *latents.shape[1:]), torch.nan)
        for before, after, latent in zip(path, path[1:], latents[1:], strict=False):
            turn = (after - before + 1) % NUM_POSES - 1
            table[after, turn + 1] = latent
        tables.append(table.half())
    return torch.stack(tables)


def ensure_tables(vae: nn.Module, folder: Path, places: int) -> list[Path]:
    """Encode what is missing or made by another VAE; the paths of the shards in order."""
    digest, paths = encoder_digest(vae), []
    for first in range(0, places, SHARD_PLACES):
        path = folder / f"ring_{first:06d}.safetensors"
        if not path.exists() or _encoder_of(path) != digest:
            seeds = range(first, first + SHARD_PLACES)
            table = encode_table(vae, [ring_place(seed) for seed in seeds])
            write_tensors(path, {"latents": table}, {"encoder": digest})
            print(f"encoded places {first} to {first + SHARD_PLACES - 1}", flush=True)
        paths.append(path)
    return paths


def _encoder_of(path: Path) -> str:
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("encoder", "")


def story_files(count: int) -> list[Path]:
    """Stories that `train memory` has encoded. Raises ValueError when there are fewer."""
    paths = sorted((BUILD / "memory" / "stories").glob("story_*.safetensors"))[:count]
    if len(paths) < count:
        raise ValueError(f"needs {count} encoded stories, found {len(paths)}: dev.py train memory")
    return paths
