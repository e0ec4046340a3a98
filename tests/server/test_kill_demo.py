"""A server killed while a film of the demo models is sampled by an Adaptive schedule, or by the
long video sampler with a Coarse plan: the same prompt completes it, to the same bits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from .film_host import Files, FilmHost, wait_for

COARSE = Path(__file__).resolve().parents[2] / "workflows" / "05_coarse_to_fine.json"
SEGMENTS, STEPS, SECONDS = 4, 8, 600.0
PLAN_SEED, FILL_SEED, FILM_SEED = 100, 200, 300
LEAVE = "leave it to a schedule"

Graph = dict[str, Any]
MakeGraph = Callable[[str], Graph]
"""The graph of a film of this name."""


def scheduled(name: str) -> Graph:
    """Plans and fills taking turns, in the runs "{name} plan" and "{name} film"."""
    sampler = {
        "model": ["n", 0],
        "clip": ["d", 1],
        "vae": ["d", 2],
        "negative_prompt": "",
        "steps": STEPS,
        "cfg": 1.0,
        "sampler_name": "euler_ancestral",
        "scheduler": "simple",
        "switch_sigma": 0.9,
        "retakes": "",
        "when_queued": LEAVE,
    }
    plan = {
        "script": "\n".join(f"[2s] garden, Pell left, camera {i}" for i in range(SEGMENTS)),
        "width": 64,
        "height": 64,
        "seconds_per_shot": 1.0,
        "fps": 8.0,
        "unmarked_shots": "continue",
        "segment_frames": 33,
        "seed": PLAN_SEED,
        "run_name": f"{name} plan",
        "planner": "draft, then keep the anchors",
        "layout": "two at the end",
        "seed_from": "the end",
    }
    fills = {
        "plan": ["p", 0],
        "filler": "continue to the anchors",
        "seed": FILL_SEED,
        "run_name": f"{name} film",
    }
    schedule = {
        "fills": ["f", 3],
        "goal": "earliest footage",
        "clips": True,
        "first_footage_within": 0.0,
        "memory_gb": 0.0,
        "when_queued": "render",
    }
    return {
        "d": {"class_type": "ThroughlineLoadDemoModels", "inputs": {}},
        "n": _noted(["d", 0]),
        "p": {"class_type": "ThroughlineMacroPlan", "inputs": {**sampler, **plan}},
        "f": {"class_type": "ThroughlinePopulateSegments", "inputs": {**sampler, **fills}},
        "s": {"class_type": "ThroughlineAdaptiveSchedule", "inputs": schedule},
    }


def coarse_to_fine(server: Any, name: str) -> Graph:
    """The shipped workflow as far as the film, in the run of this name."""
    from development.demo import to_prompt

    prompt = to_prompt(json.loads(COARSE.read_text(encoding="utf-8")), server)
    kinds = {node["class_type"]: key for key, node in prompt.items()}
    sampler = kinds["ThroughlineARSegmentSampler"]
    inputs = prompt[sampler]["inputs"]
    assert isinstance(inputs["coarse_plan"], list)
    made = {key: prompt[key] for key in _before(prompt, sampler)}
    made["n"] = _noted(inputs["model"])
    changed = {**inputs, "model": ["n", 0], "seed": FILM_SEED, "run_name": name}
    return {**made, sampler: {**prompt[sampler], "inputs": changed}}


def _noted(model: list[Any]) -> Graph:
    return {"class_type": "ThroughlineTestNoteCalls", "inputs": {"model": model}}


def _before(prompt: Graph, key: str) -> Iterator[str]:
    """The nodes that lie in front of one, with repetitions."""
    for value in prompt[key]["inputs"].values():
        if isinstance(value, list):
            yield value[0]
            yield from _before(prompt, value[0])


@pytest.fixture(scope="module")
def host(new_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> FilmHost:
    made = FilmHost(new_server, tmp_path_factory.mktemp("kill"))
    made.server.start()
    return made


@pytest.mark.slow
def test_killed_in_an_adaptive_schedule(host: FilmHost) -> None:
    """Once in the plan of the second segment, once in the fill of the third."""
    runs = {" plan": PLAN_SEED, " film": FILL_SEED}
    check_killed(host, scheduled, runs, (PLAN_SEED + 1, FILL_SEED + 2))


@pytest.mark.slow
def test_killed_in_a_film_with_a_coarse_plan(host: FilmHost) -> None:
    """In the third segment, whose plan looks back over the first two."""
    make = partial(coarse_to_fine, host.server)
    check_killed(host, make, {"": FILM_SEED}, (FILM_SEED + 2,))


def check_killed(
    host: FilmHost, graph: MakeGraph, runs: dict[str, int], kill_at: Sequence[int]
) -> None:
    """Make a film whole; make it again and kill the server in each of these sampler calls.

    `runs` holds what follows the film's name in that of a run, with the seed of the first segment.
    """
    host.calls()
    host.finish(graph("whole"))
    whole = host.calls()
    everything = [seed + index for seed in runs.values() for index in range(SEGMENTS)]
    assert sorted(whole) == everything

    killed = graph("killed")
    sampled: list[int] = []
    in_flight: list[int] = []
    before = finished(host, runs)
    for seed in kill_at:
        host.server.queue(killed, "test")
        wait_for(lambda seed=seed: seed in host.noted(), SECONDS)
        host.server.kill()
        after = finished(host, runs)
        assert {one: after[one] for one in before} == before, "a finished segment was written again"
        calls = host.calls()
        assert not set(calls) & set(before), "a finished segment was sampled again"
        in_flight += [one for one in calls if one not in after]
        assert 0 < len(after) < len(everything)
        sampled, before = sampled + calls, after
        host.server.start()
    assert in_flight == list(kill_at)
    host.finish(killed)
    after = finished(host, runs)
    assert {one: after[one] for one in before} == before, "a finished segment was written again"
    assert Counter(sampled + host.calls()) == Counter(everything + in_flight)
    for of in runs:
        pairs = zip(host.latents(f"killed{of}"), host.latents(f"whole{of}"), strict=True)
        assert [torch.equal(a, b) for a, b in pairs] == [True] * SEGMENTS
        assert not list((host.runs / f"killed{of}").rglob("*.partial"))


def finished(host: FilmHost, runs: dict[str, int]) -> Files:
    """The finished segments of the killed film by the seed that made them."""
    return {
        seed + index: file
        for of, seed in runs.items()
        for index, file in host.files(f"killed{of}").items()
    }
