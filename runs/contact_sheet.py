"""All segments of a run in one picture: their thumbnails in reading order, with their numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .run import Run

GAP = 4
"""Pixels between thumbnails."""

LABEL_HEIGHT = 14
LEAST_SIDE = 24
"""Pixels of the shorter side below which thumbnails are not shrunk (our choice)."""

SHRINKING = 0.95
"""Each try at a layout that fits is this much smaller than the one before."""

BACKGROUND = (24, 24, 24)
LABEL_COLOUR = (220, 220, 220)


MOST_PIXELS = 1920 * 1080
"""Of a sheet (our choice): thumbnails of more segments are shrunk to fit, so that the sheet of a
long film takes no more memory than that of a short one."""


def contact_sheet(run: Run) -> torch.Tensor:
    """The thumbnails of every segment, [1, height, width, 3] in 0..1.

    A segment without a thumbnail leaves its place empty.
    """
    previews = [record.preview for record in run.segments]
    sizes = [_size(run.path / preview) for preview in previews if preview is not None] or [(64, 64)]
    picture_width = max(size[0] for size in sizes)
    picture_height = max(size[1] for size in sizes)
    scale, columns, rows = _layout(len(previews), picture_width, picture_height)
    width, height = _cell(picture_width, picture_height, scale)
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=LABEL_HEIGHT - 3)
    for index, preview in enumerate(previews):
        left, top = GAP + index % columns * width, GAP + index // columns * height
        draw.text((left, top), str(index + 1), LABEL_COLOUR, font)
        if preview is not None:
            sheet.paste(_picture(run.path / preview, scale), (left, top + LABEL_HEIGHT))
    return torch.from_numpy(np.array(sheet)).float().div_(255.0).unsqueeze(0)


def _layout(count: int, picture_width: int, picture_height: int) -> tuple[float, int, int]:
    """How much thumbnails are shrunk (1 or less), and the columns and rows of a sheet of them."""
    scale = 1.0
    while True:
        width, height = _cell(picture_width, picture_height, scale)
        columns = math.ceil(math.sqrt(count * height / width))
        rows = math.ceil(count / columns)
        pixels = (columns * width + GAP) * (rows * height + GAP)
        if pixels <= MOST_PIXELS or min(width, height) <= LEAST_SIDE + GAP:
            return scale, columns, rows
        scale *= SHRINKING


def _cell(picture_width: int, picture_height: int, scale: float) -> tuple[int, int]:
    """Pixels that a thumbnail takes with its gap and its number."""
    width = max(1, round(picture_width * scale)) + GAP
    return width, max(1, round(picture_height * scale)) + GAP + LABEL_HEIGHT


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def _picture(path: Path, scale: float) -> Image.Image:
    with Image.open(path) as picture:
        whole = picture.convert("RGB")
    if scale == 1.0:
        return whole
    return whole.resize([max(1, round(side * scale)) for side in whole.size], Image.Resampling.BOX)
