"""A plan filled by a real server alone, on its devices, and on a Ray cluster of real ComfyUIs:
equal to the bit, whatever dies meanwhile."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

SEGMENTS, FILL_SEED = 12, 200
ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "weights" / "diffusion_models" / "throughline_demo_video.safetensors"
FILM, OTHER = "film.safetensors", "other.safetensors"
"""Model files by name: the first is the same at the workers, the second is not."""

pytestmark = pytest.mark.slow


def graph(run_name: str, executor: dict[str, Any] | None, model: str = FILM, steps: int = 2) -> Any:
    sampler = {
        "clip": ["d", 1],
        "vae": ["d", 2],
        "negative_prompt": "",
        "cfg": 1.0,
        "sampler_name": "euler_ancestral",
        "scheduler": "simple",
        "switch_sigma": 0.9,
        "retakes": "",
        "when_queued": "render",
    }
    plan = {
        "model": ["u", 0],
        "script": "\n".join(f"[2s] garden, Pell left, camera {i}" for i in range(SEGMENTS)),
        "width": 64,
        "height": 64,
        "seconds_per_shot": 1.0,
        "fps": 8.0,
        "unmarked_shots": "continue",
        "segment_frames": 33,
        "seed": 100,
        "steps": 1,
        "run_name": "plan",
        "planner": "draft, then keep the anchors",
        "layout": "two at the end",
        "seed_from": "the end",
    }
    fill = {
        "plan": ["p", 0],
        "model": ["n", 0],
        "filler": "continue to the anchors",
        "seed": FILL_SEED,
        "steps": steps,
        "run_name": run_name,
    }
    made = {
        "d": {"class_type": "ThroughlineLoadDemoModels", "inputs": {}},
        "u": _loader(FILM),
        "o": _loader(model),
        "n": {"class_type": "ThroughlineTestNoteCalls", "inputs": {"model": ["o", 0]}},
        "p": {"class_type": "ThroughlineMacroPlan", "inputs": {**sampler, **plan}},
        "f": {"class_type": "ThroughlinePopulateSegments", "inputs": {**sampler, **fill}},
    }
    if executor is not None:
        inputs = {"devices": 2, "order": "critical path first", "address": "", **executor}
        made["e"] = {"class_type": "ThroughlineExecutor", "inputs": inputs}
        made["f"]["inputs"]["executor"] = ["e", 0]
    return made


def _loader(name: str) -> dict[str, Any]:
    inputs = {"unet_name": name, "weight_dtype": "default"}
    return {"class_type": "UNETLoader", "inputs": inputs}


def put_models(base: Path, other: float) -> None:
    """The same film model everywhere, and another one that differs by `other` in one weight."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    folder = base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(WEIGHTS, folder / FILM)
    with safe_open(WEIGHTS, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    tensors["head.head.bias"] = tensors["head.head.bias"] + other
    save_file(tensors, folder / OTHER, metadata)


class Studio:
    """A server, the cluster that it may fill on, and the film that it fills alone."""

    def __init__(self, server: Any, cluster: Any, calls_file: Path) -> None:
        self.server, self.cluster, self._calls_file = server, cluster, calls_file

    def on_ray(self, **changes: Any) -> dict[str, Any]:
        named = {"run_on": "Ray cluster", "address": self.cluster.client_address, **changes}
        if named["address"] == "of the head":
            named["address"] = self.cluster.address
        return named

    def fill(self, *arguments: Any, on_event: Any = lambda kind, data: None, **changes: Any) -> Any:
        _, entry = self.server.run(graph(*arguments, **changes), on_event)
        return entry["status"]

    def files(self, run_name: str) -> dict[str, int]:
        """The segments on disk with the time of their last change."""
        folder = self.server.base / "output" / "throughline" / run_name / "segments"
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}

    def calls(self) -> list[int]:
        """Segments that a sampler call began for since the last time, 0-based, wherever it ran."""
        text = self._calls_file.read_text() if self._calls_file.exists() else ""
        self._calls_file.unlink(missing_ok=True)
        return [int(line) - FILL_SEED for line in text.split()]

    def check_sampled(self, finished: dict[str, int], in_flight: int) -> None:
        """Every segment once, but for so many that were not `finished` when something died."""
        calls = Counter(self.calls())
        assert set(calls) == set(range(SEGMENTS))
        assert calls.total() <= SEGMENTS + in_flight
        again = {segment for segment, count in calls.items() if count > 1}
        assert not again & {int(name[:4]) - 1 for name in finished}

    def check_kept(self, run_name: str, finished: dict[str, int]) -> None:
        after = self.files(run_name)
        assert {name: after[name] for name in finished} == finished, "a segment was made again"

    def latents(self, run_name: str) -> list[torch.Tensor]:
        from throughline.runs.run import open_run

        run = open_run(self.server.base / "output" / "throughline" / run_name)
        return [run.latent(record.index) for record in run.segments]

    def workers(self) -> list[Any]:
        """The processes of the cluster's workers."""
        import psutil

        found = []
        for process in psutil.Process(self.cluster.pid).children(recursive=True):
            try:
                if process.cmdline()[0].startswith("ray::Worker"):
                    found.append(process)
            except (psutil.Error, IndexError):
                continue  # it ended meanwhile
        return found

    def check_equal(self, run_name: str) -> None:
        alone, other = self.latents("alone"), self.latents(run_name)
        assert len(alone) == len(other) == SEGMENTS
        assert all(torch.equal(one, two) for one, two in zip(alone, other, strict=True))


@pytest.fixture(scope="module")
def studio(
    new_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Studio]:
    from development.cluster import Cluster
    from development.environment import Host
    from development.server import environ_with_threads
    from development.tiny_nodes import CALLS, write_pack

    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    put_models(here, 0.0)
    put_models(there, 0.5)
    write_pack(here)
    write_pack(there)
    noting = {CALLS: str(here / "calls.txt")}
    server = new_server(base=here, environ=noting)
    host = Host(Path(_comfyui()), Path(sys.executable))
    environ = {**environ_with_threads(1), **noting}
    with Cluster(host, 4, there, environ=environ) as cluster:
        server.start()
        made = Studio(server, cluster, here / "calls.txt")
        assert made.fill("alone", None)["status_str"] == "success"
        yield made


def _comfyui() -> str:
    import os

    return os.environ["COMFYUI_PATH"]


@pytest.mark.parametrize(
    ("name", "executor"),
    [
        ("two threads", {"run_on": "devices of this machine"}),
        ("two workers", {"run_on": "Ray cluster"}),
        ("four workers", {"run_on": "Ray cluster", "devices": 4, "address": "of the head"}),
    ],
)
def test_every_executor_makes_the_same_film(
    studio: Studio, name: str, executor: dict[str, Any]
) -> None:
    from throughline.runs.timings import read_timings

    steps: set[tuple[int, int]] = set()

    def note(kind: str, data: Any) -> None:
        if kind == "throughline.segment" and data["run"] == name and data["step"]:
            steps.add((data["segment"], data["step"]))

    if executor["run_on"] == "Ray cluster":
        executor = studio.on_ray(**executor)
    assert studio.fill(name, executor, on_event=note)["status_str"] == "success"
    studio.check_equal(name)
    assert steps == {(segment + 1, step) for segment in range(SEGMENTS) for step in (1, 2)}
    timings = read_timings(studio.server.base / "output" / "throughline" / name)
    assert timings is not None and len(timings.slots) == SEGMENTS


def test_another_model_of_the_same_name_is_refused(studio: Studio) -> None:
    status = studio.fill("refused", studio.on_ray(devices=1), OTHER)
    assert status["status_str"] == "error"
    message = status["messages"][-1][1]["exception_message"]
    assert "no worker is left: worker 1" in message and "its model differs" in message
    assert studio.files("refused") == {}


def test_an_address_that_does_not_answer_is_named(studio: Studio) -> None:
    status = studio.fill("nowhere", studio.on_ray(address="ray://127.0.0.1:1"))
    assert "does not answer" in status["messages"][-1][1]["exception_message"]


def test_a_killed_worker_costs_what_it_had_in_hand(studio: Studio) -> None:
    killed: list[int] = []
    finished: dict[str, int] = {}

    def kill(kind: str, data: Any) -> None:
        first = kind == "throughline.segment" and data["run"] == "killed" and data["step"] == 1
        if first and not killed and len(studio.files("killed")) >= 2:
            process = studio.workers()[0]
            process.kill()
            killed.append(process.pid)
            finished.update(studio.files("killed"))

    studio.calls()
    status = studio.fill("killed", studio.on_ray(), on_event=kill)
    assert status["status_str"] == "success" and killed
    studio.check_kept("killed", finished)
    studio.check_sampled(finished, in_flight=1)
    studio.check_equal("killed")


def test_a_worker_whose_disk_is_full_says_so_and_nothing_is_lost(studio: Studio) -> None:
    """Neither its log nor what a node notes finds room. With no other worker the film breaks off;
    with room there it is completed."""
    import psutil

    limited: list[int] = []

    def fill_disk(kind: str, data: Any) -> None:
        mine = kind == "throughline.segment" and data["run"] == "full"
        if mine and data["status"] == "done" and not limited:
            for process in studio.workers():
                _, most = process.rlimit(psutil.RLIMIT_FSIZE)
                process.rlimit(psutil.RLIMIT_FSIZE, (0, most))
                limited.append(process.pid)

    studio.calls()
    status = studio.fill("full", studio.on_ray(devices=1), on_event=fill_disk)
    assert limited and status["status_str"] == "error"
    message = status["messages"][-1][1]["exception_message"]
    assert "no worker is left: worker 1" in message and "File too large" in message
    finished = studio.files("full")
    assert 1 <= len(finished) < SEGMENTS
    assert studio.fill("full", studio.on_ray(devices=1))["status_str"] == "success"
    studio.check_kept("full", finished)
    studio.check_sampled(finished, in_flight=1)
    studio.check_equal("full")


def test_interruption_ends_the_workers_and_keeps_what_is_finished(studio: Studio) -> None:
    asked: list[float] = []

    def interrupt(kind: str, data: Any) -> None:
        mine = kind == "throughline.segment" and data["run"] == "interrupted"
        if mine and data["status"] == "done" and not asked:
            studio.server.interrupt()
            asked.append(time.monotonic())

    status = studio.fill("interrupted", studio.on_ray(devices=1), steps=30, on_event=interrupt)
    assert status["messages"][-1][0] == "execution_interrupted"
    assert 1 <= len(studio.files("interrupted")) < SEGMENTS
    assert time.monotonic() - asked[0] < 20.0


def test_a_killed_driver_loses_nothing_that_was_written(studio: Studio) -> None:
    studio.calls()
    studio.server.queue(graph("driver", studio.on_ray()), "test")
    deadline = time.monotonic() + 400
    while len(studio.files("driver")) < 2:
        assert time.monotonic() < deadline, studio.server.log()[-3000:]
        time.sleep(0.05)
    studio.server.kill()
    before = studio.files("driver")
    studio.server.start()
    alone = studio.on_ray(address="", devices=1)  # now on workers that this server starts itself
    assert studio.fill("driver", alone)["status_str"] == "success"
    after = studio.files("driver")
    assert {name: after[name] for name in before} == before, "a finished segment was made again"
    studio.check_sampled(before, in_flight=2)  # one with each worker
    studio.check_equal("driver")
