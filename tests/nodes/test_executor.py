"""Populate segments on several devices of this machine, through the host's executor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from .test_plan import graph, made, read  # noqa: F401  # `read` is a fixture

Graph = dict[str, Any]
SPARSE = "sparse (MMPL weights)"


def on_devices(graph: Graph, devices: int = 2, **changes: Any) -> Graph:
    """The graph with an executor "e"; its fills go to another run than without."""
    inputs = {"run_on": "devices of this machine", "devices": devices, "address": ""}
    inputs = {**inputs, "order": "critical path first", **changes}
    fill = graph["f"]
    fill = {**fill, "inputs": {**fill["inputs"], "executor": ["e", 0], "run_name": "devices"}}
    return {**graph, "f": fill, "e": {"class_type": "ThroughlineExecutor", "inputs": inputs}}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("wan22_i2v", {"fill_sampler_name": "euler_ancestral"}),
        ("wan_t2v", {"planner": SPARSE, "fill_filler": SPARSE}),
    ],
)
def test_two_threads_fill_what_one_process_fills(
    run_film: Any,
    read: Any,  # noqa: F811
    comfy_folders: dict[str, Path],
    family: str,
    changes: dict[str, Any],
) -> None:
    from throughline.runs.timings import read_timings

    alone = graph(family, fill=family, **changes)
    run_film(alone)
    _, events = run_film(on_devices(alone))
    assert sorted(made(events, "devices")) == [1, 2, 3, 4]
    for one, two in zip(read("populated"), read("devices"), strict=True):
        assert torch.equal(one, two)
    timings = read_timings(comfy_folders["output"] / "throughline" / "devices")
    assert timings is not None and timings.devices == ("cpu 1", "cpu 2")
    assert {slot.device for slot in timings.slots} == {0, 1}
    assert sorted(slot.job.segment for slot in timings.slots) == [0, 1, 2, 3]
    plan = read_timings(comfy_folders["output"] / "throughline" / "plan")
    assert plan is not None and {slot.job.step for slot in plan.slots} == {"plan"}
    _, events = run_film(on_devices(alone))
    assert made(events, "devices") == []


def test_every_step_on_a_device_is_told(run_film: Any) -> None:
    _, events = run_film(on_devices(graph(fill="wan_t2v")))
    steps = [
        (data["segment"], data["step"])
        for kind, data in events
        if kind == "throughline.segment" and data["run"] == "devices" and data["step"]
    ]
    assert sorted(steps) == [(segment, step) for segment in (1, 2, 3, 4) for step in (1, 2)]


def test_interruption_stops_both_devices_within_a_step(
    run_film: Any,
    monkeypatch: pytest.MonkeyPatch,
    comfy_folders: dict[str, Path],
) -> None:
    import comfy.model_management

    from throughline.nodes import film_progress
    from throughline.runs.run import open_run

    run_film({key: node for key, node in graph(fill="wan_t2v").items() if key != "f"})
    stepped: list[tuple[int, int]] = []
    step = film_progress.FilmProgress.step

    def noted(self: Any, segment: Any, number: int, picture: Any) -> None:
        stepped.append((segment.index, number))
        if len({index for index, _ in stepped}) == 2:
            comfy.model_management.interrupt_current_processing()
        step(self, segment, number, picture)

    monkeypatch.setattr(film_progress.FilmProgress, "step", noted)
    with pytest.raises(Exception, match="execution_interrupted"):
        run_film(on_devices(graph(fill="wan_t2v", fill_steps=40)))
    after = stepped[next(i for i, (index, _) in enumerate(stepped) if index != stepped[0][0]) :]
    assert len(after) <= 4, "a device went on for more than a step after the interruption"
    run = open_run(comfy_folders["output"] / "throughline" / "devices")
    assert len(run.unfinished) == 4


def test_too_many_devices_are_refused(run_film: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from throughline.adapters import device_executor

    monkeypatch.setattr(device_executor.os, "cpu_count", lambda: 4)
    with pytest.raises(Exception, match="devices must be at most the 4 of this machine, got 5"):
        run_film(on_devices(graph(fill="wan_t2v"), devices=5))


def test_a_model_that_cannot_be_loaded_again_is_refused(
    run_film: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from development import tiny_models

    model = tiny_models.TinyFamily.model

    def without(self: Any, seed: int = 0) -> Any:
        patcher = model(self, seed)
        patcher.cached_patcher_init = None
        return patcher

    monkeypatch.setattr(tiny_models.TinyFamily, "model", without)
    with pytest.raises(Exception, match="model cannot be loaded for another device"):
        run_film(on_devices(graph(fill="wan_t2v")))


def test_a_control_net_is_refused(comfy: Any) -> None:
    from throughline.adapters.device_executor import check_conditioning

    check_conditioning("positive", None)
    check_conditioning("positive", [[torch.zeros(1, 2, 3), {"pooled_output": None}]])
    with pytest.raises(ValueError, match="positive holds a ControlNet"):
        check_conditioning("positive", [[torch.zeros(1, 2, 3), {"control": object()}]])


def test_what_is_no_executor_is_refused(run_film: Any) -> None:
    from throughline.nodes.fill_running import chosen_executor

    assert chosen_executor(None).kind == "this process"
    with pytest.raises(ValueError, match="executor must come from an Executor node, got dict"):
        chosen_executor({})
