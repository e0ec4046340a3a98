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
    assert _bare(comfy_page.prompt()) == _bare(converted)


def _bare(prompt: dict[str, Any]) -> dict[str, Any]:
    """Class and inputs of each node: what is rendered, without titles."""
    return {
        node_id: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for node_id, node in prompt.items()
    }
