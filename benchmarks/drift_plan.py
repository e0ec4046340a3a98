"""Twenty-four segments, chained or planned first and then filled, at equal sampling steps in all.

The demo models follow held-out camera paths of their world from a true beginning of two latent
frames; each segment is 6 latent frames with the caption of its camera move. Both ways get the same
model, captions and noise, and are compared with the true frames.

chain    each segment continues the latents of the one before: 8 steps a segment
plan     each segment is drafted in 4 steps, of which the last two latent frames stay and, decoded
         and encoded anew, start the next; then what lies between is filled in 4 steps, each segment
         alone (filler "continue to the anchors")
half     the chain with 4 steps a segment, half of them in all: what fewer steps alone change
whole    the plan with 8 steps for the draft and 8 for the fill: twice the steps

A step is one call of the video model for one segment; `steps` counts those that were made, over the
film. Hand-offs and fills go through the VAE as well, which is not counted: `seconds` are all.

psnr in dB against the true frames, mean over segments 2 to 24, then of single segments; psnr_less
is how much less it is than the chain's for the same seed, with its standard error over the seeds.
slope_db_per_segment is the least-squares slope of PSNR over those segments. drift in percent per
hop, seam and motion as in memory/drift.py, the means over the seeds.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .drift import HANDED_FRAMES, LATENT_FRAMES, TAIL, Bench

SEEDS = range(1_000_000, 1_000_004)
SEGMENTS = 24
SHOWN = (1, 6, 12, 18, 24)
NEW_FRAMES = 16
WAYS = {"chain": (8, 0), "plan": (4, 4), "half": (4, 0), "whole": (8, 8)}
"""Steps of a draft and of a fill by row; a chain has no fills."""

LAYOUT = "two at the end"


class Ways(Bench):
    """The demo models with a count of the model's calls."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def use(self, steps: int) -> None:
        """Sample with this many steps from now on."""
        from dataclasses import replace

        from throughline.adapters.sampling import schedule_sigmas

        sigmas = schedule_sigmas(self.model, "euler", "simple", steps)
        self.settings = replace(self.settings, sigmas=sigmas)

    def sampled(self, caption: str, known: Tensor, seed: int) -> Tensor:
        """One segment that continues `known`, counted."""
        self.steps += len(self.settings.sigmas) - 1
        return self.segment(self.family, caption, known, seed)

    def chained(self, take: Any, start: Tensor, seed: int) -> list[Tensor]:
        """The new frames [16, h, w, 3] of every segment, decoded as one clip."""
        known, latents = start, [start]
        for index, caption in enumerate(take.captions):
            latent = self.sampled(caption, known, seed_of(seed, index))
            latents.append(latent[:, :, TAIL:])
            known = latent[:, :, -TAIL:]
        return list(self.decode(torch.cat(latents, dim=2))[HANDED_FRAMES:].split(NEW_FRAMES))

    def planned(
        self, take: Any, start: Tensor, seed: int, draft_steps: int, fill_steps: int
    ) -> list[Tensor]:
        """The new frames of every segment, each decoded alone."""
        self.use(draft_steps)
        anchors = self.anchors(take, start, seed)
        self.use(fill_steps)
        films = [
            self.decode(self.filled(caption, known, seed_of(seed, index)))
            for index, (caption, known) in enumerate(zip(take.captions, anchors, strict=True))
        ]
        return [frames[HANDED_FRAMES:] for frames in films]

    def anchors(self, take: Any, start: Tensor, seed: int) -> list[dict[int, Tensor]]:
        """What a plan keeps of each segment, by place."""
        from throughline.adapters.geometry import read_geometry
        from throughline.adapters.hand_off import hand_over
        from throughline.planning.layout import preset_layouts
        from throughline.planning.macro import hand_off

        layout = preset_layouts(LATENT_FRAMES)[LAYOUT]
        step = hand_off(layout, read_geometry(self.model).grid)
        known, plan = start, []
        for index, caption in enumerate(take.captions):
            latent = self.sampled(caption, known, seed_of(seed, index))
            plan.append({i: latent[:, :, i : i + 1] for i in layout.known_to_fillers})
            known = hand_over(self.vae, plan[-1], step)
        return plan

    def filled(self, caption: str, known: dict[int, Tensor], seed: int) -> Tensor:
        from throughline.adapters.filler import filler_of
        from throughline.adapters.sampling import sample_given

        self.steps += len(self.settings.sigmas) - 1
        text = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(caption))
        some = known[0]
        return sample_given(
            filler_of(self.family, self.vae, known, LATENT_FRAMES, shows_anchors=False),
            self.model,
            text,
            text,
            self.settings,
            (1, some.shape[1], LATENT_FRAMES, *some.shape[3:]),
            [(slice(place, place + 1), latent) for place, latent in known.items()],
            seed,
        )


def seed_of(seed: int, index: int) -> int:
    """The noise seed of one segment, as in the bench `drift`."""
    return seed * 1000 + index


def run(seeds: range) -> list[dict[str, Any]]:
    """One row per way."""
    from throughline.training.evaluate import frames_to_image
    from throughline.training.world import long_take
    from throughline.training.world_rendering import render_take

    torch.set_num_threads(1)
    ways = Ways()
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    with torch.inference_mode():
        for done, seed in enumerate(seeds):
            take = long_take(seed, SEGMENTS, LATENT_FRAMES, TAIL)
            truth = frames_to_image(render_take(take))
            start = ways.vae.encode(truth[:HANDED_FRAMES])
            for name, (draft, fill) in WAYS.items():
                began, ways.steps = time.perf_counter(), 0
                if fill:
                    segments = ways.planned(take, start, seed, draft, fill)
                else:
                    ways.use(draft)
                    segments = ways.chained(take, start, seed)
                found = measure(segments, list(truth[HANDED_FRAMES:].split(NEW_FRAMES)))
                found |= {"steps": ways.steps, "seconds": time.perf_counter() - began}
                figures[name].append(found)
                print(f"seed {seed}, {name}: {found['psnr']:.2f} dB", flush=True)
            print(f"seed {seed}: {done + 1} of {len(seeds)}", flush=True)
    return [
        {"method": name, **mean(found), **less(figures["chain"], found)}
        for name, found in figures.items()
    ]


def measure(segments: list[Tensor], truth: list[Tensor]) -> dict[str, float]:
    """The figures of one film."""
    from throughline.memory.drift import drift_report, measure_segments

    errors = [float((a - b).square().mean()) for a, b in zip(segments, truth, strict=True)]
    psnr = [10.0 * float(np.log10(1.0 / max(error, 1e-10))) for error in errors]
    measures = measure_segments(segments, frames_per_latent=4)
    report = drift_report(measures)
    return {
        "psnr": float(np.mean(psnr[1:])),
        "slope_db_per_segment": slope(psnr[1:]),
        **{f"psnr_{number}": psnr[number - 1] for number in SHOWN},
        "drift": report.drift_percent or 0.0,
        "seam": float(np.mean([hop.seam for hop in report.hops])),
        "motion": float(np.mean([one.motion for one in measures])),
    }


def slope(values: list[float]) -> float:
    """The least-squares slope of evenly spaced values."""
    return float(np.polyfit(np.arange(len(values)), values, 1)[0])


def mean(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in figures])) for name in figures[0]}


def less(chain: list[dict[str, float]], figures: list[dict[str, float]]) -> dict[str, float]:
    """The mean of the paired differences in PSNR and its standard error."""
    found = np.array([a["psnr"] - b["psnr"] for a, b in zip(chain, figures, strict=True)])
    error = float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else float("nan")
    return {"psnr_less": float(found.mean()), "standard_error": error}
