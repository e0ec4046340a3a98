"""Centres of memory cells in token units, by hand."""

from __future__ import annotations

import pytest
import torch

from throughline.memory.positions import (
    axis_centres,
    memory_positions,
)
from throughline.memory.rates import RATES, ROUNDINGS, Grid, Rate, Rounding, memory_grid


def test_whole_cells_stand_in_their_middle() -> None:
    assert axis_centres(8, 4, 2).tolist() == [1.5, 5.5]
    assert axis_centres(3, 1, 3).tolist() == [0.0, 1.0, 2.0]


def test_a_cell_cut_short_stands_in_the_middle_of_what_it_has() -> None:
    assert axis_centres(7, 4, 2).tolist() == [1.5, 5.0]  # tokens 4, 5, 6
    assert axis_centres(5, 2, 3).tolist() == [0.5, 2.5, 4.0]
    assert axis_centres(1, 4, 1).tolist() == [0.0]


def test_positions_of_a_small_history_by_hand() -> None:
    found = memory_positions(Grid(3, 3, 2), Rate(2, 2, 2), "ceil", start=-3.0)
    assert found.tolist() == [
        [-2.5, 0.5, 0.5],
        [-2.5, 2.0, 0.5],
        [-1.0, 0.5, 0.5],
        [-1.0, 2.0, 0.5],
    ]
    cropped = memory_positions(Grid(3, 3, 2), Rate(2, 2, 2), "floor", start=-3.0)
    assert cropped.tolist() == [[-2.5, 0.5, 0.5], [-1.0, 0.5, 0.5]]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("rate", RATES, ids=str)
def test_one_position_per_token_inside_what_it_covers(rate: Rate, rounding: Rounding) -> None:
    tokens = Grid(11, 15, 27)
    found = memory_positions(tokens, rate, rounding)
    grid = memory_grid(tokens, rate, rounding)
    assert found.shape == (grid.tokens, 3)
    cells = (found / torch.tensor([rate.time, rate.height, rate.width])).floor().long()
    axes = [torch.arange(n) for n in (grid.time, grid.height, grid.width)]
    expected = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    assert torch.equal(cells, expected)
    assert (found.amax(0) <= torch.tensor([10.0, 14.0, 26.0])).all()


def test_a_rate_of_one_gives_the_models_own_positions() -> None:
    found = memory_positions(Grid(2, 2, 2), Rate(1, 1, 1), "ceil")
    assert found.tolist() == [[t, y, x] for t in (0.0, 1.0) for y in (0.0, 1.0) for x in (0.0, 1.0)]
