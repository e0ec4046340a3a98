"""Token counts of the design's table 1.4, for every rate and both roundings."""

from __future__ import annotations

import pytest

from throughline.memory.rates import (
    RATES,
    ROUNDINGS,
    Grid,
    Rate,
    Rounding,
    cell_frames,
    divide,
    memory_grid,
)

HUNYUAN_20S = Grid(120, 30, 52)  # 24 fps, 480x832
WAN_20S = Grid(80, 30, 52)  # 16 fps
WAN_5B_20S = Grid(120, 15, 26)  # 24 fps, a VAE of stride 16

TABLE = {  # floor, ceil
    HUNYUAN_20S: {
        "2x2x1": (46_800, 46_800),
        "2x2x2": (23_400, 23_400),
        "2x2x4": (11_700, 11_700),
        "2x2x8": (5_850, 5_850),
        "4x4x2": (5_460, 6_240),
    },
    WAN_20S: {
        "2x2x1": (31_200, 31_200),
        "2x2x2": (15_600, 15_600),
        "2x2x4": (7_800, 7_800),
        "2x2x8": (3_900, 3_900),
        "4x4x2": (3_640, 4_160),
    },
    WAN_5B_20S: {
        "2x2x1": (10_920, 12_480),
        "2x2x2": (5_460, 6_240),
        "2x2x4": (2_730, 3_120),
        "2x2x8": (1_365, 1_560),
        "4x4x2": (1_080, 1_680),
    },
}


@pytest.mark.parametrize("grid", TABLE)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_table_of_token_counts(grid: Grid, rounding: Rounding) -> None:
    counts = {str(rate): memory_grid(grid, rate, rounding).tokens for rate in RATES}
    column = ROUNDINGS.index(rounding)
    assert counts == {rate: pair[column] for rate, pair in TABLE[grid].items()}


def test_without_compression_the_counts_are_the_models_own() -> None:
    assert [grid.tokens for grid in TABLE] == [187_200, 124_800, 46_800]


def test_tokens_per_second_of_the_paper() -> None:
    """Wan 2.1 at 480p, 16 fps: 4 latent frames a second (paper v6, tables 1 to 3)."""
    counts = {str(rate): WAN_20S.tokens / rate.volume / 20 for rate in RATES}
    assert counts == {"2x2x1": 1560, "2x2x2": 780, "2x2x4": 390, "4x4x2": 195, "2x2x8": 195}


def test_a_picture_smaller_than_a_cell_is_still_remembered() -> None:
    assert memory_grid(Grid(1, 1, 3), Rate(4, 4, 8), "floor") == Grid(1, 1, 1)
    assert memory_grid(Grid(1, 1, 3), Rate(4, 4, 8), "ceil") == Grid(1, 1, 1)


def test_the_last_latent_frames_are_never_cropped() -> None:
    assert memory_grid(Grid(5, 4, 4), Rate(2, 2, 2), "floor").time == 3
    assert (divide(5, 2, "floor"), divide(5, 2, "ceil")) == (2, 3)


@pytest.mark.parametrize("text", ["2x2", "0x2x2", "2x2x2x2", "a", "2 x 2 x 2", "-1x2x2", ""])
def test_a_rate_that_does_not_read_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="reads like 2x2x2"):
        Rate.parse(text)


def test_rates_read_back_what_they_write() -> None:
    assert [Rate.parse(str(rate)) for rate in RATES] == list(RATES)
    assert Rate.parse("4x3x2") == Rate(4, 3, 2) and Rate(4, 3, 2).volume == 24


def test_the_frame_that_stands_for_a_cell() -> None:
    """Latent frame k ends with video frame 4 k; the middle of 2 is the first, of 8 the fourth."""
    assert cell_frames(6, 1, 4) == (0, 4, 8, 12, 16, 20)
    assert cell_frames(6, 2, 4) == (0, 8, 16)
    assert cell_frames(7, 4, 4) == (4, 20)
    assert cell_frames(9, 4, 4) == (4, 20, 32)  # the last cell has one latent frame
    assert cell_frames(17, 8, 4) == (12, 44, 64)
    assert cell_frames(1, 8, 4) == (0,)


def test_every_cells_frame_exists() -> None:
    for rate in RATES:
        for length in range(1, 40):
            frames = cell_frames(length, rate.time, 4)
            assert len(frames) == memory_grid(Grid(length, 4, 4), rate, "ceil").time
            assert 0 <= min(frames) and max(frames) <= 4 * (length - 1)
            for cell, frame in enumerate(frames):  # and lies in its own cell
                assert cell * rate.time <= frame // 4 < (cell + 1) * rate.time
