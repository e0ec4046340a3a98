"""Training windows of the video model: takes, their latents and fitting captions.

A window is `latent_frames` long and starts anywhere in a take. It fits when its camera follows the
timing rule of `world.poses_by_rule` from its second latent frame on; its first one may still move,
as in a segment that continues.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from .checkpoints import write_tensors
from .vae_network import encode_clip
from .vae_training import clip_tensor
from .world import (
    CHARACTER_NAMES,
    MAX_TURN,
    NUM_POSES,
    PLACE_WORDS,
    POSITIONS,
    Split,
    Take,
    caption_of,
    draw_character,
    draw_place,
    frames_of_latents,
    poses_by_rule,
    refuse_held_out,
    seeded_generator,
    take_from_turns,
)
from .world_rendering import render_take

TAKE_LATENT_FRAMES = 9  # 33 frames, the longest window
WINDOW_LENGTHS = range(4, TAKE_LATENT_FRAMES + 1)
SHARD_TAKES = 250
TAIL_LATENT_FRAMES = 2
SINGLE_SEGMENT_SHARE = 0.35  # takes whose one camera move fits windows of every length
REST_SHARE = 0.12  # segments in which the camera does not move
CHARACTER_SHARE = 0.7
GREY = 0.0  # in -1..1: ComfyUI's WanImageToVideo fills unknown frames with 0.5 in 0..1


@dataclass(frozen=True)
class WindowStart:
    """Where a window fits: first latent frame, possible turns, whether it starts at rest."""

    start: int
    turns: tuple[int, ...]
    at_rest: bool


def video_take(index: int, split: Split = Split.TRAINING) -> Take:
    """A take of 9 latent frames: one long segment, or two that overlap in two latent frames."""
    generator = seeded_generator(index, refuse_held_out(split), "video take")
    place = draw_place(str(generator.choice(PLACE_WORDS)), generator)
    character = position = None
    if generator.uniform() < CHARACTER_SHARE:
        character = draw_character(str(generator.choice(CHARACTER_NAMES)), generator)
        position = str(generator.choice(list(POSITIONS)))
    if generator.uniform() < SINGLE_SEGMENT_SHARE:
        lengths: tuple[int, ...] = (TAKE_LATENT_FRAMES,)
    else:
        first = int(generator.integers(4, 8))
        lengths = (first, TAKE_LATENT_FRAMES + TAIL_LATENT_FRAMES - first)
    turns = tuple(
        0
        if generator.uniform() < REST_SHARE
        else int(generator.integers(1, MAX_TURN + 1)) * int(generator.choice([-1, 1]))
        for _ in lengths
    )
    start_pose = int(generator.integers(NUM_POSES))
    return take_from_turns(
        place, character, position, start_pose, turns, lengths, TAIL_LATENT_FRAMES
    )


def window_starts(poses: tuple[int, ...], latent_frames: int) -> list[WindowStart]:
    """All windows of this length in a camera path, with every turn that explains what is seen."""
    found = []
    for start in range(len(poses) - latent_frames + 1):
        seen = poses[start + 1 : start + latent_frames]
        turns = tuple(
            turn
            for turn in range(-MAX_TURN, MAX_TURN + 1)
            if poses_by_rule(seen[0], (seen[0] + turn) % NUM_POSES, latent_frames)[1:] == seen
        )
        if turns:
            found.append(WindowStart(start, turns, poses[start] == seen[0]))
    return found


def window_caption(take: Take, start: int, turn: int) -> str:
    """Caption of a window that starts at latent frame `start` and turns by `turn` poses."""
    from_pose = take.poses[start + 1]
    name = None if take.character is None else take.character.name
    return caption_of(
        take.place.word, name, take.position, from_pose, (from_pose + turn) % NUM_POSES
    )


@torch.no_grad()
def encode_takes(vae: nn.Module, first: int, count: int) -> dict[str, Tensor]:
    """Normalised latents `n 16 9 8 8` of takes, and what the second latent frame becomes when only
    the first frame is known and grey follows (`n 16 8 8`, core's WanImageToVideo encodes such a
    clip)."""
    import comfy.latent_formats

    form = comfy.latent_formats.Wan21()
    latents, fills = [], []
    for index in range(first, first + count):
        clip = clip_tensor(render_take(video_take(index)))[None]
        latents.append(form.process_in(encode_clip(vae, clip))[0].half())
        start = torch.full_like(clip[:, :, :5], GREY)
        start[:, :, 0] = clip[:, :, 0]
        fills.append(form.process_in(encode_clip(vae, start))[0, :, 1].half())
    return {"latents": torch.stack(latents), "start_fill": torch.stack(fills)}


@torch.no_grad()
def grey_latents(vae: nn.Module, latent_frames: int = TAKE_LATENT_FRAMES, size: int = 64) -> Tensor:
    """Normalised latents `16 t h w` of a grey clip: what stands for unknown frames."""
    import comfy.latent_formats

    clip = torch.full((1, 3, frames_of_latents(latent_frames), size, size), GREY)
    return comfy.latent_formats.Wan21().process_in(encode_clip(vae, clip))[0]


def encoder_digest(vae: nn.Module) -> str:
    """SHA-256 of the weights that make latents."""
    digest = hashlib.sha256()
    for name, value in sorted(vae.state_dict().items()):
        if name.startswith(("encoder.", "conv1.")):
            digest.update(value.float().numpy().tobytes())
    return digest.hexdigest()


def made_by(path: Path) -> str | None:
    """The digest of the encoder that made a shard; None where there is none."""
    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("encoder")


def ensure_shards(vae: nn.Module, folder: Path, num_takes: int) -> Iterator[Path]:
    """Encode what is missing or made by another VAE and yield the paths of the shards in order."""
    digest = encoder_digest(vae)
    for first in range(0, num_takes, SHARD_TAKES):
        path = folder / f"takes_{first:06d}.safetensors"
        if made_by(path) != digest:
            write_tensors(path, encode_takes(vae, first, SHARD_TAKES), {"encoder": digest})
            print(f"encoded takes {first} to {first + SHARD_TAKES - 1}", flush=True)
        yield path


class VideoData:
    """Latents, takes and windows of the training set, read only."""

    def __init__(self, paths: list[Path], grey: Tensor) -> None:
        shards = [load_file(path) for path in paths]
        self.latents = torch.cat([shard["latents"] for shard in shards])
        self.start_fill = torch.cat([shard["start_fill"] for shard in shards])
        self.grey = grey
        self.takes = [video_take(index) for index in range(len(self.latents))]
        self.windows = {
            length: [window_starts(take.poses, length) for take in self.takes]
            for length in WINDOW_LENGTHS
        }
        self.usable = {
            length: np.flatnonzero([bool(starts) for starts in found])
            for length, found in self.windows.items()
        }
