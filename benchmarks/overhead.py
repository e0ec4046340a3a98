"""Overhead of a film of twelve segments over the same sampler calls made directly.

throughline: everything between Queue and the finished run folder: checks, fingerprints, sampling,
segments and thumbnails on disk, statistics, manifest, contact sheet. direct: what a loop written by
hand cannot do without: the prompts, the start image and the grey clip are encoded once, and then
come the very calls of core's sampler that our film made, with its noise, conditioning and latents.

Both in one process with one thread, in turn, the order alternating; `seconds` is the median over
the pairs, `ratio` the median of the ratios of each pair, `cpu_seconds` and `cpu_ratio` the same for
processor time, which other work on the machine disturbs less. The rows `throughline` and `direct`
have the sampler node's own defaults (20 steps, cfg 5, 81 frames a segment), the others the demo
workflow's few steps of short segments.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

SEEDS = range(1_000_000, 1_000_003)
"""One pair for each seed and setting; a pair of the default setting takes a minute on one core."""

SEGMENTS, TAIL = 12, 2
SETTINGS = {
    "": {"latent_frames": 21, "steps": 20, "cfg": 5.0},
    ", demo workflow": {"latent_frames": 6, "steps": 8, "cfg": 1.0},
}

Times = list[tuple[float, float]]


def run(seeds: range) -> list[dict[str, Any]]:
    """Rows `throughline` and `direct` for each setting, from as many pairs as there are seeds."""
    torch.set_num_threads(1)
    return [row for label, values in SETTINGS.items() for row in _rows(seeds, label, **values)]


def _rows(
    seeds: range, label: str, latent_frames: int, steps: int, cfg: float
) -> list[dict[str, Any]]:
    import folder_paths

    film, encode = _sides(latent_frames, steps, cfg)
    calls = _recorded(lambda: film(seeds.start + 1_000_000))
    pairs: dict[str, Times] = {"throughline": [], "direct": []}
    output = folder_paths.get_output_directory()

    def direct() -> None:
        import comfy.sample

        encode()
        for arguments, keywords in calls:
            comfy.sample.sample_custom(*arguments, **keywords)

    try:
        for index, seed in enumerate(seeds):
            sides = [("throughline", lambda seed=seed: film(seed)), ("direct", direct)]
            for name, side in sides if index % 2 else reversed(sides):
                pairs[name].append(_timed(side))
            (ours, _), (theirs, _) = (pairs[name][-1] for name in pairs)
            print(f"pair {index + 1} of {len(seeds)}{label}: {ours:.2f} s, {theirs:.2f} s")
    finally:
        folder_paths.set_output_directory(output)
    return [
        {
            "method": name + label,
            "seconds": statistics.median(wall for wall, _ in times),
            "ratio": _ratio(times, pairs["direct"], 0),
            "cpu_seconds": statistics.median(cpu for _, cpu in times),
            "cpu_ratio": _ratio(times, pairs["direct"], 1),
        }
        for name, times in pairs.items()
    ]


def _ratio(ours: Times, direct: Times, which: int) -> float:
    return statistics.median(a[which] / b[which] for a, b in zip(ours, direct, strict=True))


def _timed(side: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        side()
    return time.perf_counter() - wall, time.process_time() - cpu


def _sides(
    latent_frames: int, steps: int, cfg: float
) -> tuple[Callable[[int], None], Callable[[], None]]:
    """One makes the film of a seed in a fresh output folder, one encodes what any loop needs."""
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

    def encode() -> None:
        for text in {*take.captions, ""}:
            clip.encode_from_tokens_scheduled(clip.tokenize(text))
        grey = torch.full((frames_of_latents(latent_frames), 64, 64, 3), 0.5)
        vae.encode(start)
        vae.encode(torch.cat((start, grey[len(start) :])))
        vae.encode(grey)

    return film, encode


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
