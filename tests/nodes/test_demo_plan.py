"""The demo models plan a world that they never saw and fill the plan: one coherent film."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

SEED, SEGMENTS = 1_000_001, 3


@pytest.fixture
def world(comfy: Any) -> Any:
    """A held-out camera path and its true frames [53, 64, 64, 3]."""
    from throughline.training.evaluate import frames_to_image
    from throughline.training.world import long_take
    from throughline.training.world_rendering import render_take

    take = long_take(SEED, SEGMENTS)
    return take, frames_to_image(render_take(take))


def demo_graph(captions: tuple[str, ...]) -> dict[str, Any]:
    """Draft, then keep the anchors, by the demo video model; filled by the same, led to them."""
    models = {"model": ["m", 0], "clip": ["m", 1], "vae": ["m", 2]}
    sampler = {
        **models,
        "negative_prompt": "",
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "retakes": "",
        "when_queued": "render",
    }
    plan = {
        **sampler,
        "start_image": ["i", 0],
        "script": "\n".join(
            f"[{2.0 if index else 2.5}s, continue] {caption}"
            for index, caption in enumerate(captions)
        ),
        "width": 64,
        "height": 64,
        "seconds_per_shot": 2.0,
        "fps": 8.0,
        "unmarked_shots": "continue",
        "segment_frames": 21,
        "seed": 5,
        "steps": 4,
        "run_name": "plan",
        "planner": "draft, then keep the anchors",
        "layout": "two at the end",
        "seed_from": "the end",
    }
    fill = {
        **sampler,
        "plan": ["p", 0],
        "filler": "continue to the anchors",
        "seed": 5,
        "steps": 4,
        "run_name": "populated",
    }
    return {
        "m": {"class_type": "ThroughlineLoadDemoModels", "inputs": {}},
        "i": {"class_type": "LoadImage", "inputs": {"image": "start.png"}},
        "p": {"class_type": "ThroughlineMacroPlan", "inputs": plan},
        "f": {"class_type": "ThroughlinePopulateSegments", "inputs": fill},
    }


def test_a_drafted_and_filled_film_is_coherent(
    run_film: Any, world: Any, comfy_folders: dict[str, Path]
) -> None:
    """It follows the true camera, no seam is seen, and the look stays: with the noise of the draft
    the fill is the draft's own film."""
    from PIL import Image

    from throughline.adapters.demo_models import load_demo_models
    from throughline.memory.drift import drift_report, measure_segments
    from throughline.runs.run import open_run

    take, truth = world
    start = (truth[0] * 255).round().byte().numpy()
    Image.fromarray(start).save(comfy_folders["input"] / "start.png")
    run_film(demo_graph(take.captions))
    run = open_run(comfy_folders["output"] / "throughline" / "populated")
    vae = load_demo_models()[2]
    with torch.inference_mode():
        clips = [vae.decode(run.latent(i))[0].clamp(0.0, 1.0) for i in range(SEGMENTS)]
    film = [clips[0], *(clip[5:] for clip in clips[1:])]
    report = drift_report(measure_segments(film, frames_per_latent=4, lone_frames=1))
    assert sum(len(one) for one in film) == len(truth)
    error = float((film[0] - truth[: len(film[0])]).square().mean())
    still = float((truth[:1] - truth[: len(film[0])]).square().mean())
    assert error < still / 2  # against a camera that does not move
    assert report.worst_seam is not None and report.worst_seam < 2.0
    assert report.drift_percent is not None and report.drift_percent < 15.0


def test_the_sparse_planner_brings_the_camera_back(
    run_film: Any, comfy_folders: dict[str, Path], comfy: Any
) -> None:
    """One plan of four moves, away and back twice: the camera ends where its caption says."""
    from PIL import Image

    from throughline.adapters.demo_models import load_demo_models
    from throughline.runs.run import open_run
    from throughline.training.evaluate import frames_to_image
    from throughline.training.world import Take, draw_place
    from throughline.training.world_rendering import render_take

    place = draw_place("garden", np.random.default_rng(3))
    first = frames_to_image(render_take(Take(place, None, None, (8, 8), ())))[:1]
    Image.fromarray((first[0] * 255).round().byte().numpy()).save(
        comfy_folders["input"] / "start.png"
    )
    graph = demo_graph(())
    sparse = {"model": ["m", 0], "clip": ["m", 1], "vae": ["m", 2], "steps": 8}
    graph["m"]["inputs"]["models"] = "plan camera paths"
    graph["r"] = node("RepeatImageBatch", image=["i", 0], amount=5)
    graph["e"] = node("VAEEncode", pixels=["r", 0], vae=["m", 2])
    del graph["p"]["inputs"]["start_image"]
    graph["p"]["inputs"] |= sparse | {
        "start_latent": ["e", 0],
        "script": "[8.5s, continue] garden, empty, camera 8 to 11 to 8 to 12 to 8",
        "segment_frames": 69,
        "planner": "sparse (MMPL weights)",
        "layout": "MMPL T2V",
    }
    graph["f"]["inputs"] |= sparse | {"filler": "sparse (MMPL weights)"}
    run_film(graph)
    run = open_run(comfy_folders["output"] / "throughline" / "populated")
    assert run.latent(0).shape[2] == 18
    with torch.inference_mode():
        frames = load_demo_models()[2].decode(run.latent(0))[0].clamp(0.0, 1.0)
    away, back = frames[[17, 49]], frames[[33, 65]]  # the ends of the moves
    errors = [float((one - first).square().mean()) for one in (away, back)]
    assert errors[1] < errors[0] / 2


def node(name: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": name, "inputs": inputs}
