"""The fixtures of the level host: the real ComfyUI in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
GREY = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 16, "height": 8, "batch_size": 1, "color": 8421504},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "grey"}},
}


def test_the_host_runs_on_the_cpu(comfy: ModuleType) -> None:
    assert comfy.model_management.get_torch_device().type == "cpu"


def test_nodes_is_the_hosts_module(comfy: ModuleType) -> None:
    import nodes

    assert nodes.__file__ is not None
    assert ROOT / "nodes" not in Path(nodes.__file__).resolve().parents
    assert "KSampler" in nodes.NODE_CLASS_MAPPINGS


def test_a_graph_runs_through_the_executor(
    run_graph: Callable[[dict[str, Any]], Any], comfy_folders: dict[str, Path]
) -> None:
    outputs, events = run_graph(GREY)
    name = outputs["2"]["images"][0]["filename"]
    assert (comfy_folders["output"] / name).is_file()
    assert "executed" in [event for event, _ in events]


def test_a_refused_graph_raises_the_hosts_words(run_graph: Any) -> None:
    wrong = {**GREY, "1": {"class_type": "EmptyImage", "inputs": {**GREY["1"]["inputs"]}}}
    wrong["1"]["inputs"]["width"] = -1
    with pytest.raises(run_graph.error, match="width"):
        run_graph(wrong)
