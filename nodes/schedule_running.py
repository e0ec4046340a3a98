"""Runs an Adaptive schedule: plans, fills and decodes as they get ready, measured as they end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import comfy.model_management

from ..adapters.decode import decode_chain
from ..adapters.device_executor import HostLock
from ..planning.forecast import Choice, Goal, calibrate, choose_order, enough_devices, film_bounds
from ..planning.schedule import ORDERS, Costs, FilmJobs, Job, JobGraph, Priority, Slot, Step
from ..planning.schedule_chart import Chart, Timing, playable_at
from ..planning.segments import Segment
from ..runs.clips import write_clip
from ..runs.executor import Crew, Here, run_jobs
from ..runs.film import segment_frames
from ..runs.folder import RunFolder
from ..runs.render import RenderedSegment, SegmentEvent, Status, keep_segment
from ..runs.run import Run, open_run
from ..runs.schedule_file import read_schedule, write_schedule
from ..runs.timings import TimingsFile
from .crews import fill_crew
from .macro_plan import MacroFilm
from .populating import FillRenderer, Population, followed
from .ray_fill import Source
from .rendering import runs_root
from .schedule_crew import FILL, Bars, FilmCrew
from .schedule_renderers import FillProgress, ScheduledPlans, beside_others
from .scheduling import (
    Measured,
    Task,
    executor_of,
    expected_costs,
    finished_jobs,
    from_the_middle,
    why_from_the_middle,
)

MEASURED_ANEW = 2
"""Samples of a step after which the order is chosen again: the first has the loading of the models
in it, later ones are alike."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the artist asks of a schedule. `wait` in seconds and `memory_gb` are 0 for any."""

    goal: Goal = "automatic"
    clips: bool = True
    wait: float = 0.0
    memory_gb: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scheduled:
    """What came of a schedule. `chart` is None for a film that was finished long ago."""

    task: Task
    run: Run
    chart: Chart | None
    planned: int
    filled: int
    start_delay: float
    warnings: tuple[str, ...]


def run_schedule(task: Task, wishes: Wishes) -> Scheduled:
    """Make what the run folders lack of plan, film and clips."""
    began = time.monotonic()
    units, memory_gb = expected_costs(task, wishes.clips), wishes.memory_gb
    why = why_from_the_middle(task, units, memory_gb, wait=0.0)  # before anything is sampled
    if why:
        task = from_the_middle(task, why)
    with _making(task, wishes, began) as making:
        making.measure_first_plan()
        late = "" if why else why_from_the_middle(task, making.costs, memory_gb, wishes.wait)
        if not late:
            return making.run()
    with _making(from_the_middle(task, late), wishes, began) as again:
        again.goes_on_from(making)
        return again.run()


@contextmanager
def _making(task: Task, wishes: Wishes, began: float) -> Iterator[Making]:
    with ExitStack() as stack:
        plans = None
        if task.macro is not None:
            macro = task.macro
            plans = stack.enter_context(_opened(macro, macro.stored, macro.parameters))
        film = task.population.film
        fills = stack.enter_context(_opened(task.population, film.segments, film.parameters))
        yield Making(task, wishes, plans, fills, began)


def _opened(
    what: MacroFilm | Population, segments: tuple[Segment, ...], parameters: dict[str, Any]
) -> RunFolder:
    film = what.film
    return RunFolder.open(runs_root(), film.request.run_name, parameters, segments, fps=film.fps)


class Making:
    """One making of a film by a schedule. Everything but `_work` belongs to the loop's thread."""

    def __init__(
        self,
        task: Task,
        wishes: Wishes,
        plans: RunFolder | None,
        fills: RunFolder,
        began: float,
    ) -> None:
        self._task, self._wishes, self._plans, self._fills = task, wishes, plans, fills
        self._began = began
        self._done = finished_jobs(task.population.plan, fills.run, wishes.clips)
        self._expected = expected_costs(task, wishes.clips)
        self._measured = Measured(task.lengths)
        self._measured.add_run(open_run(task.population.plan.run.path), "plan")
        self._measured.add_run(fills.run, "fill 1")
        self._bars = Bars()
        self._lock = HostLock()
        self._planner = None if task.macro is None else self._plan_renderer(task.macro)
        self._to_fill = frozenset(s.index for s in fills.state() if s.needs_render)
        film = task.population.film
        self._progress = FillProgress(
            task, self._to_fill, self._bars.part(len(self._to_fill) * film.sampler.steps)
        )
        self._filler: FillRenderer | None = None
        self._names: tuple[str, ...] = (Here(self._work).names()[0],)
        self._fits: Any = lambda job, device: True
        self._choice: Choice | None = None
        self._rank: Priority = lambda job: (0.0,)
        self._reasons = {state.index: state.reason for state in fills.state()}
        self._made: set[Job] = set()
        self._refused: tuple[str, ...] = ()
        folders = {"plan": plans, FILL: fills}
        self._timings = {
            step: TimingsFile(folder.path, ()) for step, folder in folders.items() if folder
        }
        self.slots: list[Slot] = []

    @property
    def costs(self) -> Costs:
        """As far as they are known: seconds, if any is measured."""
        return calibrate(self._expected, self._measured.samples)

    def measure_first_plan(self) -> None:
        """Make the first plan that is missing where none has been measured with these settings."""
        if self._plans is None or "plan" in self._measured.samples:
            return
        graph = self._jobs().graph()
        first = next((job for job in graph.order() if job.step == "plan"), None)
        if first is not None and not graph.after.get(first):
            self._loop(JobGraph({first: graph.seconds[first]}, {}), Here(self._work))

    def goes_on_from(self, before: Making) -> None:
        """Count what was made and measured before segments were decided anew."""
        self.slots = before.slots
        self._measured.samples.update(before._measured.samples)

    def run(self) -> Scheduled:
        """Make everything that is left."""
        jobs = self._jobs()
        graph = replace(jobs, done=jobs.done | self._made).graph()
        if graph.seconds:
            self._report_reused()
            crew = self._crew(graph)
            self._names = tuple(crew.names()) or self._names
            self._choose()
            self._write(running=True)
            try:
                self._loop(graph, crew)
            finally:
                self._write(running=False)
            self._refused = tuple(getattr(crew, "refused", ()))
        chart = self.chart(running=False) if self.slots else read_schedule(self._fills.path)
        counts = [sum(slot.job.step == step for slot in self.slots) for step in ("plan", FILL)]
        return Scheduled(
            task=self._task,
            run=self._fills.run,
            chart=chart,
            planned=counts[0],
            filled=counts[1],
            start_delay=0.0 if self._choice is None else self._choice.expected.start_delay,
            warnings=(*self._refused, *self._task.population.film.warnings),
        )

    def chart(self, running: bool) -> Chart:
        """What is expected of the whole, and what has happened of it."""
        film, devices = self._jobs(), len(self._names)
        if self._choice is None:
            self._choose()
        assert self._choice is not None
        expected = self._choice.expected
        last: Step = "decode" if self._wishes.clips else FILL
        return Chart(
            segments=self._task.segments,
            devices=self._names,
            seed_from=self._task.seed_from,
            order=self._choice.order,
            reason=self._choice.reason,
            costs=film.costs,
            measured=self._measured.steps,
            bounds=film_bounds(film, devices),
            enough_devices=enough_devices(film.costs, film.seed_from),
            predicted=Timing(slots=expected.schedule.slots, first_footage=expected.first_footage),
            actual=Timing(
                slots=tuple(self.slots),
                first_footage=0.0
                if Job(0, last) in self._done
                else playable_at(tuple(self.slots), last),
            ),
            running=running,
        )

    def _jobs(self) -> FilmJobs:
        """What was to be done at the beginning, with the costs as they are known now."""
        return FilmJobs(
            costs=self.costs,
            lengths=self._task.lengths,
            seed_from=self._task.seed_from,
            cuts=self._task.cuts,
            done=self._done,
        )

    def _choose(self) -> None:
        film, plan = self._jobs(), self._task.population.plan
        plays = [frames / plan.fps for frames in segment_frames(self._fills.run, plan.grid)]
        self._choice = choose_order(
            film,
            len(self._names),
            plays,
            self._wishes.goal,
            self._task.one_model,
            self._fits,
        )
        self._rank = ORDERS[self._choice.order](film.graph())

    def _crew(self, graph: JobGraph) -> Crew[Any]:
        executor = executor_of(self._task)
        if executor.kind == "this process" or not any(job.step == FILL for job in graph.seconds):
            return Here(self._work)
        fills = self._task.fills
        fillers = fill_crew(
            executor,
            self._task.population,
            self._to_fill,
            self._progress.step,
            Source(prompt=fills.prompt, node_id=fills.node_id),
            self._lock,
        )
        own = "" if executor.kind == "devices of this machine" else self._names[0]
        crew = FilmCrew(fillers, self._work, self._is_over, self._bars.stop, own)
        self._fits = crew.fits
        return crew

    def _loop(self, graph: JobGraph, crew: Crew[Any]) -> None:
        offset = time.monotonic() - self._began

        def keep(slot: Slot, result: Any) -> None:
            self._names = tuple(crew.names())
            at = replace(slot, start=slot.start + offset, end=slot.end + offset)
            self._keep(at, result)

        run_jobs(
            graph,
            lambda graph: lambda job: self._rank(job),
            crew,
            keep,
            self._tell,
            comfy.model_management.throw_exception_if_processing_interrupted,
            fits=self._fits,
        )

    def _is_over(self, job: Job) -> bool:
        """Whether a job turned out to need nothing: what it follows came out as before."""
        folder = {"plan": self._plans, FILL: self._fills}.get(job.step)
        return folder is not None and not folder.state()[job.segment].needs_render

    def _work(self, job: Job) -> Any:
        """Do a job in this process. None where there is nothing to do."""
        if self._is_over(job):
            return None
        with self._lock.held():
            return self._do(job)

    def _do(self, job: Job) -> Any:
        population = self._task.population
        if job.step == FILL:
            if self._filler is None:
                self._filler = FillRenderer(population, self._to_fill, self._progress.step)
            return self._filler.fill(job.segment)
        if job.step == "decode":
            vae = population.film.request.vae
            run = open_run(self._fills.path)
            return write_clip(run, job.segment, partial(decode_chain, vae), population.plan.grid)
        assert self._planner is not None
        if job.step == "hand-off":
            return self._planner.hand_off(job.segment + 1)
        return self._planner.plan(job.segment)

    def _keep(self, slot: Slot, result: Any) -> None:
        job, seconds = slot.job, slot.end - slot.start
        if job.step == "hand-off":
            assert self._planner is not None
            self._planner.ready[job.segment + 1] = result
        if job.step == "plan":
            self._keep_plan(job.segment, result, seconds)
        if job.step == FILL and result is not None:
            segment = self._task.population.film.segments[job.segment]
            keep_segment(self._fills, segment, result, seconds)
        if result is None:
            return
        self.slots.append(slot)
        self._made.add(job)
        if job.step in self._timings:
            self._timings[job.step].add(slot, self._names)
        if self._measured.add(job, seconds) <= MEASURED_ANEW:
            self._choose()
        self._write(running=True)

    def _keep_plan(self, index: int, result: RenderedSegment | None, seconds: float) -> None:
        """Put a plan on disk; its fill follows it from now on."""
        assert self._plans is not None and self._task.macro is not None
        if result is not None:
            keep_segment(self._plans, self._task.macro.stored[index], result, seconds)
        content = self._plans.run.segments[index].content
        one = self._task.population.plan.segments[index]
        self._fills.follow(index, followed(one, content))

    def _write(self, running: bool) -> None:
        write_schedule(self._fills.path, self.chart(running))

    def _tell(self, job: Job, status: Status, reason: str) -> None:
        why = reason
        if job.step == FILL:
            segment = self._task.population.film.segments[job.segment]
            why = reason or self._reasons[job.segment] if status == "running" else reason
            self._progress.report(SegmentEvent(segment=segment, status=status, reason=why))
        elif job.step == "plan" and self._planner is not None and self._task.macro is not None:
            segment = self._task.macro.stored[job.segment]
            self._planner.report(SegmentEvent(segment=segment, status=status, reason=why))

    def _report_reused(self) -> None:
        for state in self._fills.state():
            if not state.needs_render:
                segment = self._task.population.film.segments[state.index]
                self._progress.report(SegmentEvent(segment=segment, status="reused"))

    def _plan_renderer(self, macro: MacroFilm) -> ScheduledPlans:
        assert self._plans is not None
        to_make = frozenset(s.index for s in self._plans.state() if s.needs_render)
        bar = self._bars.part(len(to_make) * macro.film.sampler.steps)
        moved = beside_others(macro, self._lock)
        return ScheduledPlans(moved, self._task, self._plans, to_make, bar)
