"""Clips of segments: what each adds to the film, of the take that is in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import torch

from throughline.planning.frames import FrameGrid
from throughline.planning.segments import Segment
from throughline.runs.clips import CLIPS, clip_path, write_clip
from throughline.runs.folder import RunFolder
from throughline.runs.run import Run

GRID = FrameGrid(4)


def decode(pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Each latent frame as grey of its own value, 16 pixels a side: 1 frame, then 4 each."""
    for piece in pieces:
        for place, latent in enumerate(piece[0].unbind(1)):
            grey = latent.mean().expand(16, 16, 3)
            yield grey.expand(1 if place == 0 else 4, -1, -1, -1)


def filled(root: Path, take: int = 0) -> Run:
    """Two segments of 3 latent frames that fill a plan; the second shares 5 frames."""
    segments = [
        Segment(
            index=i,
            shot=i,
            shot_id=str(i),
            chain=0,
            start="plan",
            latent_frames=3,
            known_latent_frames=2 * i,
            prompt="",
            negative="",
            seed=take,
            take=take,
        )
        for i in range(2)
    ]
    with RunFolder.open(root, "film", {"fps": 8}, segments) as folder:
        for segment in segments:
            if folder.state()[segment.index].needs_render:
                values = torch.tensor([0.2, 0.4, 0.6]) + 0.1 * segment.index + 0.05 * take
                latent = values.view(1, 1, 3, 1, 1).expand(1, 3, 3, 2, 2)
                folder.write_segment(segment.index, latent, {}, 1.0)
        return folder.run


def greys(path: Path) -> list[float]:
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    return [round(float(frame.mean()) / 255.0, 1) for frame in frames]


def test_clips_in_turn_are_the_film(tmp_path: Path) -> None:
    run = filled(tmp_path)
    first, second = (write_clip(run, index, decode, GRID) for index in range(2))
    assert greys(first) == [0.2] + [0.4] * 4 + [0.6] * 4
    assert greys(second) == [0.7] * 4  # without the five frames that it shares
    assert first == clip_path(run, run.segments[0]) and first.parent == run.path / CLIPS


def test_a_clip_is_written_once_and_replaced_by_that_of_another_take(tmp_path: Path) -> None:
    run = filled(tmp_path)
    path = write_clip(run, 0, decode, GRID)
    before = path.stat().st_mtime_ns
    assert write_clip(run, 0, decode, GRID) == path and path.stat().st_mtime_ns == before
    other = write_clip(run, 1, decode, GRID)
    again = filled(tmp_path, take=1)
    retaken = write_clip(again, 0, decode, GRID)
    assert retaken != path and not path.exists() and other.exists()
