"""Who does the jobs of a schedule: a crew that fills, and this process for everything else."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from ..planning.schedule import Job, Step
from ..runs.executor import Crew, Ended
from ..runs.render import RenderedSegment

FILL: Step = "fill 1"
"""A fill is one job, whatever it is made of."""


class FilmCrew:
    """Fills go to `fillers`; plans, hand-offs and decodes are done by `work` in one thread of this
    process, on a device of its own called `own`, or, without a name, on the first of the fillers'.

    Jobs that are `over` already end as soon as they are started, without a result.
    """

    def __init__(
        self,
        fillers: Crew[RenderedSegment],
        work: Callable[[Job], Any],
        over: Callable[[Job], bool],
        stop: Callable[[], None],
        own: str = "",
    ) -> None:
        self._fillers, self._work, self._over, self._break_off = fillers, work, over, stop
        self._own, self._shift = own, 1 if own else 0
        self._thread = ThreadPoolExecutor(1, "throughline-schedule")
        self._here: tuple[Job, Future[Any]] | None = None
        self._ended: list[Ended[Any]] = []
        self._filling = 0

    def names(self) -> Sequence[str]:
        names = tuple(self._fillers.names())
        return (self._own, *names) if self._own else names

    @property
    def refused(self) -> Sequence[str]:
        """Why fillers that were there got no work."""
        return tuple(getattr(self._fillers, "refused", ()))

    def idle(self) -> Sequence[int]:
        fillers = [device + self._shift for device in self._fillers.idle()]
        if self._here is not None:
            return [device for device in fillers if device != 0]
        return [0, *fillers] if self._own else fillers

    def fits(self, job: Job, device: int) -> bool:
        """Fills need a filler; everything else is done where the planner and the VAE are."""
        return device >= self._shift if job.step == FILL else device == 0

    def start(self, device: int, job: Job) -> None:
        if self._over(job):
            self._ended.append(Ended(device=device, job=job))
        elif job.step == FILL:
            self._filling += 1
            self._fillers.start(device - self._shift, job)
        else:
            context = contextvars.copy_context()
            self._here = job, self._thread.submit(context.run, self._do, job)

    def _do(self, job: Job) -> Any:
        with torch.inference_mode():  # torch keeps it by thread
            return self._work(job)

    def wait(self, seconds: float) -> Sequence[Ended[Any]]:
        ended, self._ended = self._ended, []
        patience = 0.0 if ended else seconds
        if self._here is not None and not self._filling:
            wait([self._here[1]], timeout=patience)
            patience = 0.0
        ended += self._filled(patience)  # asked always: workers join in there, too
        if self._here is not None and self._here[1].done():
            (job, future), self._here = self._here, None
            error = future.exception()
            result = None if error is not None else future.result()
            ended.append(Ended(device=0, job=job, result=result, error=error))
        return ended

    def _filled(self, seconds: float) -> list[Ended[Any]]:
        found = self._fillers.wait(seconds)
        self._filling -= len(found)
        return [replace(one, device=one.device + self._shift) for one in found]

    def stop(self) -> None:
        self._break_off()
        self._fillers.stop()
        self._thread.shutdown(wait=True)


class Bars:
    """One progress bar over several, which may be moved by several threads."""

    def __init__(self) -> None:
        self._bar = comfy.utils.ProgressBar(1)
        self._parts: list[PartOfBar] = []
        self._lock = threading.Lock()
        self._stopped = False

    def part(self, steps: int) -> PartOfBar:
        part = PartOfBar(self, max(1, steps))
        self._parts.append(part)
        return part

    def stop(self) -> None:
        """Whoever moves a part from now on is interrupted."""
        self._stopped = True

    def show(self, preview: Any) -> None:
        if self._stopped:
            raise comfy.model_management.InterruptProcessingException
        with self._lock:
            done, steps = (sum(getattr(part, name) for part in self._parts) for name in _COUNTED)
            self._bar.update_absolute(done, steps, preview)


_COUNTED = ("current", "total")


class PartOfBar(comfy.utils.ProgressBar):
    """A bar that moves as a part of another."""

    def __init__(self, whole: Bars, steps: int) -> None:
        super().__init__(steps)
        self._whole = whole

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        """`total` stays what it was."""
        self.current = min(value, self.total)
        self._whole.show(preview)
