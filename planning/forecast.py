"""What a schedule will take before it runs: bounds, orders compared, costs as they are measured.

Formal model in the shared design `macro-micro-planning.md`, section 9. Times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from .schedule import (
    ORDERS,
    Costs,
    FilmJobs,
    Job,
    JobGraph,
    Priority,
    Schedule,
    SeedFrom,
    Slot,
    Step,
    list_schedule,
)

Goal = Literal["automatic", "shortest time", "earliest footage", "storyboard first"]
"""What an artist wants of a schedule."""

SAMPLED: tuple[Step, ...] = ("plan", "fill 1", "fill 2")
"""Steps whose times say how fast the device is."""

HARDLY_LONGER = 1.05
"""A film may take this many times the shortest time where its beginning is seen sooner for it: what
is measured varies as much (our choice)."""

SAME = 9
"""Digits behind the point of a second in which two schedules must differ."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """No schedule is shorter than any of these (section 9): the longest chain, the work shared by
    all devices, and the work with the devices that must idle while the first plans are made."""

    chain: float
    area: float
    ramp: float

    @property
    def best(self) -> float:
        return max(self.chain, self.area, self.ramp)


def lower_bounds(
    segments: int, costs: Costs, devices: int, seed_from: SeedFrom = "terminal"
) -> Bounds:
    """LB1, LB2 and LB3 of a whole film of equal segments without cuts."""
    leg = costs.leg(seed_from)
    chain = segments * costs.plan + (segments - 1) * costs.hand_off + leg
    area = (segments * (costs.plan + leg) + (segments - 1) * costs.hand_off) / devices
    ramp = 0.0
    if segments >= devices:
        ramp = segments * (costs.plan + leg) / devices + costs.plan * (devices - 1) / 2.0
    return Bounds(chain=chain, area=area, ramp=ramp)


def film_bounds(film: FilmJobs, devices: int) -> Bounds:
    """The bounds of any film: with cuts, segments of their own lengths, or a part that is done."""
    if not film.cuts and not film.done and len(set(film.lengths)) == 1:
        costs = film.costs.times(film.lengths[0]).with_step("hand-off", film.costs.hand_off)
        return lower_bounds(len(film.lengths), costs, devices, film.seed_from)
    graph = film.graph()
    chain = max(graph.tails().values(), default=0.0)
    return Bounds(chain=chain, area=sum(graph.seconds.values()) / devices, ramp=0.0)


def enough_devices(costs: Costs, seed_from: SeedFrom = "terminal") -> int:
    """K*: from here on another device changes nothing, since every leg finds one free: one for the
    spine and as many as legs overlap."""
    return 1 + math.ceil(costs.leg(seed_from) / (costs.plan + costs.hand_off) - 1e-9)


def fused_makespan(segments: int, costs: Costs, devices: int) -> float:
    """What the released scripts take: plan, fills and decode of a segment are one job on device
    s mod K (section 5.4)."""
    leg, hop = costs.leg(), costs.plan + costs.hand_off
    free, start, end = [0.0] * devices, 0.0, 0.0
    for segment in range(segments):
        start = max(free[segment % devices], start + (hop if segment else 0.0))
        end = start + costs.plan + leg
        free[segment % devices] = end
    return max(free)


def choose_seed_from(
    peaks: Mapping[Step, float],
    budget: float,
    costs: Costs,
    latency: float | None = None,
) -> SeedFrom:
    """Terminal or middle anchors (section 9): middle where the second fill does not fit into
    `budget` (any unit, the same as `peaks`) but the other steps do, or where footage must come
    sooner than plan and both fills take (`latency` seconds).

    Raises ValueError when not even a plan and the first fill fit.
    """
    least = max(peaks["plan"], peaks["fill 1"])
    if least > budget:
        raise ValueError(f"a plan and its first fill need {least:g}, the devices have {budget:g}")
    if peaks["fill 2"] > budget:
        return "middle"
    if latency is not None and latency < costs.plan + costs.fill_1 + costs.fill_2:
        return "middle"
    return "terminal"


def calibrate(expected: Costs, measured: Mapping[Step, Sequence[float]]) -> Costs:
    """The costs as measured, in seconds; those that were not measured yet are scaled from
    `expected` (in any unit) as the sampled steps that were.

    Of several samples the first is left out, since models are loaded in it, and the rest counts by
    its median.
    """
    seen = {step: median(times[1:] or times) for step, times in measured.items() if times}
    known = [step for step in SAMPLED if seen.get(step) and expected.of(step)]
    scale = 1.0
    if known:
        scale = sum(seen[step] for step in known) / sum(expected.of(step) for step in known)
    costs = expected.times(scale)
    for step, seconds in seen.items():
        costs = costs.with_step(step, seconds)
    return costs


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a film will take, before it is made. Seconds; `first_footage` is when the first segment
    can be played (0 where it could before), `next_footage` the first that is not made yet, and
    `start_delay` how long to wait so that playing never stops."""

    first_footage: float
    next_footage: float
    start_delay: float
    schedule: Schedule

    @property
    def makespan(self) -> float:
        return self.schedule.makespan


Fits = Callable[[Job, int], bool]
"""Whether a job may run on a device."""


def forecast(
    film: FilmJobs,
    devices: int,
    plays: Sequence[float],
    order: Callable[[JobGraph], Priority],
    fits: Fits = lambda job, device: True,
) -> Forecast:
    """Schedule what is left of a film and say what to expect; `plays` are the seconds that each
    segment adds to it."""
    graph = film.graph()
    schedule = list_schedule(graph, devices, order(graph), fits)
    ends = segment_ends(schedule.slots, len(film.lengths))
    delay, played = 0.0, 0.0
    for end, seconds in zip(ends, plays, strict=True):
        delay, played = max(delay, end - played), played + seconds
    return Forecast(
        first_footage=ends[0],
        next_footage=next((end for end in ends if end), 0.0),
        start_delay=delay,
        schedule=schedule,
    )


def segment_ends(slots: Iterable[Slot], segments: int) -> Sequence[float]:
    """When each of the first `segments` is finished."""
    ends = [0.0] * segments
    for slot in slots:
        if slot.job.segment < segments and slot.job.step != "hand-off":
            ends[slot.job.segment] = max(ends[slot.job.segment], slot.end)
    return ends


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An order of `ORDERS` and why it was chosen, in words."""

    order: str
    reason: str
    expected: Forecast


def choose_order(
    film: FilmJobs,
    devices: int,
    plays: Sequence[float],
    goal: Goal = "automatic",
    one_model: bool = True,
    fits: Fits = lambda job, device: True,
) -> Choice:
    """The order that serves the goal best, found by scheduling the film in each.

    On one device every order takes the same time (section 9): there "automatic" is depth first, for
    early footage and little to keep, but breadth first where plans and fills are made by two models
    (`one_model` false), which are then exchanged once. On several it is the order in which the film
    can be watched soonest of those that take hardly longer than the shortest.
    """
    tried = {name: forecast(film, devices, plays, order, fits) for name, order in ORDERS.items()}
    if goal == "storyboard first":
        name, reason = "breadth first", "all plans are made before anything is filled"
    elif goal == "automatic" and devices == 1 and not one_model:
        name, reason = "breadth first", "plans and fills use two models, which change once"
    elif goal == "earliest footage" or (goal == "automatic" and devices == 1):
        name = min(tried, key=lambda name: _rounded(tried[name], "next_footage", "start_delay"))
        reason = "the first segment can be played soonest"
    elif goal == "automatic":
        most = HARDLY_LONGER * min(one.makespan for one in tried.values())
        short = {name: one for name, one in tried.items() if one.makespan <= most}
        name = min(short, key=lambda name: _rounded(tried[name], "next_footage", "makespan"))
        reason = "the film is finished soon, and its beginning soonest"
    else:
        name = min(tried, key=lambda name: _rounded(tried[name], "makespan", "start_delay"))
        reason = "the film is finished soonest"
    return Choice(order=name, reason=reason, expected=tried[name])


def _rounded(one: Forecast, *names: str) -> tuple[float, ...]:
    return tuple(round(getattr(one, name), SAME) for name in names)
