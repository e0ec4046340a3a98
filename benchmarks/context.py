"""What remembering costs: tokens and seconds per step against the length of the history.

The demo model samples a segment of 6 latent frames (96 tokens, 21 frames at 8 frames per second)
with histories of 5 to 120 seconds. Each figure is the smallest of several rounds in which all
settings take turns, so that a busy machine disturbs all of them alike; ratio is against the same
model with its LoRA and no memory, from the same round (the median of the rounds).

The context of memory RATE and low RATE grows by 32 / (h w t) tokens per second for a rate h x w x t
(the model makes 32 of a second); window and framepack stay as they are. A plot is saved below
build/.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ._remembering import STEPS, Remembered, Rememberer

SEEDS = range(8)
"""Each seed is one round."""

SECONDS = (5, 10, 20, 40, 60, 120)
WAYS = ("memory 4x4x2", "memory 2x2x2", "low 4x4x2", "window 5", "framepack 1 2 16")
FRAMES_PER_SECOND, FRAMES_PER_LATENT, SEGMENT = 8, 4, 6
CAPTION = "harbour, Mara left, camera 3 to 7"
PLOT = Path(__file__).resolve().parents[1] / "build" / "benchmarks" / "context.png"


def run(seeds: range) -> list[dict[str, Any]]:
    """One row per way and length of history."""
    torch.set_num_threads(1)
    remembering = Rememberer()
    with torch.inference_mode():
        banks = {("none", 0): remembering.bank("none", [])}
        for way in WAYS:
            for seconds in SECONDS:
                banks[(way, seconds)] = remembering.bank(way, [clip(seconds)])
        steps: dict[tuple[str, int], list[float]] = {key: [] for key in banks}
        for seed in seeds:
            for key, bank in banks.items():
                steps[key].append(_step_seconds(remembering, bank, seed))
            print(f"round {seed}", flush=True)
    rows = [_row(key, steps, banks[key].tokens) for key in banks]
    _plot(rows)
    return rows


def clip(seconds: int) -> Remembered:
    """A history of so many seconds in one take; its cost does not depend on what it shows."""
    from throughline.memory.rates import Rate

    latent_frames = seconds * FRAMES_PER_SECOND // FRAMES_PER_LATENT + 1
    generator = torch.Generator().manual_seed(seconds)
    low = {}
    for text in ("2x2x2", "4x4x2"):
        rate = Rate.parse(text)
        cells = -(-latent_frames // rate.time)
        low[text] = torch.randn(
            1, 16, cells, 8 // rate.height, 8 // rate.width, generator=generator
        )
    latents = torch.randn(1, 16, latent_frames, 8, 8, generator=generator)
    return Remembered(latents, low, CAPTION, torch.zeros(1, 64, 64, 3))


def _step_seconds(remembering: Rememberer, bank: Any, seed: int) -> float:
    """The median time between two steps of one segment."""
    from throughline.adapters.attach import attach_memory
    from throughline.adapters.sampling import sample_segment

    times: list[float] = []

    def callback(*_: Any) -> None:
        times.append(time.perf_counter())

    model = attach_memory(remembering.model, bank)
    text = remembering.text(CAPTION)
    sample_segment(
        remembering.family,
        model,
        remembering.blanks,
        text,
        text,
        remembering.settings,
        (1, 16, SEGMENT, 8, 8),
        None,
        seed,
        callback,
    )
    assert len(times) == STEPS
    return float(np.median(np.diff(times)))


def _row(
    key: tuple[str, int], steps: dict[tuple[str, int], list[float]], tokens: int
) -> dict[str, Any]:
    base = np.array(steps[("none", 0)])
    return {
        "method": key[0],
        "history_seconds": key[1],
        "tokens": tokens,
        "step_ms": 1000.0 * min(steps[key]),
        "ratio": float(np.median(np.array(steps[key]) / base)),
    }


def _plot(rows: list[dict[str, Any]]) -> None:
    """Tokens and step time against seconds of history, side by side."""
    from PIL import Image, ImageDraw

    width, height, margin = 480, 320, 48
    image = Image.new("RGB", (2 * width, height), "white")
    draw = ImageDraw.Draw(image)
    colours = ("#c0392b", "#2471a3", "#7d3c98", "#1e8449", "#b9770e")
    for panel, figure in enumerate(("tokens", "ratio")):
        left, bottom = panel * width + margin, height - margin
        most = max(float(row[figure]) for row in rows)
        draw.line((left, margin / 2, left, bottom, (panel + 1) * width - 16, bottom), fill="black")
        draw.text((left + 8, 4), f"{figure}, up to {most:.4g}; history 0 to 120 s", fill="black")
        for colour, way in zip(colours, WAYS, strict=True):
            line = [
                (
                    left + row["history_seconds"] / max(SECONDS) * (width - margin - 24),
                    bottom - float(row[figure]) / most * (height - 2 * margin),
                )
                for row in rows
                if row["method"] == way
            ]
            draw.line(line, fill=colour, width=2)
            draw.text((left + 12, 20 + 12 * WAYS.index(way)), way, fill=colour)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    image.save(PLOT)
    print(f"plot {PLOT}", flush=True)
