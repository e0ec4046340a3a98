"""Teach the addresses of the keyframe encoder what the world's captions say of one frame.

As in `address_warm_up`, with one more thing to find. Where somebody stands in the picture, the
caption asks for the same part of the same person, wherever they stood when they were seen;
elsewhere it asks for the same part of the place. A picture's cells are 16 px, the figures stand
16 px apart, so that their cells agree.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters.demo_models import DemoTextModel, DemoTokenizer
from ..memory.encoder import HistoryEncoder
from ..memory.recall import Addresses, cell_places
from .address_warm_up import (
    FOUND_WEIGHT,
    GRADIENT_CLIP,
    HARMONICS,
    NEAR,
    OTHER_PLACE,
    OTHER_ROW,
    PEAK_LEARNING_RATE,
    REPORT_EVERY,
    WARM_UP,
    ring_offsets,
)
from .video_network import build_vocabulary
from .world import (
    CHARACTER_NAMES,
    FRAME_SIZE,
    MAX_TURN,
    NUM_POSES,
    PLACE_WORDS,
    POSITIONS,
    RING_WIDTH,
    SHEET_POSITION,
    caption_of,
)

SHOTS = 64  # of a step, half of them hold and half ask
PLACES, PEOPLE = 3, 3  # of a step: few, so that each is seen often
EMPTY_SHARE = 0.15
SHEET_SHARE = 0.15
NO_PLACE = len(PLACE_WORDS)  # a sheet's
CELL = 16  # px of a cell of the keyframe encoder: one token of the demo model
FIGURE_ROWS = (2, 3)
"""Rows of cells that a figure fills: 28 to 60 px. Of the row above it has the top of the head."""

SAME_FIGURE, SOMEBODY_BEFORE_IT = 4.0, -3.0
"""In the teacher's logits: the part of the person that is asked for, and a part of the place that
somebody stands before."""


@dataclass(frozen=True)
class Keyframes:
    """Text states `b n d` of random keyframes, and what they show: places, characters (-1 for
    nobody), the first cell column of the figure and the camera's pose, all `b`."""

    text: Tensor
    places: Tensor
    characters: Tensor
    columns: Tensor
    poses: Tensor


def draw_keyframes(text: DemoTextModel, generator: np.random.Generator, count: int) -> Keyframes:
    """Random captions in a few places, and what their first frames show; some are of sheets."""
    tokenizer = DemoTokenizer(build_vocabulary())
    words = generator.permutation(len(PLACE_WORDS))[:PLACES]
    people = generator.permutation(len(CHARACTER_NAMES))[:PEOPLE]
    ids, shown = [], []
    for _ in range(count):
        word, who = int(generator.choice(words)), int(generator.choice(people))
        position = str(generator.choice(list(POSITIONS)))
        empty, sheet = generator.uniform() < EMPTY_SHARE, generator.uniform() < SHEET_SHARE
        start = int(generator.integers(NUM_POSES))
        end = (start + int(generator.integers(-MAX_TURN, MAX_TURN + 1))) % NUM_POSES
        name = None if empty else CHARACTER_NAMES[who]
        caption = caption_of(PLACE_WORDS[word], name, None if empty else position, start, end)
        one = (word, -1 if empty else who, POSITIONS[position] // CELL, start)
        if sheet:
            caption = CHARACTER_NAMES[who]
            one = (NO_PLACE, who, POSITIONS[SHEET_POSITION] // CELL, 0)
        ids.append(tokenizer.padded(tokenizer.ids(caption)))
        shown.append(one)
    with torch.no_grad():
        states = text(torch.tensor(ids)).float()
    return Keyframes(states, *torch.tensor(shown).unbind(1))


def warm_up_keyframe_addresses(
    encoder: HistoryEncoder, text: DemoTextModel, steps: int, seed: int
) -> list[float]:
    """Train the addresses in place; gives what they missed, of every step."""
    addresses = encoder.addresses
    assert addresses is not None
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
        drawn = draw_keyframes(text, np.random.default_rng([seed, step, 5]), SHOTS)
        named = _pose_error(addresses, head, drawn)
        found = _found_error(addresses, drawn)
        optimiser.zero_grad(set_to_none=True)
        (named + FOUND_WEIGHT * found).backward()
        nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
        optimiser.step()
        missed.append(found.item())
        if (step + 1) % REPORT_EVERY == 0:
            clock = time.strftime("%H:%M:%S")
            print(
                f"{clock} addresses {step + 1}/{steps}: pose error {named.item():.4f}, missed "
                f"{np.mean(missed[-50:]):.3f}",
                flush=True,
            )
    return missed


def _side() -> int:
    return FRAME_SIZE // CELL


def _cells() -> Tensor:
    """Places of the cells of one keyframe."""
    return cell_places(torch.zeros(1), _side(), _side())


def _pose_error(addresses: Addresses, head: nn.Module, drawn: Keyframes) -> Tensor:
    """How well the head names the angle on the ring at every cell."""
    known = head(addresses.read(drawn.text, _cells()))
    angles = _offsets(drawn.poses).flatten(1) * (2 * math.pi / RING_WIDTH)
    named = [wave(k * angles) for k in range(1, HARMONICS + 1) for wave in (torch.cos, torch.sin)]
    return F.mse_loss(known, torch.stack(named, dim=-1))


def _offsets(poses: Tensor) -> Tensor:
    """Left edges of the cells on the ring in px, `b rows columns`."""
    side = _side()
    return ring_offsets(poses.float(), side)[:, None].expand(-1, side, -1)


def _found_error(addresses: Addresses, drawn: Keyframes) -> Tensor:
    """Cross-entropy of what half of the keyframes find in the other half against the teacher."""
    half = len(drawn.poses) // 2
    found = addresses(drawn.text, _cells())
    held, asked = found[:half].flatten(0, 1), found[half:].flatten(0, 1)
    given = torch.log_softmax(addresses.sharpness.exp() * asked @ held.T, dim=-1)
    return -(teacher(drawn, half).softmax(-1) * given).sum(dim=-1).mean()


def teacher(drawn: Keyframes, half: int) -> Tensor:
    """Logits `k m` of what each cell of the later keyframes should find in the first `half`."""
    side = _side()
    rows = torch.arange(side)[:, None].expand(side, side)
    part = torch.arange(side)[None, None] - drawn.columns[:, None, None]  # 0 and 1: the figure's
    stands = (part >= 0) & (part <= 1) & (drawn.characters >= 0)[:, None, None]
    stands = stands.expand(-1, side, -1) & torch.isin(rows, torch.tensor(FIGURE_ROWS))
    # one number for every part of every person, -1 where nobody stands
    figure = (drawn.characters[:, None, None] * side + rows) * 2 + part
    figure = torch.where(stands, figure, -1)

    def pair(values: Tensor) -> tuple[Tensor, Tensor]:
        """Values of the cells that ask as a column and of those that hold as a row."""
        spread = values.expand(len(drawn.poses), side, side).flatten(1)
        return spread[half:].flatten()[:, None], spread[:half].flatten()[None]

    asked, held = pair(_offsets(drawn.poses))
    around = (asked - held) % RING_WIDTH
    logits = -torch.minimum(around, RING_WIDTH - around) / NEAR
    for values, weight in ((drawn.places[:, None, None], OTHER_PLACE), (rows, OTHER_ROW)):
        asked, held = pair(values)
        logits = logits + weight * (asked != held)
    asked, held = pair(figure)
    logits = logits + SOMEBODY_BEFORE_IT * (held >= 0)
    return torch.where((asked == held) & (asked >= 0), SAME_FIGURE, logits)
