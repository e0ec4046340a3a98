"""Hierarchies over latents: grids, heads without weights, and the value that holds the codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from throughline.memory.hierarchy import (
    CellState,
    Hierarchy,
    HierarchyGrid,
    PatchHead,
    PooledHead,
    from_patches,
    grid_of,
    to_patches,
)

ODD = (5, 7)


def latents(frames: int = 3, channels: int = 4, size: tuple[int, int] = ODD, seed: int = 0):
    return torch.randn(1, channels, frames, *size, generator=torch.Generator().manual_seed(seed))


def finished(head: PooledHead | PatchHead, latents: Tensor) -> Hierarchy:
    """The hierarchy of a finished video."""
    grid = grid_of(latents, head.levels)
    result = Hierarchy.empty(head, grid, latents.shape[2])
    for level, codes in enumerate(head.encode(latents)):
        result = result.with_codes(level, 0, codes[0], CellState.FINAL)
    return result


def test_wan_480p_has_the_tokens_of_the_design() -> None:
    grid = HierarchyGrid(60, 104, 4)
    assert grid.tokens == (1560, 390, 104, 28)
    assert [(grid.rows(level), grid.columns(level)) for level in range(4)] == [
        (30, 52),
        (15, 26),
        (8, 13),
        (4, 7),
    ]


def test_the_demo_has_sixteen_four_and_one_tokens() -> None:
    assert HierarchyGrid(8, 8, 3).tokens == (16, 4, 1)


def test_centres_are_in_tokens_of_level_0() -> None:
    grid = HierarchyGrid(8, 8, 3)
    assert grid.centres(0)[:2].tolist() == [[0.5, 0.5], [0.5, 1.5]]
    assert grid.centres(1).tolist() == [[1, 1], [1, 3], [3, 1], [3, 3]]
    assert grid.centres(2).tolist() == [[2, 2]]


@pytest.mark.parametrize("sizes", [(0, 8, 3), (8, 8, 0), (4, 4, 3)])
def test_a_grid_that_cannot_be_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="latent cells"):
        HierarchyGrid(*sizes)


def test_patches_go_back() -> None:
    frames = torch.randn(2, 3, 4, 6)
    tokens = to_patches(frames, 2)
    assert tokens.shape == (2, 6, 12)
    assert torch.equal(tokens[0, 1], frames[0, :, :2, 2:4].flatten())
    assert torch.equal(from_patches(tokens, 2, 2), frames)


def test_pooled_levels_are_means() -> None:
    x = latents(size=(8, 8))
    codes = PooledHead(4, 3).encode(x)
    assert [tuple(each.shape) for each in codes] == [(1, 3, 16, 16), (1, 3, 4, 16), (1, 3, 1, 16)]
    coarsest = from_patches(codes[2][0], 1, 2)  # 4 x 4 cells each
    expected = x[0, :, :, :4, :4].mean(dim=(2, 3)).T
    assert torch.allclose(coarsest[:, :, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), ODD, (6, 9)])
def test_level_0_is_the_latent(size: tuple[int, int]) -> None:
    x = latents(size=size)
    grid = HierarchyGrid(*size, 2)
    for head in (PooledHead(4, 2), PatchHead(4, 2)):
        codes = head.encode(x)
        assert tuple(codes[1].shape) == (1, 3, grid.cells(1), head.code_channels[1])
        assert torch.equal(head.decode(0, codes[0], grid), x)


@pytest.mark.parametrize("size", [(8, 8), ODD])
def test_larger_patches_lose_nothing(size: tuple[int, int]) -> None:
    x, head = latents(size=size), PatchHead(4, 2)
    assert torch.equal(head.decode(1, head.encode(x)[1], HierarchyGrid(*size, 2)), x)


def test_a_plain_colour_survives_pooling() -> None:
    x = torch.full((1, 4, 2, *ODD), 0.7)
    head = PooledHead(4, 2)
    back = head.decode(1, head.encode(x)[1], HierarchyGrid(*ODD, 2))
    assert torch.allclose(back, x)


def test_frames_do_not_see_each_other() -> None:
    x, head = latents(frames=4), PooledHead(4, 2)
    order = [2, 0, 3, 1]
    for a, b in zip(head.encode(x[:, :, order]), head.encode(x), strict=True):
        assert torch.equal(a, b[:, order])


def test_wrong_latents_and_codes_name_themselves() -> None:
    head, grid = PooledHead(4, 2), HierarchyGrid(*ODD, 2)
    with pytest.raises(ValueError, match="latents of 4 channels, got"):
        head.encode(latents(channels=3))
    with pytest.raises(ValueError, match="level must be 0 to 1"):
        head.decode(2, torch.zeros(1, 1, 4, 16), grid)
    with pytest.raises(ValueError, match="4 tokens of 16 channels"):
        head.decode(1, torch.zeros(1, 1, 5, 16), grid)


def test_nothing_is_known_of_an_empty_hierarchy() -> None:
    hierarchy = Hierarchy.empty(PooledHead(4, 2), HierarchyGrid(8, 8, 2), 5)
    assert hierarchy.frames == 5
    assert not hierarchy.known(0, 0, 1)
    assert hierarchy.known(0, 3, 3)
    assert all(not each.any() for each in hierarchy.codes)


def test_writing_gives_a_new_value_and_touches_the_target_only() -> None:
    before = finished(PooledHead(4, 2), latents(4, size=(8, 8)))
    copies = [each.clone() for each in before.codes]
    after = before.with_codes(1, 1, torch.ones(2, 4, 16))
    assert all(torch.equal(a, b) for a, b in zip(before.codes, copies, strict=True))
    assert (before.state == CellState.FINAL).all()
    assert after.state.tolist() == [[2, 2, 2, 2], [2, 1, 1, 2]]
    assert torch.equal(after.codes[0], before.codes[0])
    assert torch.equal(after.codes[1][[0, 3]], before.codes[1][[0, 3]])
    assert (after.codes[1][1:3] == 1).all()


def test_marks_of_single_pictures_follow_the_timeline() -> None:
    first = torch.tensor([True, False])
    longer = finished(PooledHead(4, 2), latents(2)).extended(2, first)
    assert longer.first.tolist() == [False, False, True, False]
    assert longer.known(1, 0, 2) and not longer.known(1, 1, 3)


def test_wrong_writing_is_refused() -> None:
    head = PooledHead(4, 2)
    hierarchy = finished(head, latents(3))
    with pytest.raises(ValueError, match="latent frames 2 to 4 lie outside the hierarchy's 3"):
        hierarchy.with_codes(0, 2, hierarchy.codes[0][:2])
    with pytest.raises(ValueError, match="level 1 must have 4 tokens"):
        hierarchy.with_codes(1, 0, hierarchy.codes[0][:1])
