"""Compression rates of the history encoder and the token counts that follow from them.

A rate divides the video model's *token* grid, height x width x time (paper 2512.23851v6, section
4.1): 4x4x2 keeps one token in 32. Which cells a grid that does not divide keeps is the rounding:
`floor` crops the rest away, as in the paper's figure 2 (15 rows of tokens become 7), `ceil` keeps
everything.
"""

import re
from dataclasses import dataclass
from typing import Literal

Rounding = Literal["floor", "ceil"]
ROUNDINGS: tuple[Rounding, ...] = ("floor", "ceil")


@dataclass(frozen=True)
class Rate:
    """How many tokens of the model's grid become one memory token, per axis."""

    height: int
    width: int
    time: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.time}"

    @property
    def volume(self) -> int:
        """Tokens of the model's grid in one memory token."""
        return self.height * self.width * self.time

    @staticmethod
    def parse(text: str) -> "Rate":
        """Read "2x2x2". Raises ValueError naming the form."""
        match = re.fullmatch(r"(\d{1,3})x(\d{1,3})x(\d{1,3})", text)
        if match is None or "0" in match.groups():
            raise ValueError(f"a rate reads like 2x2x2 (height x width x time), got {text!r}")
        return Rate(*(int(part) for part in match.groups()))


RATES = tuple(Rate.parse(text) for text in ("4x4x2", "2x2x8", "2x2x4", "2x2x2", "2x2x1"))
"""The five rates of the paper (v6, tables 1 to 3)."""


@dataclass(frozen=True)
class Grid:
    """A grid of tokens or cells: frames, rows, columns."""

    time: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        return self.time * self.height * self.width


def divide(length: int, by: int, rounding: Rounding) -> int:
    """Cells along an axis of `length` tokens."""
    return -(-length // by) if rounding == "ceil" else length // by


def memory_grid(tokens: Grid, rate: Rate, rounding: Rounding) -> Grid:
    """The cells that remember a history of this token grid.

    An axis shorter than its rate still gives one cell, so that a single picture can be remembered.
    Time is always rounded up: the last latent frames of a history are what comes next depends on
    (table 1.4 of the design is the same either way, its histories divide).
    """
    return Grid(
        divide(tokens.time, rate.time, "ceil"),
        max(1, divide(tokens.height, rate.height, rounding)),
        max(1, divide(tokens.width, rate.width, rounding)),
    )


def cell_frames(latent_frames: int, rate_time: int, frames_per_latent: int) -> tuple[int, ...]:
    """Which video frame stands for each cell in the low-resolution branch, 0-based.

    The last frame of the latent frame in the middle of the cell. The paper encodes the whole
    downsampled video instead; a picture per cell is what makes appending exact, since no cell then
    depends on how many frames came before it (our choice).
    """
    cells = divide(latent_frames, rate_time, "ceil")
    middle = (rate_time - 1) // 2
    return tuple(
        frames_per_latent * min(rate_time * cell + middle, latent_frames - 1)
        for cell in range(cells)
    )
