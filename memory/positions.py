"""Where memory tokens stand: centres of their cells in token units of the video model.

The paper says nothing about positions (unknown). Here, as in AlayaWorld (alaya/memory/
history_encoder.py, its public derivative), a token stands in the middle of what it covers, in the
coordinates of the video's own tokens, so that the time of a memory token and of the frame it
remembers agree. Which zero the time axis has is the rope mode; weights hold for one mode only.
"""

from typing import Literal

import torch
from torch import Tensor

from .rates import Grid, Rate, Rounding, memory_grid

RopeMode = Literal["history_negative", "history_first"]
ROPE_MODES: tuple[RopeMode, ...] = ("history_negative", "history_first")
"""`history_negative`: the segment starts at 0, as its model was trained, and the history lies
before it. `history_first`: the history starts at 0 and the segment follows it."""


def axis_centres(tokens: int, cell: int, cells: int) -> Tensor:
    """Centres of `cells` cells of `cell` tokens on an axis of `tokens` tokens, float32.

    A last cell that is cut short stands in the middle of what it has.
    """
    starts = torch.arange(cells) * cell
    ends = torch.clamp(starts + cell, max=max(tokens, 1))
    return (starts + ends - 1).float() / 2


def memory_positions(tokens: Grid, rate: Rate, rounding: Rounding, start: float = 0.0) -> Tensor:
    """Positions n x 3 (time, row, column) of a history's memory tokens, in time order.

    `tokens` is the history's grid in tokens of the video model, one latent frame a time step;
    `start` the time of its first latent frame.
    """
    grid = memory_grid(tokens, rate, rounding)
    axes = (
        axis_centres(tokens.time, rate.time, grid.time) + start,
        axis_centres(tokens.height, rate.height, grid.height),
        axis_centres(tokens.width, rate.width, grid.width),
    )
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
