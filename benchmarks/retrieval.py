"""Any frame of a long history, asked for by its time: the acceptance test of Stage I.

Held-out stories of twenty shots are remembered whole (120 latent frames, about a minute). For every
shot, two of its latent frames are made from noise at their own time, with their caption and the
memory, and compared with the true frames. The paper's table (arXiv 2512.23851v1, table 1) does the
same on internet videos of 20 s at 480p with a 13B model: 12.93 dB for larger patches, 15.21 for
the low-resolution branch, 17.41 for both at 4x4x2, 19.12 at 2x2x2. These are 64 x 64 pixels of a
drawn world and a model of 4 million parameters, so only the order can be compared.

memory RATE   both branches of the encoder
low RATE      the low-resolution branch alone, with the same LoRA
packed RATE   FramePack's larger patches over the whole history, trained beside, same LoRA
none          text alone

psnr (dB) and ssim, means over positions and stories; worst_position and best_position are the
lowest and highest mean PSNR among the twenty positions; tokens those of the whole history.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._remembering import Rememberer, decibels

SEEDS = range(12)
SHOTS = 20
FIRST, FRAMES = 2, 2
"""Which latent frames of a shot are asked for: the first two in which the camera may move."""

WAYS = ("memory 2x2x2", "memory 4x4x2", "low 4x4x2", "packed 4x4x2", "none")
WINDOW = 11
"""Pixels of SSIM's Gaussian window (Wang et al. 2004)."""


def run(seeds: range) -> list[dict[str, Any]]:
    """One row per way to remember."""
    from throughline.training.memory_story import StoryShape, memory_story
    from throughline.training.world import Split

    torch.set_num_threads(1)
    remembering = Rememberer()
    found: dict[str, list[list[tuple[float, float]]]] = {way: [] for way in WAYS}
    tokens: dict[str, int] = {}
    with torch.inference_mode():
        for done, seed in enumerate(seeds):
            story = memory_story(seed, Split.HELD_OUT, StoryShape(segments=SHOTS))
            history = remembering.remember(story, story.shots)
            for way in WAYS:
                bank = remembering.bank(way, history)
                tokens[way] = bank.tokens
                found[way].append([_ask(remembering, bank, history, i, seed) for i in range(SHOTS)])
            print(f"story {seed}: {done + 1} of {len(seeds)}", flush=True)
    return [_row(way, np.array(found[way]), tokens[way]) for way in WAYS]


def _ask(
    remembering: Rememberer, bank: Any, history: list[Any], position: int, seed: int
) -> tuple[float, float]:
    """PSNR and SSIM of the frames of one shot."""
    shot = history[position]
    time = position * shot.latents.shape[2] + FIRST
    latent = remembering.sample(bank, shot.caption, FRAMES, time, seed * SHOTS + position)
    true = remembering.base.model.process_latent_out(shot.latents[:, :, FIRST : FIRST + FRAMES])
    # both are decoded the same way, as a clip of their own; its first frame stands for itself only
    made, truth = (remembering.decode(x)[1:] for x in (latent, true))
    return decibels(float((made - truth).square().mean())), _ssim(made, truth)


def _ssim(a: Tensor, b: Tensor) -> float:
    from kornia.metrics import ssim

    pictures = [x.movedim(-1, 1) for x in (a, b)]  # t h w c -> t c h w
    return float(ssim(*pictures, WINDOW).mean())


def _row(way: str, figures: np.ndarray, tokens: int) -> dict[str, Any]:
    """`figures` story x position x (psnr, ssim)."""
    by_position = figures[:, :, 0].mean(axis=0)
    return {
        "method": way,
        "psnr": float(figures[..., 0].mean()),
        "ssim": float(figures[..., 1].mean()),
        "worst_position": float(by_position.min()),
        "best_position": float(by_position.max()),
        "tokens": tokens,
        "n": int(figures.shape[0] * figures.shape[1]),
    }
