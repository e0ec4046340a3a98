"""A server killed while it plans keyframes keeps the finished ones and makes the rest bit-equal."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

SHOTS, KILLS, SEED = 16, 4, 7
PEOPLE = ("Ana", "Tom")
MOST_PER_KILL = 2
"""A kill comes after up to this many keyframes and a random part of one, so that all kills fall
into one run."""


def script() -> str:
    """People who return, so that later keyframes recall earlier ones that are not the last."""
    people = [f"@{name} = somebody" for name in PEOPLE]
    shots = [f"<{PEOPLE[i % 2]}> in room {i % 3}." for i in range(SHOTS)]
    return "\n".join([*people, *shots])


def graph(run_name: str) -> dict[str, Any]:
    return {
        "m": {
            "class_type": "ThroughlineTestTinyModels",
            "inputs": {"family": "wan_t2v", "seed": 0, "layers": 8},
        },
        "b": {"class_type": "ThroughlineStoryboard", "inputs": {"script": script(), "fps": 0.0}},
        "p": {
            "class_type": "ThroughlineKeyframePlanner",
            "inputs": {
                "model": ["m", 0],
                "clip": ["m", 1],
                "vae": ["m", 2],
                "storyboard": ["b", 0],
                "negative_prompt": "blur",
                "width": 64,
                "height": 64,
                "references": 3,
                "reference_mode": "automatic",
                "group_size": 0,
                "levels": 3,
                "seed": SEED,
                "steps": 8,
                "cfg": 2.0,
                "sampler_name": "euler_ancestral",
                "scheduler": "simple",
                "guidance": 0.0,
                "drift_gate": True,
                "run_name": run_name,
                "retakes": "",
                "when_queued": "render",
            },
        },
    }


class Host:
    """A server with tiny models, its runs, and the sampler calls that it notes."""

    def __init__(self, new_server: Callable[..., Any], base: Path) -> None:
        from development.tiny_nodes import CALLS, write_pack

        write_pack(base)
        self.calls_file = base / "calls.txt"
        self.server = new_server(base=base, environ={CALLS: str(self.calls_file)})
        self.runs = base / "output" / "throughline"

    def calls(self) -> list[int]:
        """Shots that a sampler call began for since the last time, 0-based."""
        text = self.calls_file.read_text(encoding="utf-8") if self.calls_file.exists() else ""
        self.calls_file.unlink(missing_ok=True)
        return [int(line) - SEED for line in text.split()]

    def files(self, run_name: str) -> dict[int, tuple[int, bytes]]:
        """The keyframes on disk by shot: time of the last change, and content."""
        folder = self.runs / run_name / "segments"
        paths = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        return {int(p.name[:4]) - 1: (p.stat().st_mtime_ns, p.read_bytes()) for p in paths}

    def holds(self, run_name: str, count: int) -> bool:
        """Whether so many keyframes are on disk."""
        return len(list((self.runs / run_name / "segments").glob("*.safetensors"))) >= count

    def seconds(self, run_name: str) -> float:
        """What the quickest keyframe of a run took."""
        from throughline.runs.run import open_run

        return min(record.seconds or 0.0 for record in open_run(self.runs / run_name).segments)

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
def test_killed_while_planning(
    new_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    host = Host(new_server, tmp_path_factory.mktemp("kill"))
    host.server.start()
    _, entry = host.server.run(graph("whole"))
    assert entry["status"]["status_str"] == "success"
    assert host.calls() == list(range(SHOTS))
    seconds = host.seconds("whole")
    instants, before, killed_in_the_run = random.Random(5), host.files("killed"), 0
    for kill in range(KILLS):
        host.server.queue(graph("killed"), "test")
        if kill % 3:
            wait_for(host.calls_file.exists)  # else it may also come before anything is sampled
        wanted = len(before) + instants.randint(0, MOST_PER_KILL)
        wait_for(partial(host.holds, "killed", wanted))
        time.sleep(instants.uniform(0.0, seconds))
        host.server.kill()
        after = host.files("killed")
        assert {index: after[index] for index in before} == before
        sampled = set(host.calls())
        assert not sampled & set(before), "a finished keyframe was sampled again"
        assert sorted(after) == list(range(len(after)))
        assert sampled <= set(range(len(after) + 1))
        killed_in_the_run += len(after) < SHOTS
        before = after
        host.server.start()
    assert killed_in_the_run >= KILLS - 1
    _, entry = host.server.run(graph("killed"))
    assert entry["status"]["status_str"] == "success"
    after = host.files("killed")
    assert {index: after[index] for index in before} == before
    assert host.calls() == [i for i in range(SHOTS) if i not in before]
    made, whole = host.latents("killed"), host.latents("whole")
    assert len(made) == SHOTS
    assert all(torch.equal(a, b) for a, b in zip(made, whole, strict=True))
    assert not list((host.runs / "killed").rglob("*.partial"))
