"""A segment that remembers others is made again when they change, and only then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from throughline.planning.segments import Segment
from throughline.runs.folder import RunFolder, plan_run
from throughline.runs.keys import segment_keys

PARAMETERS: dict[str, Any] = {"model": "demo", "memory": {"form": "encoder"}}
RECALLS: tuple[tuple[int, ...] | None, ...] = (None, (0,), (0,), (1, 2))


def plan(recalls: Sequence[Any] = RECALLS, takes: dict[int, int] | None = None) -> list[Segment]:
    """Cuts that remember the segments in `recalls`."""
    return [
        Segment(
            index=i,
            shot=i,
            shot_id=str(i + 1),
            chain=i,
            start="text" if recalled is None else "memory",
            latent_frames=2,
            known_latent_frames=0,
            prompt=f"shot {i + 1}",
            negative="",
            seed=i,
            take=(takes or {}).get(i, 0),
            recalls=recalled,
        )
        for i, recalled in enumerate(recalls)
    ]


def make(root: Path, segments: list[Segment], shift: float = 0.0, **changes: Any) -> list[int]:
    """Bring the run to the plan; the segments that had to be made, 0-based."""
    made = []
    with RunFolder.open(root, "film", {**PARAMETERS, **changes}, segments) as folder:
        for segment in segments:
            if folder.state()[segment.index].needs_render:
                latent = torch.full((1, 4, 2, 2, 2), segment.seed + 10.0 * segment.take + shift)
                folder.write_segment(segment.index, latent, {}, 1.0)
                made.append(segment.index)
    return made


def reasons(root: Path, segments: list[Segment], **changes: Any) -> list[tuple[str, str]]:
    states = plan_run(root, "film", {**PARAMETERS, **changes}, segments)
    return [(state.status, state.reason) for state in states]


def test_a_retake_costs_what_remembers_it(tmp_path: Path) -> None:
    assert make(tmp_path, plan()) == [0, 1, 2, 3]
    assert make(tmp_path, plan()) == []
    changed = plan(takes={1: 1})
    status, reason = zip(*reasons(tmp_path, changed), strict=True)
    assert status == ("reused", "changed", "reused", "depends")
    assert reason[3] == "remembers segment 2, which is made again"
    assert make(tmp_path, changed) == [1, 3]
    assert make(tmp_path, plan()) == []  # the first takes are still there


def test_the_memory_is_in_the_keys_of_who_remembers(tmp_path: Path) -> None:
    make(tmp_path, plan())
    status, reason = zip(*reasons(tmp_path, plan(), memory={"form": "window"}), strict=True)
    assert status == ("reused", "changed", "changed", "changed")
    assert "memory " in reason[1]
    assert make(tmp_path, plan(), memory={"form": "window"}) == [1, 2, 3]


def test_connecting_a_memory_keeps_what_remembers_nothing(tmp_path: Path) -> None:
    without = [replace(segment, start="text", recalls=None) for segment in plan()]
    assert make(tmp_path, without) == [0, 1, 2, 3]
    assert make(tmp_path, plan()) == [1, 2, 3]


def test_a_segment_that_comes_out_different_under_its_key(tmp_path: Path) -> None:
    make(tmp_path, plan())
    file = next((tmp_path / "film" / "segments").glob("0002-*"))
    file.unlink()
    assert reasons(tmp_path, plan())[3] == (
        "depends",
        "remembers segment 2, which is made again; reused if that comes out the same",
    )
    assert make(tmp_path, plan()) == [1]  # the same bytes: what remembers it is reused
    next((tmp_path / "film" / "segments").glob("0002-*")).unlink()
    assert make(tmp_path, plan(), shift=0.5) == [1, 3]


def test_a_segment_waits_for_what_it_remembers(tmp_path: Path) -> None:
    with (
        RunFolder.open(tmp_path, "film", PARAMETERS, plan()) as folder,
        pytest.raises(ValueError, match=r"segment 4 of run 'film' remembers segments that are not"),
    ):
        folder.write_segment(3, torch.zeros(1, 4, 2, 2, 2), {}, 1.0)


def test_keys_without_a_memory_are_those_of_before() -> None:
    """The hash of a run that was made before there was a memory, so that it still resumes."""
    plain = replace(plan()[0], recalls=None)
    assert segment_keys({"model": "demo"}, [plain]) == segment_keys(
        {"model": "demo", "memory": {"form": "window"}}, [plain]
    )
    assert segment_keys({"model": "demo"}, [plain])[0].startswith("da20bb29d3df31b9")
