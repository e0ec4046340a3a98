"""Held-out ring worlds and the planners that roll them out, shared by the bench horizon."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

TURN, WALK = 16, 7
"""Latent frames of the history: a whole turn, in which everything is seen, then a random walk
(shared design `hierarchical-latents.md`, section 8.1)."""
FRAMES = 128  # latent frames that are made
COST_FRAMES = 64  # latent frames whose cost is counted
DECODER_REACH = 3  # latent frames that one latent frame's pictures depend on
DECODE_AT_ONCE = 2  # clips; 0.033 s a clip on a CPU, 0.070 s with 16


@dataclass(frozen=True)
class World:
    """A camera path, its true latents of the history and of the latent frame after it, and what is
    told about every frame."""

    take: Any  # training.world.Take
    history: Tensor  # c t h w
    following: Tensor  # c 1 h w
    condition: Tensor  # t k


@dataclass
class Rolled:
    """Latents `b c t h w` of a rollout with what it cost: network evaluations, tokens that the
    network read, and processor seconds, of the first 64 latent frames."""

    latents: Tensor
    passes: int = 0
    tokens: int = 0
    seconds: float = 0.0


def world(seed: int, vae: Any) -> World:
    """The held-out world of a seed: 23 true latent frames, the path of 128 more."""
    import comfy.latent_formats

    from throughline.training.hierarchy_data import ring_place
    from throughline.training.hierarchy_ring import conditions, random_moves
    from throughline.training.vae_network import encode_clip
    from throughline.training.vae_training import clip_tensor
    from throughline.training.world import NUM_POSES, Split, Take, seeded_generator
    from throughline.training.world_rendering import render_take

    place = ring_place(seed, Split.HELD_OUT)
    generator = seeded_generator(seed, Split.HELD_OUT, "ring path")
    walk = random_moves(generator, WALK + FRAMES)
    moves = np.concatenate([[0], np.full(TURN - 1, -1), walk])
    poses = (int(generator.integers(NUM_POSES)) + moves.cumsum()) % NUM_POSES
    take = Take(place, None, None, tuple(int(pose) for pose in poses), ())
    # one latent frame more in front, so that the first of the history is not a single picture
    whole = Take(place, None, None, (int(poses[0]), *take.poses[: TURN + WALK + 1]), ())
    raw = encode_clip(vae, clip_tensor(render_take(whole))[None])
    latents = comfy.latent_formats.Wan21().process_in(raw)[0, :, 1:]
    return World(take, latents[:, :-1], latents[:, -1:], conditions(poses, moves, place.word))


@torch.inference_mode()
def roll_out(
    method: Any,
    planner: Any,
    worlds: Sequence[World],
    frames: int,
    denoising: Any,
    forget: bool = False,
) -> Rolled:
    """Make `frames` latent frames of all worlds at once.

    `forget` puts noise in place of the coarse codes of all that lies before a chunk.
    """
    from throughline.memory.hierarchy_sampling import denoised, step_noise
    from throughline.planning.rollout import chunk_starts, tokens

    head, grid, rollout = method.head, method.grid, method.rollout
    start = TURN + WALK
    total = start + -(-frames // rollout.chunk) * rollout.chunk
    history = torch.stack([each.history for each in worlds])
    codes = [extend(each, total) for each in head.encode(history)]
    centres = [grid.centres(level) for level in range(grid.levels)]
    condition = torch.stack([extend(each.condition[None], total)[0] for each in worlds])
    rolled = Rolled(torch.empty(0))
    began = time.process_time()
    for chunk in chunk_starts(rollout, start, frames):
        if forget:
            coarse = [forgotten(each, chunk, planner, level) for level, each in levels(codes)]
            codes = [codes[0], *coarse]
        for step in rollout.steps(chunk):
            target = step.target
            shape = (target.stop - target.start, *codes[target.level].shape[2:])
            noise = torch.cat(
                [step_noise(seed, target, (1, *shape)) for seed in range(len(worlds))]
            )
            with torch.autocast("cpu", torch.bfloat16):
                made = denoised(planner, codes, centres, step, condition, [noise], denoising)[
                    0
                ].float()
            write(codes, made, target, method)
            if chunk - start < COST_FRAMES:
                rolled.passes += denoising.steps
                rolled.tokens += denoising.steps * tokens(step, grid.tokens)
        if chunk - start < COST_FRAMES:
            rolled.seconds = time.process_time() - began
    rolled.latents = head.decode(0, codes[0], grid)[:, :, start : start + frames]
    return rolled


def levels(codes: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
    """The coarse levels with their numbers."""
    return list(enumerate(codes))[1:]


def forgotten(codes: Tensor, before: int, planner: Any, level: int) -> Tensor:
    """Codes `b t n c` with noise of the same size in place of the frames before `before`."""
    generator = torch.Generator().manual_seed(before * 16 + level)
    noise = torch.randn(codes[:, :before].shape, generator=generator)
    return torch.cat([planner.unscaled(level, noise), codes[:, before:]], dim=1)


def write(codes: list[Tensor], made: Tensor, target: Any, method: Any) -> None:
    """Write the codes of a target in place, and FramePack's larger patches of them."""
    codes[target.level][:, target.start : target.stop] = made
    if method.rollout.kind == "patchified":
        again = method.head.encode(method.head.decode(0, made, method.grid))
        for level, coarse in levels(again):
            codes[level][:, target.start : target.stop] = coarse


def extend(values: Tensor, frames: int) -> Tensor:
    """`b t ...` cut or filled up with its last frame to `frames`."""
    missing = max(0, frames - values.shape[1])
    return torch.cat([values, *[values[:, -1:]] * missing], dim=1)[:, :frames]


@torch.inference_mode()
def pictures(vae: Any, worlds: Sequence[World], latents: Tensor, frame: int) -> Tensor:
    """The four pictures of latent frame `frame` (from 0) of every world: `b 4 h w c` in 0..1."""
    import comfy.latent_formats

    from throughline.training.vae_network import decode_clip

    history = torch.stack([each.history for each in worlds])
    known = torch.cat([history[:, :, -DECODER_REACH:], latents], dim=2)
    last = frame + DECODER_REACH + 1
    raw = comfy.latent_formats.Wan21().process_out(known[:, :, last - DECODER_REACH : last])
    clips = [decode_clip(vae, part)[:, :, -4:] for part in raw.split(DECODE_AT_ONCE)]
    return (torch.cat(clips).permute(0, 2, 3, 4, 1) / 2 + 0.5).clamp(0, 1)


def true_pictures(worlds: Sequence[World], frame: int) -> Tensor:
    """The true pictures of the same latent frame."""
    from throughline.training.world_rendering import render_take

    index = 4 * (TURN + WALK + frame) - 3
    frames = np.stack([render_take(each.take, index, index + 4) for each in worlds])
    return torch.from_numpy(frames).float() / 255.0
