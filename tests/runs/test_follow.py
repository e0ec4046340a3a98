"""A run whose segments follow a plan that is made while the run is open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from throughline.planning.segments import Segment
from throughline.runs.folder import RunFolder
from throughline.runs.run import open_run


def segments() -> list[Segment]:
    return [
        Segment(
            index=i,
            shot=i,
            shot_id=str(i),
            chain=0,
            start="plan",
            latent_frames=2,
            known_latent_frames=0,
            prompt="",
            negative="",
            seed=i,
            take=0,
        )
        for i in range(2)
    ]


def planned(*contents: str | None) -> dict[str, Any]:
    return {"planned": {str(i): [content, "end only"] for i, content in enumerate(contents)}}


def test_a_segment_that_follows_a_plan_equals_one_that_was_opened_with_it(tmp_path: Path) -> None:
    latent = torch.rand(1, 3, 2, 2, 2)
    with RunFolder.open(tmp_path, "later", planned(None, None), segments()) as folder:
        folder.follow(0, ["a", "end only"])
        folder.write_segment(0, latent, {}, 1.0)
        folder.follow(1, ["b", "end only"])
    with RunFolder.open(tmp_path, "at once", planned("a", "b"), segments()) as folder:
        pass
    later, at_once = (open_run(tmp_path / name) for name in ("later", "at once"))
    assert [one.key for one in later.segments] == [one.key for one in at_once.segments]
    assert later.manifest.parameters == at_once.manifest.parameters
    with RunFolder.open(tmp_path, "later", planned("a", "b"), segments()) as folder:
        assert [state.status for state in folder.state()] == ["reused", "missing"]


def test_what_was_filled_from_the_same_plan_is_found_again(tmp_path: Path) -> None:
    latent = torch.rand(1, 3, 2, 2, 2)
    with RunFolder.open(tmp_path, "film", planned("a", "b"), segments()) as folder:
        folder.write_segment(0, latent, {}, 1.0, b"\xff\xd8\xffpicture")
    with RunFolder.open(tmp_path, "film", planned(None, "b"), segments()) as folder:
        assert folder.state()[0].needs_render
        folder.follow(0, ["other", "end only"])
        assert folder.state()[0].needs_render
        folder.follow(0, ["a", "end only"])
        assert not folder.state()[0].needs_render
        assert torch.equal(folder.read_segment(0), latent)
    record = open_run(tmp_path / "film").segments[0]
    assert record.finished and record.preview is not None
