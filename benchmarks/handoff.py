"""The hand-off between planned segments: a short clip decoded and encoded, or one of full length.

short: 4 latent frames decoded, 5 frames encoded (adapters/hand_off.py). padded: 21 and 81, as the
released MMPL code does it. Same latents, same VAE (the demo's, 64 x 64 pixels), one process with
one thread, in turn, the order alternating; `seconds` is the median, `difference` the largest one
between the latents that come out.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

SEEDS = range(1_000_000, 1_000_008)

LATENT_FRAMES = 21


def run(seeds: range) -> list[dict[str, Any]]:
    """Rows `short` and `padded`."""
    from throughline.adapters.demo_models import load_demo_vae
    from throughline.adapters.hand_off import hand_over
    from throughline.planning.frames import FrameGrid
    from throughline.planning.layout import mmpl_t2v
    from throughline.planning.macro import hand_off

    torch.set_num_threads(1)
    vae, step = load_demo_vae(), hand_off(mmpl_t2v(), FrameGrid(4))
    seconds: dict[str, list[float]] = {"short": [], "padded": []}
    difference = 0.0
    with torch.inference_mode():
        for index, seed in enumerate(seeds):
            latents = _latents(vae, seed)
            sides = {
                "short": lambda latents=latents: hand_over(vae, latents, step),
                "padded": lambda latents=latents: _padded(vae, latents, step),
            }
            made = {}
            for name in sides if index % 2 else reversed(sides):
                began = time.perf_counter()
                made[name] = sides[name]()
                seconds[name].append(time.perf_counter() - began)
            difference = max(difference, float((made["short"] - made["padded"]).abs().max()))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "method": name,
            "seconds": median,
            "ratio": median / medians["short"],
            "difference": difference,
        }
        for name, median in medians.items()
    ]


def _latents(vae: Any, seed: int) -> dict[int, torch.Tensor]:
    """Latent frames of a held-out take of the demo's world."""
    from throughline.training.evaluate import frames_to_image
    from throughline.training.world import Split, long_take
    from throughline.training.world_rendering import render_take

    take = long_take(seed, 6, 6, 2, split=Split.HELD_OUT)
    whole = vae.encode(frames_to_image(render_take(take, 0, 4 * LATENT_FRAMES - 3)))
    return {i: whole[:, :, i : i + 1] for i in range(LATENT_FRAMES)}


def _padded(vae: Any, latents: dict[int, torch.Tensor], step: Any) -> torch.Tensor:
    clip = torch.cat([latents[i] for i in step.decoded], dim=2)
    rest = torch.zeros(1, clip.shape[1], LATENT_FRAMES - clip.shape[2], *clip.shape[3:])
    frames = vae.decode(torch.cat((clip, rest), dim=2))
    frames = frames.reshape(-1, *frames.shape[-3:]).clamp(0.0, 1.0)
    kept = frames[step.first : step.first + step.frames]
    grey = torch.full((4 * LATENT_FRAMES - 3 - step.frames, *frames.shape[1:]), 0.5)
    return vae.encode(torch.cat((kept, grey)))[:, :, :2].float().cpu()
