"""Graphs of the hierarchy nodes, for several files of tests."""

from __future__ import annotations

from typing import Any

Graph = dict[str, Any]
FRAMES = 7
"""Latent frames of the clip that is encoded: the whole history of windows 1, 2, 4."""

PLANNER = "planner.safetensors"


def clip(frames: int = FRAMES, family: str = "wan_t2v", side: int = 64) -> Graph:
    """Tiny models "m", an empty clip "e" of so many latent frames, and a sampled one "k"."""
    return {
        "m": {
            "class_type": "ThroughlineTestTinyModels",
            "inputs": {"family": family, "seed": 0, "layers": 0},
        },
        "e": {
            "class_type": "EmptyHunyuanLatentVideo",
            "inputs": {"width": side, "height": side, "length": 4 * frames - 3, "batch_size": 1},
        },
        "k": sampled(["e", 0], 7),
    }


def sampled(latent: list[Any], seed: int, denoise: float = 1.0) -> dict[str, Any]:
    """Core's sampler on a latent."""
    inputs = {
        "model": ["m", 0],
        "positive": ["m", 3],
        "negative": ["m", 4],
        "latent_image": latent,
        "seed": seed,
        "steps": 2,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": denoise,
    }
    return {"class_type": "KSampler", "inputs": inputs}


def encoded(**changes: Any) -> Graph:
    """The empty clip, or another latent, as hierarchy "h"."""
    inputs = {"model": ["m", 0], "latent": ["e", 0], "levels": 3, "size_only": False, **changes}
    return {**clip(), "h": {"class_type": "ThroughlineHierarchyEncode", "inputs": inputs}}


def planned(hierarchy: list[Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The plan node behind a hierarchy, with the planner "l"."""
    inputs = {
        "hierarchy": hierarchy or ["h", 0],
        "hierarchy_planner": ["l", 0],
        "chunks": 2,
        "conditions": "",
        "seed": 5,
        "steps": 2,
        "cfg": 1.0,
        "run_name": "codes",
        "retakes": "",
        "when_queued": "render",
    }
    return {"class_type": "ThroughlineHierarchyPlan", "inputs": {**inputs, **changes}}


def loader(name: str = PLANNER) -> dict[str, Any]:
    return {"class_type": "ThroughlineLoadHierarchyPlanner", "inputs": {"planner_name": name}}


def saved(latent: list[Any], name: str) -> dict[str, Any]:
    """Core's node that writes a latent below the output folder."""
    return {"class_type": "SaveLatent", "inputs": {"samples": latent, "filename_prefix": name}}


def decoded(hierarchy: list[Any], level: int = 0, first: int = 0, count: int = 0) -> dict[str, Any]:
    inputs = {
        "hierarchy": hierarchy,
        "level": level,
        "first_frame": first,
        "latent_frames": count,
    }
    return {"class_type": "ThroughlineHierarchyDecode", "inputs": inputs}
