"""What an Adaptive schedule decides: what is to be done, its costs, where segments start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..adapters.peaks import GUIDED, device_bytes, step_bytes, weight_bytes
from ..planning.forecast import choose_seed_from
from ..planning.layout import middle_anchors
from ..planning.schedule import Costs, Job, SeedFrom, Step
from ..runs.clips import clip_path
from ..runs.executor import Executor
from ..runs.run import Run, open_run
from ..runs.timings import read_timings
from .macro_plan import SEEDS_FROM, MacroFilm, leave_plan, plan_macro
from .plan_value import Fills, Plan, PromisedPlan
from .populating import SPARSE, Population, plan_population

if TYPE_CHECKING:
    from .film import Film

MMPL_FILLS = (0.98, 1.22)
"""Work of MMPL's two fills against its plan, 14B at 480p (section 5.3 of the shared design
`macro-micro-planning.md`, computed)."""

VAE_WORK = {"hand-off": 0.01, "decode": 0.04}
"""Against a plan of MMPL: 10 to 15 of its 139 s decode 21 latent frames and encode as many (section
12, inferred); the short hand-off takes a fifth of that or less. Only until they are measured."""

PICTURES = 0.01
"""Work of a plan that is made of pictures, against one that is sampled: they are only encoded."""

GIB = 2.0**30

MIDDLE = next(name for name, seed in SEEDS_FROM.items() if seed == "middle")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a schedule is to make: a plan, unless it is finished (no `macro`), and its fills."""

    fills: Fills
    macro: MacroFilm | None
    population: Population
    seeding: str = "as planned"

    @property
    def segments(self) -> int:
        return len(self.population.plan.segments)

    @property
    def seed_from(self) -> SeedFrom:
        return self.population.plan.seed_from

    @property
    def one_model(self) -> bool:
        """Whether plans and fills are made by one model, so that none is exchanged."""
        own = self.population.film.parameters["model"]
        return self.macro is None or self.macro.film.parameters["model"] == own

    @property
    def lengths(self) -> tuple[float, ...]:
        """Of each segment against the longest."""
        kept = [one.kept_latent_frames for one in self.population.plan.segments]
        return tuple(count / max(kept) for count in kept)

    @property
    def cuts(self) -> frozenset[int]:
        """Segments that do not start from the one before."""
        segments = self.population.plan.segments
        return frozenset(i for i, one in enumerate(segments) if i and one.segment.start != "tail")


def read_task(fills: object) -> Task:
    """What the populate node left. Writes nothing but the plan's manifest. Raises ValueError naming
    input, rule and value."""
    if not isinstance(fills, Fills):
        raise ValueError(
            f"fills must come from a Populate segments node, got {type(fills).__name__}"
        )
    plan: object = fills.inputs["plan"]
    if isinstance(plan, PromisedPlan):
        return _promised(fills, plan, plan.inputs, "as planned")
    population = plan_population(fills.inputs, scheduled=True)
    return Task(fills=fills, macro=None, population=population)


def from_the_middle(task: Task, reason: str) -> Task:
    """The task with segments that start from the middle anchors of those before, where the layout
    has any for it. Opens the plan's run folder."""
    plan = task.population.plan
    assert isinstance(plan, PromisedPlan)
    inputs = {**plan.inputs, "seed_from": MIDDLE}
    try:
        plan_macro(inputs)
    except ValueError as error:
        return replace(task, seeding=f"as planned, though {reason}: {error}")
    return _promised(task.fills, plan, inputs, f"chosen here, since {reason}")


def _promised(fills: Fills, plan: PromisedPlan, inputs: Mapping[str, Any], seeding: str) -> Task:
    macro = plan_macro(inputs)
    current = leave_plan(macro, inputs, plan.node_id)
    population = plan_population({**fills.inputs, "plan": current}, scheduled=True)
    return Task(fills=fills, macro=macro, population=population, seeding=seeding)


def expected_costs(task: Task, clips: bool) -> Costs:
    """What the steps of the longest segment will take against each other, before any is measured.

    Sampling is taken as weights times latent cells times steps times branches: attention is left
    out, and what is measured replaces it soon.
    """
    population = task.population
    longest = max(population.plan.segments, key=lambda one: one.kept_latent_frames)
    frames = longest.kept_latent_frames
    plan = fill = _work(population.film, frames)
    if task.macro is not None:
        whole = longest.layout.latent_frames
        planned = len(longest.layout.anchors) if task.macro.planner == "sparse" else whole
        plan = _work(task.macro.film, planned)
        if task.macro.planner == "pictures":
            plan *= PICTURES
    if population.filler == SPARSE:
        first, second = MMPL_FILLS
        groups = first + (second if longest.fill_groups > 1 else 0.0)
        fill = groups * _work(population.film, len(longest.layout.anchors))
    return Costs(
        plan=1.0,
        fill_1=fill / plan,
        hand_off=VAE_WORK["hand-off"],
        decode=VAE_WORK["decode"] if clips else 0.0,
    )


def _work(film: Film, latent_frames: int) -> float:
    _, _, _, rows, columns = film.latent_shape(film.segments[0])
    cells = latent_frames * rows * columns
    branches = 1 if film.request.cfg == 1.0 else GUIDED
    return weight_bytes(film.request.model) * cells * film.sampler.steps * branches


def peaks(task: Task) -> dict[Step, float]:
    """GiB of a sampler step beside the weights: of a plan, of a fill up to the middle, and of one
    of the whole segment."""
    longest = max(task.population.plan.segments, key=lambda one: one.layout.latent_frames)
    whole = longest.layout.latent_frames
    middle = min(whole, middle_anchors(whole)[-1] + 1)
    fill = task.population.film
    found: dict[Step, float] = {
        "plan": 0.0,
        "fill 1": _peak(fill, middle),
        "fill 2": _peak(fill, whole),
    }
    if task.macro is not None and task.macro.planner != "pictures":
        sparse = task.macro.planner == "sparse"
        found["plan"] = _peak(task.macro.film, len(longest.plan_ids) if sparse else whole)
    return found


def _peak(film: Film, latent_frames: int) -> float:
    _, channels, _, rows, columns = film.latent_shape(film.segments[0])
    batch = 1 if film.request.cfg == 1.0 else GUIDED
    return step_bytes(film.request.model, (batch, channels, latent_frames, rows, columns)) / GIB


def why_from_the_middle(task: Task, costs: Costs, memory_gb: float, wait: float) -> str:
    """Why segments should start from the middle anchors of those before: memory (GiB, 0 is what the
    device has) or the seconds until something can be played (0 is any). Empty where they need not.

    Raises ValueError where nothing fits into a given `memory_gb`.
    """
    if task.macro is None or task.seed_from == "middle":
        return ""
    budget = memory_gb or device_bytes(task.population.film.request.model) / GIB
    needed = peaks(task)
    try:
        chosen = choose_seed_from(needed, budget, costs, wait or None)
    except ValueError:
        if memory_gb:
            raise ValueError(
                f"memory_gb: a plan and a fill up to the middle of a segment need "
                f"{max(needed['plan'], needed['fill 1']):.1f}, got {memory_gb:g}"
            ) from None
        return ""  # core may yet find a way; nobody said that it must fit
    if chosen == "terminal":
        return ""
    if needed["fill 2"] > budget:
        return f"a whole segment needs {needed['fill 2']:.1f} GiB, and there are {budget:.1f}"
    return f"a plan and its fill take more than {wait:g} s"


@dataclass(eq=False)
class Measured:
    """Seconds of each step for a segment of length 1, in the order in which they were taken."""

    lengths: Sequence[float]
    samples: dict[Step, list[float]] = field(default_factory=dict)

    def add(self, job: Job, seconds: float) -> int:
        """Take a sample; gives how many there are of this step now."""
        length = 1.0 if job.step == "hand-off" else self.lengths[job.segment]
        taken = self.samples.setdefault(job.step, [])
        taken.append(seconds / length)
        return len(taken)

    def add_run(self, run: Run, step: Step) -> None:
        """What the finished segments of a run took when they were made, with these settings: those
        of the last making behind earlier ones, in the order of their starts."""
        timings = read_timings(run.path)
        starts = {slot.job.segment: slot.start for slot in timings.slots} if timings else {}
        for record in sorted(run.segments, key=lambda one: starts.get(one.index, -1.0)):
            if record.finished and record.seconds:
                self.add(Job(record.index, step), record.seconds)

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self.samples)


def executor_of(task: Task) -> Executor:
    """Where the populate node fills."""
    given: object = task.fills.inputs.get("executor")
    return given if isinstance(given, Executor) else Executor()


def finished_jobs(plan: Plan, made: Run, clips: bool) -> frozenset[Job]:
    """What is on disk: of a plan with its folder as it is now, of its fills, and their clips."""
    done: set[Job] = set()
    for record in open_run(plan.run.path).segments:
        if record.finished:
            done.add(Job(record.index, "plan"))
            if record.start == "tail":
                done.add(Job(record.index - 1, "hand-off"))
    for record in made.segments:
        if record.finished:
            done.add(Job(record.index, "fill 1"))
            if clips and clip_path(made, record).is_file():
                done.add(Job(record.index, "decode"))
    return frozenset(done)
