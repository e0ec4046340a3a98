"""All thumbnails of a run in one picture that does not grow with the film."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from throughline.runs.contact_sheet import BACKGROUND, GAP, LABEL_HEIGHT, MOST_PIXELS, contact_sheet


def run_of(folder: Path, sizes: list[tuple[int, int] | None]) -> Any:
    """A run with a thumbnail of each size (None for none), each in a red of its own."""
    records = []
    for index, size in enumerate(sizes):
        name = None
        if size is not None:
            name = f"{index}.png"
            data = io.BytesIO()
            Image.new("RGB", size, (100 + index % 100, 0, 0)).save(data, "PNG")
            (folder / name).write_bytes(data.getvalue())
        records.append(SimpleNamespace(preview=name))
    return SimpleNamespace(path=folder, segments=tuple(records))


def test_a_short_film_shows_its_thumbnails_whole(tmp_path: Path) -> None:
    sheet = contact_sheet(run_of(tmp_path, [(40, 30), None, (40, 30)]))
    cell = (30 + GAP + LABEL_HEIGHT, 40 + GAP)
    assert sheet.shape == (1, 2 * cell[0] + GAP, 2 * cell[1] + GAP, 3)
    place = slice(GAP + LABEL_HEIGHT, GAP + LABEL_HEIGHT + 30)
    assert torch.equal(sheet[0, place, GAP : GAP + 40, 0], torch.full((30, 40), 100 / 255))
    empty = sheet[0, place, GAP + cell[1] : GAP + cell[1] + 40]
    assert torch.equal(empty, torch.tensor(BACKGROUND).div(255.0).expand(30, 40, 3))
    below = sheet[0, place.start + cell[0] : place.stop + cell[0], GAP : GAP + 40, 0]
    assert torch.equal(below, torch.full((30, 40), 102 / 255))


@pytest.mark.parametrize("count", [12, 48, 500])
def test_a_long_film_has_no_larger_sheet(count: int, tmp_path: Path) -> None:
    sheet = contact_sheet(run_of(tmp_path, [(256, 144)] * count))
    pixels = sheet.shape[1] * sheet.shape[2]
    assert pixels <= MOST_PIXELS
    assert (pixels > 0.7 * MOST_PIXELS) == (count > 12)  # no smaller than it must be
    reds = (sheet[0, :, :, 0] * 255).round().unique().tolist()
    assert {100.0 + index % 100 for index in range(count)} <= set(reds)  # every one is there
