"""A server killed while it plans the codes of a film keeps the finished chunks, and what it plans
after that is bit-equal to an undisturbed plan."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

CHUNKS, KILLS, STEPS = 5, 2, 40
LATER = 0.8
"""A kill comes up to this many chunks after another chunk is finished."""


def graph(run_name: str) -> dict[str, Any]:
    plan = {
        "hierarchy": ["h", 0],
        "hierarchy_planner": ["l", 0],
        "chunks": CHUNKS,
        "conditions": "",
        "seed": 5,
        "steps": STEPS,
        "cfg": 1.5,
        "run_name": run_name,
        "retakes": "",
        "when_queued": "render",
    }
    return {
        "m": {
            "class_type": "ThroughlineTestTinyModels",
            "inputs": {"family": "wan_t2v", "seed": 0, "layers": 0},
        },
        "e": {
            "class_type": "EmptyHunyuanLatentVideo",
            "inputs": {"width": 64, "height": 64, "length": 25, "batch_size": 1},
        },
        "h": {
            "class_type": "ThroughlineHierarchyEncode",
            "inputs": {"model": ["m", 0], "latent": ["e", 0], "levels": 3, "size_only": False},
        },
        "l": {
            "class_type": "ThroughlineLoadHierarchyPlanner",
            "inputs": {"planner_name": "planner.safetensors"},
        },
        "p": {"class_type": "ThroughlineHierarchyPlan", "inputs": plan},
    }


def chunks(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The finished chunks on disk: time of the last change, and content."""
    paths = sorted((folder / "segments").glob("*.safetensors"))
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def codes(folder: Path) -> list[torch.Tensor]:
    from throughline.runs.run import open_run

    run = open_run(folder)
    return [run.latent(record.index) for record in run.segments]


@pytest.mark.slow
def test_killed_while_planning_codes(
    new_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from development.tiny_hierarchy import write_tiny_planner
    from development.tiny_nodes import write_pack

    base = tmp_path_factory.mktemp("kill")
    write_pack(base)
    write_tiny_planner(base / "models" / "hierarchy_planners" / "planner.safetensors")
    server, runs = new_server(base=base), base / "output" / "throughline"
    server.start()
    began = time.monotonic()
    _, entry = server.run(graph("whole"))
    seconds = (time.monotonic() - began) / CHUNKS
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]

    instants, killed, before = random.Random(1), runs / "killed", {}
    for _ in range(KILLS):
        server.queue(graph("killed"), "test")
        wait_for_more(killed, len(before))
        time.sleep(instants.uniform(0.0, LATER) * seconds)
        server.kill()
        after = chunks(killed)
        assert {name: after[name] for name in before} == before
        assert len(before) < len(after) < CHUNKS
        before = after
        server.start()
    _, entry = server.run(graph("killed"))
    assert entry["status"]["status_str"] == "success"
    after = chunks(killed)
    assert {name: after[name] for name in before} == before
    assert not list(killed.rglob("*.partial"))
    pairs = zip(codes(killed), codes(runs / "whole"), strict=True)
    assert [torch.equal(a, b) for a, b in pairs] == [True] * CHUNKS


def wait_for_more(folder: Path, finished: int, seconds: float = 120.0) -> None:
    """Until more chunks than so many are on disk."""
    limit = time.monotonic() + seconds
    while len(chunks(folder)) <= finished:
        assert time.monotonic() < limit, "nothing was planned"
        time.sleep(0.005)
