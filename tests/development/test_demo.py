"""What dev.py demo does around the server: workflows, outputs, the progress it counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from development import demo
from development.environment import Problem
from development.progress import Progress


class FakeServer:
    """Answers /view with the file's own name."""

    def get(self, path: str) -> bytes:
        return path.encode()


def _collected(outputs: dict[str, Any], out: Path) -> list[str]:
    workflow = Path("01_long_take.json")
    return [file.name for file in demo.collect(outputs, FakeServer(), out, workflow)]


def test_results_lose_their_counters_and_the_video_gets_the_workflows_name(tmp_path: Path) -> None:
    film = {"filename": "film_00003_.mp4", "subfolder": "throughline", "type": "output"}
    sheet = {"filename": "contact_sheet_00012_.png", "subfolder": "", "type": "output"}
    shown = {"filename": "ComfyUI_temp_1.png", "subfolder": "", "type": "temp"}
    outputs = {"5": {"images": [film], "animated": [True]}, "6": {"images": [sheet, shown, sheet]}}
    names = _collected(outputs, tmp_path)
    assert names == ["long_take.mp4", "contact_sheet.png", "contact_sheet_2.png"]
    assert b"subfolder=throughline" in (tmp_path / "long_take.mp4").read_bytes()


def test_the_report_of_drift_is_asked_for_and_read() -> None:
    prompt = {"9": {"class_type": "ThroughlineDriftReport", "inputs": {"run": ["3", 0]}}}
    asked = demo.with_report(prompt)
    (added,) = set(asked) - {"9"}
    assert asked[added]["inputs"] == {"source": ["9", 0]}
    outputs = {"9": {"text": ["a table"]}, added: {"text": [json.dumps({"hops": []})]}}
    assert demo.drift_report(outputs) == {"hops": []}
    assert demo.texts(prompt, outputs) == ["a table"]
    assert demo.drift_report({"9": {"text": ["a table"]}}) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"a": 1}', '{"1": {"type": "x"}}'])
def test_what_is_no_workflow_is_refused_by_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "graph.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(Problem, match="--workflow"):
        demo.read_workflow(file)


def test_images_beside_the_workflow_come_into_the_input_folder(tmp_path: Path) -> None:
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows" / "start.png").write_bytes(b"picture")
    (tmp_path / "input").mkdir()
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "start.png"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "elsewhere.png"}},
    }
    demo.provide_inputs(prompt, tmp_path / "workflows", tmp_path / "input")
    assert [file.name for file in (tmp_path / "input").iterdir()] == ["start.png"]


def test_progress_counts_reused_segments_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    for number, status in ((1, "reused"), (1, "reused"), (2, "running"), (2, "done")):
        event = {"segment": number, "segments": 3, "status": status}
        progress.hear("throughline.segment", event)
    assert (progress.segments, progress.done, progress.reused) == (3, {1, 2}, 1)
    assert capsys.readouterr().err.splitlines() == [
        f"[{'#' * 10}{'.' * 20}] segment 1/3 reused",
        f"[{'#' * 20}{'.' * 10}] segment 2/3 done",
    ]


def test_progress_of_other_nodes_is_told_in_quarters(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress({"4": "ThroughlineAssembleVideo"})
    for value in range(101):
        state = {"value": value, "max": 100, "state": "running"}
        progress.hear("progress_state", {"nodes": {"4": state}})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in lines] == ["25/100", "50/100", "75/100", "100/100"]
    assert all("ThroughlineAssembleVideo" in line for line in lines)
