"""Every shipped workflow fits the nodes of the real server, and runs.

Those for stock models name files that nobody has here. Of them every node and link must be valid
and a model's file may be missing, no more; with tiny models in place of the files they run.
"""

from __future__ import annotations

import json
import re
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))

FILES = {
    "UNETLoader": ("unet_name",),
    "CLIPLoader": ("clip_name",),
    "DualCLIPLoader": ("clip_name1", "clip_name2"),
    "VAELoader": ("vae_name",),
    "ThroughlineMilliVidRollout": ("video_model_name", "autoencoder_name"),
}
"""Nodes that load models, and their inputs that name a file in ComfyUI's models folder."""

TINY_FAMILIES = {
    "flux2": "flux2_dev",
    "qwen_image_edit": "qwen_edit_2511",
    "flux1": "flux",
    "omnigen2": "omnigen2",
    "wan2.1_vace": "wan_vace",
    "wan2.2_i2v": "wan22_i2v",
    "Phantom-Wan": "wan_t2v",
}
"""The tiny model of development/tiny_nodes.py for a file whose name begins so."""

TINY_OUTPUTS = {"UNETLoader": 0, "CLIPLoader": 1, "DualCLIPLoader": 1, "VAELoader": 2}


def _nodes(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text(encoding="utf-8"))["nodes"]


MILLIVID = ROOT / "workflows" / "05_millivid_rollout.json"
STOCK = [file for file in WORKFLOWS if any(node["type"] in FILES for node in _nodes(file))]
DEMO = [file for file in WORKFLOWS if file not in STOCK]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_shipped_workflow_converts_without_a_browser(file: Path, server: Any) -> None:
    from comfy_cli.workflow_to_api import convert_ui_to_api

    workflow = json.loads(file.read_text(encoding="utf-8"))
    known = server.get("/object_info")
    prompt = convert_ui_to_api(workflow, known)
    types = {node["class_type"] for node in prompt.values()}
    assert types <= set(known)
    assert any(known[name]["python_module"] == "custom_nodes.throughline" for name in types)


def test_no_two_shipped_workflows_write_into_one_run(server: Any) -> None:
    from comfy_cli.workflow_to_api import convert_ui_to_api

    known = server.get("/object_info")
    owners: dict[str, str] = {}
    for file in WORKFLOWS:
        prompt = convert_ui_to_api(json.loads(file.read_text(encoding="utf-8")), known)
        runs = [
            node["inputs"]["run_name"] for node in prompt.values() if "run_name" in node["inputs"]
        ]
        for run in runs:
            assert owners.setdefault(run, file.stem) == file.stem, run
    assert len(owners) >= len(DEMO)


@pytest.mark.slow
@pytest.mark.parametrize("file", DEMO, ids=lambda file: file.stem)
def test_a_shipped_workflow_runs_to_a_video(file: Path, server: Any) -> None:
    from development.demo import to_prompt

    workflow = json.loads(file.read_text(encoding="utf-8"))
    events, entry = server.run(to_prompt(workflow, server), workflow=workflow)
    assert videos(entry)


def videos(entry: dict[str, Any]) -> list[str]:
    """The videos that a graph saved; a graph that failed fails the test with its message."""
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    names = [
        result["filename"]
        for output in entry["outputs"].values()
        for result in output.get("images", ())
        if result["type"] == "output"
    ]
    return [name for name in names if name.endswith(".mp4")]


@pytest.mark.parametrize("file", STOCK, ids=lambda file: file.stem)
def test_a_stock_workflow_lacks_nothing_but_model_files(file: Path, server: Any) -> None:
    """What the server refuses are names that are not in the lists of core's loaders; it answers
    with every error, and queues what needs no model, where there is any: the storyboard. Clips
    that the artist chooses are there."""
    from development.demo import to_prompt
    from development.tiny_millivid import write_clips

    workflow = json.loads(file.read_text(encoding="utf-8"))
    write_clips(workflow, server.base / "input")
    prompt = to_prompt(workflow, server)
    try:
        answer = server.post("/prompt", {"prompt": prompt, "client_id": "here"})
    except urllib.error.HTTPError as error:
        answer = json.loads(error.read())
    refused = [
        (node_id, error["extra_info"].get("input_name"), error["type"])
        for node_id, entry in answer["node_errors"].items()
        for error in entry["errors"]
    ]
    missing = [
        (node_id, name, "value_not_in_list")
        for node_id, node in prompt.items()
        for name in FILES.get(node["class_type"], ())
    ]
    assert sorted(refused) == sorted(missing)


@pytest.fixture(scope="module")
def tiny_server(new_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server that has the node of tiny models."""
    from development.tiny_nodes import write_pack

    base = tmp_path_factory.mktemp("tiny")
    write_pack(base)
    server = new_server(base)
    server.start()
    return server


@pytest.mark.slow
@pytest.mark.parametrize("file", [f for f in STOCK if f != MILLIVID], ids=lambda file: file.stem)
def test_a_stock_workflow_runs_with_tiny_models(file: Path, tiny_server: Any) -> None:
    """The same graph, small and short, with a tiny model in place of each loader's file."""
    from development.demo import to_prompt

    workflow = json.loads(file.read_text(encoding="utf-8"))
    prompt = with_tiny_models(to_prompt(workflow, tiny_server))
    _, entry = tiny_server.run(prompt)
    assert videos(entry)


def test_the_millivid_workflow_runs_with_tiny_files(
    new_server: Callable[..., Any], tmp_path: Path
) -> None:
    """Files of the names that the workflow says, with small widths and windows, and a clip."""
    from development.demo import to_prompt
    from development.tiny_millivid import (
        autoencoder_shapes,
        random_state,
        video_shapes,
        write_clips,
        write_converted,
    )

    workflow = json.loads(MILLIVID.read_text(encoding="utf-8"))
    rollout = next(
        node["widgets_values"]
        for node in workflow["nodes"]
        if node["type"] == "ThroughlineMilliVidRollout"
    )
    folder, video = tmp_path / "models" / "millivid", random_state(video_shapes())
    autoencoder = {"kind": "autoencoder", "grid": 16, "patch_order": "channel first"}
    said = {"kind": "video", "rollout": "coarse to fine", "windows": [1, 2, 4, 8]}
    write_converted(folder / rollout[0], video, **said)
    tensors = random_state(autoencoder_shapes())
    write_converted(folder / rollout[1], tensors, **autoencoder, pooled=False)
    write_clips(workflow, tmp_path / "input")
    server = new_server(tmp_path)
    server.start()
    prompt = to_prompt(workflow, server)
    for node in prompt.values():
        if node["class_type"] == "ThroughlineMilliVidRollout":
            node["inputs"] |= {"frames": 20, "steps": 1}
    _, entry = server.run(prompt)
    assert videos(entry)


def with_tiny_models(prompt: dict[str, Any]) -> dict[str, Any]:
    """The graph with loaders replaced, 64 pixels a side, one step, half a second per shot.

    Text encoder and VAE of a model have no name that tells its family: they are those of the
    diffusion model that the same sampling node is given.
    """
    families = {
        node_id: next(
            family
            for start, family in TINY_FAMILIES.items()
            if node["inputs"]["unet_name"].startswith(start)
        )
        for node_id, node in prompt.items()
        if node["class_type"] == "UNETLoader"
    }
    made = {f"tiny {family}": _tiny_node(family) for family in families.values()}
    for node_id, node in prompt.items():
        if node["class_type"] in FILES:
            continue
        inputs = dict(node["inputs"])
        for name, value in inputs.items():
            source = prompt[value[0]] if isinstance(value, list) else None
            if source is not None and source["class_type"] in FILES:
                family = families.get(value[0]) or _family_beside(prompt, node_id, families)
                inputs[name] = [f"tiny {family}", TINY_OUTPUTS[source["class_type"]]]
        made[node_id] = {**node, "inputs": {**inputs, **_small(node)}}
    return made


def _tiny_node(family: str) -> dict[str, Any]:
    return {
        "class_type": "ThroughlineTestTinyModels",
        "inputs": {"family": family, "seed": 0, "layers": 0},
    }


def _family_beside(prompt: dict[str, Any], node_id: str, families: dict[str, str]) -> str:
    """The family of the model that a node uses, else of a node that uses this one's result."""
    for value in prompt[node_id]["inputs"].values():
        while isinstance(value, list) and "model" in prompt[value[0]]["inputs"]:
            value = prompt[value[0]]["inputs"]["model"]
        if isinstance(value, list) and value[0] in families:
            return families[value[0]]
    for other, node in prompt.items():
        if any(isinstance(one, list) and one[0] == node_id for one in node["inputs"].values()):
            return _family_beside(prompt, other, families)
    raise AssertionError(f"no model goes with {prompt[node_id]['class_type']}")


def _small(node: dict[str, Any]) -> dict[str, Any]:
    """Other values for the widgets that cost time."""
    small: dict[str, Any] = {"width": 64, "height": 64, "steps": 1}
    changes = {name: value for name, value in small.items() if name in node["inputs"]}
    if node["class_type"] == "ThroughlineStoryboard":
        changes["script"] = re.sub(r"\b\d+s(?=[],])", "0.5s", node["inputs"]["script"])
    return changes


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
