"""A graph with tiny models and the sampler node, run through the host's own executor."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

SCRIPT = "[3s] A red room.\n[1s, continue] The camera turns.\n[1.5s, cut] A garden.\nIt rains."
"""At 8 fps with segments of 4 latent frames and a tail of 1: 2 + 1 + 1 + 1 segments."""


def film_graph(**changes: Any) -> dict[str, Any]:
    """Models "m", the sampler "s". `changes` are inputs of the sampler; None disconnects one."""
    inputs: dict[str, Any] = {
        "model": ["m", 0],
        "clip": ["m", 1],
        "vae": ["m", 2],
        "script": SCRIPT,
        "negative_prompt": "blur",
        "width": 32,
        "height": 32,
        "seconds_per_shot": 1.0,
        "fps": 8.0,
        "unmarked_shots": "continue",
        "segment_frames": 13,
        "tail_latent_frames": 1,
        "seed": 3,
        "steps": 2,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "switch_sigma": 0.9,
        "run_name": "film",
        "retakes": "",
        "when_queued": "render",
    }
    chosen = {name: value for name, value in {**inputs, **changes}.items() if value is not None}
    return {
        "m": {
            "class_type": "ThroughlineTestTinyModels",
            "inputs": {"family": "wan22_i2v", "seed": 0, "layers": 0},
        },
        "s": {"class_type": "ThroughlineARSegmentSampler", "inputs": chosen},
    }


@pytest.fixture
def film() -> Callable[..., dict[str, Any]]:
    """`film(**inputs)`: the graph in API form."""
    return film_graph


@pytest.fixture
def run_film(
    run_graph: Callable[..., Any], prompt_server: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """The runner of graphs, with the node of tiny models registered.

    Nothing waits for the disk: that files survive a crash is tested at the level server.
    """
    import nodes

    from development.tiny_nodes import NODE_CLASS_MAPPINGS

    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for name, node in NODE_CLASS_MAPPINGS.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node)
    return run_graph
