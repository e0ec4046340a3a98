"""Teach the addresses of the demo's history encoders what the world's captions say.

An address finds a memory token by the caption of the shot that asks. Where the camera stands at a
moment is a sum of words modulo 16, which a network does not learn from what is found alone: from
the velocity loss the addresses found shots that the history repeats and nothing else (after 400
steps of Stage II a cross-entropy of 8.5 for new views, where equal weights for all tokens have
4.6), and 3,000 steps against the likeness of the latents taught them the place but not the pose. So
a linear head first names the pose at every place of a shot (400 steps; thrown away afterwards), as
in text_warm_up, and the addresses are drawn together where the same part of a place is seen.

Measured in docs/log.md. Training for a real model has no such head: there the likeness of the
latents alone teaches (`missed_likeness`, in every step of Stage II).
"""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters.demo_models import DemoTextModel, DemoTokenizer
from ..memory.encoder import HistoryEncoder, fit_to_cells
from ..memory.recall import Addresses, cell_places, latent_cells, likeness
from .memory_data import StepTensors
from .memory_story import SEGMENT_LATENT_FRAMES
from .video_network import build_vocabulary
from .world import (
    CHARACTER_NAMES,
    FRAME_SIZE,
    MAX_TURN,
    NUM_POSES,
    PLACE_WORDS,
    POSE_STEP,
    POSITIONS,
    RING_WIDTH,
    caption_of,
    poses_by_rule,
)

PEAK_LEARNING_RATE = 3e-3
WARM_UP = 100
GRADIENT_CLIP = 1.0
SHOTS = 64  # of a step, half of them hold and half ask
PLACES = 3  # of a step: few, so that each is seen often
HARMONICS = 4  # of the angle on the ring that the head names
NEAR = 4.0  # px: how fast the teacher falls with the distance on the ring
SAME_CHARACTER, OTHER_PLACE, OTHER_ROW = 0.7, -20.0, -3.0  # in the teacher's logits
FOUND_WEIGHT = 0.3
REPORT_EVERY = 200


@dataclass(frozen=True)
class Shots:
    """Text states `b n d` of random shots, their places and characters `b` and poses `b t`."""

    text: Tensor
    places: Tensor
    characters: Tensor
    poses: Tensor


def draw_shots(text: DemoTextModel, generator: np.random.Generator, count: int) -> Shots:
    """Random captions in a few places, and what they mean."""
    tokenizer = DemoTokenizer(build_vocabulary())
    words = generator.permutation(len(PLACE_WORDS))[:PLACES]
    ids, places, characters, poses = [], [], [], []
    for _ in range(count):
        word, who = int(generator.choice(words)), int(generator.integers(-1, len(CHARACTER_NAMES)))
        name = CHARACTER_NAMES[who] if who >= 0 else None
        where = str(generator.choice(list(POSITIONS))) if name else None
        start = int(generator.integers(NUM_POSES))
        end = (start + int(generator.integers(-MAX_TURN, MAX_TURN + 1))) % NUM_POSES
        caption = caption_of(PLACE_WORDS[word], name, where, start, end)
        ids.append(tokenizer.padded(tokenizer.ids(caption)))
        places.append(word)
        characters.append(who)
        poses.append(poses_by_rule(start, end, SEGMENT_LATENT_FRAMES))
    with torch.no_grad():
        states = text(torch.tensor(ids)).float()
    return Shots(states, torch.tensor(places), torch.tensor(characters), torch.tensor(poses))


def warm_up_addresses(
    encoders: nn.ModuleDict, text: DemoTextModel, steps: int, seed: int
) -> dict[str, list[float]]:
    """Train the addresses of each encoder in place; gives what they missed, of every step."""
    return {rate: _warm_up(encoder, text, steps, seed) for rate, encoder in encoders.items()}


def _warm_up(encoder: HistoryEncoder, text: DemoTextModel, steps: int, seed: int) -> list[float]:
    addresses = encoder.addresses
    assert addresses is not None
    side = FRAME_SIZE // (encoder.config.spatial_stride[1] * 8)  # cells of a picture's width
    head = nn.Linear(addresses.width, 2 * HARMONICS)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    parameters = [*addresses.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    missed = []
    for step in range(steps):
        rise, fall = (step + 1) / WARM_UP, (steps - step) / (0.3 * steps)
        for group in optimiser.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * min(1.0, rise, fall)
        shots = draw_shots(text, np.random.default_rng([seed, step, 4]), SHOTS)
        named = _pose_error(addresses, head, shots, side)
        found = _found_error(addresses, shots, encoder.config.rate.time, side)
        optimiser.zero_grad(set_to_none=True)
        (named + FOUND_WEIGHT * found).backward()
        nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
        optimiser.step()
        missed.append(found.item())
        if (step + 1) % REPORT_EVERY == 0:
            clock = time.strftime("%H:%M:%S")
            print(
                f"{clock} addresses {encoder.config.rate} {step + 1}/{steps}: pose error "
                f"{named.item():.4f}, missed {np.mean(missed[-50:]):.3f}",
                flush=True,
            )
    return missed


def ring_offsets(poses: Tensor, side: int) -> Tensor:
    """Left edges on the ring in px, `... side`, of the columns of cells of views from poses."""
    columns = torch.arange(side) * (FRAME_SIZE // side)
    return (poses[..., None] * POSE_STEP + columns) % RING_WIDTH


def _pose_error(addresses: Addresses, head: nn.Module, shots: Shots, side: int) -> Tensor:
    """How well the head names the angle on the ring at every latent frame, row and column."""
    frames = torch.arange(SEGMENT_LATENT_FRAMES)
    known = head(addresses.read(shots.text, cell_places(frames, side, side)))
    offsets = ring_offsets(shots.poses.float(), side)[:, :, None].expand(-1, -1, side, -1)
    angles = offsets.flatten(1) * (2 * math.pi / RING_WIDTH)
    named = [wave(k * angles) for k in range(1, HARMONICS + 1) for wave in (torch.cos, torch.sin)]
    return F.mse_loss(known, torch.stack(named, dim=-1))


def _found_error(addresses: Addresses, shots: Shots, cell_frames: int, side: int) -> Tensor:
    """Cross-entropy of what half of the shots find in the other half against what is near."""
    half = len(shots.poses) // 2
    cells = SEGMENT_LATENT_FRAMES // cell_frames
    middles = torch.arange(cells) * cell_frames + (cell_frames - 1) / 2
    held = addresses(shots.text[:half], cell_places(middles, side, side)).flatten(0, 1)
    frames = torch.arange(SEGMENT_LATENT_FRAMES)
    asked = addresses(shots.text[half:], cell_places(frames, side, side)).flatten(0, 1)

    def spread(values: Tensor, moments: int) -> Tensor:
        """Values of shots to their moments, rows and columns."""
        return values[:, None].expand(-1, moments * side * side).flatten()

    def rows(count: int, moments: int) -> Tensor:
        grid = torch.arange(side)[None, None, :, None].expand(count, moments, side, side)
        return grid.flatten()

    views = ring_offsets(shots.poses[:half].float(), side).unflatten(1, (cells, cell_frames))
    views = views[:, :, :, None].expand(-1, -1, -1, side, -1)  # shot cell frame row column
    views = views.permute(0, 1, 3, 4, 2).reshape(-1, cell_frames)
    wanted = ring_offsets(shots.poses[half:].float(), side)[:, :, None].expand(-1, -1, side, -1)
    around = (wanted.reshape(-1, 1, 1) - views) % RING_WIDTH
    distance = torch.minimum(around, RING_WIDTH - around).amin(dim=-1)
    ends = [(slice(half, None), SEGMENT_LATENT_FRAMES), (slice(None, half), cells)]

    def differ(values: Tensor) -> Tensor:
        asking, holding = (spread(values[part], moments) for part, moments in ends)
        return asking[:, None] != holding[None]

    other_row = rows(half, SEGMENT_LATENT_FRAMES)[:, None] != rows(half, cells)[None]
    logits = -distance / NEAR + SAME_CHARACTER * ~differ(shots.characters)
    logits = logits + OTHER_PLACE * differ(shots.places) + OTHER_ROW * other_row
    found = torch.log_softmax(addresses.sharpness.exp() * asked @ held.T, dim=-1)
    return -(logits.softmax(-1) * found).sum(dim=-1).mean()


def missed_likeness(encoder: HistoryEncoder, step: StepTensors, weights: Tensor) -> Tensor:
    """Cross-entropy of recall weights `q k m` against the likeness of the latents themselves."""
    stride = encoder.config.spatial_stride
    held = latent_cells(
        fit_to_cells(step.latents.flatten(0, 1), encoder.config),
        (encoder.config.rate.time, *stride),
    )
    held = held.unflatten(0, step.latents.shape[:2]).flatten(1, 2)[step.history]
    true = latent_cells(fit_to_cells(step.targets, encoder.config), (1, *stride))
    alike = likeness(true[:, :, 0], held)
    return -(alike * weights.clamp_min(1e-6).log()).sum(dim=-1).mean()
