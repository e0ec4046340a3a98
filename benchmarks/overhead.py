"""Overhead of a film of twelve segments over the same sampler calls made directly.

throughline: everything between Queue and the finished run folder: fingerprints, encoded prompts,
sampling, segments and previews on disk, statistics, manifest, contact sheet. direct: the very calls
of core's sampler that it made, recorded once and made again, with noise, conditioning and latents
prepared. Both in one process, in turn, the order alternating; `seconds` is the median over the
seeds, `ratio` the median of the ratios of each pair, and `cpu_*` the same for processor time. One
thread, so that other work on the machine disturbs both sides alike.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

SEGMENTS, LATENT_FRAMES, TAIL = 12, 6, 2
STEPS, SHIFT = 12, 3.0
"""As in workflows/01_long_take.json."""

WARM_UP_SEED = 999


def run(seeds: range) -> list[dict[str, Any]]:
    """Rows `throughline` and `direct`, from as many pairs as there are seeds."""
    import comfy.sample
    import folder_paths

    torch.set_num_threads(1)
    film = _film_maker()
    calls = _recorded(lambda: film(WARM_UP_SEED))
    pairs: dict[str, list[tuple[float, float]]] = {"throughline": [], "direct": []}
    output = folder_paths.get_output_directory()

    def direct() -> None:
        for arguments, keywords in calls:
            comfy.sample.sample_custom(*arguments, **keywords)

    try:
        for index, seed in enumerate(seeds):
            sides = [("throughline", lambda seed=seed: film(seed)), ("direct", direct)]
            for name, side in sides if index % 2 else reversed(sides):
                pairs[name].append(_timed(side))
            ours, theirs = (pairs[name][-1][0] for name in pairs)
            print(f"pair {index + 1} of {len(seeds)}: {ours:.2f} s, {theirs:.2f} s", flush=True)
    finally:
        folder_paths.set_output_directory(output)
    return [
        {
            "method": name,
            "seconds": statistics.median(wall for wall, _ in times),
            "ratio": _ratio(times, pairs["direct"], 0),
            "cpu_seconds": statistics.median(cpu for _, cpu in times),
            "cpu_ratio": _ratio(times, pairs["direct"], 1),
        }
        for name, times in pairs.items()
    ]


def _ratio(ours: list[tuple[float, float]], direct: list[tuple[float, float]], which: int) -> float:
    return statistics.median(a[which] / b[which] for a, b in zip(ours, direct, strict=True))


def _timed(side: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        side()
    return time.perf_counter() - wall, time.process_time() - cpu


def _film_maker() -> Callable[[int], None]:
    """Makes the film of one seed in a fresh output folder."""
    import folder_paths

    from throughline.adapters.demo_models import load_demo_models
    from throughline.nodes.film import film_request, plan_film
    from throughline.nodes.rendering import render_film
    from throughline.training.evaluate import frames_to_image, shifted
    from throughline.training.world import long_take
    from throughline.training.world_rendering import render_take

    model, clip, vae = load_demo_models()
    take = long_take(1, SEGMENTS, LATENT_FRAMES, TAIL)
    inputs = {
        "model": shifted(model, SHIFT),
        "clip": clip,
        "vae": vae,
        "start_image": frames_to_image(render_take(take, 0, 5)),
        "script": "\n".join(f"[2s, continue] {caption}" for caption in take.captions),
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "seconds_per_shot": 2.0,
        "fps": 8.0,
        "unmarked_shots": "continue",
        "segment_frames": 21,
        "tail_latent_frames": TAIL,
        "steps": STEPS,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "switch_sigma": 0.9,
        "run_name": "overhead",
        "retakes": "",
    }

    def film(seed: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            folder_paths.set_output_directory(folder)
            planned = plan_film(film_request({**inputs, "seed": seed}))
            assert len(planned.segments) == SEGMENTS
            render_film(planned, "1")

    return film


def _recorded(side: Callable[[], Any]) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The calls of core's sampler that `side` makes, without their step callbacks."""
    import comfy.sample

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    original = comfy.sample.sample_custom

    def record(*arguments: Any, **keywords: Any) -> torch.Tensor:
        # the sampler may write into what it is given
        kept = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
        calls.append((tuple(kept), {**keywords, "callback": None}))
        return original(*arguments, **keywords)

    comfy.sample.sample_custom = record
    try:
        _timed(side)
    finally:
        comfy.sample.sample_custom = original
    return calls
