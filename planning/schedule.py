"""When which job of a planned film runs on which device, decided before anything runs.

Jobs of segment s (MMPL, arXiv 2508.03334; formal model in the shared design
`macro-micro-planning.md`, section 9): plan P, hand-off R, fills A and B, decode D. The spine
P1 R1 P2 R2 ... is serial; from every plan hangs a leg A B D. Times are seconds, devices are alike.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
        return float(getattr(self, _field(step)))

    def times(self, factor: float) -> Costs:
        """Every step, the hand-off too, takes `factor` times as long."""
        return Costs(**{name: value * factor for name, value in vars(self).items()})

    def with_step(self, step: Step, seconds: float) -> Costs:
        """The same with another time of one step."""
        return Costs(**{**vars(self), _field(step): seconds})

    def leg(self, seed_from: SeedFrom = "terminal") -> float:
        """Seconds from a finished plan to its decoded segment when nothing waits."""
        return sum(self.of(step) for step in LEG[seed_from])


def _field(step: Step) -> str:
    """The name of a step among the fields of Costs."""
    return step.replace("-", "_").replace(" ", "_")


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
        waits = {job: len(self.after.get(job, ())) for job in self.seconds}
        ordered = [job for job, count in waits.items() if not count]
        followers = self.followers()
        for done in ordered:  # grows meanwhile
            for job in followers.get(done, ()):
                waits[job] -= 1
                if not waits[job]:
                    ordered.append(job)
        if len(ordered) < len(waits):
            stuck = next(job for job, count in waits.items() if count)
            raise ValueError(f"jobs must not wait for each other in a circle, got {stuck}")
        return tuple(ordered)

    def followers(self) -> dict[Job, list[Job]]:
        """The jobs that wait for each job; those that nobody waits for are left out."""
        followers: dict[Job, list[Job]] = {}
        for job, before in self.after.items():
            for one in before:
                followers.setdefault(one, []).append(job)
        return followers

    def tails(self) -> dict[Job, float]:
        """Seconds from the start of each job to the end of the longest chain behind it."""
        tails: dict[Job, float] = {}
        followers = self.followers()
        for job in reversed(self.order()):
            longest = max((tails[one] for one in followers.get(job, ())), default=0.0)
            tails[job] = self.seconds[job] + longest
        return tails


@dataclass(frozen=True, kw_only=True)
class FilmJobs:
    """What a film is to its schedule.

    `costs` are those of a segment of length 1, `lengths` how long each segment is against that;
    hand-offs take the same for all. `cuts` are segments (0-based) that start anew, `done` jobs that
    are over already.
    """

    costs: Costs
    lengths: tuple[float, ...]
    seed_from: SeedFrom = "terminal"
    cuts: frozenset[int] = frozenset()
    done: frozenset[Job] = frozenset()

    def __post_init__(self) -> None:
        if not self.lengths:
            raise ValueError("a film needs 1 segment or more, got 0")
        if any(not (math.isfinite(length) and length > 0.0) for length in self.lengths):
            raise ValueError(f"segments must be longer than 0, got {self.lengths}")

    def seconds(self, job: Job) -> float:
        length = 1.0 if job.step == "hand-off" else self.lengths[job.segment]
        return self.costs.of(job.step) * length

    def graph(self) -> JobGraph:
        """The jobs that are still to be done; steps that take no time are left out."""
        seconds: dict[Job, float] = {}
        after: dict[Job, tuple[Job, ...]] = {}

        def add(job: Job, before: Job | None) -> Job | None:
            """The last job that whoever follows must wait for: `before` where this one is none."""
            if self.costs.of(job.step) == 0.0:
                return before
            if job in self.done:
                return None
            seconds[job] = self.seconds(job)
            after[job] = (before,) if before is not None else ()
            return job

        spine: Job | None = None
        for segment in range(len(self.lengths)):
            planned = add(Job(segment, "plan"), None if segment in self.cuts else spine)
            leg = planned
            for step in LEG[self.seed_from]:
                leg = add(Job(segment, step), leg)
            spine = planned
            if segment + 1 < len(self.lengths) and segment + 1 not in self.cuts:
                spine = add(Job(segment, "hand-off"), planned)
        return JobGraph(seconds, after)


def film_jobs(segments: int, costs: Costs, seed_from: SeedFrom = "terminal") -> JobGraph:
    """The jobs of a film without cuts, all of them still to be done."""
    return FilmJobs(costs=costs, lengths=(1.0,) * segments, seed_from=seed_from).graph()


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
    """All plans, then all fills: the storyboard is seen first, and models change once. What is
    filled is decoded at once, before a later plan where both wait for one device."""
    return lambda job: (1.0 if job.step in ("fill 1", "fill 2") else 0.0, job.segment)


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
    waits = {job: len(graph.after.get(job, ())) for job in graph.seconds}
    followers = graph.followers()
    ready = [job for job, count in waits.items() if not count]
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
            for other in followers.get(job, ()):
                waits[other] -= 1
                if not waits[other]:
                    ready.append(other)
        idle.sort()
    return Schedule(tuple(sorted(slots)), devices)
