"""Video frames to latent frames and back, against counts worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.planning.frames import FrameGrid

WAN, LTXV = FrameGrid(4), FrameGrid(8)


@pytest.mark.parametrize(
    ("grid", "frames", "latent_frames"),
    [(WAN, 1, 1), (WAN, 5, 2), (WAN, 81, 21), (WAN, 121, 31), (WAN, 129, 33)]
    + [(LTXV, 1, 1), (LTXV, 9, 2), (LTXV, 97, 13)]
    + [(FrameGrid(1), 1, 1), (FrameGrid(1), 7, 7)],
)
def test_frames_and_latent_frames(grid: FrameGrid, frames: int, latent_frames: int) -> None:
    assert grid.latent_frames(frames) == latent_frames
    assert grid.frames(latent_frames) == frames


@pytest.mark.parametrize(
    ("grid", "frames", "words"),
    [
        (WAN, 80, "this model takes 4n+1 frames, got 80"),
        (WAN, 82, "this model takes 4n+1 frames, got 82"),
        (WAN, 0, "this model takes 4n+1 frames, got 0"),
        (WAN, -3, "this model takes 4n+1 frames, got -3"),
        (LTXV, 81 + 4, "this model takes 8n+1 frames, got 85"),
        (FrameGrid(1), 0, "this model takes 1n+1 frames, got 0"),
    ],
)
def test_a_count_off_the_grid_is_refused(grid: FrameGrid, frames: int, words: str) -> None:
    with pytest.raises(ValueError) as error:
        grid.latent_frames(frames)
    assert str(error.value) == words


@pytest.mark.parametrize("latent_frames", [0, -1])
def test_a_clip_without_latent_frames_is_refused(latent_frames: int) -> None:
    with pytest.raises(ValueError, match=f"1 latent frame or more, got {latent_frames}"):
        WAN.frames(latent_frames)


@pytest.mark.parametrize("stride", [0, -4])
def test_a_stride_below_one_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"frames per latent must be 1 or more, got {stride}"):
        FrameGrid(stride)


@pytest.mark.parametrize(
    ("grid", "seconds", "fps", "latent_frames"),
    [
        (WAN, 5.0, 16.0, 20),  # 80 frames
        (WAN, 1.0, 8.0, 2),
        (WAN, 2.5, 24.0, 15),  # 60 frames
        (WAN, 0.6, 16.0, 2),  # 9.6 frames are 2.4 groups of four
        (WAN, 0.05, 1.0, 1),  # never nothing
        (LTXV, 4.0, 25.0, 12),  # 100 frames are 12.5 groups of eight: to the even one
    ],
)
def test_seconds_become_new_latent_frames(
    grid: FrameGrid, seconds: float, fps: float, latent_frames: int
) -> None:
    assert grid.new_latent_frames(seconds, fps) == latent_frames


@given(st.integers(1, 16), st.integers(1, 10_000))
def test_there_and_back(stride: int, latent_frames: int) -> None:
    grid = FrameGrid(stride)
    assert grid.latent_frames(grid.frames(latent_frames)) == latent_frames
    assert grid.frames(latent_frames + 1) - grid.frames(latent_frames) == stride
