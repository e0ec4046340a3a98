"""A server killed at random instants, or interrupted, loses nothing that was finished."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SEGMENTS, KILLS = 24, 10
SEGMENTS_PER_KILL = 2.0
"""A kill comes after up to this many segments, so that ten of them fall into one run."""


def graph(run_name: str) -> dict[str, Any]:
    return {
        "m": {
            "class_type": "ThroughlineTestTinyModels",
            "inputs": {"family": "wan22_i2v", "seed": 0, "layers": 8},
        },
        "s": {
            "class_type": "ThroughlineARSegmentSampler",
            "inputs": {
                "model": ["m", 0],
                "clip": ["m", 1],
                "vae": ["m", 2],
                "script": "\n".join(f"[1s] Shot {i + 1} of a quiet room." for i in range(SEGMENTS)),
                "negative_prompt": "blur",
                "width": 64,
                "height": 64,
                "seconds_per_shot": 1.0,
                "fps": 8.0,
                "unmarked_shots": "continue",
                "segment_frames": 13,
                "tail_latent_frames": 1,
                "seed": 7,
                "steps": 8,
                "cfg": 2.0,
                "sampler_name": "euler_ancestral",
                "scheduler": "simple",
                "switch_sigma": 0.9,
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
        """Seeds of the sampler calls since the last time."""
        text = self.calls_file.read_text(encoding="utf-8") if self.calls_file.exists() else ""
        self.calls_file.unlink(missing_ok=True)
        return [int(line) for line in text.split()]

    def finished(self, run_name: str) -> dict[int, tuple[int, bytes]]:
        """The segments on disk by index: time of the last change, and content."""
        folder = self.runs / run_name / "segments"
        paths = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        found = {
            int(path.name[:4]) - 1: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths
        }
        assert len(found) == len(paths)
        return found

    def latents(self, run_name: str) -> list[torch.Tensor]:
        from throughline.runs.run import open_run

        run = open_run(self.runs / run_name)
        return [run.latent(record.index) for record in run.segments]


@pytest.fixture(scope="module")
def host(new_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Host:
    made = Host(new_server, tmp_path_factory.mktemp("kill"))
    made.server.start()
    return made


@pytest.fixture(scope="module")
def whole(host: Host) -> tuple[list[torch.Tensor], float]:
    """The latents of an uninterrupted run, and its seconds per segment."""
    began = time.monotonic()
    _, entry = host.server.run(graph("whole"))
    seconds = (time.monotonic() - began) / SEGMENTS
    assert entry["status"]["status_str"] == "success"
    assert host.calls() == [7 + index for index in range(SEGMENTS)]
    return host.latents("whole"), seconds


@pytest.mark.slow
def test_killed_ten_times(host: Host, whole: tuple[list[torch.Tensor], float]) -> None:
    latents, seconds = whole
    instants, before = random.Random(11), host.finished("killed")
    killed_in_the_run = 0
    for kill in range(KILLS):
        host.server.queue(graph("killed"), "test")
        if kill % 3:
            wait_for(host.calls_file.exists)  # else it may also come before anything is sampled
        time.sleep(instants.uniform(0.0, SEGMENTS_PER_KILL * seconds))
        host.server.kill()
        after = host.finished("killed")
        assert {index: after[index] for index in before} == before
        sampled = {seed - 7 for seed in host.calls()}
        assert not sampled & set(before), "a finished segment was sampled again"
        assert sorted(after) == list(range(len(after)))
        assert sampled <= set(range(len(after) + 1))
        killed_in_the_run += len(after) < SEGMENTS
        before = after
        host.server.start()
    assert killed_in_the_run == KILLS
    _, entry = host.server.run(graph("killed"))
    assert entry["status"]["status_str"] == "success"
    after = host.finished("killed")
    assert {index: after[index] for index in before} == before
    assert [seed - 7 for seed in host.calls()] == [i for i in range(SEGMENTS) if i not in before]
    made = host.latents("killed")
    assert len(made) == SEGMENTS
    assert all(torch.equal(a, b) for a, b in zip(made, latents, strict=True))
    assert not list((host.runs / "killed").rglob("*.partial"))


def wait_for(happened: Callable[[], bool], seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit, "nothing was sampled"
        time.sleep(0.005)


@pytest.mark.slow
def test_interrupted_during_a_step(host: Host, whole: tuple[list[torch.Tensor], float]) -> None:
    """The button of the page: POST /interrupt in the middle of segment 3."""
    told: list[tuple[int, int]] = []

    def press(kind: str, data: Any) -> None:
        if kind == "throughline.segment" and data["status"] == "running":
            told.append((data["segment"], data["step"]))
            if told[-1] == (3, 2):
                host.server.interrupt()

    events, entry = host.server.run(graph("stopped"), press)
    assert entry["status"]["status_str"] == "error"  # the host's word for interrupted, too
    assert "execution_interrupted" in [kind for kind, _ in events]
    # the event of step 2 is on its way while step 3 begins
    assert told[-1][0] == 3 and told[-1][1] <= 4
    before = host.finished("stopped")
    assert sorted(before) == [0, 1]
    host.calls()
    _, entry = host.server.run(graph("stopped"))
    assert entry["status"]["status_str"] == "success"
    assert [seed - 7 for seed in host.calls()] == list(range(2, SEGMENTS))
    after = host.finished("stopped")
    assert {index: after[index] for index in before} == before
    made = host.latents("stopped")
    assert all(torch.equal(a, b) for a, b in zip(made, whole[0], strict=True))
