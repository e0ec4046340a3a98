"""The pack in a real server: every node, help page and example is served."""

from __future__ import annotations

import asyncio
import urllib.error
from pathlib import Path
from typing import Any

import pytest

import throughline
from development.server import Refused

ROOT = Path(__file__).resolve().parents[2]
BLACK = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 16, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "black"}},
}


def _node_ids() -> set[str]:
    extension = asyncio.run(throughline.comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    return {node.GET_SCHEMA().node_id for node in nodes}


def test_exactly_our_nodes_come_from_this_folder(server: Any) -> None:
    assert server.failed_imports() == []
    served = {
        node_id
        for node_id, info in server.get("/object_info").items()
        if info["python_module"] == "custom_nodes.throughline"
    }
    assert served == _node_ids()


def test_the_page_is_served(server: Any) -> None:
    scripts = {f"/extensions/throughline/{file.name}" for file in (ROOT / "web").glob("*.js")}
    assert scripts <= set(server.get("/extensions"))
    pages = [f"/extensions/throughline/docs/{node_id}.md" for node_id in _node_ids()]
    assert [page for page in pages if not _answers(server, page)] == []


def _answers(server: Any, path: str) -> bool:
    try:
        return bool(server.get(path))
    except urllib.error.HTTPError:
        return False


def test_the_examples_are_listed(server: Any) -> None:
    stems = sorted(file.stem for file in (ROOT / "workflows").glob("*.json"))
    assert sorted(server.get("/workflow_templates").get("throughline", [])) == stems


def test_a_graph_runs_and_its_file_is_there(server: Any) -> None:
    events, entry = server.run(BLACK)
    assert entry["status"]["status_str"] == "success"
    name = entry["outputs"]["2"]["images"][0]["filename"]
    assert (server.base / "output" / name).is_file()
    assert "progress_state" in {kind for kind, _ in events}


def test_a_refused_graph_names_the_input(server: Any) -> None:
    wrong = {"1": {**BLACK["1"], "inputs": {**BLACK["1"]["inputs"], "width": -4}}, "2": BLACK["2"]}
    with pytest.raises(Refused, match="width"):
        server.run(wrong)
