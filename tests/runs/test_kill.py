"""A process killed while it writes leaves a run that opens, with every finished segment in it."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from throughline.planning.segments import Segment
from throughline.runs.folder import RunFolder, plan_run
from throughline.runs.run import open_run

ROOT = Path(__file__).resolve().parents[2]
COUNT = 400
KILLS = 6

WRITER = """
import importlib.util, sys
root, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
spec = importlib.util.spec_from_file_location(
    "throughline", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["throughline"] = importlib.util.module_from_spec(spec)
from pathlib import Path
import torch
from throughline.planning.segments import Segment
from throughline.runs.folder import RunFolder
segments = [
    Segment(index=i, shot=i, shot_id=str(i), chain=0, start="tail" if i else "text",
            latent_frames=3, known_latent_frames=1 if i else 0, prompt="p", negative="", seed=i)
    for i in range(count)
]
with RunFolder.open(Path(folder), "film", {"model": "demo"}, segments) as run:
    for state in run.state():
        if state.needs_render:
            run.write_segment(state.index, torch.full((1, 16, 3, 8, 8), float(state.index)), {},
                              1.0, b"jpeg" * 200)
            print(state.index, flush=True)
"""


def plan() -> list[Segment]:
    return [
        Segment(
            index=i,
            shot=i,
            shot_id=str(i),
            chain=0,
            start="tail" if i else "text",
            latent_frames=3,
            known_latent_frames=1 if i else 0,
            prompt="p",
            negative="",
            seed=i,
        )
        for i in range(COUNT)
    ]


@pytest.mark.slow
def test_killed_at_random_instants(tmp_path: Path) -> None:
    rng = random.Random(7)
    finished: set[int] = set()
    for _ in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(ROOT), str(tmp_path), str(COUNT)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        first = int(child.stdout.readline())
        assert first not in finished  # no finished segment is made again
        finished.add(first)
        try:
            child.wait(rng.uniform(0.0, 0.4))
        except subprocess.TimeoutExpired:
            child.kill()
        finished |= {int(line) for line in child.stdout.read().splitlines() if line.isdigit()}
        child.stdout.close()
        child.wait()
        open_run(tmp_path / "film")  # a reader never meets half a manifest
        states = plan_run(tmp_path, "film", {"model": "demo"}, plan())
        assert all(state.status in ("reused", "missing") for state in states)
        reused = {state.index for state in states if state.status == "reused"}
        # at most the one segment whose name was not printed yet
        assert finished <= reused and len(reused - finished) <= 1
        finished = reused
        if len(finished) == COUNT:
            break
    assert len(finished) > KILLS
    with RunFolder.open(tmp_path, "film", {"model": "demo"}, plan()) as folder:
        for index in sorted(finished):
            expected = torch.full((1, 16, 3, 8, 8), float(index))
            assert torch.equal(folder.read_segment(index), expected)
        left = [path for path in folder.path.rglob("*.partial")]
    assert not left
