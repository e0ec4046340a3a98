"""Jobs on devices: the scheduler says which job goes next, a crew says where it runs.

One interface for all the ways to run the jobs of a film with equal results: in this process
(`Here`), on several devices of this machine (`runs/threads.py`), on a Ray cluster
(`runs/ray_crew.py`). The loop `run_jobs` is Graham's list scheduling (planning/schedule.py) on a
clock that runs: whenever a device is idle it gets the ready job that goes first. So devices may
join and leave, and what a lost one leaves behind runs elsewhere. Results come back to the loop's
own thread, one after the other; only there anything is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from ..planning.schedule import ORDERS, Job, JobGraph, Priority, Schedule, Slot
from .render import THIS_PROCESS, Status, reason_of

Kind = Literal["this process", "devices of this machine", "Ray cluster"]
KINDS: tuple[Kind, ...] = ("this process", "devices of this machine", "Ray cluster")

MOST_DEVICES = 64
"""A film's speed-up ends long before (K* is 4 for the 14B model, section 9)."""

TICK = 0.05
"""Seconds between two looks at an interruption: less than any sampler step worth waiting for."""

ATTEMPTS = 3
"""A job that took this many devices down is at fault itself, most likely for lack of memory."""

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Executor:
    """The value of TL_EXECUTOR: where jobs run. `devices` 0 means as many as there are; `address`
    is a Ray cluster's, empty for one that is started on this machine."""

    kind: Kind = "this process"
    devices: int = 0
    order: str = next(iter(ORDERS))
    address: str = ""

    def __post_init__(self) -> None:
        for name, value, accepted in (("run_on", self.kind, KINDS), ("order", self.order, ORDERS)):
            if value not in accepted:
                raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {value!r}")
        if not 0 <= self.devices <= MOST_DEVICES:
            raise ValueError(f"devices must be 0 to {MOST_DEVICES}, got {self.devices}")


@dataclass(frozen=True, kw_only=True)
class Ended(Generic[R_co]):
    """A job that is over on its device: with a result, with an error, or `lost` together with the
    device, for the reason given."""

    device: int
    job: Job
    result: R_co | None = None
    error: BaseException | None = None
    lost: str = ""


class Crew(Protocol[R_co]):
    """Devices that do one job at a time. All methods are called by one thread."""

    def names(self) -> Sequence[str]:
        """What the devices are called, in the order of their numbers. Only ever grows."""

    def idle(self) -> Sequence[int]:
        """The devices that would take a job now. Raises when none ever will again."""

    def start(self, device: int, job: Job) -> None:
        """Give an idle device a job."""

    def wait(self, seconds: float) -> Sequence[Ended[R_co]]:
        """What has ended, after at most about `seconds` when nothing has."""

    def stop(self) -> None:
        """Break off what runs, within a sampler step, and let go of the devices."""


class Here(Generic[R]):
    """This process as the one device: a job runs while the loop waits for it."""

    def __init__(self, work: Callable[[Job], R], name: str = THIS_PROCESS) -> None:
        self._work, self._name = work, name
        self._job: Job | None = None

    def names(self) -> Sequence[str]:
        return (self._name,)

    def idle(self) -> Sequence[int]:
        return (0,) if self._job is None else ()

    def start(self, device: int, job: Job) -> None:
        self._job = job

    def wait(self, seconds: float) -> Sequence[Ended[R]]:
        if self._job is None:
            return ()
        job, self._job = self._job, None
        try:
            return (Ended(device=0, job=job, result=self._work(job)),)
        except BaseException as error:  # the host's interruption is no Exception
            return (Ended(device=0, job=job, error=error),)

    def stop(self) -> None:
        """Nothing runs beside the loop."""


class JobError(RuntimeError):
    """A job that no device could do."""


Tell = Callable[[Job, Status, str], None]
"""Told what becomes of a job, with a reason where there is one."""


def run_jobs(
    graph: JobGraph,
    order: Callable[[JobGraph], Priority],
    crew: Crew[R],
    keep: Callable[[Slot, R], None],
    tell: Tell = lambda job, status, reason: None,
    check: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
    fits: Callable[[Job, int], bool] = lambda job, device: True,
) -> Schedule:
    """Run every job of `graph` on `crew`; gives when each ran, in seconds from the call.

    `keep` is called with each result as it comes; `check` often: it raises when the user
    interrupts. `fits(job, device)` is false where a device cannot do a job. The order is asked for
    each choice anew, so that it may follow what has been measured meanwhile. An error of a job ends
    the run, after what still runs on other devices has ended and is kept; then it is raised.
    Interruption, and an error of `keep`, break off what runs.
    """
    state = _State(graph, order(graph))
    running: dict[int, tuple[Job, float]] = {}
    slots: list[Slot] = []
    began = clock()
    failure: Exception | None = None
    try:
        while running or (state.ready and failure is None):
            check()
            for device in crew.idle() if failure is None else ():
                job = None if device in running else state.take(device, fits)
                if job is not None:
                    running[device] = job, clock() - began
                    tell(job, "running", "")
                    crew.start(device, job)
            if state.ready and not running and failure is None:
                state.require_device(len(crew.names()), fits)
            for ended in crew.wait(TICK):
                job, start = running[ended.device]
                if ended.error is not None and not isinstance(ended.error, Exception):
                    raise ended.error  # the host's interruption
                del running[ended.device]
                if ended.lost:
                    tell(job, "waiting", ended.lost)
                    failure = state.give_back(job, ended.lost) or failure
                elif ended.error is not None:
                    tell(job, "failed", reason_of(ended.error))
                    failure = failure or ended.error
                else:
                    slot = Slot(start, clock() - began, ended.device, job)
                    keep(slot, ended.result)  # type: ignore[arg-type]  # no error: a result
                    tell(job, "done", "")
                    slots.append(slot)
                    state.finish(job)
    except BaseException as error:
        for job, _ in running.values():
            tell(job, "failed", reason_of(error))
        raise
    finally:
        crew.stop()
    if failure is not None:
        raise failure
    return Schedule(tuple(sorted(slots)), len(crew.names()))


class _State:
    """The jobs that are left: those that wait for others, and those that are ready."""

    def __init__(self, graph: JobGraph, priority: Priority) -> None:
        self._priority = priority
        self._waiting = {job: set(graph.after.get(job, ())) for job in graph.order()}
        self.ready = [job for job, before in self._waiting.items() if not before]
        self._attempts: dict[Job, int] = {}

    def take(self, device: int, fits: Callable[[Job, int], bool]) -> Job | None:
        """The ready job that goes first of those that fit the device."""
        fitting = [job for job in self.ready if fits(job, device)]
        if not fitting:
            return None
        job = min(fitting, key=lambda job: (self._priority(job), job))
        self.ready.remove(job)
        return job

    def require_device(self, devices: int, fits: Callable[[Job, int], bool]) -> None:
        """Raise JobError where no device there is can do any ready job."""
        job = self.ready[0]
        if devices and not any(fits(one, i) for one in self.ready for i in range(devices)):
            raise JobError(f"{job.step} of segment {job.segment + 1} fits on no device")

    def give_back(self, job: Job, reason: str) -> JobError | None:
        """A job whose device is lost is ready again, or an error when that came too often."""
        self._attempts[job] = self._attempts.get(job, 0) + 1
        if self._attempts[job] >= ATTEMPTS:
            return JobError(
                f"{job.step} of segment {job.segment + 1} was lost with {ATTEMPTS} workers, the "
                f"last time because: {reason}"
            )
        self.ready.append(job)
        return None

    def finish(self, job: Job) -> None:
        for other, before in self._waiting.items():
            if job in before:
                before.remove(job)
                if not before:
                    self.ready.append(other)
