"""Adaptive schedule through the host's executor: plans, fills and clips taking turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Graph = dict[str, Any]
SCRIPT = "[2s] A red room.\n[1s, continue] The camera turns.\n[2s, cut] A garden."
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


def chart_of(root: Path) -> Any:
    from throughline.runs.schedule_file import read_schedule

    chart = read_schedule(root / "populated")
    assert chart is not None and not chart.running and chart.actual is not None
    return chart


def ran(chart: Any) -> list[tuple[str, int]]:
    """Steps in the order of their starts, with the numbers of their segments."""
    return [(slot.job.step, slot.job.segment + 1) for slot in sorted(chart.actual.slots)]


def test_a_film_is_planned_and_filled_in_turns(run_film: Any, read: Any, root: Path) -> None:
    from throughline.runs.timings import read_timings

    outputs, events = run_film(graph())
    # one model on one device: depth first; segment 2 continues 1, and 3 is a cut
    assert made(events) == [(run, n) for n in (1, 2, 3) for run in ("plan", "populated")]
    chart = chart_of(root)
    assert ran(chart) == [
        *(("plan", 1), ("fill 1", 1), ("decode", 1), ("hand-off", 1)),
        *(("plan", 2), ("fill 1", 2), ("decode", 2)),
        *(("plan", 3), ("fill 1", 3), ("decode", 3)),
    ]
    assert set(chart.measured) == {"plan", "hand-off", "fill 1", "decode"}
    jobs = [sorted(slot.job for slot in one.slots) for one in (chart.actual, chart.predicted)]
    assert jobs[0] == jobs[1]
    assert chart.actual.makespan >= chart.actual.first_footage > 0.0
    for name, step in (("plan", "plan"), ("populated", "fill 1")):
        timings = read_timings(root / name)
        assert timings is not None
        assert [(slot.job.step, slot.job.segment) for slot in timings.slots] == [
            (step, index) for index in range(3)
        ]
    clips = sorted(path.name[:4] for path in (root / "populated" / "clips").glob("*.mp4"))
    assert clips == ["0001", "0002", "0003"]
    said = outputs["s"]["text"][0]
    assert "3 planned now, 3 filled now" in said and "LB1" in said and "K*" in said
    assert "order: depth first, since the first segment can be played soonest" in said

    scheduled = read("plan"), read("populated")
    plain = graph(plan_when_queued="render", fill_when_queued="render", plan_run_name="plain")
    plain["f"]["inputs"]["run_name"] = "plain filled"
    del plain["s"]
    run_film(plain)
    for one, other in zip(scheduled, (read("plain"), read("plain filled")), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_on_disk_is_not_made_again(run_film: Any, root: Path) -> None:
    run_film(graph(clips=False))
    assert not (root / "populated" / "clips").exists()
    first = chart_of(root)
    outputs, events = run_film(graph(clips=False))
    assert made(events) == [] and chart_of(root) == first
    _, events = run_film(graph(clips=False, fill_retakes="2:1"))
    assert made(events) == [("populated", 2)]
    assert "plan" in chart_of(root).measured  # from the files, of the same settings
    _, events = run_film(graph(clips=False, fill_retakes="2:1", plan_retakes="1:1"))
    again = [("plan", 1), ("populated", 1), ("plan", 2), ("populated", 2)]
    assert made(events) == again
    _, events = run_film(graph(clips=False, fill_retakes="2:1"))
    assert made(events) == []  # the first takes are still there


def test_the_storyboard_comes_first_where_it_is_asked_for(run_film: Any, root: Path) -> None:
    _, events = run_film(graph(goal="storyboard first", clips=False))
    assert made(events) == [(run, n) for run in ("plan", "populated") for n in (1, 2, 3)]
    assert chart_of(root).order == "breadth first"


def test_two_models_change_once(run_film: Any, root: Path) -> None:
    _, events = run_film(graph(fill="wan_vace", clips=False))
    assert made(events) == [(run, n) for run in ("plan", "populated") for n in (1, 2, 3)]
    assert "change once" in chart_of(root).reason


def test_a_finished_plan_is_only_filled(run_film: Any, root: Path) -> None:
    _, events = run_film(graph(plan_when_queued="render"))
    assert made(events) == [
        *(("plan", n) for n in (1, 2, 3)),
        *(("populated", n) for n in (1, 2, 3)),
    ]
    assert {step for step, _ in ran(chart_of(root))} == {"fill 1", "decode"}


def test_who_cannot_wait_gets_segments_from_the_middle(run_film: Any, root: Path) -> None:
    wide = {
        "plan_layout": "wide middle and two at the end",
        "plan_script": "[3s] A red room.\n[2s, continue] The camera turns.",
    }
    outputs, _ = run_film(graph(first_footage_within=0.001, clips=False, **wide))
    assert chart_of(root).seed_from == "middle"
    assert "from the middle: chosen here, since a plan and its fill" in outputs["s"]["text"][0]


def test_plans_and_fills_overlap_on_two_devices(run_film: Any, read: Any, root: Path) -> None:
    run_film(graph(clips=False))
    alone = read("populated")
    two = {"run_on": "devices of this machine", "devices": 2, "order": "depth first", "address": ""}
    both = graph(fill_run_name="both", plan_run_name="plan of both", fill_executor=["e", 0])
    both["e"] = {"class_type": "ThroughlineExecutor", "inputs": two}
    run_film(both)
    from throughline.runs.schedule_file import read_schedule

    chart = read_schedule(root / "both")
    assert chart is not None and chart.actual is not None and len(chart.devices) == 2
    fills = [slot.device for slot in chart.actual.slots if slot.job.step == "fill 1"]
    others = [slot.device for slot in chart.actual.slots if slot.job.step != "fill 1"]
    assert set(others) == {0} and 1 in fills
    assert all(torch.equal(a, b) for a, b in zip(alone, read("both"), strict=True))


def test_an_interruption_costs_nothing_that_is_finished(
    run_film: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management

    from throughline.nodes import film_progress

    step, stepped = film_progress.FilmProgress.step, list[tuple[int, int]]()

    def noted(self: Any, segment: Any, number: int, picture: Any) -> None:
        stepped.append((segment.number, number))
        if segment.number == 2:
            comfy.model_management.interrupt_current_processing()
        step(self, segment, number, picture)

    with monkeypatch.context() as patch:
        patch.setattr(film_progress.FilmProgress, "step", noted)
        with pytest.raises(Exception, match="execution_interrupted"):
            run_film(graph(fill_steps=3))
    assert stepped == [(1, 1), (1, 2), (1, 3), (2, 1)]
    assert ran(chart_of(root))[-1] == ("plan", 2)
    outputs, events = run_film(graph(fill_steps=3))
    assert made(events) == [("populated", 2), ("plan", 3), ("populated", 3)]
    assert "1 planned now, 2 filled now, 1 reused" in outputs["s"]["text"][0]


def test_queueing_to_look_fills_nothing(run_film: Any, root: Path) -> None:
    outputs, events = run_film(graph(when_queued="only show what would be rendered"))
    said = outputs["s"]["text"][0]
    assert "to plan: 1, 2, 3; to fill: 1, 2, 3" in said and "plans; first segment" in said
    assert made(events) == [] and not (root / "populated").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fill_when_queued": "render"}, "plan is left to a schedule: choose 'leave it"),
        ({"memory_gb": 1e-6}, "memory_gb: a plan and a fill up to the middle"),
    ],
)
def test_bad_input_is_named_before_sampling(
    run_film: Any, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(Exception, match=said):
        run_film(graph(**changes))


def test_fills_of_another_node_are_refused(comfy: Any) -> None:
    from throughline.nodes.scheduling import read_task

    with pytest.raises(ValueError, match="fills must come from a Populate segments node, got dict"):
        read_task({})
