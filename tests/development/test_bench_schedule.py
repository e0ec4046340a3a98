"""dev.py bench schedule: speed-ups of the closed forms, and a drawing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from development.environment import ROOT
    from development.package import enter_package

    if "benchmarks" not in sys.modules:
        enter_package("benchmarks", ROOT / "benchmarks", execute=False)
    module = importlib.import_module("benchmarks.schedule")
    monkeypatch.setattr(module, "PICTURE", tmp_path / "schedule.png")
    return module


def test_rows_are_those_of_the_released_log(bench: Any) -> None:
    rows = {row["method"]: row for row in bench.run(range(1))}
    four = rows["4 segments"]
    assert abs(four["error"]) < 0.02 and four["enough"] == 4
    assert four["K=4"] == pytest.approx(2.04, abs=0.02)  # section 5.3: 0.365 against 0.179 FPS
    for row in rows.values():
        speeds = [row[f"K={devices}"] for devices in bench.DEVICES]
        assert speeds[0] == pytest.approx(1.0)
        assert speeds[3:] == pytest.approx([row["most"]] * 3)  # K* is 4
        assert all(value <= row["most"] + 1e-9 for value in speeds)
    lengths = [row["K=4"] for row in rows.values()]
    assert lengths == sorted(lengths) and lengths[-1] < (bench.SEGMENT) / bench.HOP


def test_the_drawing_has_a_curve_for_each_number_of_devices(bench: Any) -> None:
    bench.run(range(1))
    with Image.open(bench.PICTURE) as picture:
        shown = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert set(bench.COLOURS.values()) <= shown
