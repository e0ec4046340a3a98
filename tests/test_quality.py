"""ruff and mypy on all that is written here. `ruff format . && ruff check --fix .` mends most."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TYPED = ("memory", "planning", "runs", "adapters", "nodes")
# House rule: a file is one idea. No test counts the lines of tests and of the page.
LONGEST = 400
COUNTED = (*TYPED, "training", "development", "benchmarks")


def _run(*command: str, cwd: Path = ROOT) -> str:
    """The output of a command that failed; nothing when it succeeded."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("command", [["format", "--check"], ["check"]], ids=" ".join)
def test_ruff(command: list[str]) -> None:
    output = _run("ruff", *command, "--cache-dir", str(ROOT / ".ruff_cache"), str(ROOT))
    assert output == "", output


def test_types(tmp_path: Path) -> None:
    """mypy reads the pack under its name, whatever the folder of this clone is called."""
    (tmp_path / "throughline").symlink_to(ROOT)
    packages = [
        word
        for folder in TYPED
        if list((ROOT / folder).glob("*.py"))
        for word in ("-p", f"throughline.{folder}")
    ]
    config, cache = str(ROOT / "pyproject.toml"), str(ROOT / ".mypy_cache")
    output = _run("mypy", "--config-file", config, "--cache-dir", cache, *packages, cwd=tmp_path)
    assert output == "", output


def test_no_file_is_too_long() -> None:
    lines = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for folder in COUNTED
        for file in (ROOT / folder).rglob("*.py")
    }
    assert {file: count for file, count in lines.items() if count > LONGEST} == {}
