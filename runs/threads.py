"""Several devices of this machine: a thread for each job, one job at a time on each device."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

from ..planning.schedule import Job
from .executor import Ended

R = TypeVar("R")


class Threads(Generic[R]):
    """A crew of threads: `work[i]` does a job on device `i`, called `names[i]`.

    Work must end soon after `stopping` is set, which `stop` does. Each job runs in a copy of the
    caller's context variables and inside `around()`.
    """

    def __init__(
        self,
        work: Sequence[Callable[[Job], R]],
        names: Sequence[str],
        stopping: threading.Event,
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        assert len(work) == len(names)
        self._work, self._names = tuple(work), tuple(names)
        self._stopping, self._around = stopping, around
        self._running: dict[int, threading.Thread] = {}
        self._ended: queue.SimpleQueue[Ended[R]] = queue.SimpleQueue()

    def names(self) -> Sequence[str]:
        return self._names

    def idle(self) -> Sequence[int]:
        return tuple(i for i in range(len(self._work)) if i not in self._running)

    def start(self, device: int, job: Job) -> None:
        thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._do, device, job),
            name=f"throughline {self._names[device]}",
            daemon=True,
        )
        self._running[device] = thread
        thread.start()

    def wait(self, seconds: float) -> Sequence[Ended[R]]:
        ended = []
        try:
            ended.append(self._ended.get(timeout=seconds))
            while True:
                ended.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        for one in ended:
            self._running.pop(one.device).join()
        return ended

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._running.values():
            thread.join()

    def _do(self, device: int, job: Job) -> None:
        try:
            with self._around():
                result = self._work[device](job)
            self._ended.put(Ended(device=device, job=job, result=result))
        except BaseException as error:  # the host's interruption is no Exception
            self._ended.put(Ended(device=device, job=job, error=error))
