"""All segments of a run in one picture: their thumbnails in reading order, with their numbers."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .run import Run

GAP = 4
"""Pixels between thumbnails."""

LABEL_HEIGHT = 14
BACKGROUND = (24, 24, 24)
LABEL_COLOUR = (220, 220, 220)


def contact_sheet(run: Run) -> torch.Tensor:
    """The thumbnails of every segment, [1, height, width, 3] in 0..1.

    A segment without a thumbnail leaves its place empty.
    """
    pictures = [_picture(run, index) for index in range(len(run.segments))]
    sizes = [picture.size for picture in pictures if picture is not None] or [(64, 64)]
    width = max(size[0] for size in sizes) + GAP
    height = max(size[1] for size in sizes) + GAP + LABEL_HEIGHT
    columns = math.ceil(math.sqrt(len(pictures) * height / width))
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=LABEL_HEIGHT - 3)
    for index, picture in enumerate(pictures):
        left, top = GAP + index % columns * width, GAP + index // columns * height
        draw.text((left, top), str(index + 1), LABEL_COLOUR, font)
        if picture is not None:
            sheet.paste(picture, (left, top + LABEL_HEIGHT))
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255.0).unsqueeze(0)


def _picture(run: Run, index: int) -> Image.Image | None:
    preview = run.segments[index].preview
    if preview is None:
        return None
    with Image.open(run.path / preview) as picture:
        return picture.convert("RGB")
