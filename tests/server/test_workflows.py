"""Every shipped workflow fits the nodes of the real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_shipped_workflow_converts_without_a_browser(file: Path, server: Any) -> None:
    from comfy_cli.workflow_to_api import convert_ui_to_api

    workflow = json.loads(file.read_text(encoding="utf-8"))
    known = server.get("/object_info")
    prompt = convert_ui_to_api(workflow, known)
    types = {node["class_type"] for node in prompt.values()}
    assert types <= set(known)
    assert any(known[name]["python_module"] == "custom_nodes.throughline" for name in types)


@pytest.mark.slow
@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_shipped_workflow_runs_to_a_video(file: Path, server: Any) -> None:
    from development.demo import to_prompt

    workflow = json.loads(file.read_text(encoding="utf-8"))
    events, entry = server.run(to_prompt(workflow, server), workflow=workflow)
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    names = [
        result["filename"]
        for output in entry["outputs"].values()
        for result in output.get("images", ())
        if result["type"] == "output"
    ]
    assert [name for name in names if name.endswith(".mp4")]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_shipped_workflow_keeps_its_seeds_and_has_a_picture(file: Path) -> None:
    workflow = json.loads(file.read_text(encoding="utf-8"))
    assert not {"randomize", "increment", "decrement"} & {
        value
        for node in workflow["nodes"]
        for value in _values(node.get("widgets_values"))
        if isinstance(value, str)
    }
    assert file.with_suffix(".jpg").is_file()


def _values(widgets: Any) -> list[Any]:
    return list(widgets.values()) if isinstance(widgets, dict) else list(widgets or [])
