"""Drift over twelve hops: three ways to hand a segment over, and two parts of ours taken away.

The demo models continue held-out camera paths of their world: a true beginning of two latent
frames, then thirteen segments of 6 latent frames (12 hops), each with the caption of its camera
move. All methods get the same model, captions and noise, and are compared with the true frames.

throughline           the last two latent frames, given to the model and kept by the noise mask
decode and encode     the last 5 frames, decoded to pixels and encoded again
last frame            the last frame only, encoded as an image; the model's second latent frame, in
                      which the camera stands still, is not counted, so that the frames correspond
without noise mask    as throughline, but the model only sees the tail and is not held to it
true frames           the world itself through the VAE: what no method can beat

psnr in dB against the true frames over the new frames of the 12 hops (mean, then of single
segments); psnr_less is how much less it is than throughline's for the same seed, with its standard
error over the seeds. drift in percent per hop, seam and motion as in memory/drift.py, the mean over
the seeds; the drift of the true frames is the camera's, so the nearest to theirs is best.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

HOPS = 12
LATENT_FRAMES, TAIL = 6, 2
STEPS = 8
"""As in workflows/01_long_take.json."""

SHOWN = (1, 5, 9, 13)
HANDED_FRAMES = 5
METHODS = ("throughline", "decode and encode", "last frame", "without noise mask")


class Unmasked:
    """A family whose tail is shown to the model and not kept."""

    def __init__(self, family: Any) -> None:
        self._family = family

    def prepare(self, *arguments: Any) -> Any:
        return replace(self._family.prepare(*arguments), noise_mask=None)


class Bench:
    """The demo models, ready to continue takes."""

    def __init__(self) -> None:
        import comfy.samplers

        from throughline.adapters.blank import BlankClips
        from throughline.adapters.demo_models import load_demo_models
        from throughline.adapters.families import family_of
        from throughline.adapters.sampling import SamplerSettings, schedule_sigmas

        self.model, self.clip, self.vae = load_demo_models()
        self.family = family_of(self.model)
        self.blanks = BlankClips(self.vae)
        self.settings = SamplerSettings(
            sampler=comfy.samplers.sampler_object("euler"),
            sigmas=schedule_sigmas(self.model, "euler", "simple", STEPS),
            cfg=1.0,
        )

    def segment(self, family: Any, caption: str, known: torch.Tensor, seed: int) -> torch.Tensor:
        """One segment, 1 16 6 h w, that starts with the latent frames `known`."""
        from throughline.adapters.sampling import sample_segment

        text = self.clip.encode_from_tokens_scheduled(self.clip.tokenize(caption))
        shape = (1, known.shape[1], LATENT_FRAMES, *known.shape[3:])
        return sample_segment(
            family, self.model, self.blanks, text, text, self.settings, shape, known, seed
        )

    def film(self, method: str, take: Any, start: torch.Tensor, seed: int) -> list[torch.Tensor]:
        """The new frames [16, h, w, 3] of every segment."""
        family = Unmasked(self.family) if method == "without noise mask" else self.family
        known, latents, clips = start, [start], []
        for index, caption in enumerate(take.captions):
            latent = self.segment(family, caption, known, seed * 1000 + index)
            latents.append(latent[:, :, TAIL:])
            frames = self.decode(latent) if method in METHODS[1:3] else None
            if frames is None:
                known = latent[:, :, -TAIL:]
            else:
                clips.append(frames[HANDED_FRAMES:])
                known = self.vae.encode(frames[-HANDED_FRAMES if "encode" in method else -1 :])
        if clips:
            return clips
        return list(self.decode(torch.cat(latents, dim=2))[HANDED_FRAMES:].split(16))

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        frames = self.vae.decode(latent)
        return frames.reshape(-1, *frames.shape[-3:]).clamp(0.0, 1.0)


def run(seeds: range) -> list[dict[str, Any]]:
    """One row per method."""
    from throughline.training.evaluate import frames_to_image
    from throughline.training.world import long_take
    from throughline.training.world_rendering import render_take

    torch.set_num_threads(1)
    bench = Bench()
    films: dict[str, list[dict[str, Any]]] = {name: [] for name in (*METHODS, "true frames")}
    seconds = dict.fromkeys(films, 0.0)
    with torch.inference_mode():
        for done, seed in enumerate(seeds):
            take = long_take(seed, HOPS + 1, LATENT_FRAMES, TAIL)
            truth = frames_to_image(render_take(take))
            encoded = bench.vae.encode(truth)
            true_segments = list(truth[HANDED_FRAMES:].split(16))
            for name in films:
                began = time.perf_counter()
                if name == "true frames":
                    segments = list(bench.decode(encoded)[HANDED_FRAMES:].split(16))
                else:
                    segments = bench.film(name, take, encoded[:, :, :TAIL], seed)
                seconds[name] += time.perf_counter() - began
                films[name].append(_figures(segments, true_segments))
            print(f"seed {seed}: {done + 1} of {len(seeds)}", flush=True)
    return [
        {
            "method": name,
            **_mean(figures),
            **_less(films["throughline"], figures),
            "seconds": seconds[name] / len(seeds),
        }
        for name, figures in films.items()
    ]


def _figures(segments: list[torch.Tensor], truth: list[torch.Tensor]) -> dict[str, float]:
    from throughline.memory.drift import drift_report, measure_segments

    errors = [float((a - b).square().mean()) for a, b in zip(segments, truth, strict=True)]
    psnr = [10.0 * float(np.log10(1.0 / max(error, 1e-10))) for error in errors]
    measures = measure_segments(segments, frames_per_latent=4)
    report = drift_report(measures)
    figures = {"psnr": float(np.mean(psnr[1:]))}
    figures |= {f"psnr_{number}": psnr[number - 1] for number in SHOWN}
    figures["drift"] = report.drift_percent or 0.0
    figures |= {f"{name}_last": report.against_first[-1][name] for name in ("contrast", "texture")}
    figures["seam"] = float(np.mean([hop.seam for hop in report.hops]))
    figures["motion"] = float(np.mean([one.motion for one in measures]))
    return figures


def _mean(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in figures])) for name in figures[0]}


def _less(ours: list[dict[str, float]], figures: list[dict[str, float]]) -> dict[str, float]:
    """The mean of the paired differences in PSNR and its standard error."""
    less = np.array([a["psnr"] - b["psnr"] for a, b in zip(ours, figures, strict=True)])
    error = float(less.std(ddof=1) / np.sqrt(len(less))) if len(less) > 1 else float("nan")
    return {"psnr_less": float(less.mean()), "standard_error": error}
