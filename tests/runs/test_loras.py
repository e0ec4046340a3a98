"""Changing a LoRA redoes the segments that use it and what depends on them, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from throughline.planning.segments import Segment
from throughline.runs.folder import RunFolder, plan_run
from throughline.runs.keys import segment_keys


def plan() -> list[Segment]:
    """Segments 1 and 2 are a chain, 3 and 4 are cuts."""
    return [
        Segment(
            index=i,
            shot=i,
            shot_id=str(i + 1),
            chain=max(0, i - 1),
            start="tail" if i == 1 else "text",
            latent_frames=2,
            known_latent_frames=1 if i == 1 else 0,
            prompt=f"shot {i + 1}",
            negative="",
            seed=i,
        )
        for i in range(4)
    ]


def make(root: Path, **loras: list[str]) -> list[int]:
    """Bring the run to the plan with `s2=["..."]` as LoRAs of segment 3; what was made, 0-based."""
    made = []
    with RunFolder.open(root, "film", parameters(loras), plan()) as folder:
        for segment in plan():
            if folder.state()[segment.index].needs_render:
                latent = torch.full((1, 4, 2, 2, 2), float(len(made) + segment.seed))
                folder.write_segment(segment.index, latent, {}, 1.0)
                made.append(segment.index)
    return made


def parameters(loras: dict[str, list[str]]) -> dict[str, Any]:
    given = {key.removeprefix("s"): value for key, value in loras.items()}
    return {"model": "demo"} | ({"loras": given} if given else {})


def test_a_lora_costs_its_segments_and_what_continues_them(tmp_path: Path) -> None:
    assert make(tmp_path) == [0, 1, 2, 3]
    assert make(tmp_path, s0=["a1 0.5"]) == [0, 1]
    assert make(tmp_path, s0=["a1 0.5"], s2=["b2 1.0"]) == [2]
    assert make(tmp_path, s0=["a1 0.6"], s2=["b2 1.0"]) == [0, 1]
    assert make(tmp_path, s0=["a1 0.5"]) == []


def test_the_reason_is_said_of_its_segment_only(tmp_path: Path) -> None:
    make(tmp_path, s0=["a1 0.5"])
    states = plan_run(tmp_path, "film", parameters({"s0": ["a1 0.5"], "s3": ["b2 1.0"]}), plan())
    assert [state.status for state in states] == ["reused", "reused", "reused", "changed"]
    assert states[3].reason == "loras 'none' -> \"['b2 1.0']\""


def test_keys_without_loras_are_what_they_were() -> None:
    """So that an update of the pack keeps finished runs."""
    bare = segment_keys({"model": "demo"}, plan())
    assert segment_keys({"model": "demo", "loras": {}}, plan()) == bare
    assert segment_keys({"model": "demo", "loras": {"3": ["a 1.0"]}}, plan())[:3] == bare[:3]


def test_the_order_of_loras_counts() -> None:
    """They are added to the weights one after the other, which rounds differently."""
    keys = [
        segment_keys({"loras": {"3": order}}, plan())[3]
        for order in (["a 1.0", "b 1.0"], ["b 1.0", "a 1.0"])
    ]
    assert keys[0] != keys[1]
