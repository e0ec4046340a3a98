"""Lengths on the timeline: what each segment of a run adds to the film."""

from __future__ import annotations

from typing import Any

import pytest

from throughline.runs.manifest import Manifest, SegmentRecord
from throughline.runs.timeline import added_latent_frames, run_kind


def record(index: int, start: str, latent_frames: int, known: int) -> SegmentRecord:
    return SegmentRecord(
        index=index,
        shot=index,
        shot_id=str(index),
        chain=0,
        start=start,
        latent_frames=latent_frames,
        known_latent_frames=known,
        prompt="",
        negative="",
        seed=0,
        take=0,
        key="",
    )


def manifest(parameters: dict[str, Any], *segments: SegmentRecord) -> Manifest:
    return Manifest(
        name="run",
        pack_version="1",
        created="",
        fps=16.0,
        parameters=parameters,
        segments=segments,
    )


def added(run: Manifest) -> list[int]:
    return [added_latent_frames(run, one) for one in run.segments]


def test_a_plan_counts_the_segments_that_it_stands_for() -> None:
    """21, and 19 behind the two that are handed on, whatever number of anchors is stored."""
    segments = record(0, "text", 9, 0), record(1, "tail", 9, 2), record(2, "keyframe", 2, 1)
    planned = {"0": ["MMPL T2V", 21], "1": ["MMPL T2V", 21], "2": ["pictures", 21, {"end": "x"}]}
    run = manifest({"kind": "plan", "planned": planned, "seed_from": "terminal"}, *segments)
    assert run_kind(run) == "plan" and added(run) == [21, 19, 21]
    middle = manifest({"kind": "plan", "planned": planned, "seed_from": "middle"}, *segments)
    assert added(middle) == [13, 11, 21]


def test_a_fill_and_a_film_count_what_is_new() -> None:
    filled = record(0, "plan", 21, 0), record(1, "plan", 21, 2)
    assert added(manifest({"kind": "fill"}, *filled)) == [21, 19]
    film = record(0, "image", 21, 1), record(1, "tail", 21, 2)
    assert run_kind(manifest({}, *film)) == "film" and added(manifest({}, *film)) == [21, 19]


@pytest.mark.parametrize("planned", [None, [], {"0": "MMPL"}, {"0": ["MMPL"]}, {"0": ["M", "21"]}])
def test_a_plan_that_does_not_say_its_lengths_counts_what_is_stored(planned: object) -> None:
    run = manifest({"kind": "plan", "planned": planned}, record(0, "text", 9, 0))
    assert added(run) == [9]
    assert run_kind(manifest({"kind": 3}, record(0, "text", 9, 0))) == "film"
