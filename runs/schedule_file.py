"""schedule.json of a run folder: how its jobs were expected to run, and how they did.

Version 1, one JSON object; segments are numbers from 1, devices indices into `devices`, times
seconds from the beginning:
  version         1
  segments        how many there are
  devices         their names
  seed_from       "terminal" or "middle"
  order, reason   what was chosen and why, in words
  costs           seconds of each step
  measured        the steps whose costs this machine showed; the others are estimates
  bounds          chain (LB1), area (LB2), ramp (LB3)
  enough_devices  K*
  predicted       {"makespan", "first_footage", "slots": [{"segment", "step", "device", "start",
                  "end"}, ...]}
  actual          the same of what has run so far, or null
  running         whether it is still going on
  gap             of the actual makespan (the predicted one while it is running) to the best bound
The file is written anew after every job, and is for people: nothing of the film depends on it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args

from ..planning.forecast import Bounds
from ..planning.schedule import Costs, Job, SeedFrom, Slot, Step
from ..planning.schedule_chart import Chart, Timing
from .atomic import write_atomic

FILE_NAME = "schedule.json"
VERSION = 1
STEPS: tuple[Step, ...] = get_args(Step)
LARGEST_FILE = 16_000_000
"""Bytes; 100 are a slot, so that a film of 30,000 segments is below it."""


def write_schedule(folder: Path, chart: Chart) -> None:
    """Put a chart into the run folder, whole or not at all."""
    data = json.dumps(chart_json(chart), allow_nan=False).encode()
    write_atomic(folder / FILE_NAME, data, durable=False)


def read_schedule(folder: Path) -> Chart | None:
    """The chart of a run folder, None where there is none, or none of this version that reads."""
    path = folder / FILE_NAME
    try:
        if path.stat().st_size > LARGEST_FILE:
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        return _chart(data) if data.get("version") == VERSION else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def chart_json(chart: Chart) -> dict[str, Any]:
    """A chart as the file and the page have it."""
    return {
        "version": VERSION,
        "segments": chart.segments,
        "devices": list(chart.devices),
        "seed_from": chart.seed_from,
        "order": chart.order,
        "reason": chart.reason,
        "costs": {step: chart.costs.of(step) for step in STEPS},
        "measured": list(chart.measured),
        "bounds": vars(chart.bounds),
        "enough_devices": chart.enough_devices,
        "predicted": _timing_json(chart.predicted),
        "actual": None if chart.actual is None else _timing_json(chart.actual),
        "running": chart.running,
        "gap": chart.gap,
    }


def _timing_json(timing: Timing) -> dict[str, Any]:
    slots = [
        {
            "segment": slot.job.segment + 1,
            "step": slot.job.step,
            "device": slot.device,
            "start": round(slot.start, 3),
            "end": round(slot.end, 3),
        }
        for slot in timing.slots
    ]
    return {"makespan": timing.makespan, "first_footage": timing.first_footage, "slots": slots}


def _chart(data: dict[str, Any]) -> Chart:
    """Raises ValueError, KeyError or TypeError for anything malformed."""
    devices, segments = tuple(map(_text, data["devices"])), _count(data["segments"])
    costs = Costs(plan=_seconds(data["costs"]["plan"]), fill_1=0.0)
    for step in STEPS:
        costs = costs.with_step(step, _seconds(data["costs"][step]))
    actual = data["actual"]
    return Chart(
        segments=segments,
        devices=devices,
        seed_from=_one_of(data["seed_from"], get_args(SeedFrom)),
        order=_text(data["order"]),
        reason=_text(data["reason"]),
        costs=costs,
        measured=tuple(_one_of(step, STEPS) for step in data["measured"]),
        bounds=Bounds(**{name: _seconds(data["bounds"][name]) for name in _BOUNDS}),
        enough_devices=_count(data["enough_devices"]),
        predicted=_timing(data["predicted"], segments, len(devices)),
        actual=None if actual is None else _timing(actual, segments, len(devices)),
        running=data["running"] is True,
    )


_BOUNDS = ("chain", "area", "ramp")


def _timing(data: dict[str, Any], segments: int, devices: int) -> Timing:
    slots = []
    for one in data["slots"]:
        segment, device = _count(one["segment"]) - 1, one["device"]
        if segment >= segments or not isinstance(device, int) or not 0 <= device < devices:
            raise ValueError(f"slot of segment {segment + 1} on device {device} does not exist")
        job = Job(segment, _one_of(one["step"], STEPS))
        slots.append(Slot(_seconds(one["start"]), _seconds(one["end"]), device, job))
    first = data["first_footage"]
    return Timing(slots=tuple(slots), first_footage=None if first is None else _seconds(first))


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"seconds must be a number, got {value!r:.60}")
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"seconds must be 0 or more, got {value}")
    return float(value)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"a count must be 1 or more, got {value!r:.60}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, got {value!r:.60}")
    return value


def _one_of(value: object, accepted: tuple[Any, ...]) -> Any:
    if value not in accepted:
        raise ValueError(f"one of {', '.join(accepted)} expected, got {value!r:.60}")
    return value
