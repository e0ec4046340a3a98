"""The keyframe planner's graph, for several files of tests."""

from __future__ import annotations

import re
from typing import Any

Graph = dict[str, Any]
SCRIPT = """@Ana = a woman in a green coat
@Tom = a tall man
#diner = a diner at night
#street = a wet street
== Scene 1 #diner ==
<Ana> sits at the counter.
<Tom> enters the diner.
== Scene 2 #street ==
[wide] Rain falls.
== Scene 3 #diner ==
<Ana> looks up.
"""
SIDE = 32


def planner_graph(family: str = "wan_t2v", script: str = SCRIPT, **changes: Any) -> Graph:
    """Models "m", storyboard "b", the planner "p". `changes` are inputs of the planner."""
    inputs: dict[str, Any] = {
        "model": ["m", 0],
        "clip": ["m", 1],
        "vae": ["m", 2],
        "storyboard": ["b", 0],
        "negative_prompt": "blur",
        "width": SIDE,
        "height": SIDE,
        "references": 0,
        "reference_mode": "automatic",
        "group_size": 0,
        "levels": 3,
        "seed": 3,
        "steps": 2,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "guidance": 0.0,
        "run_name": "frames",
        "retakes": "",
        "when_queued": "render",
        "drift_gate": False,
    }
    chosen = {name: value for name, value in {**inputs, **changes}.items() if value is not None}
    return {
        "m": {
            "class_type": "ThroughlineTestTinyModels",
            "inputs": {"family": family, "seed": 0, "layers": 0},
        },
        "b": {"class_type": "ThroughlineStoryboard", "inputs": {"script": script, "fps": 0.0}},
        "p": {"class_type": "ThroughlineKeyframePlanner", "inputs": chosen},
    }


def recalled(report: str) -> dict[str, list[str]]:
    """The names of the pictures that each shot saw, from the report."""
    seen: dict[str, list[str]] = {}
    for line in report.splitlines():
        if shot := re.match(r"(\d+\.\d+): ", line):
            seen[shot[1]] = []
        if line.startswith("  sees "):
            seen[list(seen)[-1]] = re.findall(r"(?:sees|;) (\S+) at ", line)
    return seen
