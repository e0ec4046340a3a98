"""python3 dev.py demo on a short film: the files, the figures, and reuse by a second call."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from development import demo
from development.environment import Host

SCRIPT = (
    "[1s, continue] garden, Pell left, camera 8 to 5\n"
    "[1s, continue] garden, Pell left, camera 5 to 8"
)
SAMPLER: dict[str, Any] = {
    "model": ["1", 0],
    "clip": ["1", 1],
    "vae": ["1", 2],
    "start_image": ["1", 3],
    "script": SCRIPT,
    "negative_prompt": "",
    "width": 64,
    "height": 64,
    "seconds_per_shot": 1.0,
    "fps": 8.0,
    "unmarked_shots": "continue",
    "segment_frames": 21,
    "tail_latent_frames": 2,
    "seed": 1,
    "steps": 2,
    "cfg": 1.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "run_name": "short",
    "retakes": "",
    "when_queued": "render",
    "switch_sigma": 0.9,
}
ASSEMBLY: dict[str, Any] = {
    "run": ["2", 0],
    "vae": ["1", 2],
    "fps": 0.0,
    "format": "mp4 h264",
    "crf": 18,
    "filename_prefix": "throughline/any_name",
    "colour_match": "off",
    "colour_match_strength": 1.0,
    "overlap_blend": 0,
    "contact_frames": 2,
}
FILM = {
    "1": {"class_type": "ThroughlineLoadDemoModels", "inputs": {}},
    "2": {"class_type": "ThroughlineARSegmentSampler", "inputs": SAMPLER},
    "3": {"class_type": "ThroughlineAssembleVideo", "inputs": ASSEMBLY},
    "4": {"class_type": "ThroughlineDriftReport", "inputs": {"run": ["2", 0], "vae": ["1", 2]}},
    "5": {
        "class_type": "SaveImage",
        "inputs": {"images": ["2", 2], "filename_prefix": "throughline/contact_sheet"},
    },
}


@pytest.mark.server
@pytest.mark.slow
def test_the_demo_brings_its_files_and_a_second_call_reuses_the_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("THROUGHLINE_HOST", str(tmp_path / "cache"))
    host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable))
    workflow, out = tmp_path / "07_short_film.json", tmp_path / "out"
    workflow.write_text(json.dumps(FILM), encoding="utf-8")

    summaries = []
    for _ in range(2):
        assert demo.run(host, out, workflow, stay_open=False) == 0
        summaries.append(json.loads((out / "summary.json").read_text(encoding="utf-8")))

    names = {file.name for file in out.iterdir()}
    assert names == {"short_film.mp4", "contact_sheet.png", "summary.json"}
    first, second = summaries
    assert demo.video_length(out / "short_film.mp4") == (17, 17 / 8)
    assert (first["segments"], first["frames"], first["seconds"]) == (2, 17, 2.125)
    assert (first["reused_segments"], second["reused_segments"]) == (0, 2)
    assert first["drift"] == second["drift"] and len(first["drift"]["hops"]) == 1
    assert 300 < second["peak_ram_mb"] < 8000 and second["wall_s"] > 0
    said = capsys.readouterr().out
    assert said.count("drift per hop") == 2
    assert "2 segments were on disk from an earlier run" in said


@pytest.mark.server
def test_a_refused_graph_ends_with_the_servers_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from development.environment import Problem

    monkeypatch.setenv("THROUGHLINE_HOST", str(tmp_path / "cache"))
    host = Host(Path(os.environ["COMFYUI_PATH"]), Path(sys.executable))
    wrong = {**FILM, "2": {**FILM["2"], "inputs": {**SAMPLER, "steps": 0}}}
    workflow = tmp_path / "wrong.json"
    workflow.write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(Problem, match="steps"):
        demo.run(host, tmp_path / "out", workflow, stay_open=False)
    assert not (tmp_path / "out").exists()
