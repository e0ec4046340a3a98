"""The benches of the memory: what they count, and that the shipped weights recall."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recall(comfy: ModuleType) -> Any:
    """The bench's module, entered as dev.py does."""
    from development.package import enter_package

    if "benchmarks" not in sys.modules:
        enter_package("benchmarks", ROOT / "benchmarks", execute=False)
    return importlib.import_module("benchmarks.recall")


def test_a_shot_that_repeats_was_seen_whole(recall: Any) -> None:
    from throughline.training.memory_story import returning_story

    story = returning_story(3)
    first = story.shots[0]
    repeated = replace(story, shots=(*story.shots[:-1], first))
    assert bool(recall.seen_mask(repeated, 1).all())


def test_of_a_place_that_was_never_seen_only_the_lead_counts(recall: Any) -> None:
    from throughline.training.memory_story import returning_story
    from throughline.training.world import POSITIONS

    story = returning_story(3)
    seen = recall.seen_mask(story, 0)
    left = POSITIONS[story.shots[-1].position]
    assert not seen[:, :, :left].any() and not seen[:, :, left + 16 :].any()
    assert 0 < int(seen[0].sum()) <= 32 * 16


def test_the_measures(recall: Any) -> None:
    truth = torch.rand(5, 64, 64, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    seen = torch.zeros(5, 64, 64, dtype=torch.bool)
    seen[:, :16, :32] = True
    wrong_elsewhere = torch.where(seen[..., None], truth, truth + 0.3)
    same = recall.compare(wrong_elsewhere, truth, seen)
    assert same["colour_error"] == 0.0 and same["psnr"] == pytest.approx(100.0)
    shifted = recall.compare(truth + 0.1, truth, seen)
    assert shifted["psnr"] == pytest.approx(20.0, abs=1e-3)
    assert shifted["colour_error"] == pytest.approx(25.5 * 3**0.5, abs=1e-2)


def test_all_methods_read_as_many_tokens(recall: Any) -> None:
    """As memory 2x2x2 holds of six shots; 4x4x2 holds a quarter of that."""
    assert recall.ways(36)["window"] == "window 5"  # 80 tokens beside 72
    assert recall.ways(54)["window"] == "window 7"


@pytest.mark.slow
def test_the_shipped_memory_brings_back_what_a_window_cannot(
    recall: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On worlds beside those of the bench's own seeds; the margin there is twice this one."""
    monkeypatch.setattr(recall, "PICTURE", tmp_path / "recall.png")
    rows = {row["method"]: row for row in recall.run(range(100, 104))}
    assert set(rows) >= {"memory 2x2x2", "memory 4x4x2", "window", "framepack", "none"}
    assert all({"psnr", "colour_error", "tokens", "n"} <= row.keys() for row in rows.values())
    assert rows["memory 2x2x2"]["psnr"] > rows["window"]["psnr"] + 2.0
    assert rows["memory 2x2x2"]["colour_error"] < 0.75 * rows["window"]["colour_error"]
    assert (tmp_path / "recall.png").is_file()
