"""Adaptive schedule through the host's executor: plans, fills and clips taking turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Graph = dict[str, Any]
SCRIPT = "[3s] A red room.\n[2s, continue] The camera turns.\n[3s, cut] A garden.\n[2s] It rains."
LEAVE = "leave it to a schedule"
SAMPLER = {
    "steps": 2,
    "cfg": 2.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "switch_sigma": 0.9,
    "retakes": "",
    "when_queued": LEAVE,
    "negative_prompt": "blur",
}


def graph(family: str = "wan_t2v", fill: str = "wan_t2v", **changes: Any) -> Graph:
    """Models "m", plan "p", filler "f" with models "n", schedule "s". `changes` are inputs of the
    schedule, those that begin with `plan_` or `fill_` of the other two."""

    def of(prefix: str) -> Graph:
        length = len(prefix)
        return {name[length:]: value for name, value in changes.items() if name.startswith(prefix)}

    own = {k: v for k, v in changes.items() if not k.startswith(("plan_", "fill_"))}
    plan = {
        "model": ["m", 0],
        "clip": ["m", 1],
        "vae": ["m", 2],
        **SAMPLER,
        "script": SCRIPT,
        "width": 32,
        "height": 32,
        "seconds_per_shot": 1.0,
        "fps": 8.0,
        "unmarked_shots": "continue",
        "segment_frames": 33,
        "seed": 3,
        "run_name": "plan",
        "planner": "draft, then keep the anchors",
        "layout": "two at the end",
        "seed_from": "the end",
        **of("plan_"),
    }
    fills = {
        "plan": ["p", 0],
        "model": ["n", 0],
        "clip": ["n", 1],
        "vae": ["n", 2],
        **SAMPLER,
        "filler": "between the anchors",
        "seed": 11,
        "run_name": "populated",
        **of("fill_"),
    }
    schedule = {
        "fills": ["f", 3],
        "goal": "automatic",
        "clips": True,
        "first_footage_within": 0.0,
        "memory_gb": 0.0,
        "when_queued": "render",
        **own,
    }
    return {
        "m": _models(family),
        "n": _models(fill),
        "p": {"class_type": "ThroughlineMacroPlan", "inputs": plan},
        "f": {"class_type": "ThroughlinePopulateSegments", "inputs": fills},
        "s": {"class_type": "ThroughlineAdaptiveSchedule", "inputs": schedule},
    }


def _models(family: str) -> Graph:
    inputs = {"family": family, "seed": 0, "layers": 0}
    return {"class_type": "ThroughlineTestTinyModels", "inputs": inputs}


def made(events: list[tuple[str, Any]]) -> list[tuple[str, int]]:
    """What was made in which order: run and number."""
    return [
        (data["run"], data["segment"])
        for kind, data in events
        if kind == "throughline.segment" and data["status"] == "done"
    ]


@pytest.fixture
def root(comfy_folders: dict[str, Path]) -> Path:
    return comfy_folders["output"] / "throughline"


@pytest.fixture
def read(root: Path) -> Callable[[str], list[torch.Tensor]]:
    from throughline.runs.run import open_run

    def latents(name: str) -> list[torch.Tensor]:
        run = open_run(root / name)
        return [run.latent(record.index) for record in run.segments]

    return latents


def test_a_film_is_planned_and_filled_in_turns(run_film: Any, read: Any, root: Path) -> None:
    from throughline.runs.schedule_file import read_schedule

    outputs, events = run_film(graph(plan_planner="draft, then keep the anchors"))
    steps = [(run, number) for number in (1, 2, 3, 4) for run in ("plan", "populated")]
    assert made(events) == steps  # one model, one device: depth first
    scheduled = read("plan"), read("populated")
    clips = sorted(path.name[:4] for path in (root / "populated" / "clips").glob("*.mp4"))
    assert clips == ["0001", "0002", "0003", "0004"]
    chart = read_schedule(root / "populated")
    assert chart is not None and not chart.running and chart.order == "depth first"
    assert set(chart.measured) == {"plan", "hand-off", "fill 1", "decode"}
    assert chart.actual is not None
    assert {(s.job.segment, s.job.step) for s in chart.actual.slots} == {
        (s.job.segment, s.job.step) for s in chart.predicted.slots
    }
    said = outputs["s"]["text"][0]
    assert "4 planned now, 4 filled now" in said and "LB1" in said and "K*" in said

    plain = graph(plan_when_queued="render", fill_when_queued="render", plan_run_name="plain")
    plain["f"]["inputs"]["run_name"] = "plain filled"
    del plain["s"]
    run_film(plain)
    for one, other in zip(scheduled, (read("plain"), read("plain filled")), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
