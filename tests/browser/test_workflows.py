"""Every shipped workflow opens in the page, in both renderers.

Those for stock models name files that nobody has here: the page may say so for each loader, and say
nothing else.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
LOADERS = ("UNETLoader", "CLIPLoader", "DualCLIPLoader", "VAELoader")
"""Core's nodes that read a file of ComfyUI's models folder."""

LOAD_TWO = ("DualCLIPLoader", "ThroughlineMilliVidRollout")
"""Nodes that read two files of it."""


@pytest.fixture(scope="module")
def clips(server: Any) -> None:
    """What the artist chooses in workflows that load a clip, there before the page asks."""
    from development.tiny_millivid import write_clips

    for file in WORKFLOWS:
        write_clips(json.loads(file.read_text(encoding="utf-8")), server.base / "input")


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_shipped_workflow_opens(file: Path, clips: None, comfy_page: Any, server: Any) -> None:
    from comfy_cli.workflow_to_api import convert_ui_to_api

    comfy_page.load(file)
    workflow = json.loads(file.read_text(encoding="utf-8"))
    assert comfy_page.missing() == []
    assert _complaints(comfy_page.overlay()) == _missing_files(workflow)
    converted = convert_ui_to_api(workflow, server.get("/object_info"))
    assert _bare(comfy_page.prompt()) == _bare(converted)


def _missing_files(workflow: dict[str, Any]) -> int:
    """Files that the workflow's loaders name."""
    counts = {name: 1 for name in LOADERS} | {name: 2 for name in LOAD_TWO}
    return sum(counts.get(node["type"], 0) for node in workflow["nodes"])


def _complaints(overlay: str | None) -> int:
    """How many errors the page counts."""
    found = re.match(r"\d+", overlay or "0 errors found")
    assert found is not None, overlay
    return int(found.group())


def _bare(prompt: dict[str, Any]) -> dict[str, Any]:
    """Class and inputs of each node: what is rendered, without titles."""
    return {
        node_id: {"class_type": node["class_type"], "inputs": node["inputs"]}
        for node_id, node in prompt.items()
    }
