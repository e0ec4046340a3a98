"""The bench drift-plan: both ways make the same steps, and what is kept in view is measured."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench(comfy: ModuleType) -> Any:
    """The bench's module, entered as dev.py does."""
    from development.package import enter_package

    if "benchmarks" not in sys.modules:
        enter_package("benchmarks", ROOT / "benchmarks", execute=False)
    return importlib.import_module("benchmarks.drift_plan")


def test_chain_and_plan_make_equally_many_steps_for_each_frame(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "SEGMENTS", 4)
    monkeypatch.setattr(bench, "STEPS", 2)
    monkeypatch.setattr(bench, "PLOT", tmp_path / "plot.png")
    monkeypatch.setattr(bench, "WAYS", {name: bench.WAYS[name] for name in ("chain", "plan")})
    chain, plan = rows = bench.run(range(5, 6))
    assert [row["method"] for row in rows] == ["chain", "plan"]
    assert chain["frame_steps"] == plan["frame_steps"] == 4 * 4 * 2
    assert (chain["steps"], plan["steps"]) == (4 * 2, 3 * 2)
    assert chain["psnr_less"] == 0.0 and plan["psnr"] != chain["psnr"]
    assert all(12.0 < row["psnr_1"] < 40.0 for row in rows)
    saved = json.loads((tmp_path / "plot.json").read_text())
    assert len(saved["psnr"]["plan"]) == 4 and len(saved["drift"]["plan"]) == 3
    with Image.open(tmp_path / "drift_plan_frames.png") as pictures:
        assert pictures.size == (4 * 128, 3 * 128)  # true frames, chain, plan


def test_a_caption_of_a_path_tells_what_four_captions_tell(bench: Any) -> None:
    from throughline.training.world import long_take

    take = long_take(5, 8)
    first, second = bench.path_captions_of(take)
    poses = [segment.to_pose for segment in take.segments]
    told = " to ".join(str(pose) for pose in poses[:4])
    assert first == f"{take.captions[0].rpartition(' to ')[0]} to {told}"
    assert second.endswith(f"camera {poses[3]} to " + " to ".join(map(str, poses[4:])))


def test_the_slope_is_that_of_a_line(bench: Any) -> None:
    assert bench.slope([20.0, 19.5, 19.0, 18.5]) == pytest.approx(-0.5)
    assert bench.slope([3.0, 1.0, 2.0]) == pytest.approx(-0.5)


def test_what_stays_in_the_picture_is_sky_floor_and_figure(bench: Any) -> None:
    import torch

    from throughline.training.evaluate import frames_to_image
    from throughline.training.world import long_take
    from throughline.training.world_rendering import render_take

    take = next(t for t in (long_take(seed, 4) for seed in range(20)) if t.character is not None)
    frames, kept = frames_to_image(render_take(take)), bench.kept_in_view(take)
    assert 0.3 < float(kept.float().mean()) < 0.6
    changes = (frames - frames[:1]).abs().amax(dim=(0, 3))
    assert float(changes[kept].mean()) < 0.06  # a walking figure bobs by one pixel
    assert float(changes[~kept].mean()) > 0.2
    film = [frames, frames * 0.5]
    whole, part = bench.psnr_of(film, [frames] * 2), bench.psnr_of(film, [frames] * 2, kept)
    assert whole[0] == part[0] == 100.0 and part[1] == pytest.approx(
        -10 * torch.log10((frames[:, kept] / 2).square().mean()).item(), abs=1e-3
    )


def test_a_line_through_the_first_value(bench: Any) -> None:
    assert bench.slope_from_first([20.0, 19.0, 18.0, 17.0]) == pytest.approx(-1.0)
    assert bench.slope_from_first([20.0, 10.0, 10.0]) == pytest.approx(-(10.0 + 2 * 10.0) / 5.0)
