"""A drift report as a picture: appearance against segment 1 above, seams below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..memory.drift import APPEARANCE, DriftReport

WIDTH, HEIGHT = 1024, 640
LEFT, RIGHT, TOP, MIDDLE, LOWER, BOTTOM = 76, 910, 56, 400, 452, 590
"""Pixels: the upper panel is TOP to MIDDLE, the lower one LOWER to BOTTOM."""

BACKGROUND, INK, FAINT = (24, 24, 24), (225, 225, 225), (70, 70, 70)
LINE_COLOURS = {
    # Okabe and Ito, Color Universal Design (2008): told apart by colour-blind readers too
    "luma": (240, 228, 66),
    "chroma": (230, 159, 0),
    "contrast": (86, 180, 233),
    "texture": (0, 158, 115),
}
SEAM_COLOUR = (204, 121, 167)
STEPS = (1, 2, 5)
SMALLEST_RANGE = 2.0
"""Percent: a scale that shows less would blow up what nobody sees."""

GRID_LINES = 6
LABELLED_SEGMENTS = 24
LABEL_GAP = 16


def draw_drift(report: DriftReport, title: str) -> torch.Tensor:
    """The plot as an IMAGE, [1, height, width, 3] in 0..1."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    heading = "no hops" if report.drift_percent is None else f"{report.drift_percent:.1f} % per hop"
    draw.text((LEFT, 14), f"{title}: drift {heading}", INK, _font(18))
    _draw_appearance(draw, report)
    _draw_seams(draw, report)
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0).unsqueeze(0)


def _draw_appearance(draw: ImageDraw.ImageDraw, report: DriftReport) -> None:
    curves = {
        name: [100.0 * (ratios[name] - 1.0) for ratios in report.against_first]
        for name in APPEARANCE
    }
    values = [value for curve in curves.values() for value in curve]
    low, high, step = _scale(min(values), max(values), SMALLEST_RANGE)
    cuts = [hop.index for hop in report.hops if hop.cut]
    count = len(report.against_first)
    _axes(draw, TOP, MIDDLE, low, high, step, "{:+g} %", "change since segment 1")
    for cut in cuts:
        x = (_x(cut - 1, count) + _x(cut, count)) / 2
        draw.line([(x, TOP), (x, MIDDLE)], FAINT, 1)
        draw.text((x + 3, TOP + 2), "cut", INK, _font(12))
    ends = []
    for name, curve in curves.items():
        points = [(_x(i, count), _y(v, low, high, TOP, MIDDLE)) for i, v in enumerate(curve)]
        for i, point in enumerate(points):
            if i and i not in cuts:
                draw.line([points[i - 1], point], LINE_COLOURS[name], 2)
            draw.ellipse([point[0] - 3, point[1] - 3, point[0] + 3, point[1] + 3],
                         LINE_COLOURS[name])  # fmt: skip
        ends.append((points[-1][1], f"{name} {curve[-1]:+.1f} %", LINE_COLOURS[name]))
    _end_labels(draw, ends)


def _draw_seams(draw: ImageDraw.ImageDraw, report: DriftReport) -> None:
    count = len(report.against_first)
    seams = [(hop.index, hop.seam) for hop in report.hops if hop.seam is not None]
    top = max([seam for _, seam in seams], default=1.0)
    low, high, step = _scale(0.0, max(top, 1.5), 1.0)
    _axes(draw, LOWER, BOTTOM, low, high, step, "{:g}", "seam into the segment (1 does not show)")
    width = max(2.0, min(24.0, 0.5 * (RIGHT - LEFT) / count))
    for index, seam in seams:
        x, y = _x(index, count), _y(seam, low, high, LOWER, BOTTOM)
        draw.rectangle([x - width / 2, y, x + width / 2, BOTTOM - 1], SEAM_COLOUR)
    one = _y(1.0, low, high, LOWER, BOTTOM)
    draw.line([(LEFT, one), (RIGHT, one)], INK, 1)
    every = -(-count // LABELLED_SEGMENTS)
    for i in range(0, count, every):
        draw.text((_x(i, count), BOTTOM + 6), str(i + 1), INK, _font(13), anchor="ma")
    draw.text(((LEFT + RIGHT) / 2, BOTTOM + 26), "segment", INK, _font(13), anchor="ma")


def _axes(
    draw: ImageDraw.ImageDraw,
    top: int,
    bottom: int,
    low: float,
    high: float,
    step: float,
    label: str,
    title: str,
) -> None:
    draw.text((LEFT, top - 17), title, INK, _font(13))
    for k in range(round((high - low) / step) + 1):
        value = low + k * step
        y = _y(value, low, high, top, bottom)
        draw.line([(LEFT, y), (RIGHT, y)], INK if abs(value) < step / 2 else FAINT, 1)
        text = label.format(round(value, 6) + 0.0)
        draw.text((LEFT - 8, y), text, INK, _font(13), anchor="rm")


def _end_labels(
    draw: ImageDraw.ImageDraw, ends: Sequence[tuple[float, str, tuple[int, int, int]]]
) -> None:
    """Names beside the ends of the curves, pushed apart where they would overlap."""
    below = TOP - LABEL_GAP / 2
    ordered = sorted(ends)
    for place, (y, text, colour) in enumerate(ordered):
        lowest = MIDDLE - (len(ordered) - 1 - place) * LABEL_GAP
        below = min(max(y, below + LABEL_GAP), lowest)
        draw.text((RIGHT + 10, below), text, colour, _font(13), anchor="lm")


def _scale(low: float, high: float, smallest: float) -> tuple[float, float, float]:
    """Round limits that hold low and high, and the step of the grid lines between them."""
    if high - low < smallest:
        middle = (low + high) / 2
        low, high = min(low, middle - smallest / 2), max(high, middle + smallest / 2)
    rough = (high - low) / GRID_LINES
    power = 10.0 ** np.floor(np.log10(rough))
    step = float(next((s * power for s in STEPS if s * power >= rough), 10 * power))
    return float(np.floor(low / step) * step), float(np.ceil(high / step) * step), step


def _x(index: int, count: int) -> float:
    return LEFT + (index + 0.5) * (RIGHT - LEFT) / count


def _y(value: float, low: float, high: float, top: int, bottom: int) -> float:
    return bottom - (value - low) / (high - low) * (bottom - top)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
