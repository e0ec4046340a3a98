"""A schedule in words: what it took, what it was expected to, and what would be the best."""

from __future__ import annotations

from ..planning.forecast import choose_order, enough_devices, film_bounds, fused_makespan
from ..planning.macro import film_frames
from ..planning.schedule import FilmJobs, Step
from ..planning.schedule_chart import Chart
from ..runs.folder import plan_run
from ..runs.run import open_run
from ..runs.schedule_file import read_schedule
from .rendering import runs_root
from .schedule_running import Scheduled, Wishes
from .scheduling import Task, executor_of, expected_costs

SHOWN: tuple[Step, ...] = ("plan", "fill 1", "hand-off", "decode")
NAMES: dict[Step, str] = {"fill 1": "fill"}


def report(made: Scheduled) -> str:
    """What was made, and the schedule of it."""
    film, plan = made.task.population.film, made.task.population.plan
    count, frames = made.task.segments, film_frames(plan.segments, plan.grid)
    lines = [
        f"{film.request.run_name}: {count} segments, {made.planned} planned now, {made.filled} "
        f"filled now, {count - made.filled} reused from disk",
        f"{frames} frames, {frames / film.fps:.1f} s",
        f"segments start from the {_seed(made)}: {made.task.seeding}",
    ]
    if made.chart is not None:
        lines += head_lines(made.chart)
        lines += _more(made, made.chart)
    lines += [f"Warning, {warning}" for warning in made.warnings]
    return "\n".join(lines)


def describe_schedule(task: Task, wishes: Wishes) -> str:
    """What queueing the schedule would make and how long it would take, without making anything.

    Costs are those of the last making, where there was one, else in units of a plan.
    """
    film, plan = task.population.film, task.population.plan
    states = plan_run(runs_root(), film.request.run_name, film.parameters, film.segments)
    missing = [state.index + 1 for state in states if state.needs_render]
    plans = [record.number for record in open_run(plan.run.path).segments if not record.finished]
    last = read_schedule(runs_root() / film.request.run_name)
    costs = expected_costs(task, wishes.clips) if last is None else last.costs
    unit = "plans" if last is None or not last.measured else "s"
    jobs = FilmJobs(costs=costs, lengths=task.lengths, seed_from=task.seed_from, cuts=task.cuts)
    devices = max(1, executor_of(task).devices)
    plays = [1.0] * task.segments
    choice = choose_order(jobs, devices, plays, wishes.goal, task.one_model)
    bounds = film_bounds(jobs, devices)
    return "\n".join(
        (
            f"to plan: {_numbers(plans)}; to fill: {_numbers(missing)}",
            f"order: {choice.order}, since {choice.reason}",
            f"the whole film on {devices} devices: {choice.expected.makespan:.1f} {unit}; first "
            f"segment playable after {choice.expected.first_footage:.1f} {unit}",
            f"longest chain (LB1) {bounds.chain:.1f} {unit}; more than "
            f"{enough_devices(costs, task.seed_from)} devices would gain nothing (K*)",
        )
    )


def _numbers(segments: list[int]) -> str:
    return ", ".join(map(str, segments)) or "nothing"


def head_lines(chart: Chart) -> tuple[str, ...]:
    """What matters of a chart, for its picture too."""
    ran = chart.actual if chart.actual is not None and not chart.running else None
    took = f"expected {chart.predicted.makespan:.1f} s"
    first = _seconds(chart.predicted.first_footage)
    if ran is not None:
        took = f"{ran.makespan:.1f} s, {took}"
        first = f"{_seconds(ran.first_footage)}, expected {first}"
    return (
        f"order: {chart.order}, since {chart.reason}",
        f"whole: {took}; first segment playable after {first}",
        f"longest chain (LB1) {chart.bounds.chain:.1f} s, {chart.chain_gap:.0%} over it; best "
        f"bound {chart.bounds.best:.1f} s, {chart.gap:.0%} over it",
        f"a segment: {costs_line(chart)}",
    )


def costs_line(chart: Chart) -> str:
    """Seconds of each step, those that are only estimated marked so."""
    known = [step for step in SHOWN if chart.costs.of(step)]
    parts = [
        f"{NAMES.get(step, step)} {chart.costs.of(step):.2f} s"
        + ("" if step in chart.measured else " (estimated)")
        for step in known
    ]
    return ", ".join(parts)


def _more(made: Scheduled, chart: Chart) -> list[str]:
    lines = [f"more than {chart.enough_devices} devices would gain nothing (K*)"]
    if made.start_delay:
        lines.append(
            f"whoever begins to watch after {made.start_delay:.1f} s never waits, if it goes as "
            "expected"
        )
    if len(chart.devices) > 1 and not made.task.cuts:
        fused = fused_makespan(chart.segments, chart.costs, len(chart.devices))
        lines.append(f"plan and fill of a segment as one job, as MMPL's scripts: {fused:.1f} s")
    return lines


def _seed(made: Scheduled) -> str:
    return "end" if made.task.seed_from == "terminal" else "middle"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"
