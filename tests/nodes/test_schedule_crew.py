"""A crew of fillers and this process: who does what, and what is done at the same time."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest


def crew(lane: str, fills: int = 2, over: Any = lambda job: False) -> tuple[Any, list[Any]]:
    """A crew with `fills` devices that sleep; `done` are thread names and jobs."""
    from throughline.nodes.schedule_crew import FilmCrew
    from throughline.runs.threads import Threads

    done: list[Any] = []

    def work(job: Any) -> str:
        time.sleep(0.3 if job.step == "fill 1" else 0.02)
        done.append((threading.current_thread().name, job))
        return job.step

    names = [f"gpu {i}" for i in range(fills)]
    fillers = Threads([work] * fills, names, threading.Event())
    return FilmCrew(fillers, work, over, lambda: None, lane), done


def made(found: Any) -> tuple[Any, dict[Any, Any]]:
    """The schedule of a film of four segments, and the results that were kept."""
    from throughline.planning.schedule import Costs, breadth_first, film_jobs
    from throughline.runs.executor import run_jobs

    kept: dict[Any, Any] = {}
    graph = film_jobs(4, Costs(plan=1.0, fill_1=2.0, hand_off=0.1, decode=0.1))
    schedule = run_jobs(
        graph,
        breadth_first,
        found,
        lambda slot, result: kept.__setitem__(slot.job, result),
        fits=found.fits,
    )
    ends = {slot.job: slot.end for slot in schedule.slots}
    for slot in schedule.slots:
        assert all(slot.start >= ends[one] - 1e-6 for one in graph.after[slot.job])
    assert set(kept) == set(graph.seconds)
    return schedule, kept


@pytest.mark.parametrize(("lane", "devices"), [("", 2), ("this process", 3)])
def test_plans_stay_in_this_process_and_fills_go_to_the_fillers(
    comfy: Any, lane: str, devices: int
) -> None:
    found, done = crew(lane)
    schedule, kept = made(found)
    assert len(found.names()) == schedule.devices == devices
    assert all(result == job.step for job, result in kept.items())
    for slot in schedule.slots:
        fill = slot.job.step == "fill 1"
        assert slot.device == 0 or fill
        assert not (fill and lane and slot.device == 0)
    for name, job in done:
        assert name.startswith("throughline gpu" if job.step == "fill 1" else "throughline-sch")
    overlaps = [
        (one.job, other.job)
        for one in schedule.slots
        for other in schedule.slots
        if one.job.step == "plan" and other.job.step == "fill 1"
        if one.start < other.end and other.start < one.end
    ]
    assert overlaps, "no plan was made while something was filled"
    by_device: dict[int, list[Any]] = {}
    for slot in schedule.slots:
        by_device.setdefault(slot.device, []).append(slot)
    for slots in by_device.values():
        for before, after in zip(slots, slots[1:], strict=False):
            assert after.start >= before.end - 1e-6


def test_what_is_over_ends_without_a_result(comfy: Any) -> None:
    found, done = crew("", over=lambda job: job.step == "fill 1" and job.segment < 3)
    _, kept = made(found)
    assert [job.segment for job, result in kept.items() if result is None] == [0, 1, 2]
    assert [job.segment for _, job in done if job.step == "fill 1"] == [3]


def test_workers_that_join_late_are_asked_meanwhile(comfy: Any) -> None:
    """Ray's workers start while nothing is filled, and say so when they are waited for."""
    from throughline.nodes.schedule_crew import FilmCrew
    from throughline.runs.threads import Threads

    class Late(Threads[str]):
        asked = 0

        def idle(self) -> Any:
            return super().idle() if self.asked > 3 else ()

        def wait(self, seconds: float) -> Any:
            self.asked += 1
            return super().wait(seconds)

    def work(job: Any) -> str:
        return job.step

    fillers = Late([work], ["worker 1"], threading.Event())
    _, kept = made(FilmCrew(fillers, work, lambda job: False, lambda: None, "this process"))
    assert all(result == job.step for job, result in kept.items())


def test_an_error_of_a_plan_is_the_runs(comfy: Any) -> None:
    from throughline.nodes.schedule_crew import FilmCrew
    from throughline.runs.threads import Threads

    def fail(job: Any) -> None:
        raise ValueError("no such model")

    fillers = Threads([lambda job: None], ["gpu"], threading.Event())
    with pytest.raises(ValueError, match="no such model"):
        made(FilmCrew(fillers, fail, lambda job: False, lambda: None))


def test_parts_move_one_bar_and_stop_with_it(comfy: Any) -> None:
    import comfy.model_management

    from throughline.nodes.schedule_crew import Bars

    bars = Bars()
    first, second = bars.part(4), bars.part(6)
    first.update_absolute(3)
    second.update(5)
    assert (bars._bar.current, bars._bar.total) == (8, 10)
    second.update_absolute(9)
    assert bars._bar.current == 9  # a part is never more than whole
    bars.stop()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        first.update_absolute(4)
