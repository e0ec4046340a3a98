"""The crew on a real Ray cluster of this machine, with jobs of known length instead of models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from throughline.planning.schedule import (
    Costs,
    Job,
    JobGraph,
    critical_path_first,
    depth_first,
    film_jobs,
    list_schedule,
)
from throughline.runs.executor import JobError, run_jobs
from throughline.runs.ray_cluster import RESOURCE, Cluster, check_address, connect
from throughline.runs.ray_crew import Duty, RayCrew

SLOTS = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster with room for SLOTS workers. What a crew closes is left open."""
    real = connect("", SLOTS)
    yield Cluster(ray=real.ray, unit=real.unit, close=lambda: None)
    real.close()


def duty(boot: Callable[[], Any], **changes: Any) -> Duty[Any]:
    plain: dict[str, Any] = {
        "boot": boot,
        "brief": lambda: None,
        "accept": lambda facts: None,
        "order": lambda job: job.segment,
        "receive": lambda made: made,
        "hear": lambda told: None,
    }
    return Duty(**{**plain, **changes})


def sleeper(seconds: float) -> Callable[[], Any]:
    """A worker that sleeps, tells of two steps, and gives its process's number."""

    def boot() -> Any:
        import os
        import time

        class Sleeper:
            def prepare(self, brief: Any) -> dict[str, Any]:
                return {"pid": os.getpid()}

            def work(self, order: Any, tell: Any) -> dict[str, Any]:
                for step in (1, 2):
                    time.sleep(seconds / 2)
                    tell((order, step))
                return {"segment": order, "pid": os.getpid()}

        return Sleeper()

    return boot


def failing(marks: Path, how: str) -> Callable[[], Any]:
    """A worker of which the first that begins segment 0 leaves a mark and fails; `how` says as
    what."""
    folder = str(marks)

    def boot() -> Any:
        import errno
        import os
        import signal
        import time

        class Failing:
            def prepare(self, brief: Any) -> dict[str, Any]:
                return {}

            def work(self, order: Any, tell: Any) -> dict[str, Any]:
                mark = os.path.join(folder, how)
                with open(os.path.join(folder, "calls"), "a") as file:
                    file.write(f"{order}\n")
                if order == 0 and not os.path.exists(mark):
                    open(mark, "w").close()
                    if how == "killed":
                        os.kill(os.getpid(), signal.SIGKILL)
                    if how == "full":
                        if os.path.exists("/dev/full"):  # the worker's log has no room either
                            os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
                        raise OSError(errno.ENOSPC, "disk full: no room for blank clips")
                    raise ValueError("bad anchors")
                time.sleep(0.05)
                return {"segment": order}

        return Failing()

    return boot


def apart(count: int) -> JobGraph:
    return JobGraph({Job(i, "fill 1"): 1.0 for i in range(count)}, {})


def ready(crew: RayCrew[Any], workers: int) -> RayCrew[Any]:
    """The crew when so many of its workers take jobs."""
    deadline = time.monotonic() + 300.0
    while len(crew.idle()) < workers:
        crew.wait(0.05)
        assert time.monotonic() < deadline
    return crew


@pytest.mark.parametrize("workers", [2, 4])
def test_the_makespan_is_what_the_schedule_predicts(cluster: Cluster, workers: int) -> None:
    """Twelve segments planned in a row and filled apart: within 10 %."""
    costs = Costs(plan=1.0, fill_1=3.0)  # long beside what a busy machine adds to a job
    graph = film_jobs(12, costs)
    job_seconds = {f"{job.segment} {job.step}": seconds for job, seconds in graph.seconds.items()}

    def boot() -> Any:
        import time

        class Sleeper:
            def prepare(self, brief: Any) -> dict[str, Any]:
                return {}

            def work(self, order: Any, tell: Any) -> dict[str, Any]:
                time.sleep(job_seconds[order])
                return {}

        return Sleeper()

    crew = RayCrew(cluster, workers, duty(boot, order=lambda job: f"{job.segment} {job.step}"))
    actual = run_jobs(graph, critical_path_first, ready(crew, workers), lambda slot, made: None)
    predicted = list_schedule(graph, workers, critical_path_first(graph))
    assert actual.makespan == pytest.approx(predicted.makespan, rel=0.10)
    assert actual.devices == workers


def test_workers_are_processes_whose_steps_are_told_before_their_results(cluster: Cluster) -> None:
    said: list[tuple[int, int]] = []
    pids: set[int] = set()

    def keep(slot: Any, made: dict[str, Any]) -> None:
        pids.add(made["pid"])
        assert made["segment"] == slot.job.segment
        assert [step for segment, step in said if segment == slot.job.segment] == [1, 2]

    crew = ready(RayCrew(cluster, 2, duty(sleeper(0.2), hear=said.append)), 2)
    assert all(" on " in name for name in crew.names())
    run_jobs(apart(6), depth_first, crew, keep)
    assert len(said) == 12 and len(pids) == 2


@pytest.mark.parametrize("how", ["killed", "full"])
def test_what_a_lost_worker_had_in_hand_runs_elsewhere(
    cluster: Cluster, tmp_path: Path, how: str
) -> None:
    made: list[int] = []
    crew = ready(RayCrew(cluster, 2, duty(failing(tmp_path, how))), 2)
    run_jobs(apart(5), depth_first, crew, lambda slot, result: made.append(result["segment"]))
    assert sorted(made) == [0, 1, 2, 3, 4]
    calls = (tmp_path / "calls").read_text().split()
    assert sorted(calls) == ["0", "0", "1", "2", "3", "4"], "more than the job in hand ran again"
    if how == "full":
        assert len(crew.refused) == 1 and "disk full: no room" in crew.refused[0]


def test_an_error_of_a_job_names_its_worker(cluster: Cluster, tmp_path: Path) -> None:
    crew = RayCrew(cluster, 1, duty(failing(tmp_path, "wrong")))
    with pytest.raises(JobError, match="worker 1 on .*: bad anchors"):
        run_jobs(apart(2), depth_first, crew, lambda *_: None)


def test_a_worker_that_is_not_the_same_is_refused_and_the_others_go_on(cluster: Cluster) -> None:
    pids: list[int] = []

    def accept(facts: dict[str, Any]) -> None:
        pids.append(facts["pid"])
        if facts["pid"] == pids[0]:
            raise ValueError("its model differs from the one here")

    crew = RayCrew(cluster, 2, duty(sleeper(0.05), accept=accept))
    made: set[int] = set()
    run_jobs(apart(3), depth_first, crew, lambda slot, result: made.add(result["pid"]))
    assert made == {pids[1]}
    assert len(crew.refused) == 1 and "its model differs" in crew.refused[0]


def test_without_a_worker_that_is_the_same_nothing_runs(cluster: Cluster) -> None:
    def accept(facts: dict[str, Any]) -> None:
        raise ValueError("torch is 2 there and 1 here")

    crew = RayCrew(cluster, 1, duty(sleeper(0.05), accept=accept))
    with pytest.raises(JobError, match="no worker is left: worker 1 .*: torch is 2 there"):
        run_jobs(apart(1), depth_first, crew, lambda *_: pytest.fail())


def test_a_worker_that_cannot_start_says_why(cluster: Cluster) -> None:
    def boot() -> Any:
        raise FileNotFoundError("there is no ComfyUI in /nowhere")

    with pytest.raises(JobError, match="it did not start: FileNotFoundError: there is no ComfyUI"):
        run_jobs(apart(1), depth_first, RayCrew(cluster, 1, duty(boot)), lambda *_: None)


def test_stopping_ends_what_runs_at_once(cluster: Cluster) -> None:
    crew = ready(RayCrew(cluster, 1, duty(sleeper(600.0))), 1)
    crew.start(0, Job(0, "fill 1"))
    before = time.monotonic()
    crew.stop()
    assert time.monotonic() - before < 5.0
    again = ready(RayCrew(cluster, 1, duty(sleeper(0.01))), 1)  # its place is free again
    again.stop()


def test_a_machine_that_joins_gets_a_worker(cluster: Cluster) -> None:
    room = [1]

    class Growing(Cluster):
        def slots(self) -> int:
            return room[0]

    growing = Growing(ray=cluster.ray, unit=RESOURCE, close=cluster.close)
    crew = ready(RayCrew(growing, 0, duty(sleeper(0.01))), 1)
    assert len(crew.names()) == 1
    room[0] = 2
    assert len(ready(crew, 2).names()) == 2
    crew.stop()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("here", "address must be ray://host:port, host:port, auto or empty, got 'here'"),
        ("ray://host:port", "address must be"),
        ("ray://127.0.0.1:1", "'ray://127.0.0.1:1' does not answer .*start the cluster"),
        ("127.0.0.1:1", "does not answer"),
        ("nobody.invalid:10001", "does not answer"),
    ],
)
def test_an_address_that_does_not_answer_is_named(address: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_address(address)


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r'needs the package ray.*pip install "ray\[client\]"'):
        connect("", 1)
