"""Overhead of a film of twelve segments over the same sampler calls made directly.

throughline: everything between Queue and the finished run folder: checks, fingerprints, prompts,
start image, sampling, segments and thumbnails on disk, statistics, manifest, contact sheet. direct:
nothing but the very calls of core's sampler that our film made, with its noise, conditioning and
latents. `first film` is throughline when ComfyUI has just started: the clips that show nothing yet,
which Wan I2V needs, are encoded and kept for the films after it.

All in one process with one thread, in turn, the order alternating; `seconds` is the median over
the seeds, `ratio` the median of the ratios to direct of the same seed, `cpu_seconds` and
`cpu_ratio` the same for processor time, which other work on the machine disturbs less. The first
three rows have the sampler node's own defaults (20 steps, cfg 5, 81 frames a segment), the others
the demo workflow's few steps of short segments.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

SEEDS = range(1_000_000, 1_000_003)
"""A seed of the default setting takes a minute and a half on one core."""

SEGMENTS, TAIL = 12, 2
SETTINGS = {
    "": {"latent_frames": 21, "steps": 20, "cfg": 5.0},
    ", demo workflow": {"latent_frames": 6, "steps": 8, "cfg": 1.0},
}

Times = list[tuple[float, float]]


def run(seeds: range) -> list[dict[str, Any]]:
    """Rows `throughline`, `first film` and `direct` for each setting, once for each seed."""
    torch.set_num_threads(1)
    return [row for label, values in SETTINGS.items() for row in _rows(seeds, label, **values)]


def _rows(
    seeds: range, label: str, latent_frames: int, steps: int, cfg: float
) -> list[dict[str, Any]]:
    import comfy.sample
    import folder_paths

    film = _film(latent_frames, steps, cfg)
    output, temporary = folder_paths.get_output_directory(), folder_paths.get_temp_directory()
    times: dict[str, Times] = {"throughline": [], "first film": [], "direct": []}
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.set_temp_directory(folder)
        calls = _recorded(lambda: film(seeds.start + 1_000_000))

        def direct() -> None:
            for arguments, keywords in calls:
                comfy.sample.sample_custom(*arguments, **keywords)

        def first(seed: int) -> None:
            folder_paths.set_temp_directory(f"{folder}/{seed}")
            film(seed)
            folder_paths.set_temp_directory(folder)

        try:
            for index, seed in enumerate(seeds):
                sides = {
                    "throughline": lambda seed=seed: film(seed),
                    "first film": lambda seed=seed: first(seed),
                    "direct": direct,
                }
                for name in sides if index % 2 else reversed(sides):
                    times[name].append(_timed(sides[name]))
                said = ", ".join(f"{name} {times[name][-1][0]:.2f} s" for name in times)
                print(f"{index + 1} of {len(seeds)}{label}: {said}", flush=True)
        finally:
            folder_paths.set_output_directory(output)
            folder_paths.set_temp_directory(temporary)
    return [
        {
            "method": name + label,
            "seconds": statistics.median(wall for wall, _ in of),
            "ratio": _ratio(of, times["direct"], 0),
            "cpu_seconds": statistics.median(cpu for _, cpu in of),
            "cpu_ratio": _ratio(of, times["direct"], 1),
        }
        for name, of in times.items()
    ]


def _ratio(ours: Times, direct: Times, which: int) -> float:
    return statistics.median(a[which] / b[which] for a, b in zip(ours, direct, strict=True))


def _timed(side: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        side()
    return time.perf_counter() - wall, time.process_time() - cpu


def _film(latent_frames: int, steps: int, cfg: float) -> Callable[[int], None]:
    """Makes the film of a seed in a fresh output folder."""
    import folder_paths

    from throughline.adapters.demo_models import load_demo_models
    from throughline.nodes.film import film_request, plan_film
    from throughline.nodes.rendering import render_film
    from throughline.training.evaluate import frames_to_image
    from throughline.training.world import frames_of_latents, long_take
    from throughline.training.world_rendering import render_take

    model, clip, vae = load_demo_models()
    take = long_take(1, SEGMENTS, 6, TAIL)
    start = frames_to_image(render_take(take, 0, 5))
    seconds = (latent_frames - TAIL) / 2.0  # 8 fps, four frames to a latent frame
    inputs = {
        "model": model,
        "clip": clip,
        "vae": vae,
        "start_image": start,
        "script": "\n".join(f"[{seconds}s, continue] {caption}" for caption in take.captions),
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "seconds_per_shot": 2.0,
        "fps": 8.0,
        "unmarked_shots": "continue",
        "segment_frames": frames_of_latents(latent_frames),
        "tail_latent_frames": TAIL,
        "steps": steps,
        "cfg": cfg,
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
            assert [one.latent_frames for one in planned.segments] == [latent_frames] * SEGMENTS
            render_film(planned, "1")

    return film


def _recorded(side: Callable[[], Any]) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The calls of core's sampler that `side` makes, without their step callbacks."""
    import comfy.sample

    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    original = comfy.sample.sample_custom

    def record(*arguments: Any, **keywords: Any) -> torch.Tensor:
        # what is done with the tensors afterwards must not change them
        kept = [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]
        calls.append((tuple(kept), {**keywords, "callback": None}))
        return original(*arguments, **keywords)

    comfy.sample.sample_custom = record
    try:
        _timed(side)
    finally:
        comfy.sample.sample_custom = original
    return calls
