"""A server killed while it plans a film, or while it fills one, keeps what is finished; what it
makes after that is bit-equal to an undisturbed film."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SEGMENTS, KILLS = 8, 2
PLAN_SEED, FILL_SEED = 100, 200
"""The seeds of the two nodes' segments do not meet, so that each call tells whose it is."""

SEGMENTS_PER_KILL = 2.0
"""A kill comes after up to this many segments, so that all fall into the same node's work."""


def graph(name: str) -> dict[str, Any]:
    models = {"model": ["m", 0], "clip": ["m", 1], "vae": ["m", 2]}
    sampler = {
        "negative_prompt": "blur",
        "steps": 8,
        "cfg": 2.0,
        "sampler_name": "euler_ancestral",
        "scheduler": "simple",
        "switch_sigma": 0.9,
        "retakes": "",
        "when_queued": "render",
    }
    plan = {
        "script": "\n".join(f"[2s] Shot {i + 1} of a quiet room." for i in range(SEGMENTS)),
        "width": 64,
        "height": 64,
        "seconds_per_shot": 1.0,
        "fps": 8.0,
        "unmarked_shots": "continue",
        "segment_frames": 33,
        "seed": PLAN_SEED,
        "run_name": plan_run(name),
        "planner": "draft, then keep the anchors",
        "layout": "two at the end",
        "seed_from": "the end",
    }
    fill = {
        "plan": ["p", 0],
        "filler": "between the anchors",
        "seed": FILL_SEED,
        "run_name": fill_run(name),
    }
    return {
        "m": {
            "class_type": "ThroughlineTestTinyModels",
            "inputs": {"family": "wan22_i2v", "seed": 0, "layers": 8},
        },
        "p": {"class_type": "ThroughlineMacroPlan", "inputs": {**models, **sampler, **plan}},
        "f": {"class_type": "ThroughlinePopulateSegments", "inputs": {**models, **sampler, **fill}},
    }


def plan_run(name: str) -> str:
    return f"{name} plan"


def fill_run(name: str) -> str:
    return f"{name} film"


class Host:
    """A server with tiny models, its runs, and the sampler calls that it notes."""

    def __init__(self, new_server: Callable[..., Any], base: Path) -> None:
        from development.tiny_nodes import CALLS, write_pack

        write_pack(base)
        self.calls_file = base / "calls.txt"
        self.server = new_server(base=base, environ={CALLS: str(self.calls_file)})
        self.runs = base / "output" / "throughline"

    def calls(self) -> list[int]:
        """Seeds of the sampler calls since the last time."""
        text = self.calls_file.read_text(encoding="utf-8") if self.calls_file.exists() else ""
        self.calls_file.unlink(missing_ok=True)
        return [int(line) for line in text.split()]

    def files(self, run_name: str) -> dict[int, tuple[int, bytes]]:
        """The segments on disk by index: time of the last change, and content."""
        folder = self.runs / run_name / "segments"
        paths = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        return {int(p.name[:4]) - 1: (p.stat().st_mtime_ns, p.read_bytes()) for p in paths}

    def latents(self, run_name: str) -> list[torch.Tensor]:
        from throughline.runs.run import open_run

        run = open_run(self.runs / run_name)
        return [run.latent(record.index) for record in run.segments]


def wait_for(happened: Callable[[], bool], seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit, "nothing was sampled"
        time.sleep(0.005)


@pytest.mark.slow
def test_killed_while_planning_and_while_filling(
    new_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    host = Host(new_server, tmp_path_factory.mktemp("kill"))
    host.server.start()
    began = time.monotonic()
    _, entry = host.server.run(graph("whole"))
    seconds = (time.monotonic() - began) / (2 * SEGMENTS)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    everything = [first + i for first in (PLAN_SEED, FILL_SEED) for i in range(SEGMENTS)]
    assert host.calls() == everything

    kill_repeatedly(host, plan_run("killed"), PLAN_SEED, seconds)
    assert not host.files(fill_run("killed"))
    remaining = plan_all(host, everything)
    kill_repeatedly(host, fill_run("killed"), FILL_SEED, seconds)
    before = {run: host.files(run) for run in (plan_run("killed"), fill_run("killed"))}
    _, entry = host.server.run(graph("killed"))
    assert entry["status"]["status_str"] == "success"
    filled = {FILL_SEED + i for i in before[fill_run("killed")]}
    assert host.calls() == [seed for seed in remaining if seed not in filled]
    for run, files in before.items():
        after = host.files(run)
        assert {index: after[index] for index in files} == files
        assert not list((host.runs / run).rglob("*.partial"))
    for of in (plan_run, fill_run):
        pairs = zip(host.latents(of("killed")), host.latents(of("whole")), strict=True)
        assert [torch.equal(a, b) for a, b in pairs] == [True] * SEGMENTS


def kill_repeatedly(host: Host, run_name: str, seed: int, seconds: float) -> None:
    """Queue the film and kill the server in the midst of this run's segments, which begin with
    `seed`: what was finished is never sampled again."""
    instants, before = random.Random(seed), host.files(run_name)
    for _ in range(KILLS):
        host.server.queue(graph("killed"), "test")
        wait_for(host.calls_file.exists)
        time.sleep(instants.uniform(0.0, SEGMENTS_PER_KILL * seconds))
        host.server.kill()
        after = host.files(run_name)
        assert {index: after[index] for index in before} == before
        sampled = {call - seed for call in host.calls()}
        assert not sampled & set(before), "a finished segment was sampled again"
        assert sorted(after) == list(range(len(after))) and len(after) < SEGMENTS
        assert sampled <= set(range(len(after) + 1))
        before = after
        host.server.start()


def plan_all(host: Host, everything: list[int]) -> list[int]:
    """Finish the plan alone; gives the seeds of the fills, all of which remain."""
    planned = {PLAN_SEED + i for i in host.files(plan_run("killed"))}
    alone = {key: node for key, node in graph("killed").items() if key != "f"}
    _, entry = host.server.run(alone)
    assert entry["status"]["status_str"] == "success"
    fills = everything[SEGMENTS:]
    assert host.calls() == [seed for seed in everything[:SEGMENTS] if seed not in planned]
    return fills
