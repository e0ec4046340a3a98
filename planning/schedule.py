"""When which job of a planned film runs on which device, decided before anything runs.

Jobs of segment s (MMPL, arXiv 2508.03334; formal model in the shared design
`macro-micro-planning.md`, section 9): plan P, hand-off R, fills A and B, decode D. The spine
P1 R1 P2 R2 ... is serial; from every plan hangs a leg A B D. Times are seconds, devices are alike.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Step = Literal["plan", "hand-off", "fill 1", "fill 2", "decode"]
SeedFrom = Literal["terminal", "middle"]
"""Which anchors start the next segment. From the middle ones the second fill never runs."""

LEG: dict[SeedFrom, tuple[Step, ...]] = {
    "terminal": ("fill 1", "fill 2", "decode"),
    "middle": ("fill 1", "decode"),
}


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of each step; a step of 0 seconds is no job. MMPL's 14B model at 480p: fills are 0.98
    and 1.22 times a plan (section 5.3, computed)."""

    plan: float
    fill_1: float
    fill_2: float = 0.0
    hand_off: float = 0.0
    decode: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"{name} must be 0 seconds or more, got {value}")
        if self.plan <= 0.0:
            raise ValueError(f"plan must take more than 0 seconds, got {self.plan}")

    def of(self, step: Step) -> float:
        return float(getattr(self, step.replace("-", "_").replace(" ", "_")))

    def leg(self, seed_from: SeedFrom = "terminal") -> float:
        """Seconds from a finished plan to its decoded segment when nothing waits."""
        return sum(self.of(step) for step in LEG[seed_from])


@dataclass(frozen=True, order=True)
class Job:
    """One step of one segment (0-based)."""

    segment: int
    step: Step


@dataclass(frozen=True)
class JobGraph:
    """Jobs with what each waits for and how long it takes."""

    seconds: Mapping[Job, float]
    after: Mapping[Job, tuple[Job, ...]]

    def __post_init__(self) -> None:
        for job, before in self.after.items():
            for one in (job, *before):
                if one not in self.seconds:
                    raise ValueError(f"{job} waits for {one}, which is no job of this plan")
        self.order()

    def order(self) -> tuple[Job, ...]:
        """The jobs with everything behind what it waits for. Raises ValueError for a cycle."""
        done: set[Job] = set()
        ordered: list[Job] = []
        left = list(self.seconds)
        while left:
            ready = [job for job in left if all(one in done for one in self.after.get(job, ()))]
            if not ready:
                raise ValueError(f"jobs must not wait for each other in a circle, got {left[0]}")
            ordered += ready
            done |= set(ready)
            left = [job for job in left if job not in done]
        return tuple(ordered)

    def tails(self) -> dict[Job, float]:
        """Seconds from the start of each job to the end of the longest chain behind it."""
        tails: dict[Job, float] = {}
        followers: dict[Job, list[Job]] = {}
        for job, before in self.after.items():
            for one in before:
                followers.setdefault(one, []).append(job)
        for job in reversed(self.order()):
            longest = max((tails[one] for one in followers.get(job, ())), default=0.0)
            tails[job] = self.seconds[job] + longest
        return tails


def film_jobs(
    segments: int,
    costs: Costs,
    seed_from: SeedFrom = "terminal",
    done: Iterable[Job] = (),
) -> JobGraph:
    """The jobs of a film that are still to be done; steps that take no time are left out."""
    if segments < 1:
        raise ValueError(f"a film needs 1 segment or more, got {segments}")
    finished = set(done)
    seconds: dict[Job, float] = {}
    after: dict[Job, tuple[Job, ...]] = {}

    def add(job: Job, before: Job | None) -> Job | None:
        """The last job that whoever follows must wait for: `before` where this one is none."""
        if costs.of(job.step) == 0.0:
            return before
        if job in finished:
            return None
        seconds[job] = costs.of(job.step)
        after[job] = (before,) if before is not None else ()
        return job

    spine: Job | None = None
    for segment in range(segments):
        planned = add(Job(segment, "plan"), spine)
        leg = planned
        for step in LEG[seed_from]:
            leg = add(Job(segment, step), leg)
        spine = planned
        if segment + 1 < segments:
            spine = add(Job(segment, "hand-off"), planned)
    return JobGraph(seconds, after)


@dataclass(frozen=True, order=True)
class Slot:
    """A job on a device (0-based), in seconds from the beginning."""

    start: float
    end: float
    device: int
    job: Job


@dataclass(frozen=True)
class Schedule:
    """Slots in the order of their starts."""

    slots: tuple[Slot, ...]
    devices: int

    @property
    def makespan(self) -> float:
        return max((slot.end for slot in self.slots), default=0.0)

    def finished(self, step: Step, segment: int) -> float:
        """When a job ends. Raises KeyError for a job that is not in the schedule."""
        for slot in self.slots:
            if slot.job == Job(segment, step):
                return slot.end
        raise KeyError(Job(segment, step))


Priority = Callable[[Job], tuple[float, ...]]
"""The ready job with the smallest value goes first."""


def critical_path_first(graph: JobGraph) -> Priority:
    """The longest chain first: a spine job goes before all legs but at the very end (HLF)."""
    tails = graph.tails()
    return lambda job: (-tails[job], job.segment)


def depth_first(graph: JobGraph) -> Priority:
    """Segment by segment: the first one is finished soonest, the least is held in memory."""
    return lambda job: (job.segment, 0.0 if job.step != "hand-off" else 1.0)


def breadth_first(graph: JobGraph) -> Priority:
    """All plans, then all fills: the storyboard is seen first, and models change once."""
    return lambda job: (0.0 if job.step in ("plan", "hand-off") else 1.0, job.segment)


ORDERS: Mapping[str, Callable[[JobGraph], Priority]] = {
    "critical path first": critical_path_first,
    "depth first": depth_first,
    "breadth first": breadth_first,
}
"""The orders by the names that the nodes show."""


def list_schedule(
    graph: JobGraph,
    devices: int,
    priority: Priority | None = None,
    fits: Callable[[Job, int], bool] = lambda job, device: True,
) -> Schedule:
    """Give every idle device the ready job that goes first (Graham's list scheduling).

    `fits(job, device)` is false where a device has too little memory. Raises ValueError for no
    devices and for a job that fits none.
    """
    if devices < 1:
        raise ValueError(f"devices must be 1 or more, got {devices}")
    rank = priority or critical_path_first(graph)
    for job in graph.seconds:
        if not any(fits(job, device) for device in range(devices)):
            raise ValueError(f"{job.step} of segment {job.segment + 1} fits on no device")
    waiting = {job: set(graph.after.get(job, ())) for job in graph.seconds}
    ready = [job for job, before in waiting.items() if not before]
    idle = list(range(devices))
    running: list[tuple[float, int, Job]] = []
    slots, now = [], 0.0
    while ready or running:
        for job in sorted(ready, key=lambda job: (rank(job), job)):
            device = next((one for one in idle if fits(job, one)), None)
            if device is None:
                continue
            idle.remove(device)
            ready.remove(job)
            end = now + graph.seconds[job]
            heapq.heappush(running, (end, device, job))
            slots.append(Slot(now, end, device, job))
        now, device, job = heapq.heappop(running)
        ended = [(device, job)]
        while running and running[0][0] == now:
            _, device, job = heapq.heappop(running)
            ended.append((device, job))
        for device, job in ended:
            idle.append(device)
            for other, before in waiting.items():
                if job in before:
                    before.remove(job)
                    if not before:
                        ready.append(other)
        idle.sort()
    return Schedule(tuple(sorted(slots)), devices)


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
    """LB1, LB2 and LB3 of a film."""
    leg = costs.leg(seed_from)
    chain = segments * costs.plan + (segments - 1) * costs.hand_off + leg
    area = (segments * (costs.plan + leg) + (segments - 1) * costs.hand_off) / devices
    ramp = 0.0
    if segments >= devices:
        ramp = segments * (costs.plan + leg) / devices + costs.plan * (devices - 1) / 2.0
    return Bounds(chain=chain, area=area, ramp=ramp)


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


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a film will take, before it is made. Seconds; `first_footage` is when the first segment
    can be played, `start_delay` how long to wait so that playing never stops."""

    makespan: float
    bounds: Bounds
    enough_devices: int
    first_footage: float
    start_delay: float
    schedule: Schedule = field(repr=False)


def forecast(
    segments: int,
    costs: Costs,
    devices: int,
    segment_seconds: float,
    seed_from: SeedFrom = "terminal",
    order: Callable[[JobGraph], Priority] = critical_path_first,
) -> Forecast:
    """Schedule a film and say what to expect; a segment plays for `segment_seconds`."""
    graph = film_jobs(segments, costs, seed_from)
    schedule = list_schedule(graph, devices, order(graph))
    ends = segment_ends(schedule.slots, segments)
    return Forecast(
        makespan=schedule.makespan,
        bounds=lower_bounds(segments, costs, devices, seed_from),
        enough_devices=enough_devices(costs, seed_from),
        first_footage=ends[0],
        start_delay=max(end - place * segment_seconds for place, end in enumerate(ends)),
        schedule=schedule,
    )


def segment_ends(slots: Iterable[Slot], segments: int) -> Sequence[float]:
    """When each of the first `segments` is finished."""
    ends = [0.0] * segments
    for slot in slots:
        if slot.job.segment < segments and slot.job.step != "hand-off":
            ends[slot.job.segment] = max(ends[slot.job.segment], slot.end)
    return ends
