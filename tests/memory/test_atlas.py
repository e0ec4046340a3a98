"""The golden atlas tiles its canvas: each pixel belongs to exactly one picture."""

from __future__ import annotations

import pytest
import torch

from throughline.memory.atlas import Atlas, AtlasTile, golden_squares, plan_atlas

ASPECTS = {
    "1:1": (1024, 1024),
    "16:9": (720, 1280),
    "9:16": (1280, 720),
    "2:1": (640, 1280),
    "21:9": (640, 1488),
}
FIBONACCI = (1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233)


def covered(atlas: Atlas) -> torch.Tensor:
    """How many tiles lie on each pixel; a tile that leaves the canvas is an error."""
    canvas = torch.zeros(atlas.height, atlas.width, dtype=torch.int32)
    for tile in atlas.tiles:
        assert 0 <= tile.left < tile.left + tile.width <= atlas.width
        assert 0 <= tile.top < tile.top + tile.height <= atlas.height
        canvas[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width] += 1
    return canvas


def test_six_squares_by_hand() -> None:
    atlas = golden_squares(6)
    assert (atlas.width, atlas.height) == (13, 8)
    assert [(tile.left, tile.top, tile.width) for tile in atlas.tiles] == [
        (5, 0, 8),
        (0, 0, 5),
        (0, 5, 3),
        (3, 6, 2),
        (4, 5, 1),
        (3, 5, 1),
    ]
    assert sum(tile.width * tile.height for tile in atlas.tiles) == 104


@pytest.mark.parametrize("count", range(1, 13))
def test_squares_have_fibonacci_sides_and_leave_no_gap(count: int) -> None:
    atlas = golden_squares(count)
    assert [tile.width for tile in atlas.tiles] == list(reversed(FIBONACCI[:count]))
    assert all(tile.width == tile.height for tile in atlas.tiles)
    assert sorted((atlas.width, atlas.height)) == sorted((FIBONACCI[count - 1], FIBONACCI[count]))
    assert bool((covered(atlas) == 1).all())


def test_the_canvases_of_the_design() -> None:
    sizes = {count: golden_squares(count) for count in (5, 7, 8)}
    assert {count: (atlas.width, atlas.height) for count, atlas in sizes.items()} == {
        5: (5, 8),
        7: (13, 21),
        8: (34, 21),
    }


@pytest.mark.parametrize("size", ASPECTS.values(), ids=ASPECTS)
@pytest.mark.parametrize("count", range(1, 13))
def test_no_gap_and_no_overlap(count: int, size: tuple[int, int]) -> None:
    atlas = plan_atlas(count, *size)
    assert atlas.height % 16 == 0 == atlas.width % 16
    assert bool((covered(atlas) == 1).all())
    for tile, side in zip(atlas.tiles, reversed(FIBONACCI[:count]), strict=True):
        for length, whole in ((tile.height, atlas.height), (tile.width, atlas.width)):
            shares = (side * whole / FIBONACCI[count], side * whole / FIBONACCI[count - 1])
            assert min(abs(length - share) for share in shares) < 1


@pytest.mark.parametrize("count", range(1, 8))
def test_tiles_are_whole_tokens_while_they_have_any(count: int) -> None:
    for size in ASPECTS.values():
        for tile in plan_atlas(count, *size).tiles:
            assert [side % 16 for side in (tile.left, tile.top, tile.width, tile.height)] == [0] * 4


def test_a_megapixel_by_hand() -> None:
    """Unit 128: 1024, 640, 384, 256, 128, 128 on 1664 x 1024, 6656 tokens (design, 2.5)."""
    atlas = plan_atlas(6, 1024, 1024)
    assert (atlas.width, atlas.height) == (1664, 1024)
    assert [tile.width for tile in atlas.tiles] == [1024, 640, 384, 256, 128, 128]
    assert atlas.tiles[1] == AtlasTile(0, 0, 640, 640)
    assert atlas.width * atlas.height // 256 == 6656


def test_wide_pictures_are_stacked() -> None:
    """Unit 160 x 96: 1280 x 1248 is nearer to a square than 2080 x 768 (design, 2.5)."""
    atlas = plan_atlas(6, 768, 1280)
    assert (atlas.width, atlas.height) == (1280, 1248)
    assert [(tile.width, tile.height) for tile in atlas.tiles] == [
        (1280, 768),
        (800, 480),
        (480, 288),
        (320, 192),
        (160, 96),
        (160, 96),
    ]


def test_what_cannot_be_tiled_is_named() -> None:
    with pytest.raises(ValueError, match="1 picture or more, got 0"):
        golden_squares(0)
    with pytest.raises(ValueError, match=r"233 x its smallest tile .* got 160: use fewer"):
        plan_atlas(12, 100, 2000)
