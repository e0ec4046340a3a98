"""Core's sampling is bit-equal with our nodes beside it, without them, and in a host that never
loaded the pack."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_PACK = """
import asyncio, importlib.util, json, sys
comfyui, development, output, graph = sys.argv[1:]
sys.path.insert(0, comfyui)
from comfy.cli_args import args
args.cpu = True
args.disable_api_nodes = True
import torch
torch.set_num_threads(1)
import folder_paths
folder_paths.set_output_directory(output)
import execution, nodes, server
spec = importlib.util.spec_from_file_location(
    "development", development + "/__init__.py", submodule_search_locations=[development])
sys.modules["development"] = importlib.util.module_from_spec(spec)
from development.tiny_nodes import NODE_CLASS_MAPPINGS
nodes.NODE_CLASS_MAPPINGS.update(NODE_CLASS_MAPPINGS)
host = server.PromptServer(asyncio.new_event_loop())
host.client_id = "test"
host.send_sync = lambda *arguments: None
executor = execution.PromptExecutor(
    host, cache_type=execution.CacheType.CLASSIC,
    cache_args={"lru": 0, "ram": 2.0, "ram_inactive": 2.0})
executor.execute(json.loads(graph), "test", {"client_id": "test"}, ["l"])
assert executor.success, executor.status_messages
assert not any("throughline" in name for name in sys.modules)
"""


def core_graph() -> dict[str, Any]:
    return {
        "m": {
            "class_type": "ThroughlineTestTinyModels",
            "inputs": {"family": "wan22_i2v", "seed": 0, "layers": 0},
        },
        "e": {"class_type": "ThroughlineTestTinyLatent", "inputs": {}},
        "k": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["m", 0],
                "positive": ["m", 3],
                "negative": ["m", 4],
                "latent_image": ["e", 0],
                "seed": 5,
                "steps": 3,
                "cfg": 3.0,
                "sampler_name": "dpmpp_2m_sde",
                "scheduler": "simple",
                "denoise": 1.0,
            },
        },
        "l": {
            "class_type": "SaveLatent",
            "inputs": {"samples": ["k", 0], "filename_prefix": "core"},
        },
    }


def saved(folder: Path) -> list[torch.Tensor]:
    import safetensors.torch

    paths = sorted(folder.glob("core_*.latent"))
    return [safetensors.torch.load_file(path)["latent_tensor"] for path in paths]


@pytest.mark.filterwarnings("ignore:Should have ta")
def test_core_sampling_is_bit_equal(
    run_film: Callable[..., Any],
    film: Callable[..., dict[str, Any]],
    comfy_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    import folder_paths

    beside = {**core_graph(), "s": film()["s"]}
    behind = core_graph()
    # the model cloned elsewhere in the graph: one branch with another shift, for our node only
    behind["p"] = {"class_type": "ModelSamplingSD3", "inputs": {"model": ["m", 0], "shift": 3.0}}
    behind["s"] = film(model=["p", 0], run_name="other")["s"]
    for graph in (beside, core_graph(), behind, core_graph()):
        run_film(graph)
        _forget(run_film)
    made = saved(comfy_folders["output"])
    away = tmp_path / "away"
    away.mkdir()
    host, development = folder_paths.base_path, str(ROOT / "development")
    arguments = [host, development, str(away), json.dumps(core_graph())]
    subprocess.run(
        [sys.executable, "-c", WITHOUT_PACK, *arguments],
        check=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    (expected,) = saved(away)
    assert len(made) == 4
    assert all(torch.equal(latent, expected) for latent in made)


def _forget(runner: Any) -> None:
    """Let the executor forget its results, so that core samples again."""
    runner._executor.reset()
