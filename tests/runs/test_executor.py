"""Jobs on crews: order, what is kept, what errors and lost devices cost, and how long it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from throughline.planning.schedule import (
    ORDERS,
    Costs,
    Job,
    JobGraph,
    Slot,
    critical_path_first,
    depth_first,
    list_schedule,
)
from throughline.runs.executor import Ended, Executor, Here, JobError, run_jobs
from throughline.runs.threads import Threads
from throughline.runs.timings import FILE_NAME, TimingsFile, read_timings

FILLS = tuple(Job(index, "fill 1") for index in range(6))


def apart(*seconds: float) -> JobGraph:
    return JobGraph({Job(i, "fill 1"): one for i, one in enumerate(seconds)}, {})


def test_here_jobs_run_in_the_order_asked_for() -> None:
    graph, seen = apart(1.0, 3.0, 2.0), []
    for order in (critical_path_first, depth_first):
        kept: list[Slot] = []
        run_jobs(graph, order, Here(seen.append), lambda slot, _, kept=kept: kept.append(slot))
        assert all(a.end <= b.start for a, b in zip(kept, kept[1:], strict=False))
    assert [job.segment for job in seen] == [1, 2, 0, 0, 1, 2]


def test_a_job_waits_for_what_it_needs() -> None:
    plans = [Job(i, "plan") for i in range(3)]
    after = {plans[1]: (plans[0],), plans[2]: (plans[1],)}
    after |= {Job(i, "fill 1"): (plans[i],) for i in range(3)}
    graph = JobGraph(dict.fromkeys([*plans, *after], 1.0), after)
    done: list[Job] = []

    def work(job: Job) -> None:
        assert set(after.get(job, ())) <= set(done)

    for order in ORDERS.values():
        done.clear()
        crew = Threads([work] * 3, ["a", "b", "c"], threading.Event())
        schedule = run_jobs(graph, order, crew, lambda slot, _: done.append(slot.job))
        assert sorted(done) == sorted(graph.seconds)
        assert schedule.devices == 3


def test_a_circle_is_refused() -> None:
    a, b = FILLS[:2]
    with pytest.raises(ValueError, match="in a circle"):
        JobGraph({a: 1.0, b: 1.0}, {a: (b,), b: (a,)})
    with pytest.raises(ValueError, match="which is no job of this plan"):
        JobGraph({a: 1.0}, {a: (b,)})


def test_an_error_ends_the_run_after_what_runs_is_kept() -> None:
    kept: list[int] = []
    told: list[tuple[int, str]] = []
    both = threading.Barrier(2)

    def work(job: Job) -> int:
        if job.segment < 2:
            both.wait()
        if job.segment == 0:
            raise ValueError("bad anchors")
        time.sleep(0.1)
        return job.segment

    crew = Threads([work, work], ["a", "b"], threading.Event())
    with pytest.raises(ValueError, match="bad anchors"):
        run_jobs(
            apart(*[1.0] * 6),
            depth_first,
            crew,
            lambda slot, result: kept.append(result),
            lambda job, status, reason: told.append((job.segment, status)),
        )
    assert kept == [1]
    assert told == [(0, "running"), (1, "running"), (0, "failed"), (1, "done")]


class Interrupted(BaseException):
    """As the host's interruption, no Exception."""


@pytest.mark.parametrize("who", ["the loop", "a job"])
def test_interruption_breaks_off_every_device(who: str) -> None:
    stopping, began = threading.Event(), threading.Barrier(3)
    broken: list[int] = []
    told: list[tuple[int, str, str]] = []

    def work(job: Job) -> None:
        if who == "a job" and job.segment == 1:
            began.wait()
            raise Interrupted
        began.wait()
        if not stopping.wait(10.0):
            pytest.fail("nobody stopped it")
        broken.append(job.segment)
        raise Interrupted

    def check() -> None:
        if who == "the loop" and began.n_waiting == 2:
            began.wait()
            raise Interrupted

    if who == "a job":
        began = threading.Barrier(2)
    crew = Threads([work, work], ["a", "b"], stopping)
    tell = lambda job, status, reason: told.append((job.segment, status, reason))  # noqa: E731
    with pytest.raises(Interrupted):
        run_jobs(apart(*[1.0] * 6), depth_first, crew, lambda *_: pytest.fail(), tell, check)
    assert sorted(broken) == ([0, 1] if who == "the loop" else [0])
    failed = [(segment, reason) for segment, status, reason in told if status == "failed"]
    assert failed == [(0, "interrupted"), (1, "interrupted")]


class Leaving:
    """A crew of two, of which device 1 is lost with its first `losses` jobs and then is back."""

    def __init__(self, losses: int) -> None:
        self.losses, self.running = losses, dict[int, Job]()

    def names(self) -> Sequence[str]:
        return ("a", "b")

    def idle(self) -> Sequence[int]:
        return [i for i in (1, 0) if i not in self.running]

    def start(self, device: int, job: Job) -> None:
        self.running[device] = job

    def wait(self, seconds: float) -> Sequence[Ended[str]]:
        ended = [
            Ended(device=device, job=job, result=f"of {device}")
            for device, job in self.running.items()
        ]
        self.running.clear()
        for i, one in enumerate(ended):
            if one.device == 1 and self.losses:
                self.losses -= 1
                ended[i] = Ended(device=1, job=one.job, lost="it was killed")
        return ended

    def stop(self) -> None:
        self.running.clear()


def test_what_a_lost_device_leaves_runs_elsewhere() -> None:
    made: list[tuple[int, str]] = []
    run_jobs(
        apart(*[1.0] * 4),
        depth_first,
        Leaving(2),
        lambda slot, result: made.append((slot.job.segment, result)),
    )
    assert sorted(segment for segment, _ in made) == [0, 1, 2, 3]


def test_a_job_that_takes_every_device_down_is_named() -> None:
    with pytest.raises(JobError, match="fill 1 of segment 1 was lost with 3 workers.*killed"):
        run_jobs(apart(1.0), depth_first, Leaving(9), lambda *_: None)


def test_a_job_that_fits_nowhere_is_named() -> None:
    def fits(job: Job, device: int) -> bool:
        return job.segment != 1

    with pytest.raises(JobError, match="fill 1 of segment 2 fits on no device"):
        run_jobs(apart(1.0, 1.0), depth_first, Here(lambda _: None), lambda *_: None, fits=fits)


def test_a_write_that_fails_ends_the_run_at_once() -> None:
    def keep(slot: Slot, result: object) -> None:
        raise OSError("disk full")

    ran: list[Job] = []
    with pytest.raises(OSError, match="disk full"):
        run_jobs(apart(1.0, 1.0), depth_first, Here(ran.append), keep)
    assert len(ran) == 1


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_the_makespan_is_what_the_schedule_predicts(devices: int) -> None:
    """Twelve segments planned in a row and filled apart, with jobs of known length: within 10 %."""
    from throughline.planning.schedule import film_jobs

    costs = Costs(plan=0.3, fill_1=0.9)
    graph = film_jobs(12, costs)

    def work(job: Job) -> None:
        time.sleep(graph.seconds[job])

    names = [f"device {i}" for i in range(devices)]
    crew = Threads([work] * devices, names, threading.Event())
    actual = run_jobs(graph, critical_path_first, crew, lambda slot, result: None)
    predicted = list_schedule(graph, devices, critical_path_first(graph))
    assert actual.makespan == pytest.approx(predicted.makespan, rel=0.10)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "the moon"}, "run_on must be one of this process, .*got 'the moon'"),
        ({"order": "last first"}, "order must be one of critical path first, .*got 'last first'"),
        ({"devices": 65}, "devices must be 0 to 64, got 65"),
        ({"devices": -1}, "devices must be 0 to 64, got -1"),
    ],
)
def test_bad_executors_are_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Executor(**change)


def test_timings_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = TimingsFile(tmp_path, ["a"], clock=lambda: 0.0)
    slots = [Slot(0.0, 1.5, 0, Job(3, "plan")), Slot(1.5, 2.25, 1, Job(0, "fill 1"))]
    for slot in slots:
        file.add(slot, ["a", "b"])
    found = read_timings(tmp_path)
    assert found is not None
    assert found.slots == tuple(slots) and found.devices == ("a", "b")
    assert found.began == "1970-01-01T00:00:00Z"


def _without_version(text: str) -> str:
    return text.replace('"version": 1', '"version": 2')


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:40],
        lambda text: text.replace("fill 1", "nap"),
        lambda text: text.replace('"device": 0', '"device": 7'),
        lambda text: text.replace('"end": 1.5', '"end": -1'),
        lambda text: text.replace('"end": 1.5', '"end": NaN'),
        _without_version,
    ],
)
def test_timings_that_do_not_read_are_none(tmp_path: Path, spoil: Callable[[str], str]) -> None:
    TimingsFile(tmp_path, ["a"]).add(Slot(0.0, 1.5, 0, Job(0, "fill 1")), ["a"])
    path = tmp_path / FILE_NAME
    assert read_timings(tmp_path) is not None
    path.write_text(spoil(path.read_text()))
    assert read_timings(tmp_path) is None
