"""A step of a rollout as a picture: a row per level, coarsest on top, a column per latent frame."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..planning.rollout import State, states
from .rollout_report import RolloutView, ShownStep, describe_step

WIDTH, MARGIN, LABELS = 1024, 24, 92
HEADING, ROW, GAP, FOOT = 78, 44, 8, 62
BACKGROUND, PANEL, INK, FAINT = (24, 24, 27), (39, 39, 42), (228, 228, 231), (113, 113, 122)
COLOURS = {
    # Okabe and Ito, Color Universal Design (2008): told apart by colour-blind readers too
    State.UNSEEN: PANEL,
    State.CONTEXT: (86, 180, 233),
    State.TARGET: (230, 159, 0),
}
LEGEND = ((State.CONTEXT, "seen"), (State.TARGET, "made now"), (State.UNSEEN, "not seen"))
SEPARATED = 6
"""Pixels: columns as wide as this are drawn with a gap between them."""


def step_picture(view: RolloutView, number: int) -> torch.Tensor:
    """Step `number` (from 1 on) as an IMAGE, [1, height, 1024, 3] in 0..1. Raises ValueError for a
    step that the video does not have."""
    shown = view.step(number)
    height = HEADING + view.levels * (ROW + GAP) + FOOT
    canvas = Image.new("RGB", (WIDTH, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    made, seen = describe_step(view, shown)
    title = f"step {number:,} of {view.num_steps:,}: {made}"
    draw.text((MARGIN, 14), title, INK, _font(19))
    draw.text((MARGIN, 44), seen, FAINT, _font(15))
    rows = states(shown.step, view.levels, shown.start, shown.stop)
    for level, row in enumerate(rows):
        top = HEADING + (view.levels - 1 - level) * (ROW + GAP)
        label = f"level {level}"
        draw.text((MARGIN, top + 4), label, INK, _font(15))
        draw.text((MARGIN, top + 23), f"{view.tokens_per_level[level]:,}", FAINT, _font(13))
        _draw_row(draw, row, top)
    _draw_foot(draw, view, shown, height - FOOT)
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0).unsqueeze(0)


def column(place: int, count: int) -> float:
    """Where column `place` of `count` begins, in pixels from the left of the picture."""
    return MARGIN + LABELS + (WIDTH - 2 * MARGIN - LABELS) * place / count


def _draw_row(draw: ImageDraw.ImageDraw, row: tuple[State, ...], top: int) -> None:
    gap = 1 if column(1, len(row)) - column(0, len(row)) >= SEPARATED else 0
    for place, state in enumerate(row):
        left, right = column(place, len(row)), column(place + 1, len(row))
        draw.rectangle((round(left), top, round(right) - 1 - gap, top + ROW - 1), COLOURS[state])


def _draw_foot(draw: ImageDraw.ImageDraw, view: RolloutView, shown: ShownStep, top: int) -> None:
    """Where the chunk begins and ends, and what the colours say."""
    count, font = shown.stop - shown.start, _font(13)
    chunk = view.rollout.chunk
    begin = view.chunks[(shown.step.target.start - view.known_frames) // chunk]
    for frame in dict.fromkeys((shown.start, begin, shown.stop)):
        x = column(frame - shown.start, count)
        if frame == begin:
            draw.line([(x - 1, HEADING - 6), (x - 1, top + 2)], INK, 2)
        anchor = "ra" if frame == shown.stop else "la" if frame == shown.start else "ma"
        draw.text((x, top + 4), f"{frame:,}", FAINT, font, anchor=anchor)
    left = MARGIN + LABELS
    for state, text in LEGEND:
        draw.rectangle((left, top + 31, left + 14, top + 45), COLOURS[state])
        draw.text((left + 22, top + 30), text, INK, font)
        left += 22 + round(draw.textlength(text, font)) + 26
    draw.text((WIDTH - MARGIN, top + 30), "latent frames", FAINT, font, anchor="ra")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
