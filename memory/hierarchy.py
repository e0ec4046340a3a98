"""A video as complete codes of every latent frame at several levels, finest first.

Level 0 is the video model's own latent, cut into patches, so that any decoder works; each coarser
level is a whole code of the frame in four times fewer tokens, neither residual nor nested: any
level can be decoded alone (MilliVid, arXiv 2606.09056, section 3; shared design
`hierarchical-latents.md`, 1.1 and 7). What makes the coarser levels is a *head*. Those of this file
need no weights; the learned ones are in hierarchy_heads.

Axes: latents `b c t h w`, normalised (ComfyUI's process_in); codes of a level `b t n c`, n in rows
of the level's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 2
"""Latent cells along one side of a level-0 token: the patch of Wan's transformer."""


class CellState(IntEnum):
    """What is known of a latent frame at a level."""

    UNKNOWN = 0
    PLANNED = 1
    FINAL = 2


@dataclass(frozen=True)
class HierarchyGrid:
    """The tokens of a picture of `height` x `width` latent cells at each of `levels` levels.

    A side that does not divide is rounded up, level by level: 60 x 104 cells (480 x 832 px of Wan)
    are 30 x 52, 15 x 26, 8 x 13 and 4 x 7 tokens. What is missing repeats the last row or column.
    """

    height: int
    width: int
    levels: int
    patch: int = PATCH

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.levels, self.patch) < 1:
            raise ValueError(
                "a hierarchy needs a picture, a patch and a level of 1 or more, got "
                f"{self.height} x {self.width} latent cells, patch {self.patch}, "
                f"{self.levels} levels"
            )
        if self.levels > 1 and self.cells(self.levels - 2) == 1:
            raise ValueError(
                f"{self.height} x {self.width} latent cells have one token before level "
                f"{self.levels - 1}: use fewer levels or a larger picture"
            )

    def rows(self, level: int) -> int:
        return -(-self.height // (self.patch << level))

    def columns(self, level: int) -> int:
        return -(-self.width // (self.patch << level))

    def cells(self, level: int) -> int:
        """Tokens of a latent frame at this level."""
        return self.rows(level) * self.columns(level)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of a latent frame per level."""
        return tuple(self.cells(level) for level in range(self.levels))

    def centres(self, level: int) -> Tensor:
        """Row and column of each token's centre in level-0 tokens, float `n 2`."""
        rows, columns = (
            (torch.arange(count) + 0.5) * 2**level
            for count in (self.rows(level), self.columns(level))
        )
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def grid_of(latents: Tensor, levels: int, patch: int = PATCH) -> HierarchyGrid:
    """The grid of latents `... h w`."""
    height, width = latents.shape[-2:]
    return HierarchyGrid(height, width, levels, patch)


class HierarchyHead(Protocol):
    """What turns latents into the codes of all levels and the codes of one level into latents."""

    @property
    def name(self) -> str:
        """Which head it is: `pooled`, or the hash of its weights. Codes of two heads never mix."""
        ...

    @property
    def code_channels(self) -> tuple[int, ...]:
        """Channels of a token per level."""
        ...

    @property
    def levels(self) -> int: ...

    def encode(self, latents: Tensor, first: Tensor | None = None) -> tuple[Tensor, ...]:
        """Codes `b t n c` per level of normalised latents `b c t h w`.

        `first` (bool `t`) marks the latent frames that hold a single picture (the first one of a
        clip of Wan); None: none of them.
        """
        ...

    def decode(
        self, level: int, codes: Tensor, grid: HierarchyGrid, first: Tensor | None = None
    ) -> Tensor:
        """Normalised latents `b c t h w` of the codes `b t n c` of one level."""
        ...


def to_patches(frames: Tensor, patch: int) -> Tensor:
    """`b c h w` with sides that divide -> tokens `b n (c patch patch)`."""
    b, c, h, w = frames.shape
    cut = frames.reshape(b, c, h // patch, patch, w // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * patch * patch)


def from_patches(tokens: Tensor, rows: int, patch: int) -> Tensor:
    """The inverse of `to_patches` for a grid of `rows`."""
    b, n, width = tokens.shape
    c, columns = width // patch**2, n // rows
    cut = tokens.reshape(b, rows, columns, c, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return cut.reshape(b, c, rows * patch, columns * patch)


def fill_up(frames: Tensor, height: int, width: int) -> Tensor:
    """`b c h w` enlarged to `height` x `width` by repeating the last row and column."""
    missing = (0, width - frames.shape[-1], 0, height - frames.shape[-2])
    return F.pad(frames, missing, mode="replicate") if any(missing) else frames


def pyramid(frames: Tensor, grid: HierarchyGrid) -> list[Tensor]:
    """Latent frames `b c h w` at every level: each the 2 x 2 mean of the one before, sides filled
    up to whole tokens."""
    levels = [frames]
    for _ in range(1, grid.levels):
        last = levels[-1]
        even = fill_up(last, *(side + side % 2 for side in last.shape[-2:]))
        levels.append(F.avg_pool2d(even, 2))
    return [
        fill_up(each, grid.rows(level) * grid.patch, grid.columns(level) * grid.patch)
        for level, each in enumerate(levels)
    ]


def as_frames(latents: Tensor) -> Tensor:
    """`b c t h w` -> `(b t) c h w`."""
    return latents.transpose(1, 2).flatten(0, 1)


def as_latents(frames: Tensor, batch: int) -> Tensor:
    """`(b t) c h w` -> `b c t h w`."""
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)


def check_codes(
    level: int, codes: Tensor, grid: HierarchyGrid, code_channels: Sequence[int]
) -> None:
    """Raises ValueError unless `codes` are those `b t n c` of a level of this grid and head."""
    if not 0 <= level < min(len(code_channels), grid.levels):
        most = min(len(code_channels), grid.levels) - 1
        raise ValueError(f"level must be 0 to {most}, the levels of this hierarchy, got {level}")
    wanted = (grid.cells(level), code_channels[level])
    if codes.ndim != 4 or tuple(codes.shape[2:]) != wanted:
        raise ValueError(
            f"codes of level {level} must have {wanted[0]} tokens of {wanted[1]} channels, got "
            f"{list(codes.shape)}"
        )


def check_channels(latents: Tensor, channels: int) -> None:
    """Raises ValueError unless `latents` are `b c t h w` of a head's channels."""
    if latents.ndim != 5 or latents.shape[1] != channels:
        raise ValueError(
            f"this head was made for latents of {channels} channels, got {list(latents.shape)}: "
            "use one of your model's VAE"
        )


def repeated(first: Tensor | None, batch: int, frames: int, device: torch.device) -> Tensor:
    """Marks of single pictures `t` as one bool per latent frame of a batch, `(b t)`."""
    if first is None:
        return torch.zeros(batch * frames, dtype=torch.bool, device=device)
    return first.to(device, torch.bool).repeat(batch)


@dataclass(frozen=True)
class PooledHead:
    """Coarser levels without weights: the patches of averaged latents, decoded by enlarging them.

    The paper's own comparison ("cascaded") averages, too. It keeps most of what the schedule gives
    and loses detail (arXiv 2606.09056, table 2).
    """

    channels: int
    levels: int
    patch: int = PATCH

    @property
    def name(self) -> str:
        return "pooled"

    @property
    def code_channels(self) -> tuple[int, ...]:
        return (self.channels * self.patch**2,) * self.levels

    def encode(self, latents: Tensor, first: Tensor | None = None) -> tuple[Tensor, ...]:
        """See HierarchyHead; `first` is not needed."""
        check_channels(latents, self.channels)
        grid = grid_of(latents, self.levels, self.patch)
        levels = pyramid(as_frames(latents), grid)
        return tuple(
            to_patches(each, self.patch).unflatten(0, (len(latents), -1)) for each in levels
        )

    def decode(
        self, level: int, codes: Tensor, grid: HierarchyGrid, first: Tensor | None = None
    ) -> Tensor:
        """See HierarchyHead; `first` is not needed."""
        check_codes(level, codes, grid, self.code_channels)
        frames = from_patches(codes.flatten(0, 1), grid.rows(level), self.patch)
        if level:
            frames = F.interpolate(
                frames, scale_factor=float(2**level), mode="bilinear", align_corners=False
            )
        return as_latents(frames[..., : grid.height, : grid.width], len(codes))


@dataclass(frozen=True)
class PatchHead:
    """FramePack's coarser levels: nothing is left out, the patches are larger.

    A token of level l holds the latent cells of 2^l x 2^l tokens of level 0; how they become one
    token is learned by the video model that reads them (shared design, 3.8).
    """

    channels: int
    levels: int
    patch: int = PATCH

    @property
    def name(self) -> str:
        return "patches"

    @property
    def code_channels(self) -> tuple[int, ...]:
        return tuple(self.channels * (self.patch << level) ** 2 for level in range(self.levels))

    def encode(self, latents: Tensor, first: Tensor | None = None) -> tuple[Tensor, ...]:
        """See HierarchyHead; `first` is not needed."""
        check_channels(latents, self.channels)
        grid = grid_of(latents, self.levels, self.patch)
        frames = as_frames(latents)
        codes = []
        for level in range(self.levels):
            patch = self.patch << level
            full = fill_up(frames, grid.rows(level) * patch, grid.columns(level) * patch)
            codes.append(to_patches(full, patch).unflatten(0, (len(latents), -1)))
        return tuple(codes)

    def decode(
        self, level: int, codes: Tensor, grid: HierarchyGrid, first: Tensor | None = None
    ) -> Tensor:
        """See HierarchyHead; `first` is not needed."""
        check_codes(level, codes, grid, self.code_channels)
        frames = from_patches(codes.flatten(0, 1), grid.rows(level), self.patch << level)
        return as_latents(frames[..., : grid.height, : grid.width], len(codes))


@dataclass(frozen=True)
class Hierarchy:
    """All that is known of a video: an immutable value, every change makes a new one.

    `codes[l]` are `t n_l c_l`, zeros where nothing is known; `state` (uint8 `levels t`) says what
    is, in CellState; `first` (bool `t`) marks single pictures; `head` names what made the codes.
    """

    codes: tuple[Tensor, ...]
    state: Tensor
    first: Tensor
    grid: HierarchyGrid
    head: str

    def __post_init__(self) -> None:
        assert len(self.codes) == self.grid.levels == len(self.state)
        assert {len(codes) for codes in self.codes} == {self.frames} == {self.state.shape[1]}

    @classmethod
    def empty(cls, head: HierarchyHead, grid: HierarchyGrid, frames: int) -> Hierarchy:
        """Nothing known yet of `frames` latent frames."""
        codes = tuple(
            torch.zeros(frames, grid.cells(level), head.code_channels[level])
            for level in range(grid.levels)
        )
        state = torch.zeros(grid.levels, frames, dtype=torch.uint8)
        return cls(codes, state, torch.zeros(frames, dtype=torch.bool), grid, head.name)

    @property
    def frames(self) -> int:
        """Latent frames of the timeline."""
        return len(self.first)

    def known(self, level: int, start: int, stop: int) -> bool:
        """Whether every latent frame of [start, stop) is planned or final at this level."""
        inside = 0 <= start <= stop <= self.frames
        return inside and bool((self.state[level, start:stop] != CellState.UNKNOWN).all())

    def extended(self, frames: int, first: Tensor | None = None) -> Hierarchy:
        """The timeline with `frames` unknown latent frames behind it; `first` are their marks."""
        marks = repeated(first, 1, frames, self.first.device)
        return replace(
            self,
            codes=tuple(
                torch.cat([each, each.new_zeros(frames, *each.shape[1:])]) for each in self.codes
            ),
            state=torch.cat([self.state, self.state.new_zeros(len(self.state), frames)], dim=1),
            first=torch.cat([self.first, marks]),
        )

    def with_codes(
        self, level: int, start: int, codes: Tensor, state: CellState = CellState.PLANNED
    ) -> Hierarchy:
        """Codes `t n c` written at one level from latent frame `start` on; nothing else changes."""
        stop = start + len(codes)
        check_codes(level, codes[None], self.grid, [each.shape[-1] for each in self.codes])
        if not 0 <= start < stop <= self.frames:
            raise ValueError(
                f"latent frames {start} to {stop} lie outside the hierarchy's {self.frames}"
            )
        written, known = self.codes[level].clone(), self.state.clone()
        written[start:stop] = codes.to(written)
        known[level, start:stop] = int(state)
        levels = (*self.codes[:level], written, *self.codes[level + 1 :])
        return replace(self, codes=levels, state=known)
