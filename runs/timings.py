"""When the jobs of a run were made and on which device, kept beside its segments.

    <run>/timings.json    {"version": 1, "began": "2026-11-20T21:00:00Z", "devices": ["cpu"],
                           "slots": [{"segment": 0, "step": "fill 1", "device": 0,
                                      "start": 0.0, "end": 1.2}]}

It tells of the last time that anything was made, in the order in which jobs ended. Nothing is
decided by it: a file that does not read counts as none.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from ..planning.schedule import Job, Slot, Step
from .atomic import write_atomic

FILE_NAME = "timings.json"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Timings:
    """`slots` are in seconds from `began` (UTC); their `device` counts along `devices`."""

    began: str
    devices: tuple[str, ...]
    slots: tuple[Slot, ...] = ()


class TimingsFile:
    """Writes the timings of one making, whole after every job. The first job replaces what an
    earlier making left."""

    def __init__(
        self, folder: Path, devices: Sequence[str], clock: Callable[[], float] = time.time
    ) -> None:
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock()))
        self._path = folder / FILE_NAME
        self._timings = Timings(began=began, devices=tuple(devices))

    def add(self, slot: Slot, devices: Sequence[str]) -> None:
        """Note a finished job; `devices` may have grown. Raises DiskFullError."""
        slots = (*self._timings.slots, slot)
        self._timings = replace(self._timings, devices=tuple(devices), slots=slots)
        # it can be missed after a power cut, and nothing waits for the disk
        write_atomic(self._path, _to_json(self._timings), durable=False)


def read_timings(folder: Path) -> Timings | None:
    """The timings of the run in `folder`, None where there are none that read."""
    try:
        return _from_json(json.loads((folder / FILE_NAME).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _to_json(timings: Timings) -> bytes:
    slots = [
        {
            "segment": slot.job.segment,
            "step": slot.job.step,
            "device": slot.device,
            "start": round(slot.start, 3),
            "end": round(slot.end, 3),
        }
        for slot in timings.slots
    ]
    data = {
        "version": VERSION,
        "began": timings.began,
        "devices": list(timings.devices),
        "slots": slots,
    }
    return json.dumps(data, indent=1).encode()


def _from_json(data: Any) -> Timings | None:
    if data["version"] != VERSION:
        return None
    devices = tuple(str(name) for name in data["devices"])
    slots = tuple(_slot(one) for one in data["slots"])
    if not all(0 <= slot.device < len(devices) for slot in slots):
        return None
    return Timings(began=str(data["began"]), devices=devices, slots=slots)


def _slot(data: Any) -> Slot:
    start, end, step = float(data["start"]), float(data["end"]), data["step"]
    if step not in get_args(Step) or not (0.0 <= start <= end and math.isfinite(end)):
        raise ValueError(f"a slot runs forward and holds a step of a film, got {data}")
    return Slot(start, end, int(data["device"]), Job(int(data["segment"]), step))
