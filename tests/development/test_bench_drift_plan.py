"""The bench drift-plan: both ways make the same steps, and one kind of film stays in view."""

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
    rows = bench.run(range(5, 6))
    names = ["chain", "plan", "chain over pans", "plan over pans"]
    assert [row["method"] for row in rows] == names
    for chain, plan in (rows[:2], rows[2:]):
        check_pair(chain, plan)
    assert rows[0]["psnr"] != rows[2]["psnr"]
    saved = json.loads((tmp_path / "plot.json").read_text())
    assert list(saved) == ["in view", "over pans"]
    for figures in saved.values():
        assert len(figures["psnr"]["plan"]) == 4 and len(figures["drift"]["plan"]) == 3
    with Image.open(tmp_path / "drift_plan_frames.png") as pictures:
        assert pictures.size == (4 * 128, 6 * 128)  # true frames, chain, plan, of both films


def check_pair(chain: dict[str, Any], plan: dict[str, Any]) -> None:
    assert chain["frame_steps"] == plan["frame_steps"] == 4 * 4 * 2
    assert (chain["steps"], plan["steps"]) == (4 * 2, 3 * 2)
    assert chain["psnr_less"] == chain["gentler"] == 0.0 and plan["psnr"] != chain["psnr"]
    assert plan["psnr_less"] == pytest.approx(chain["psnr"] - plan["psnr"])
    slopes = [row["slope_db_per_segment"] for row in (plan, chain)]
    assert plan["gentler"] == pytest.approx(slopes[0] - slopes[1])
    assert all(12.0 < row["psnr_1"] < 40.0 for row in (chain, plan))


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


def test_a_film_in_view_never_goes_further_than_a_pose(bench: Any) -> None:
    from throughline.training.world import signed_turn

    reaches = set()
    for seed in range(12):
        take = bench.in_view(seed)
        away = {signed_turn(take.poses[0], pose) for pose in take.poses}
        assert len(take.segments) == bench.SEGMENTS
        assert away <= {0, 1} or away <= {0, -1}
        assert take.place == bench.over_pans(seed).place
        reaches |= away
    assert reaches == {-1, 0, 1}
    assert bench.in_view(3).poses == bench.in_view(3).poses
