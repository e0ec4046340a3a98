"""The bench drift-plan: both ways make the same number of steps, which the rows state."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench(comfy: ModuleType) -> Any:
    """The bench's module, entered as dev.py does."""
    from development.package import enter_package

    if "benchmarks" not in sys.modules:
        enter_package("benchmarks", ROOT / "benchmarks", execute=False)
    return importlib.import_module("benchmarks.drift_plan")


def test_a_chain_and_a_plan_make_equally_many_steps(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "SEGMENTS", 3)
    monkeypatch.setattr(bench, "SHOWN", (1, 3))
    ways = {name: steps for name, steps in bench.WAYS.items() if name in ("chain", "plan")}
    assert len({sum(steps) for steps in ways.values()}) == 1
    monkeypatch.setattr(bench, "WAYS", {"chain": (4, 0), "plan": (2, 2)})
    chain, plan = rows = bench.run(range(5, 6))
    assert [row["method"] for row in rows] == ["chain", "plan"]
    assert chain["steps"] == plan["steps"] == 3 * 4
    assert chain["psnr_less"] == 0.0 and plan["psnr"] != chain["psnr"]
    assert all(12.0 < row["psnr_1"] < 40.0 for row in rows)


def test_the_slope_is_that_of_a_line(bench: Any) -> None:
    assert bench.slope([20.0, 19.5, 19.0, 18.5]) == pytest.approx(-0.5)
    assert bench.slope([3.0, 1.0, 2.0]) == pytest.approx(-0.5)
