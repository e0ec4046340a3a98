"""A place and a character come back: plain chaining against a coarse plan (M1), and memory with it.

Worlds and measure are those of the bench `recall`: two shots show the lead in a place, three to six
show other places without the lead, then the lead is in the first place again. The history is the
true one; measured is the part of the last shot that was seen before. All rows take the same number
of steps of the video model (8), the same captions and the same noise.

chain             the shot continues the last two latent frames of the shot before
cut               the shot begins from its text alone
plan              from its text, guided by the coarse plan of the demo's film planner (Coarse plan)
memory            from its text and the history encoder's tokens of all earlier shots, at 2x2x2
memory and plan   both
plan alone        the decoded guide, which no video model has seen

psnr in dB and colour_error (0..255) against ground truth; psnr_more is how much more than chain's
for the same world, with its standard error. video_steps are calls of the video model, plan_steps
of the planner, which has a million parameters; tokens are those of the memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._remembering import STEPS, Rememberer
from .recall import AWAY_CHOICES, BEFORE, LEAST_AWAY, compare, seen_mask

SEEDS = range(32)
TAIL, LATENT_FRAMES = 2, 6
SECONDS, FRAMES = 3.0, 29
"""Of a shot of six latent frames at 8 fps, and of a segment that holds them behind a tail."""

CHAIN, CUT, PLAN, MEMORY, BOTH, ALONE = ROWS = (
    "chain",
    "cut",
    "plan",
    "memory",
    "memory and plan",
    "plan alone",
)
MEMORY_WAY = "memory 2x2x2"
PLAN_CALLS = 24
"""Two steps of the rollout, one per level, 12 evaluations each."""


class Guided(Rememberer):
    """The demo models, their memory, and the planner of films with its head."""

    def __init__(self, start_noise: float | None = None) -> None:
        super().__init__()
        from throughline.adapters.hierarchy_weights import load_head, load_planner
        from throughline.nodes.coarse_plan import START_NOISE
        from throughline.nodes.coarse_plan_value import NOISY_START, read_coarse_plan
        from throughline.training.hierarchy_film_training import PLANNER_FILE
        from throughline.training.hierarchy_training import HEAD_FILE

        self.plan = read_coarse_plan(
            load_planner(PLANNER_FILE),
            load_head(HEAD_FILE),
            start_noise or START_NOISE,
            NOISY_START,
        )

    def guide(self, history: list[Any], last: Any, seed: int) -> Tensor:
        """The guide 1 c t h w of the last shot in the VAE's space, as the sampler node makes it."""
        from throughline.nodes.film import film_request, plan_film
        from throughline.nodes.film_codes import FilmCodes

        captions = [shot.caption for shot in (*history, last)]
        request = {
            "model": self.base,
            "clip": self.clip,
            "vae": self.vae,
            "script": "\n".join(f"[{SECONDS:g}s, cut] {caption}" for caption in captions),
            "negative_prompt": "",
            "width": 64,
            "height": 64,
            "seconds_per_shot": SECONDS,
            "fps": 8.0,
            "unmarked_shots": "cut",
            "segment_frames": FRAMES,
            "tail_latent_frames": TAIL,
            "seed": seed,
            "steps": STEPS,
            "cfg": 1.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "run_name": "bench",
            "retakes": "",
            "coarse_plan": self.plan,
        }
        film = plan_film(film_request(request))
        made = [self.base.model.process_latent_out(shot.latents) for shot in history]
        assert self.plan.planner is not None
        codes = FilmCodes(
            film,
            self.plan.planner,
            made.__getitem__,
            lambda segment: None,
            lambda segment: self.text(segment.prompt),
        )
        return codes.guide(film.segments[-1])

    def chained(self, before: Any, last: Any, start: int, seed: int) -> Tensor:
        """The last shot as a continuation of the one before, whose end it is handed."""
        known = self.base.model.process_latent_out(before.latents[:, :, -TAIL:])
        count = TAIL + LATENT_FRAMES
        bank = self.bank("none", [])
        return self.sample(bank, last.caption, count, start - TAIL, seed, known=known)


def run(seeds: range) -> list[dict[str, Any]]:
    """One row per way."""
    from throughline.adapters.guide import Guide
    from throughline.training.memory_story import returning_story

    torch.set_num_threads(1)
    bench = Guided()
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in ROWS}
    with torch.inference_mode():
        for done, seed in enumerate(seeds):
            story = returning_story(seed, LEAST_AWAY + seed % AWAY_CHOICES, BEFORE)
            *history, last = bench.remember(story, story.shots)
            seen = seen_mask(story, BEFORE)
            total = sum(shot.latents.shape[2] for shot in history)
            drawn = bench.guide(history, last, seed)
            guide = Guide(latent=drawn, start_noise=bench.plan.start_noise)
            none, memory = bench.bank("none", history), bench.bank(MEMORY_WAY, history, last)
            ways = {CUT: (none, None), PLAN: (none, guide)}
            ways |= {MEMORY: (memory, None), BOTH: (memory, guide)}
            found = {ALONE: drawn, CHAIN: bench.chained(history[-1], last, total, seed)}
            for name, (bank, way) in ways.items():
                found[name] = bench.sample(
                    bank, last.caption, LATENT_FRAMES, total, seed, guide=way
                )
            for name, latent in found.items():
                frames = bench.decode(latent)[-len(last.frames) :]
                row = compare(frames, last.frames, seen)
                tokens = memory.tokens if name in (MEMORY, BOTH) else 0
                figures[name].append({**row, "tokens": float(tokens)})
            means = {name: round(mean(rows, "psnr"), 2) for name, rows in figures.items()}
            print(f"world {seed}: {done + 1} of {len(seeds)}, dB so far {means}", flush=True)
    return [summary(name, figures[name], figures[CHAIN]) for name in ROWS]


def mean(rows: list[dict[str, float]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def summary(
    name: str, rows: list[dict[str, float]], chain: list[dict[str, float]]
) -> dict[str, Any]:
    """The means of a row, and how much better than chaining it is, world by world."""
    more = np.array([a["psnr"] - b["psnr"] for a, b in zip(rows, chain, strict=True)])
    spread = float(more.std(ddof=1) / np.sqrt(len(more))) if len(more) > 1 else float("nan")
    return {
        "method": name,
        **{key: mean(rows, key) for key in rows[0]},
        "n": len(rows),
        "psnr_more": float(more.mean()),
        "standard_error": spread,
        "video_steps": 0 if name == ALONE else STEPS,
        "plan_steps": PLAN_CALLS if name in (PLAN, BOTH, ALONE) else 0,
    }
