"""Acceptance 9 of the keyframes: every rule for reference files holds before anything is sampled.

Through the host's own executor, with the planner that would sample, and with the recall node.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .planner_graphs import SCRIPT, planner_graph
from .test_reference_files import halves, png_head


@pytest.fixture
def files(comfy_folders: dict[str, Path], tmp_path: Path) -> Path:
    """The input folder with every kind of file that an artist may name."""
    inside, outside = comfy_folders["input"], tmp_path / "outside"
    outside.mkdir()
    halves().save(outside / "secret.png")
    (inside / "linked.png").symlink_to(outside / "secret.png")
    (inside / "text.png").write_text("a portrait of Ana\n" * 9, encoding="utf-8")
    (inside / "large.png").write_bytes(png_head(20_000, 20_000))
    halves(size=(20_000, 600)).save(inside / "wide.jpg")
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(inside / "moving.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    halves(size=(64, 40)).save(inside / "phone.jpg", exif=exif)
    return inside


@pytest.fixture
def sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """`sampled()`: how often a sampler began."""
    from development.tiny_nodes import CALLS

    file = tmp_path / "calls.txt"
    monkeypatch.setenv(CALLS, str(file))
    return lambda: len(file.read_text(encoding="utf-8").split()) if file.exists() else 0


def script_with(name: str) -> str:
    return SCRIPT.replace("looks up.", f"looks up. {{refs: {name}}}")


def recall_graph(script: str) -> dict[str, Any]:
    inputs = {"storyboard": ["b", 0], "shot": "3.1", "how_many": 3}
    return {
        "b": {"class_type": "ThroughlineStoryboard", "inputs": {"script": script}},
        "r": {"class_type": "ThroughlineRecall", "inputs": inputs},
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.png", "'gone.png' must be in ComfyUI's input folder, got no such file"),
        ("linked.png", "'linked.png' must stay inside ComfyUI's input folder, got a link out"),
        ("text.png", "'text.png' must be a picture, got a file of no picture format"),
        ("large.png", "'large.png' must have at most 178,956,970 pixels"),
        ("../secret.png", "must stay inside ComfyUI's input folder: no '..'"),
        ("/etc/hostname", "must stay inside ComfyUI's input folder: no absolute paths"),
    ],
)
def test_a_bad_file_is_named_before_anything_is_sampled(
    run_film: Any,
    files: Path,
    comfy_folders: dict[str, Path],
    sampled: Callable[[], int],
    name: str,
    words: str,
) -> None:
    for graph in (planner_graph(script=script_with(name)), recall_graph(script_with(name))):
        with pytest.raises(run_film.error) as caught:
            run_film(graph)
        assert words in str(caught.value)
    assert sampled() == 0
    assert not (comfy_folders["output"] / "throughline").exists()


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("wide.jpg", "reference 'wide.jpg' is 20000 x 600 in its file; it is used at 11824 x 354"),
        ("moving.gif", "reference 'moving.gif' holds 3 pictures; the first is used"),
        ("phone.jpg", None),
    ],
)
def test_a_file_with_a_rule_is_used_and_the_rule_is_said(
    run_film: Any, files: Path, name: str, note: str | None
) -> None:
    outputs, _ = run_film(recall_graph(script_with(name)))
    report = outputs["r"]["text"][0]
    assert f"1. 3.1: {name} " in report
    assert ("reference '" not in report) if note is None else (note in report)
