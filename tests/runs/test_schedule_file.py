"""schedule.json: what is written is read again, and what is malformed is no chart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from throughline.planning.forecast import lower_bounds
from throughline.planning.schedule import Costs, Job, Slot, film_jobs, list_schedule
from throughline.planning.schedule_chart import Chart, Timing, playable_at
from throughline.runs.schedule_file import FILE_NAME, chart_json, read_schedule, write_schedule

COSTS = Costs(plan=2.0, fill_1=3.0, hand_off=0.5, decode=0.25)


def chart(**changes: Any) -> Chart:
    schedule = list_schedule(film_jobs(3, COSTS), 2)
    predicted = Timing(slots=schedule.slots, first_footage=playable_at(schedule.slots, "decode"))
    given: dict[str, Any] = {
        "segments": 3,
        "devices": ("cuda:0", "cuda:1"),
        "seed_from": "terminal",
        "order": "shortest time",
        "reason": "several devices",
        "costs": COSTS,
        "measured": ("plan",),
        "bounds": lower_bounds(3, COSTS, 2),
        "enough_devices": 3,
        "predicted": predicted,
        "actual": None,
        "running": True,
        **changes,
    }
    return Chart(**given)


def test_a_chart_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_schedule(tmp_path) is None
    ran = Timing(slots=(Slot(0.0, 2.5, 1, Job(0, "plan")),), first_footage=None)
    for written in (chart(), chart(actual=ran, running=False)):
        write_schedule(tmp_path, written)
        assert read_schedule(tmp_path) == written


def test_people_count_segments_from_one() -> None:
    slots = chart_json(chart())["predicted"]["slots"]
    assert min(slot["segment"] for slot in slots) == 1
    assert slots[0] == {"segment": 1, "step": "plan", "device": 0, "start": 0.0, "end": 2.0}


def test_the_gap_is_that_of_what_is_known_to_its_end() -> None:
    assert chart().predicted.first_footage == 8.25  # the decode waits: all else has more behind it
    ran = Timing(slots=(Slot(0.0, 20.5, 0, Job(0, "plan")),), first_footage=None)
    best = chart().bounds.best
    assert chart(actual=ran).gap == pytest.approx(chart().predicted.makespan / best - 1.0)
    over = chart(actual=ran, running=False)
    assert over.gap == pytest.approx(20.5 / best - 1.0)
    assert over.chain_gap == pytest.approx(20.5 / chart().bounds.chain - 1.0)


def set_at(data: Any, place: tuple[Any, ...], value: Any) -> None:
    *inner, last = place
    for key in inner:
        data = data[key]
    data[last] = value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("version",), 2),
        (("segments",), 0),
        (("seed_from",), "the end"),
        (("devices",), [3]),
        (("costs", "plan"), -1.0),
        (("costs", "plan"), True),
        (("measured",), ["sleep"]),
        (("bounds", "chain"), "long"),
        (("actual",), []),
        (("predicted", "slots", 0, "segment"), 4),
        (("predicted", "slots", 0, "device"), 2),
        (("predicted", "slots", 0, "step"), "paint"),
        (("predicted", "slots", 0, "end"), None),
    ],
)
def test_what_is_malformed_is_no_chart(tmp_path: Path, place: Any, value: Any) -> None:
    data = json.loads(json.dumps(chart_json(chart())))
    (tmp_path / FILE_NAME).write_text(json.dumps(data))
    assert read_schedule(tmp_path) is not None
    set_at(data, place, value)
    (tmp_path / FILE_NAME).write_text(json.dumps(data))
    assert read_schedule(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "\udc80"])
def test_other_files_are_no_chart(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_schedule(tmp_path) is None
