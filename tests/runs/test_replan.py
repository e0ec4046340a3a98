"""Segments planned when their turn comes: earlier pictures decide what they see."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from throughline.planning.segments import Segment
from throughline.runs.folder import RunFolder, plan_run, read_plan
from throughline.runs.run import open_run

PARAMETERS: dict[str, Any] = {"model": "demo", "kind": "keyframes"}


@dataclass(frozen=True, kw_only=True)
class Waiting(Segment):
    """A segment with a field of its own, as a keyframe has."""

    decided: bool = True


def plan(count: int, takes: dict[int, int] | None = None) -> list[Waiting]:
    return [
        Waiting(
            index=i,
            shot=i,
            shot_id=str(i + 1),
            chain=i,
            start="text",
            latent_frames=1,
            known_latent_frames=0,
            prompt=f"shot {i + 1}",
            negative="",
            seed=i,
            take=(takes or {}).get(i, 0),
            decided=False,
        )
        for i in range(count)
    ]


def decided(segment: Waiting, recalls: Sequence[int]) -> Waiting:
    return replace(segment, decided=True, recalls=tuple(recalls))


def make(
    root: Path, recalls: Sequence[Sequence[int]], takes: dict[int, int] | None = None
) -> list[int]:
    """Plan each segment in its turn and make what is missing; indices of those that were made."""
    made, segments = [], plan(len(recalls), takes)
    with RunFolder.open(root, "frames", PARAMETERS, segments) as folder:
        for segment, seen in zip(segments, recalls, strict=True):
            folder.replan(decided(segment, seen))
            if not folder.state()[segment.index].needs_render:
                continue
            value = torch.tensor(segment.seed + 10.0 * segment.take)
            value += sum(folder.read_segment(index).mean() for index in seen) / 7
            latent = value.expand(1, 4, 1, 2, 2)
            preview = b"%d %d" % (segment.index, segment.take)
            folder.write_segment(segment.index, latent, {}, 1.0, preview)
            made.append(segment.index)
    return made


def test_what_is_planned_late_is_reused_like_the_rest(tmp_path: Path) -> None:
    recalls = [(), (0,), (0, 1), (1,)]
    assert make(tmp_path, recalls) == [0, 1, 2, 3]
    assert make(tmp_path, recalls) == []
    run = open_run(tmp_path / "frames")
    assert not run.unfinished
    pictures = [(tmp_path / f"frames/previews/{i:04d}.jpg").read_bytes() for i in range(1, 5)]
    assert pictures == [b"0 0", b"1 0", b"2 0", b"3 0"]


def test_other_recalls_or_another_order_of_them_cost_that_segment(tmp_path: Path) -> None:
    make(tmp_path, [(), (), (0, 1), ()])
    assert make(tmp_path, [(), (), (1, 0), ()]) == [2]
    assert make(tmp_path, [(), (0,), (1, 0), ()]) == [1, 2]
    assert make(tmp_path, [(), (), (0, 1), ()]) == []  # the first ones are still on disk


def test_a_retake_costs_what_recalled_it_and_no_more(tmp_path: Path) -> None:
    recalls = [(), (0,), (1,), (0,), ()]
    make(tmp_path, recalls)
    assert make(tmp_path, recalls, takes={1: 1}) == [1, 2]
    assert (tmp_path / "frames/previews/0002.jpg").read_bytes() == b"1 1"
    assert make(tmp_path, recalls) == []
    assert (tmp_path / "frames/previews/0002.jpg").read_bytes() == b"1 0"


def test_an_undecided_segment_is_never_taken_for_a_decided_one(tmp_path: Path) -> None:
    make(tmp_path, [(), (0,)])
    statuses = [state.status for state in plan_run(tmp_path, "frames", PARAMETERS, plan(2))]
    assert "reused" not in statuses


def test_replanning_finds_what_planning_at_once_finds(tmp_path: Path) -> None:
    """The fast path against the plain one: any order of decisions, chains of tails included."""
    rng = random.Random(5)
    recalls = [tuple(sorted(rng.sample(range(i), min(i, 2)))) for i in range(8)]
    make(tmp_path, recalls)
    for _ in range(20):
        takes = {rng.randrange(8): rng.randrange(2)}
        wanted = [decided(s, seen) for s, seen in zip(plan(8, takes), recalls, strict=True)]
        at_once = plan_run(tmp_path, "frames", PARAMETERS, wanted)
        late = read_plan(tmp_path, "frames", PARAMETERS, plan(8, takes))
        for index in rng.sample(range(8), 8):
            late.replan(wanted[index])
        assert late.states() == at_once
        assert late.segments == tuple(wanted)


def test_a_run_of_another_kind_is_refused_and_left_alone(tmp_path: Path) -> None:
    make(tmp_path, [()])
    before = (tmp_path / "frames/manifest.json").read_bytes()
    film = {"model": "demo"}
    for attempt in (RunFolder.open, plan_run):
        with pytest.raises(
            ValueError, match=r"'frames' is that of a run of keyframes.* makes film"
        ):
            attempt(tmp_path, "frames", film, plan(1))
    assert (tmp_path / "frames/manifest.json").read_bytes() == before
    with RunFolder.open(tmp_path, "film", film, plan(1)):
        pass
    with pytest.raises(ValueError, match=r"'film' is that of a run of film, and this makes keyfr"):
        RunFolder.open(tmp_path, "film", PARAMETERS, plan(1))
