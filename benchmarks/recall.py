"""A place and a character come back: what each way to remember gives, on held-out worlds.

Two shots show the lead in a place, three to six shots show other places without the lead, then the
lead is in the first place again, on a camera path over what was seen. All methods get the same
model with the same LoRA, the same captions, noise and steps; the history is the true one. What is
measured is the part of the last shot that was seen before: its wall, sky and floor, and the lead.

memory RATE       all earlier shots through the history encoder
window            the newest latent frames at full resolution, as many tokens as memory 2x2x2
framepack         FramePack's buckets, three times as long, as many tokens as memory 2x2x2
framepack 19      FramePack's own buckets: 1, 2 and 16 latent frames
none              the text alone
base              the model without the LoRA and without memory

psnr in dB and colour_error (0..255, mean distance of the colours of 8 x 8 pixels) against ground
truth; psnr_more is how much more than the window's for the same world, with its standard error;
tokens are those of the context; n the worlds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._remembering import Rememberer, decibels

SEEDS = range(32)
BEFORE, LEAST_AWAY, AWAY_CHOICES = 2, 3, 4
PICTURE = Path(__file__).resolve().parents[1] / "build" / "benchmarks" / "recall.png"
SHOWN = ("memory 2x2x2", "memory 4x4x2", "window", "framepack", "none")
PICTURE_WORLDS, PICTURE_FRAMES = 6, (0, 20)
BLOCK = 8


def ways(history_latent_frames: int) -> dict[str, str]:
    """The rows and how Rememberer calls them; 2x2x2 makes 2 tokens of a latent frame's 16."""
    window = -(-history_latent_frames * 2 // 16)
    return {
        "memory 2x2x2": "memory 2x2x2",
        "memory 4x4x2": "memory 4x4x2",
        "window": f"window {window}",
        "framepack": "framepack 3 6 48",
        "framepack 19": "framepack 1 2 16",
        "none": "none",
    }


def run(seeds: range) -> list[dict[str, Any]]:
    """One row per method; the picture rows are saved below build/."""
    from throughline.training.memory_story import returning_story

    torch.set_num_threads(1)
    remembering = Rememberer()
    figures: dict[str, list[dict[str, float]]] = {}
    pictures = []
    with torch.inference_mode():
        for done, seed in enumerate(seeds):
            away = LEAST_AWAY + seed % AWAY_CHOICES
            story = returning_story(seed, away, BEFORE)
            *history, last = remembering.remember(story, story.shots)
            seen = seen_mask(story, BEFORE)
            row = {"truth": last.frames}
            total = sum(shot.latents.shape[2] for shot in history)
            for name, way in ways(total).items():
                bank = remembering.bank(way, history, last)
                latent = remembering.sample(bank, last.caption, 6, total, seed)
                row[name] = remembering.decode(latent)
                figures.setdefault(name, []).append(
                    {**compare(row[name], last.frames, seen), "tokens": float(bank.tokens)}
                )
            if done < PICTURE_WORLDS:
                pictures.append(row)
            print(f"world {seed}: {done + 1} of {len(seeds)}", flush=True)
    save_pictures(pictures)
    return [summary(name, rows, figures["window"]) for name, rows in figures.items()]


def seen_mask(story: Any, before: int) -> Tensor:
    """Which pixels of the last shot were seen in the first `before` shots: bool [t, h, w]."""
    from throughline.training.world import FRAME_SIZE, RING_WIDTH, shot_take
    from throughline.training.world_rendering import camera_offsets, render_take

    ring = np.zeros(RING_WIDTH, dtype=bool)
    for shot in story.shots[:before]:
        for offset in camera_offsets(shot_take(story, shot))[0]:
            ring[(offset + np.arange(FRAME_SIZE)) % RING_WIDTH] = True
    from dataclasses import replace

    take = shot_take(story, story.shots[-1])
    offsets, _ = camera_offsets(take)
    columns = np.stack([ring[(offset + np.arange(FRAME_SIZE)) % RING_WIDTH] for offset in offsets])
    empty = render_take(replace(take, character=None, position=None))
    lead = (render_take(take) != empty).any(axis=-1)
    return torch.from_numpy(columns[:, None, :] | lead)


def compare(frames: Tensor, truth: Tensor, seen: Tensor) -> dict[str, float]:
    """PSNR and colour error over the pixels that were seen before."""
    error = float((frames - truth)[seen].square().mean())
    means = [_blocks(x) for x in (frames, truth)]
    whole = _blocks(seen.float()[..., None])[..., 0] == 1.0
    distance = (means[0] - means[1]).norm(dim=-1)[whole].mean()
    return {"psnr": decibels(error), "colour_error": float(distance) * 255.0}


def _blocks(frames: Tensor) -> Tensor:
    """Means of 8 x 8 pixels of t h w c."""
    t, h, w, c = frames.shape
    blocks = frames.reshape(t, h // BLOCK, BLOCK, w // BLOCK, BLOCK, c)
    return blocks.mean(dim=(2, 4))


def summary(
    name: str, rows: list[dict[str, float]], window: list[dict[str, float]]
) -> dict[str, Any]:
    more = np.array([a["psnr"] - b["psnr"] for a, b in zip(rows, window, strict=True)])
    spread = float(more.std(ddof=1) / np.sqrt(len(more))) if len(more) > 1 else float("nan")
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return {
        "method": name,
        **means,
        "n": len(rows),
        "psnr_more": float(more.mean()),
        "standard_error": spread,
    }


def save_pictures(worlds: list[dict[str, Tensor]]) -> None:
    """A row per world: first and last frame of the truth and of each method."""
    from PIL import Image

    lines = []
    for world in worlds:
        cells = [world[name][i] for name in ("truth", *SHOWN) for i in PICTURE_FRAMES]
        lines.append(torch.cat(cells, dim=1))
    picture = (torch.cat(lines, dim=0) * 255).round().byte().numpy()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture)
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(PICTURE)
    print(f"picture {PICTURE}: columns truth, {', '.join(SHOWN)}", flush=True)
