"""A packing of references as a picture: the golden spiral, a rectangle for each level.

Beside it stands what each level costs, and a bar of all tokens against the full sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..adapters.references import atlas_picture
from ..memory.golden import PHI, PackedAtlas, PackedReference, Packing
from .golden_report import percent_of_naive, references_by_level

WIDTH, MARGIN, HEADING = 1024, 24, 46
SPIRAL_HEIGHT = 560
ROW, BAR = 26, 22
GAP = 3
LABELLED_SIDE = 40
"""Pixels: smaller rectangles have no room for a name."""

PINNED = " (pinned)"
BACKGROUND, PANEL, INK, FAINT = (24, 24, 27), (39, 39, 42), (228, 228, 231), (113, 113, 122)
LEVEL_COLOURS = (
    # Okabe and Ito, Color Universal Design (2008): told apart by colour-blind readers too
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)
ATLAS_COLOUR = (212, 212, 216)


@dataclass(frozen=True)
class Slot:
    """A rectangle of the picture in pixels."""

    left: float
    top: float
    width: float
    height: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        return (
            round(self.left),
            round(self.top),
            round(self.left + self.width),
            round(self.top + self.height),
        )


@dataclass(frozen=True)
class Row:
    """A line of the table: what stands in one slot."""

    colour: tuple[int, int, int]
    title: str
    size: str
    count: int
    tokens: int


def packing_picture(
    packing: Packing, pictures: Sequence[torch.Tensor], names: Sequence[str]
) -> torch.Tensor:
    """The picture as an IMAGE, [1, height, width, 3] in 0..1.

    `pictures` [1, h, w, 3] are the sources, `names` one short name for each.
    """
    rows = _rows(packing)
    height = HEADING + SPIRAL_HEIGHT + MARGIN + ROW * len(rows) + MARGIN + BAR + 2 * ROW
    canvas = Image.new("RGB", (WIDTH, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, 13), _heading(packing), INK, _font(19))
    _draw_spiral(canvas, packing, pictures, names)
    top = HEADING + SPIRAL_HEIGHT + MARGIN
    _draw_table(draw, rows, top)
    _draw_bar(draw, packing, rows, top + ROW * len(rows) + MARGIN)
    return torch.from_numpy(np.asarray(canvas, dtype=np.float32) / 255.0).unsqueeze(0)


def spiral(count: int, aspect: float) -> list[Slot]:
    """Rectangles of one shape that wind inwards, each 1/phi as long as the one before.

    They fill a golden rectangle but for its eye; `aspect` is width / height of each. Of the two
    ways to turn the spiral it takes the one that is larger in the picture's own frame. A single
    rectangle has the frame for itself.
    """
    frame_width, frame_height = WIDTH - 2 * MARGIN, SPIRAL_HEIGHT
    if count == 1:
        side = min(frame_width / aspect, frame_height)
        left, top = MARGIN + (frame_width - side * aspect) / 2, HEADING + (frame_height - side) / 2
        return [Slot(left, top, side * aspect, side)]
    across = min(frame_width / (PHI * aspect), frame_height)
    down = min(frame_width / aspect, frame_height / PHI)
    lies = across >= down
    side = max(across, down)
    width, height = (PHI * side, side) if lies else (side, PHI * side)
    left = MARGIN + (frame_width - width * aspect) / 2
    top = HEADING + (frame_height - height) / 2
    x, y, slots = 0.0, 0.0, []
    for number in range(count):
        turn = (number + (0 if lies else 1)) % 4
        if turn == 0:
            corner, (x, width) = (x, y), (x + side, width - side)
        elif turn == 1:
            corner, (y, height) = (x, y), (y + side, height - side)
        elif turn == 2:
            corner, width = (x + width - side, y), width - side
        else:
            corner, height = (x, y + height - side), height - side
        slots.append(Slot(left + corner[0] * aspect, top + corner[1], side * aspect, side))
        side /= PHI
    return slots


def _rows(packing: Packing) -> list[Row]:
    rows = []
    for place, (level, references) in enumerate(references_by_level(packing).items()):
        sizes = sorted({(one.width, one.height) for one in references}, reverse=True)
        size = f"{sizes[0][0]} x {sizes[0][1]}" + (" and other shapes" if len(sizes) > 1 else "")
        tokens = sum(one.tokens for one in references)
        colour = LEVEL_COLOURS[place % len(LEVEL_COLOURS)]
        rows.append(Row(colour, f"level {level}", size, len(references), tokens))
    if packing.atlas is not None:
        atlas = packing.atlas
        size = f"{atlas.atlas.width} x {atlas.atlas.height}"
        rows.append(Row(ATLAS_COLOUR, "atlas", size, len(atlas.sources), atlas.tokens))
    return rows


def _heading(packing: Packing) -> str:
    left_out = f", {len(packing.left_out)} left out" if packing.left_out else ""
    return (
        f"{packing.tokens:,} reference tokens, {percent_of_naive(packing):.1f} % of "
        f"{packing.naive_tokens:,} at full size{left_out}"
    )


def _draw_spiral(
    canvas: Image.Image,
    packing: Packing,
    pictures: Sequence[torch.Tensor],
    names: Sequence[str],
) -> None:
    levels = references_by_level(packing)
    slots = spiral(len(levels) + (packing.atlas is not None), _aspect(packing))
    for place, (references, slot) in enumerate(zip(levels.values(), slots, strict=False)):
        colour = LEVEL_COLOURS[place % len(LEVEL_COLOURS)]
        for reference, cell in zip(references, _cells(slot, len(references)), strict=True):
            label = names[reference.source] + (PINNED if reference.pinned else "")
            _draw_cell(canvas, cell, _as_image(pictures[reference.source]), label, colour)
    if packing.atlas is not None:
        _draw_atlas(canvas, slots[-1], packing.atlas, pictures, names)


def _aspect(packing: Packing) -> float:
    """Width / height of a rectangle: the shape of level 0, lying as the first reference does."""
    if not packing.references and packing.atlas is not None:
        return packing.atlas.atlas.width / packing.atlas.atlas.height
    aspect = packing.base.long / packing.base.short
    first: PackedReference | None = next(iter(packing.references), None)
    return 1 / aspect if first is not None and first.height > first.width else aspect


def _cells(slot: Slot, count: int) -> list[Slot]:
    """A slot cut into as many rectangles, as near to its own shape as rows of one length allow."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = []
    for index in range(count):
        row, column = divmod(index, columns)
        in_row = columns if row < rows - 1 else count - columns * (rows - 1)
        width, height = slot.width / in_row, slot.height / rows
        cells.append(Slot(slot.left + column * width, slot.top + row * height, width, height))
    return cells


def _draw_cell(
    canvas: Image.Image, cell: Slot, picture: Image.Image, label: str, colour: tuple[int, int, int]
) -> None:
    """A thumbnail that fills its rectangle, in the colour of its level; deep in the spiral there is
    room for the colour alone, or for nothing."""
    left, top, right, bottom = cell.box
    inner = (right - left - 2 * GAP, bottom - top - 2 * GAP)
    if min(right - left, bottom - top) < 1:
        return
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left, top, right - 1, bottom - 1), colour)
    if min(inner) < 1:
        return
    canvas.paste(ImageOps.fit(picture, inner, Image.Resampling.BOX), (left + GAP, top + GAP))
    if min(inner) >= LABELLED_SIDE:
        _draw_label(draw, label, left + GAP, top + GAP, inner[0])


def _draw_label(draw: ImageDraw.ImageDraw, label: str, left: int, top: int, room: int) -> None:
    """The name, its last word where there is no room for it, or nothing."""
    font = _font(13)
    for text in (label, label.removesuffix(PINNED), label.removesuffix(PINNED).split(" ")[-1]):
        width = draw.textlength(text, font)
        if width <= room - 10:
            draw.rectangle((left, top, left + width + 9, top + 19), BACKGROUND)
            draw.text((left + 5, top + 2), text, INK, font)
            return


def _draw_atlas(
    canvas: Image.Image,
    slot: Slot,
    packed: PackedAtlas,
    pictures: Sequence[torch.Tensor],
    names: Sequence[str],
) -> None:
    """The whole atlas in the middle of its slot, its tiles named where there is room; nothing in a
    slot that is too small."""
    left, top, right, bottom = slot.box
    inner = (right - left - 2 * GAP, bottom - top - 2 * GAP)
    if min(inner) < 1:
        return
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left, top, right - 1, bottom - 1), ATLAS_COLOUR)
    draw.rectangle((left + GAP, top + GAP, right - GAP - 1, bottom - GAP - 1), PANEL)
    atlas = atlas_picture([pictures[source] for source in packed.sources], packed.atlas)
    picture = ImageOps.contain(_as_image(atlas), inner, Image.Resampling.BOX)
    left += (right - left - picture.width) // 2
    top += (bottom - top - picture.height) // 2
    canvas.paste(picture, (left, top))
    scale = picture.width / packed.atlas.width
    for source, tile in zip(packed.sources, packed.atlas.tiles, strict=True):
        if min(tile.width, tile.height) * scale >= LABELLED_SIDE:
            corner = (left + round(tile.left * scale), top + round(tile.top * scale))
            _draw_label(draw, names[source], *corner, round(tile.width * scale))


def _draw_table(draw: ImageDraw.ImageDraw, rows: Sequence[Row], top: int) -> None:
    font = _font(15)
    for place, row in enumerate(rows):
        y = top + place * ROW
        draw.rectangle((MARGIN, y + 4, MARGIN + 14, y + 18), row.colour)
        pictures = "1 picture" if row.count == 1 else f"{row.count} pictures"
        draw.text((MARGIN + 26, y + 2), row.title, INK, font)
        draw.text((MARGIN + 140, y + 2), row.size, INK, font)
        draw.text((MARGIN + 430, y + 2), pictures, INK, font)
        draw.text((WIDTH - MARGIN, y + 2), f"{row.tokens:,} tokens", INK, font, anchor="ra")


def _draw_bar(draw: ImageDraw.ImageDraw, packing: Packing, rows: Sequence[Row], top: int) -> None:
    """All tokens against those at full size, and where the bound lies."""
    full = max(packing.naive_tokens, packing.tokens, 1)
    span = WIDTH - 2 * MARGIN
    draw.rectangle((MARGIN, top, MARGIN + span, top + BAR), PANEL)
    done = 0
    for row in rows:
        start, done = MARGIN + span * done / full, done + row.tokens
        draw.rectangle((start, top, MARGIN + span * done / full, top + BAR), row.colour)
    font = _font(13)
    draw.text((WIDTH - MARGIN, top + BAR + 6), f"full size {full:,}", FAINT, font, anchor="ra")
    if packing.bound <= full:
        x = MARGIN + span * packing.bound / full
        draw.line([(x, top - 5), (x, top + BAR + 5)], INK, 2)
        draw.text((x, top + BAR + 6), f"bound {packing.bound:,.0f}", INK, font, anchor="ma")


def _as_image(picture: torch.Tensor) -> Image.Image:
    """[1, h, w, 3 or more] in 0..1 as a PIL picture."""
    pixels = picture[0, ..., :3].detach().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.cpu().numpy())


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
