"""How long a rollout stays true: ways to roll out the ring world, 1 to 128 latent frames ahead.

Acceptance of coarse-to-fine (shared design `hierarchical-latents.md`, sections 8.1 to 8.5): every
held-out world has been seen for a whole turn and seven latent frames; then 128 latent frames are
made along a known camera path. All planners have the same width and depth, were trained for as many
steps of as many tokens on the same worlds, and read 64 tokens per step.

full-resolution    the last two latent frames, the next two are made
framepack          1, 4 and 16 latent frames of the past in growing patches, the next one is made
pooled             coarse to fine with windows 1, 4, 16; coarse codes are averages
learned            the same with the learned head
without history    learned, with noise in place of the coarse codes of all that lies behind
ceiling            the true latents' pictures, of the last latent frame of the history (psnr) and of
                   latent frame 1 (psnr_1)
other world        true pictures of another world on the same path

psnr and ssim are means over worlds and latent frames 17 to 48 (20, 24 and so on), psnr_N those at
latent frame N. distance is perceptual: what the demo VAE's encoder makes of the pictures, layer by
layer, unit vectors compared as LPIPS does, without its trained weights (0 equal). passes, tokens
and seconds are those of 64 latent frames of all worlds in one batch: network evaluations, tokens
read per world, seconds of one processor core.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._ring_worlds import FRAMES, World, pictures, roll_out, true_pictures, world

SEEDS = range(64)
STEPS = 4  # denoising steps; few suffice and favour PSNR (shared design, 8.3)
LAST = 48
MIDDLE = tuple(range(20, LAST + 1, 4))
HORIZONS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
NEAR = (3, 5, 6, 10)  # measured as well, to find where the lines cross
SHOWN = ("full-resolution", "pooled", "learned", "framepack")
FOLDER = Path(__file__).resolve().parents[1] / "build" / "benchmarks"
WINDOW = 8  # px, side of the squares of SSIM
SSIM_CONSTANTS = (0.01**2, 0.03**2)  # Wang et al. 2004


def run(seeds: range) -> list[dict[str, Any]]:
    """One row per method; the plot and a picture are saved below build/."""
    from throughline.adapters.demo_models import VAE_FILE
    from throughline.memory.hierarchy_sampling import Denoising
    from throughline.training.hierarchy_planner_training import load_method
    from throughline.training.vae_export import load_vae

    torch.set_num_threads(1)
    vae = load_vae(VAE_FILE).eval().requires_grad_(False)
    with torch.inference_mode():
        worlds = [world(seed, vae) for seed in seeds]
    print(f"{len(worlds)} worlds encoded", flush=True)
    truth = {n: true_pictures(worlds, n - 1) for n in measured(FRAMES)}
    rows, shown = [], {"truth": truth}
    for name in SHOWN:
        method, planner = load_method(name)
        rolled = roll_out(method, planner, worlds, FRAMES, Denoising(STEPS))
        print(f"{name}: {rolled.seconds:.0f} s for 64 latent frames", flush=True)
        shown[name] = made(vae, worlds, rolled.latents)
        rows.append(
            {
                **row(name, shown[name], truth, vae),
                "passes": rolled.passes,
                "tokens": rolled.tokens,
                "seconds": rolled.seconds,
            }
        )
        if name == "learned":
            blind = roll_out(method, planner, worlds, LAST, Denoising(STEPS), forget=True)
            rows.append(row("without history", made(vae, worlds, blind.latents), truth, vae))
    other = {n: each.roll(1, 0) for n, each in truth.items()}
    rows.append(row("other world", other, truth, vae))
    rows.append(ceiling(vae, worlds))
    print(crossover(rows), flush=True)
    plot(rows)
    strip(shown)
    return rows


def measured(frames: int) -> list[int]:
    """The latent frames, from 1, whose pictures are compared."""
    return [n for n in sorted({*HORIZONS, *NEAR, *MIDDLE}) if n <= frames]


def made(vae: Any, worlds: Sequence[World], latents: Tensor) -> dict[int, Tensor]:
    """Pictures of the measured latent frames."""
    return {n: pictures(vae, worlds, latents, n - 1) for n in measured(latents.shape[2])}


def row(name: str, shown: dict[int, Tensor], truth: dict[int, Tensor], vae: Any) -> dict[str, Any]:
    """The figures of one method."""
    by_frame = {n: decibels(shown[n], truth[n]) for n in shown}
    middle = [n for n in MIDDLE if n in shown]
    own, true = (torch.cat([each[n][:, -1] for n in middle]) for each in (shown, truth))
    return {
        "method": name,
        "psnr": sum(by_frame[n] for n in middle) / len(middle),
        "ssim": float(structure(own, true)),
        "distance": float(feature_distance(vae, own, true)),
        **{f"psnr_{n}": by_frame[n] for n in sorted({*HORIZONS, *NEAR}) if n in by_frame},
    }


def ceiling(vae: Any, worlds: Sequence[World]) -> dict[str, Any]:
    """The VAE alone: on the last latent frame of the true history, and on latent frame 1."""
    true = torch.stack([each.following for each in worlds])
    last, first = (pictures(vae, worlds, true, frame) for frame in (-1, 0))
    return {
        "method": "ceiling",
        "psnr": decibels(last, true_pictures(worlds, -1)),
        "psnr_1": decibels(first, true_pictures(worlds, 0)),
    }


def decibels(a: Tensor, b: Tensor) -> float:
    """Mean over worlds of the PSNR of `b 4 h w c` in 0..1."""
    error = (a - b).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error.clamp(min=1e-10))).mean())


def structure(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM of `n h w c` in 0..1 over squares of 8 x 8 px and channels."""
    a, b = a.movedim(-1, 1), b.movedim(-1, 1)
    mean_a, mean_b = F.avg_pool2d(a, WINDOW, 1), F.avg_pool2d(b, WINDOW, 1)
    var_a = F.avg_pool2d(a * a, WINDOW, 1) - mean_a**2
    var_b = F.avg_pool2d(b * b, WINDOW, 1) - mean_b**2
    both = F.avg_pool2d(a * b, WINDOW, 1) - mean_a * mean_b
    one, two = SSIM_CONSTANTS
    same = (2 * mean_a * mean_b + one) * (2 * both + two)
    return (same / ((mean_a**2 + mean_b**2 + one) * (var_a + var_b + two))).mean()


def feature_distance(vae: Any, a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance of unit feature vectors of the VAE's encoder, summed over its layers,
    of pictures `n h w c`."""
    total = torch.zeros(())
    with torch.inference_mode():
        for one, two in zip(features(vae, a), features(vae, b), strict=True):
            difference = F.normalize(one, dim=1) - F.normalize(two, dim=1)
            total = total + difference.square().sum(1).mean()
    return total


def features(vae: Any, images: Tensor) -> list[Tensor]:
    """What the encoder makes of single pictures before each halving and at its end."""
    from comfy.ldm.wan.vae import Resample

    x = images.movedim(-1, 1)[:, :, None] * 2 - 1
    x = vae.encoder.conv1(x)
    layers = []
    for layer in vae.encoder.downsamples:
        if isinstance(layer, Resample):
            layers.append(x[:, :, 0])
        x = layer(x)
    return [*layers, x[:, :, 0]]


def crossover(rows: Sequence[dict[str, Any]]) -> str:
    """From which measured latent frame on learned stays ahead of framepack, in words."""
    by_name = {each["method"]: each for each in rows}
    learned, packed = by_name["learned"], by_name["framepack"]
    lead = {n: learned[f"psnr_{n}"] - packed[f"psnr_{n}"] for n in sorted({*HORIZONS, *NEAR})}
    behind = [n for n, more in lead.items() if more <= 0]
    if not behind:
        return "learned is ahead of framepack at every measured latent frame"
    later = [n for n in lead if n > max(behind)]
    ahead = f"ahead from latent frame {later[0]} on" if later else "never ahead to stay"
    return f"learned is behind framepack up to latent frame {max(behind)}, {ahead}"


COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#b9770e")
WIDTH, HEIGHT, MARGIN, LABEL_HEIGHT = 560, 340, 44, 14  # px


def plot(rows: Sequence[dict[str, Any]]) -> None:
    """PSNR against the horizon, latent frames on a logarithmic axis."""
    import math

    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    shown = sorted(
        (each for each in rows if each["method"] in SHOWN),
        key=lambda each: SHOWN.index(each["method"]),
    )
    values = [each[f"psnr_{n}"] for each in shown for n in HORIZONS]
    low, high = math.floor(min(values)) - 1, math.ceil(max(values))

    def point(n: int, value: float) -> tuple[float, float]:
        x = MARGIN + math.log2(n) / math.log2(HORIZONS[-1]) * (WIDTH - MARGIN - 130)
        return x, HEIGHT - MARGIN - (value - low) / (high - low) * (HEIGHT - 2 * MARGIN)

    for value in range(low, high + 1, 2):
        (left, y), (right, _) = point(1, value), point(HORIZONS[-1], value)
        draw.line((left, y, right, y), fill="#dddddd")
        draw.text((8, y - 6), f"{value} dB", fill="black")
    for n in HORIZONS:
        draw.text((point(n, low)[0] - 6, HEIGHT - MARGIN + 6), str(n), fill="black")
    draw.text((MARGIN, HEIGHT - 20), "latent frames ahead", fill="black")
    label = 0.0
    best_first = sorted(zip(shown, COLOURS, strict=True), key=lambda x: -x[0]["psnr_128"])
    for each, colour in best_first:
        line = [point(n, each[f"psnr_{n}"]) for n in HORIZONS]
        draw.line(line, fill=colour, width=3)
        label = max(label + LABEL_HEIGHT, line[-1][1] - LABEL_HEIGHT / 2)
        draw.text((line[-1][0] + 8, label), each["method"], fill=colour)
    FOLDER.mkdir(parents=True, exist_ok=True)
    image.save(FOLDER / "horizon.png")
    print(f"plot {FOLDER / 'horizon.png'}", flush=True)


def strip(shown: dict[str, dict[int, Tensor]], worlds: int = 2) -> None:
    """The last picture of some latent frames of the first worlds, a row per method."""
    from PIL import Image

    rows = [
        torch.cat([frames[n][index, -1] for n in HORIZONS], dim=1)
        for index in range(min(worlds, len(shown["truth"][1])))
        for frames in shown.values()
    ]
    whole = (torch.cat(rows) * 255).round().byte().numpy()
    Image.fromarray(whole).save(FOLDER / "horizon_frames.png")
