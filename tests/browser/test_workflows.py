"""Every shipped workflow opens in the page, in both renderers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_shipped_workflow_opens(file: Path, comfy_page: Any, server: Any) -> None:
    from comfy_cli.workflow_to_api import convert_ui_to_api

    comfy_page.load(file)
    assert comfy_page.missing() == []
    assert comfy_page.overlay() is None
    workflow = json.loads(file.read_text(encoding="utf-8"))
    converted = convert_ui_to_api(workflow, server.get("/object_info"))
    shown = comfy_page.prompt()
    assert {node_id: node["class_type"] for node_id, node in shown.items()} == {
        node_id: node["class_type"] for node_id, node in converted.items()
    }
    for node_id, node in converted.items():
        if node["class_type"].startswith("Throughline"):
            assert shown[node_id]["inputs"] == node["inputs"]
        else:  # the page adds widgets to some of core's nodes, such as SaveVideo's codec
            assert node["inputs"].items() <= shown[node_id]["inputs"].items()
