"""A schedule as a picture: what was expected above, what happened below, a row for each device."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..planning.schedule import Slot, Step
from ..planning.schedule_chart import Chart, Timing

WIDTH, MARGIN = 1280, 24
LEFT = 150
"""Where the rows begin, right of the devices' names."""

HEADING, LINE, TITLE, ROW, AXIS, LEGEND = 40, 22, 30, 34, 30, 30
"""Heights in pixels."""

MOST_ROWS = 16
"""Devices with a row of their own; a film's speed-up ends long before (section 9 of the design)."""

LABELLED = 18
"""Pixels: narrower bars have no room for a number."""

TICKS = 8
NAME_LENGTH = 16
"""Letters of a device's name that fit left of the rows."""

STEPS = (1, 2, 5)

BACKGROUND, PANEL, INK, FAINT = (24, 24, 27), (39, 39, 42), (228, 228, 231), (113, 113, 122)
STEP_COLOURS: dict[Step, tuple[int, int, int]] = {
    # Okabe and Ito, Color Universal Design (2008): told apart by colour-blind readers too
    "plan": (230, 159, 0),
    "hand-off": (240, 228, 66),
    "fill 1": (86, 180, 233),
    "fill 2": (0, 114, 178),
    "decode": (0, 158, 115),
}
STEP_NAMES: dict[Step, str] = {"fill 1": "fill", "fill 2": "second fill"}
PLAYABLE = (213, 94, 0)


def draw_schedule(chart: Chart, lines: tuple[str, ...]) -> torch.Tensor:
    """The picture as an IMAGE, [1, height, width, 3] in 0..1; `lines` stand in its head."""
    rows = min(len(chart.devices), MOST_ROWS)
    timings = [("expected", chart.predicted)]
    if chart.actual is not None and chart.actual.slots:
        timings.append(("so far" if chart.running else "as it ran", chart.actual))
    panel = TITLE + rows * ROW + AXIS
    height = HEADING + len(lines) * LINE + len(timings) * panel + LEGEND + MARGIN
    canvas = Image.new("RGB", (WIDTH, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, 12), f"{chart.segments} segments, {chart.order}", INK, _font(19))
    for place, line in enumerate(lines):
        draw.text((MARGIN, HEADING + place * LINE), line, INK, _font(14))
    end = max([timing.makespan for _, timing in timings] + [1e-3])
    top = HEADING + len(lines) * LINE
    for title, timing in timings:
        _draw_panel(draw, chart.devices[:rows], timing, title, top, end)
        top += panel
    _draw_legend(draw, timings, top)
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0).unsqueeze(0)


def _draw_panel(
    draw: ImageDraw.ImageDraw,
    devices: tuple[str, ...],
    timing: Timing,
    title: str,
    top: int,
    end: float,
) -> None:
    draw.text((MARGIN, top + 8), title, INK, _font(15))
    first = top + TITLE
    bottom = first + len(devices) * ROW
    for place, name in enumerate(devices):
        y = first + place * ROW
        draw.rectangle([LEFT, y + 2, WIDTH - MARGIN, y + ROW - 3], PANEL)
        draw.text((LEFT - 10, y + ROW / 2), name[:NAME_LENGTH], INK, _font(13), anchor="rm")
    for slot in timing.slots:
        if slot.device < len(devices):
            _draw_slot(draw, slot, first + slot.device * ROW, end)
    _draw_axis(draw, first, bottom, end)
    if timing.first_footage:
        x = _x(timing.first_footage, end)
        draw.line([(x, first - 6), (x, bottom + 4)], PLAYABLE, 2)


def _draw_slot(draw: ImageDraw.ImageDraw, slot: Slot, top: int, end: float) -> None:
    left, right = _x(slot.start, end), _x(slot.end, end)
    box = [left, top + 3, max(left + 1, right - 1), top + ROW - 4]
    draw.rectangle(box, STEP_COLOURS[slot.job.step])
    label = str(slot.job.segment + 1)
    if right - left >= LABELLED:
        middle = ((left + right) / 2, top + ROW / 2)
        draw.text(middle, label, BACKGROUND, _font(13), anchor="mm")


def _draw_axis(draw: ImageDraw.ImageDraw, top: int, bottom: int, end: float) -> None:
    step = tick_step(end)
    for k in range(int(end / step) + 1):
        x = _x(k * step, end)
        draw.line([(x, top), (x, bottom + 4)], FAINT, 1)
        draw.text((x, bottom + 6), _time(k * step), INK, _font(12), anchor="ma")


def _draw_legend(draw: ImageDraw.ImageDraw, timings: list[tuple[str, Timing]], top: int) -> None:
    shown = {slot.job.step for _, timing in timings for slot in timing.slots}
    left = float(LEFT)
    for step, colour in STEP_COLOURS.items():
        if step in shown:
            left = _legend_entry(draw, left, top, STEP_NAMES.get(step, step), colour)
    if any(timing.first_footage for _, timing in timings):
        _legend_entry(draw, left, top, "segment 1 can be played", PLAYABLE)


def _legend_entry(
    draw: ImageDraw.ImageDraw, left: float, top: int, name: str, colour: tuple[int, int, int]
) -> float:
    draw.rectangle([left, top + 6, left + 14, top + 20], colour)
    draw.text((left + 20, top + 13), name, INK, _font(13), anchor="lm")
    return left + 20 + draw.textlength(name, _font(13)) + 24


def tick_step(end: float) -> float:
    """A round step that divides `end` seconds into at most `TICKS` parts."""
    rough = end / TICKS
    power = 10.0 ** np.floor(np.log10(rough))
    return float(next((s * power for s in STEPS if s * power >= rough), 10 * power))


def _time(seconds: float) -> str:
    return f"{seconds:.6g} s"


def _x(seconds: float, end: float) -> float:
    return LEFT + seconds * (WIDTH - MARGIN - LEFT) / end


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
