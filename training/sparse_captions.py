"""Teach the demo text encoder captions of whole camera paths before a video model reads them."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters.demo_models import DemoTextModel, DemoTokenizer
from .sparse_data import (
    CHARACTER_SHARE,
    MOVE_LATENT_FRAMES,
    MOVES,
    draw_sway,
    draw_turns,
    path_caption,
    path_poses,
    stations_of,
)
from .video_network import build_vocabulary
from .world import CHARACTER_NAMES, HOLD_LATENT_FRAMES, NUM_POSES, PLACE_WORDS, POSITIONS

NUMBERS = [index for index, word in enumerate(build_vocabulary()) if word.isdigit()]
TEACH_BATCH = 128
TEACH_RATE = 1e-3
TEACH_WARM_UP = 50
SWAYING_SHARE = 0.2  # of the captions


def path_captions(
    generator: np.random.Generator, moves: int, count: int = TEACH_BATCH
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids `b n` of random captions, where each of their moves is named (`b moves`, a place
    among the tokens) and the camera's distance from its start in the latent frames of each move
    (`b moves 4`, poses to the right on the ring)."""
    tokenizer = DemoTokenizer(build_vocabulary())
    ids, places, distances = [], [], []
    for _ in range(count):
        name = position = None
        if generator.uniform() < CHARACTER_SHARE:
            name = str(generator.choice(CHARACTER_NAMES))
            position = str(generator.choice(list(POSITIONS)))
        turns = (
            draw_sway(generator) if generator.uniform() < SWAYING_SHARE else draw_turns(generator)
        )
        stations = stations_of(int(generator.integers(NUM_POSES)), turns[:moves])
        word = str(generator.choice(PLACE_WORDS))
        tokens = tokenizer.padded(tokenizer.ids(path_caption(word, name, position, stations)))
        poses = np.asarray(path_poses(stations[0], stations)[HOLD_LATENT_FRAMES:])
        ids.append(tokens)
        places.append([i for i, token in enumerate(tokens) if token in NUMBERS][1:])
        distances.append(((poses - stations[0]) % NUM_POSES).reshape(moves, MOVE_LATENT_FRAMES))
    return torch.tensor(ids), torch.tensor(places), torch.from_numpy(np.stack(distances))


def teach_paths(text: DemoTextModel, steps: int, seed: int) -> list[float]:
    """Teach the text encoder to hold, at each turning point that a caption names, how far the
    camera is from its start in the four latent frames before it; in place. Captions of one move
    keep the features that the video model already reads. Returns the share of right distances of
    every step. The head that reads them is thrown away (as in text_warm_up)."""
    before = copy.deepcopy(text).requires_grad_(False)
    width = text.token.weight.shape[1]
    heads = nn.ModuleList(nn.Linear(width, MOVE_LATENT_FRAMES * NUM_POSES) for _ in range(MOVES))
    for head in heads:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    parameters = [*text.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    right = []
    for step in range(steps):
        rise, fall = (step + 1) / TEACH_WARM_UP, (steps - step) / (0.3 * steps)
        for group in optimiser.param_groups:
            group["lr"] = TEACH_RATE * min(1.0, rise, fall)
        generator = np.random.default_rng([seed, step, 2])
        ids, places, distances = path_captions(generator, MOVES)
        features = text(ids)
        named = torch.stack(
            [
                head(features[torch.arange(len(ids)), places[:, move]])
                for move, head in enumerate(heads)
            ],
            dim=1,
        ).unflatten(-1, (MOVE_LATENT_FRAMES, NUM_POSES))
        loss = F.cross_entropy(named.flatten(0, 2), distances.flatten())
        short, _, _ = path_captions(generator, 1, TEACH_BATCH // 4)
        loss = loss + (text(short) - before(short)).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        right.append((named.argmax(-1) == distances).float().mean().item())
        if (step + 1) % 50 == 0:
            print(f"captions, step {step + 1}/{steps}: {np.mean(right[-50:]):.3f}", flush=True)
    return right
