"""A crew of workers on a Ray cluster: processes that Ray places, watches and starts again.

Each worker is an actor that takes one unit of the cluster (runs/ray_cluster.py). Ray decides on
which machine it runs, waits for room, and starts it again when its process dies; the loop of
runs/executor.py decides what it does, so that the order stays the scheduler's. A worker owns
nothing: it is sent what a job needs and sends back what it made. So a worker that is killed, or has
no room on its disk, costs the job that it had in hand, and workers may come and go.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..planning.schedule import Job
from .executor import ATTEMPTS, Ended, JobError
from .ray_cluster import Cluster
from .ray_worker import worker_class

R = TypeVar("R")

START_SECONDS = 600.0
"""A worker loads ComfyUI and its models first; longer than that without any worker is an error."""

LOOK_SECONDS = 3.0
"""Between two looks for machines that joined, and two tries with a worker that died."""

CALLS_AT_ONCE = 3
"""A worker works, tells of its steps, and answers at the same time."""


@dataclass(frozen=True, kw_only=True)
class Duty(Generic[R]):
    """What the workers of a crew do; the functions run in this process but for `boot`.

    `boot` is sent to each worker by value and must import what it needs itself. It gives an object
    with `prepare(brief) -> dict` and `work(order, tell) -> dict`, whose `tell` passes plain data on
    to `hear` while it works. `accept` refuses a worker by what `prepare` gave: ValueError says why.
    """

    boot: Callable[[], Any]
    brief: Callable[[], Any]
    accept: Callable[[dict[str, Any]], None]
    order: Callable[[Job], Any]
    receive: Callable[[dict[str, Any]], R]
    hear: Callable[[Any], None]


@dataclass(kw_only=True)
class _Worker:
    """`state` is "starting", "idle", "busy", or "gone" for good; `call` is what it is doing."""

    number: int
    actor: Any
    state: str = "starting"
    call: Any = None
    telling: Any = None
    job: Job | None = None
    host: str = ""
    again: float = 0.0
    deaths: int = 0


class RayCrew(Generic[R]):
    """Workers on `cluster`: `workers` of them, 0 for as many as there is room for at any time."""

    def __init__(
        self,
        cluster: Cluster,
        workers: int,
        duty: Duty[R],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster, self._ray, self._duty = cluster, cluster.ray, duty
        self._wanted, self._clock = workers, clock
        self._workers: list[_Worker] = []
        self._began = self._looked = clock()
        self._class = self._ray.remote(worker_class())
        self.refused: list[str] = []
        for _ in range(workers or cluster.slots()):
            self._hire()

    def names(self) -> Sequence[str]:
        return [self._name(worker) for worker in self._workers]

    def idle(self) -> Sequence[int]:
        self._look_around()
        states = {worker.state for worker in self._workers}
        if not states & {"starting", "idle", "busy"}:
            raise JobError("no worker is left: " + ("; ".join(self.refused) or "none was there"))
        waited = self._clock() - self._began
        if states <= {"starting", "gone"} and waited > START_SECONDS:
            raise JobError(f"no worker of the Ray cluster was ready after {waited:.0f} s")
        return [worker.number for worker in self._workers if worker.state == "idle"]

    def start(self, device: int, job: Job) -> None:
        worker = self._workers[device]
        worker.state, worker.job = "busy", job
        worker.call = worker.actor.work.remote(self._duty.order(job))
        worker.telling = worker.actor.told.remote()

    def wait(self, seconds: float) -> Sequence[Ended[R]]:
        calls = {
            call: worker
            for worker in self._workers
            for call in (worker.call, worker.telling)
            if call is not None
        }
        if not calls:
            time.sleep(seconds)
            return ()
        done, _ = self._ray.wait(list(calls), num_returns=1, timeout=seconds)
        ended = [self._answered(calls[call], call == calls[call].telling) for call in done]
        return [one for one in ended if one is not None]

    def stop(self) -> None:
        """Ends the workers' processes: what they had in hand is gone at once."""
        with suppress(Exception):  # a cluster that is gone has ended them, and the error is told
            for worker in self._workers:
                self._ray.kill(worker.actor, no_restart=True)
        self._cluster.close()

    def _hire(self) -> None:
        options = {
            **self._cluster.options(),
            "max_restarts": -1,
            "max_task_retries": 0,
            "max_concurrency": CALLS_AT_ONCE,
        }
        actor = self._class.options(**options).remote()
        worker = _Worker(number=len(self._workers), actor=actor)
        self._workers.append(worker)
        self._call_in(worker)

    def _call_in(self, worker: _Worker) -> None:
        worker.state, worker.job, worker.telling = "starting", None, None
        worker.call = worker.actor.start.remote(self._duty.boot, self._duty.brief())
        worker.again = 0.0

    def _look_around(self) -> None:
        """Call in workers that Ray has started again, and more where machines have joined."""
        now = self._clock()
        for worker in self._workers:
            if worker.state == "starting" and worker.call is None and now >= worker.again:
                self._call_in(worker)
        if self._wanted or now < self._looked + LOOK_SECONDS:
            return
        self._looked = now
        here = sum(worker.state != "gone" for worker in self._workers)
        for _ in range(self._cluster.slots() - here - len(self.refused)):
            self._hire()

    def _answered(self, worker: _Worker, telling: bool) -> Ended[R] | None:
        try:
            if telling:
                self._listen(worker)
                return None
            answer = self._ray.get(worker.call)
            worker.call = None
            if worker.state == "starting":
                self._started(worker, answer)
                return None
            while worker.telling is not None:
                self._listen(worker)
            return self._worked(worker, answer)
        except self._ray.exceptions.RayActorError as error:
            return self._died(worker, error)

    def _listen(self, worker: _Worker) -> None:
        """Pass on what a worker has told, and ask for more until it has told all."""
        said = self._ray.get(worker.telling)
        worker.telling = None if None in said else worker.actor.told.remote()
        for one in said:
            if one is not None:
                self._duty.hear(one)

    def _died(self, worker: _Worker, error: Exception) -> Ended[R] | None:
        """Its process is gone. Ray starts another, which is called in like a new one."""
        job = worker.job if worker.state == "busy" else None
        worker.state, worker.call, worker.telling, worker.job = "starting", None, None, None
        worker.again = self._clock() + LOOK_SECONDS
        worker.deaths += 1
        if worker.deaths >= ATTEMPTS:
            self._refuse(worker, f"it died {ATTEMPTS} times in a row")
        if job is None:
            return None
        reason = f"{self._name(worker)} died"
        logging.warning("%s while it made segment %d: %s", reason, job.segment + 1, error)
        return Ended(device=worker.number, job=job, lost=reason)

    def _started(self, worker: _Worker, answer: dict[str, Any]) -> None:
        worker.host = str(answer.get("host", ""))
        try:
            if "error" in answer:
                raise ValueError(answer["error"])
            self._duty.accept(answer["facts"])
        except ValueError as error:
            self._refuse(worker, str(error))
            return
        worker.state = "idle"

    def _worked(self, worker: _Worker, answer: dict[str, Any]) -> Ended[R]:
        job, worker.job, worker.state, worker.deaths = worker.job, None, "idle", 0
        assert job is not None
        if "lost" in answer:
            self._refuse(worker, answer["lost"])
            return Ended(device=worker.number, job=job, lost=self.refused[-1])
        if "error" in answer:
            error = JobError(f"{self._name(worker)}: {answer['error']}")
            return Ended(device=worker.number, job=job, error=error)
        return Ended(device=worker.number, job=job, result=self._duty.receive(answer["made"]))

    def _refuse(self, worker: _Worker, why: str) -> None:
        """This worker gets no more work; the others go on."""
        worker.state, worker.telling = "gone", None
        self.refused.append(f"{self._name(worker)} was refused: {why}")
        logging.warning("%s", self.refused[-1])
        self._ray.kill(worker.actor, no_restart=True)

    @staticmethod
    def _name(worker: _Worker) -> str:
        host = f" on {worker.host}" if worker.host else ""
        return f"worker {worker.number + 1}{host}"
