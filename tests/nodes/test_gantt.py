"""The chart of a schedule as a picture: bars where the jobs are, in the colours of their steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch


def chart(running: bool, actual_makespan: float | None) -> Any:
    from throughline.planning.forecast import Bounds
    from throughline.planning.schedule import Costs, Job, Slot
    from throughline.planning.schedule_chart import Chart, Timing

    def timing(scale: float) -> Timing:
        plan = Slot(0.0, 4.0 * scale, 0, Job(0, "plan"))
        fill = Slot(4.0 * scale, 10.0 * scale, 1, Job(0, "fill 1"))
        return Timing(slots=(plan, fill), first_footage=10.0 * scale)

    return Chart(
        segments=1,
        devices=("cuda:0", "cuda:1"),
        seed_from="terminal",
        order="critical path first",
        reason="the film is finished soonest",
        costs=Costs(plan=4.0, fill_1=6.0),
        measured=("plan",),
        bounds=Bounds(chain=8.0, area=5.0, ramp=0.0),
        enough_devices=3,
        predicted=timing(1.0),
        actual=None if actual_makespan is None else timing(actual_makespan / 10.0),
        running=running,
    )


def colours(picture: torch.Tensor, row: int) -> dict[tuple[int, ...], tuple[int, int]]:
    """First and last column of each colour in a row of pixels."""
    pixels = (picture[0, row] * 255.0).round().int().tolist()
    found: dict[tuple[int, ...], tuple[int, int]] = {}
    for x, pixel in enumerate(pixels):
        first, _ = found.get(tuple(pixel), (x, x))
        found[tuple(pixel)] = first, x
    return found


def test_bars_stand_where_the_jobs_are(comfy: Any) -> None:
    from throughline.nodes.gantt import (
        HEADING,
        LEFT,
        LINE,
        MARGIN,
        ROW,
        STEP_COLOURS,
        TITLE,
        WIDTH,
        draw_schedule,
    )

    picture = draw_schedule(chart(False, None), ("one line",))
    first_row = HEADING + LINE + TITLE
    span = WIDTH - MARGIN - LEFT
    plan = colours(picture, first_row + 6)[STEP_COLOURS["plan"]]
    fill = colours(picture, first_row + ROW + 6)[STEP_COLOURS["fill 1"]]
    assert plan == pytest.approx((LEFT, LEFT + 0.4 * span), abs=2)
    assert fill == pytest.approx((LEFT + 0.4 * span, LEFT + span), abs=4)  # the line ends it
    assert STEP_COLOURS["fill 1"] not in colours(picture, first_row + 6)


def test_what_happened_stands_below_on_the_same_scale(comfy: Any) -> None:
    from throughline.nodes.gantt import (
        AXIS,
        HEADING,
        LEFT,
        MARGIN,
        ROW,
        STEP_COLOURS,
        TITLE,
        WIDTH,
        draw_schedule,
    )

    alone, both = (draw_schedule(chart(False, took), ()) for took in (None, 20.0))
    panel = TITLE + 2 * ROW + AXIS
    assert both.shape[1] - alone.shape[1] == panel
    span = WIDTH - MARGIN - LEFT
    expected = colours(both, HEADING + TITLE + 6)[STEP_COLOURS["plan"]]
    happened = colours(both, HEADING + panel + TITLE + 6)[STEP_COLOURS["plan"]]
    assert expected[1] == pytest.approx(LEFT + 0.2 * span, abs=2)
    assert happened[1] == pytest.approx(LEFT + 0.4 * span, abs=2)


@pytest.mark.parametrize(
    ("end", "step"), [(8.0, 1.0), (9.0, 2.0), (0.5, 0.1), (1700.0, 500.0), (0.001, 0.0002)]
)
def test_an_axis_has_round_steps(comfy: Any, end: float, step: float) -> None:
    from throughline.nodes.gantt import TICKS, tick_step

    assert tick_step(end) == pytest.approx(step)
    assert end / tick_step(end) <= TICKS


def test_the_words_tell_what_is_measured_and_the_gaps(comfy: Any) -> None:
    from throughline.nodes.schedule_report import head_lines

    said = "\n".join(head_lines(chart(False, 12.0)))
    assert "12.0 s, expected 10.0 s" in said and "playable after 12.0 s, expected 10.0 s" in said
    assert "(LB1) 8.0 s, 50% over it" in said
    assert "plan 4.00 s, fill 6.00 s (estimated)" in said
    assert "whole: expected 10.0 s" in "\n".join(head_lines(chart(True, 12.0)))
