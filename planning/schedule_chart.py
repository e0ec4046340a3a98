"""A schedule as it is shown: what was expected, what came of it, and how far both are from the
bounds. Segments are 0-based here; what is shown to people counts from 1."""

from __future__ import annotations

from dataclasses import dataclass

from .forecast import Bounds, segment_ends
from .schedule import Costs, SeedFrom, Slot, Step


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Jobs on devices in seconds from the beginning; `first_footage` is when the first segment can
    be played, None while it cannot."""

    slots: tuple[Slot, ...]
    first_footage: float | None

    @property
    def makespan(self) -> float:
        return max((slot.end for slot in self.slots), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One run of a schedule. `costs` are seconds of each step, those of `measured` from this
    machine, the others estimated; `order` and `reason` say what was chosen and why in words."""

    segments: int
    devices: tuple[str, ...]
    seed_from: SeedFrom
    order: str
    reason: str
    costs: Costs
    measured: tuple[Step, ...]
    bounds: Bounds
    enough_devices: int
    predicted: Timing
    actual: Timing | None
    running: bool

    @property
    def timing(self) -> Timing:
        """What happened where that is known to its end, else what is expected."""
        return self.predicted if self.actual is None or self.running else self.actual

    @property
    def gap(self) -> float:
        """How much longer than the best lower bound: 0.07 is 7 percent."""
        return self._over(self.bounds.best)

    @property
    def chain_gap(self) -> float:
        """How much longer than the longest chain (LB1), which no number of devices shortens."""
        return self._over(self.bounds.chain)

    def _over(self, bound: float) -> float:
        return self.timing.makespan / bound - 1.0 if bound else 0.0


def playable_at(slots: tuple[Slot, ...], last_step: Step) -> float | None:
    """When the first segment can be played: its `last_step` is over. None where that has no end."""
    if not any(slot.job.segment == 0 and slot.job.step == last_step for slot in slots):
        return None
    return float(segment_ends(slots, 1)[0])
