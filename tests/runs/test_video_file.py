"""A video file holds the frames and the graph, and is whole or not there."""

import errno
import json
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from throughline.runs import video_file
from throughline.runs.atomic import DiskFullError
from throughline.runs.video_file import (
    FORMATS,
    VideoWriter,
    check_size,
    frame_rate,
    partial_path,
    read_frames,
)

METADATA = {"prompt": {"1": {"class_type": "X"}}, "workflow": {"nodes": [1], "text": '夜 "x" = \\'}}


def moving_picture(frames: int = 20, height: int = 48, width: int = 64) -> torch.Tensor:
    """A smooth picture that moves two pixels to the right per frame."""
    coarse = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(
        coarse, size=(height, width), mode="bilinear", align_corners=False
    )
    return torch.stack([picture[0].permute(1, 2, 0).roll(2 * i, 1) for i in range(frames)])


def write(path: Path, name: str, frames: torch.Tensor, crf: int = 4, fps: float = 8.0) -> None:
    with VideoWriter(path, FORMATS[name], frame_rate(fps), crf, METADATA) as writer:
        for part in torch.split(frames, 7):
            writer.write(part)
    assert writer.frames == frames.shape[0]


@pytest.mark.parametrize(
    ("name", "tolerance"), [("mp4 h264", 0.02), ("mov prores", 0.01), ("mkv ffv1", 0.0)]
)
def test_what_goes_in_comes_out(tmp_path: Path, name: str, tolerance: float) -> None:
    path, frames = tmp_path / f"film{FORMATS[name].extension}", moving_picture()
    write(path, name, frames)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    places = [0, 1, 9, 19]
    error = read_frames(path, places) - (frames[places] * 255).round() / 255
    assert error.abs().mean() <= tolerance
    assert abs(float(error.mean())) <= tolerance / 5  # no darker and no lighter
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 8
        assert sum(1 for _ in container.decode(stream)) == 20
        tags = {key.lower(): value for key, value in container.metadata.items()}
    assert json.loads(tags["prompt"]) == METADATA["prompt"]
    assert json.loads(tags["workflow"]) == METADATA["workflow"]


def test_colours_are_marked_as_bt709(tmp_path: Path) -> None:
    write(tmp_path / "film.mp4", "mp4 h264", moving_picture())
    with av.open(str(tmp_path / "film.mp4")) as container:
        context = container.streams.video[0].codec_context
        marks = (context.colorspace, context.color_primaries, context.color_trc)
        assert tuple(map(int, marks)) == (1, 1, 1)
        assert int(context.color_range) == 1


def test_crf_trades_size_for_quality(tmp_path: Path) -> None:
    for crf in (10, 40):
        write(tmp_path / f"{crf}.mp4", "mp4 h264", moving_picture(), crf=crf)
    assert (tmp_path / "10.mp4").stat().st_size > 1.5 * (tmp_path / "40.mp4").stat().st_size


@pytest.mark.parametrize("fps", [8.0, 23.976, 29.97, 0.5, 120.0])
def test_frames_are_found_at_any_rate(tmp_path: Path, fps: float) -> None:
    frames = torch.linspace(0, 1, 12)[:, None, None, None].expand(-1, 32, 32, 3)
    for name in ("mp4 h264", "mkv ffv1"):
        path = tmp_path / f"film{FORMATS[name].extension}"
        write(path, name, frames, fps=fps)
        found = read_frames(path, list(range(12)))
        assert torch.allclose(found, frames, atol=0.02)
        with pytest.raises(ValueError, match="has no frame 13: it is not whole"):
            read_frames(path, [12])


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        with VideoWriter(tmp_path / "f.mkv", FORMATS["mkv ffv1"], frame_rate(8), 18, {}) as writer:
            writer.write(moving_picture(9))
            assert partial_path(writer.path).exists()
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_no_frames_and_changing_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.mp4"
    with pytest.raises(ValueError, match="at least one frame, got none"):
        with VideoWriter(path, FORMATS["mp4 h264"], frame_rate(8), 18, {}):
            pass
    with pytest.raises(ValueError, match="one size, got 32x48 after 64x48"):
        with VideoWriter(path, FORMATS["mp4 h264"], frame_rate(8), 18, {}) as writer:
            writer.write(moving_picture(1))
            writer.write(moving_picture(1, width=32))
    assert list(tmp_path.iterdir()) == []


def test_odd_sizes_need_a_format_that_can(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even width and height only, got 63x48"):
        check_size(FORMATS["mp4 h264"], 63, 48)
    check_size(FORMATS["mov prores"], 64, 47)
    write(tmp_path / "film.mkv", "mkv ffv1", moving_picture(3, 47, 63))


def test_a_full_disk_is_named_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullContainer:
        """Refuses every packet as a full disk does."""

        def __init__(self, container: Any) -> None:
            self.container = container
            self.metadata = container.metadata
            self.add_stream = container.add_stream

        def mux(self, packets: Any) -> None:
            raise av.error.OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            self.container.close()

    opened = av.open
    monkeypatch.setattr(
        video_file.av, "open", lambda *args, **kwargs: FullContainer(opened(*args, **kwargs))
    )
    with pytest.raises(DiskFullError, match="disk full: f.mp4 needs at least .* bytes in"):
        write(tmp_path / "f.mp4", "mp4 h264", moving_picture())
    assert list(tmp_path.iterdir()) == []
