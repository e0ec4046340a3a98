"""What the sparse planner learns from: camera paths of four moves and captions that tell all four.

A planned segment stands for four segments of a chain: two latent frames that it starts from, then
four moves of four latent frames each, by the timing rule of `world.poses_by_rule`. Its caption
names every turning point (`harbour, Mara left, camera 3 to 7 to 4 to 8 to 4`), so it tells what the
four captions of the chain tell together.

Most paths pan, so that walls leave the picture and come back; some sway about one pose or stand
still, so that nothing ever leaves it.

Where a place begins on the ring and how a figure is called are arbitrary, so a sample may count the
poses from any other one and call the figure by any other name (`Retold`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from .checkpoints import write_tensors
from .vae_network import encode_clip
from .vae_training import clip_tensor
from .video_data import encoder_digest, made_by
from .world import (
    CHARACTER_NAMES,
    HOLD_LATENT_FRAMES,
    MAX_TURN,
    NUM_POSES,
    PLACE_WORDS,
    POSITIONS,
    Split,
    Take,
    caption_of,
    draw_character,
    draw_place,
    poses_by_rule,
    refuse_held_out,
    seeded_generator,
)
from .world_rendering import render_take

MOVES = 4
MOVE_LATENT_FRAMES = 4
"""Latent frames that a segment of a chain adds: 6, of which it is handed 2."""

PLANNED_LATENT_FRAMES = HOLD_LATENT_FRAMES + MOVES * MOVE_LATENT_FRAMES
SHARD_TAKES = 100
CHARACTER_SHARE = 0.7
WIDE_SHARE = 0.75  # paths whose moves are all of 3 or 4 poses, as in a long take
BACK_SHARE = 0.75  # moves back over what was seen, as in a long take
MOVING_SHARE = 0.8  # paths that begin while the camera still moves, as after a hand-off
MOST_SWAY = 2  # poses that the camera of a swaying path goes away and back

PathKind = Literal["panning", "swaying"]


def path_caption(
    place_word: str, character: str | None, position: str | None, stations: Sequence[int]
) -> str:
    """The caption of a path over these poses: that of one move, with each further pose behind."""
    start, first, *further = stations
    one = caption_of(place_word, character, position, start, first)
    return " to ".join([one, *(str(pose) for pose in further)])


def stations_of(start: int, turns: Sequence[int]) -> tuple[int, ...]:
    """The poses at which the moves of a path begin and end."""
    return tuple((start + sum(turns[:count])) % NUM_POSES for count in range(len(turns) + 1))


def path_poses(before: int, stations: Sequence[int]) -> tuple[int, ...]:
    """The pose of every latent frame: `before`, the start, then four latent frames of each move."""
    poses = [before, stations[0]]
    for start, stop in zip(stations, stations[1:], strict=False):
        length = HOLD_LATENT_FRAMES + MOVE_LATENT_FRAMES
        poses += poses_by_rule(start, stop, length)[HOLD_LATENT_FRAMES:]
    return tuple(poses)


@dataclass(frozen=True, kw_only=True)
class PathTake:
    """One camera path with its look: `take` to draw, `stations` to tell."""

    take: Take
    stations: tuple[int, ...]


def draw_path(index: int, split: Split = Split.TRAINING, kind: PathKind = "panning") -> PathTake:
    """The path of a number; the held-out domain is refused."""
    purpose = "camera path" if kind == "panning" else "swaying path"
    generator = seeded_generator(index, refuse_held_out(split), purpose)
    place = draw_place(str(generator.choice(PLACE_WORDS)), generator)
    character = position = None
    if generator.uniform() < CHARACTER_SHARE:
        character = draw_character(str(generator.choice(CHARACTER_NAMES)), generator)
        position = str(generator.choice(list(POSITIONS)))
    start = int(generator.integers(NUM_POSES))
    turns = draw_turns(generator) if kind == "panning" else draw_sway(generator)
    stations = stations_of(start, turns)
    step = int(generator.choice([-1, 1])) if generator.uniform() < MOVING_SHARE else 0
    poses = path_poses((start + step) % NUM_POSES, stations)
    return PathTake(take=Take(place, character, position, poses, ()), stations=stations)


def draw_turns(generator: np.random.Generator) -> tuple[int, ...]:
    """The turns of a panning path in poses."""
    smallest = MAX_TURN - 1 if generator.uniform() < WIDE_SHARE else 0
    turns: list[int] = []
    direction = int(generator.choice([-1, 1]))
    for _ in range(MOVES):
        turns.append(direction * int(generator.integers(smallest, MAX_TURN + 1)))
        direction = -direction if generator.uniform() < BACK_SHARE else direction
    return tuple(turns)


def draw_sway(
    generator: np.random.Generator, moves: int = MOVES, most: int = MOST_SWAY
) -> tuple[int, ...]:
    """The turns of a camera that goes to and fro between a pose and one up to `most` beside it."""
    reach = int(generator.integers(most + 1)) * int(generator.choice([-1, 1]))
    away = [
        0,
        *(int(np.sign(reach)) * int(generator.integers(abs(reach) + 1)) for _ in range(moves)),
    ]
    return tuple(after - before for before, after in zip(away, away[1:], strict=False))


@dataclass(frozen=True, kw_only=True)
class Retold:
    """How a caption may tell a path in other words: poses counted from another, another name."""

    shift: int
    name: str

    def caption(self, path: PathTake, moves: int = MOVES) -> str:
        """The caption of the first `moves` moves."""
        told = [(pose + self.shift) % NUM_POSES for pose in path.stations[: moves + 1]]
        name = None if path.take.character is None else self.name
        return path_caption(path.take.place.word, name, path.take.position, told)


def retell(generator: np.random.Generator) -> Retold:
    return Retold(
        shift=int(generator.integers(NUM_POSES)), name=str(generator.choice(CHARACTER_NAMES))
    )


@torch.no_grad()
def encode_paths(vae: nn.Module, first: int, count: int, kind: PathKind = "panning") -> Tensor:
    """Normalised latents `n 16 18 8 8` of these paths, half precision."""
    import comfy.latent_formats

    form = comfy.latent_formats.Wan21()
    takes = (draw_path(i, kind=kind).take for i in range(first, first + count))
    clips = (clip_tensor(render_take(take))[None] for take in takes)
    return torch.cat([form.process_in(encode_clip(vae, clip)).half() for clip in clips])


def ensure_paths(
    vae: nn.Module, folder: Path, count: int, kind: PathKind = "panning"
) -> Iterator[Path]:
    """Encode what is missing or made by another VAE and yield the paths of the shards in order."""
    digest = encoder_digest(vae)
    for first in range(0, count, SHARD_TAKES):
        path = folder / f"{kind}_{first:06d}.safetensors"
        if made_by(path) != digest:
            latents = encode_paths(vae, first, SHARD_TAKES, kind)
            write_tensors(path, {"latents": latents}, {"encoder": digest})
            print(f"encoded {kind} paths {first} to {first + SHARD_TAKES - 1}", flush=True)
        yield path


class PathData:
    """Latents `n 16 18 8 8` of all paths and the paths themselves, read only: panning ones first,
    `panning` of them."""

    def __init__(self, panning: Sequence[Path], swaying: Sequence[Path] = ()) -> None:
        files: dict[PathKind, Sequence[Path]] = {"panning": panning, "swaying": swaying}
        shards = {kind: [load_file(f)["latents"] for f in found] for kind, found in files.items()}
        self.latents = torch.cat([*shards["panning"], *shards["swaying"]])
        self.paths = [
            draw_path(index, kind=kind)
            for kind, found in shards.items()
            for index in range(sum(map(len, found)))
        ]
        self.panning = sum(map(len, shards["panning"]))

    def draw(
        self, generator: np.random.Generator, count: int, swaying_share: float
    ) -> NDArray[np.int64]:
        """Numbers of random paths; this share of them sways, none where there are no such."""
        panning = generator.integers(self.panning, size=count)
        if self.panning == len(self.paths):
            return panning
        swaying = generator.integers(self.panning, len(self.paths), size=count)
        return np.where(generator.uniform(size=count) < swaying_share, swaying, panning)
