"""The authors' autoencoder of MilliVid: a picture becomes one complete code per level.

arXiv 2606.09056, sections 1.2 to 1.4 and 2.5 of the shared design `hierarchical-latents.md`, which
names every constant of the released weights. Frames are coded one by one; a code is bounded by
tanh and goes into the video model as it is.

Axes: pictures are `b 3 h w` in 0..1, codes of a level `b n c` with the cells row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .millivid_layers import Transformer, angles, grid_places

COLOURS = 3

PatchOrder = Literal["channel first", "channel last"]
"""How the pixels of a patch stand in a row: colour, row, column or row, column, colour."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderSizes:
    """Sizes of an autoencoder; all but the last three can be read from its tensors.

    `grid` cells of level 0 on a side; `pooled` is the ablation whose coarser codes are averages of
    level 0 (section 1.4, "cascaded").
    """

    width: int
    head_width: int
    channels: int
    patch: int
    levels: int
    encoder_depth: int
    decoder_depth: int
    grid: int
    patch_order: PatchOrder = "channel first"
    pooled: bool = False

    def __post_init__(self) -> None:
        if self.width % 4 or self.width % self.head_width:
            raise ValueError(
                f"the autoencoder's width must divide by 4 and by its heads of {self.head_width}, "
                f"got {self.width}"
            )
        if self.grid % 2 ** (self.levels - 1):
            raise ValueError(
                f"a grid of {self.levels} levels must divide by {2 ** (self.levels - 1)}, got "
                f"{self.grid}"
            )

    @property
    def picture(self) -> int:
        """Pixels on a side."""
        return self.grid * self.patch

    @property
    def sides(self) -> tuple[int, ...]:
        """Cells on a side per level, finest first."""
        return tuple(self.grid >> level for level in range(self.levels))

    @property
    def tokens(self) -> tuple[int, ...]:
        """Cells per level and frame, finest first."""
        return tuple(side * side for side in self.sides)


class Encoder(nn.Module):
    def __init__(self, sizes: AutoencoderSizes, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        pixels = COLOURS * sizes.patch**2
        self.level_embedding = operations.Embedding(sizes.levels, sizes.width, **place)
        self.patchify = operations.Linear(pixels, sizes.width, **place)
        self.transformer = Transformer(
            sizes.encoder_depth, sizes.width, sizes.head_width, False, operations, place
        )
        self.bottleneck = operations.Linear(sizes.width, sizes.channels, **place)


class Decoder(nn.Module):
    def __init__(self, sizes: AutoencoderSizes, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        pixels = COLOURS * sizes.patch**2
        self.level_embedding = operations.Embedding(sizes.levels, sizes.width, **place)
        self.unbottleneck = operations.Linear(sizes.channels, sizes.width, **place)
        self.transformer = Transformer(
            sizes.decoder_depth, sizes.width, sizes.head_width, True, operations, place
        )
        self.unpatchify = operations.Linear(sizes.width, pixels, **place)


class MilliVidAutoencoder(nn.Module):
    """Both halves, under the names of the released state dict."""

    def __init__(
        self,
        sizes: AutoencoderSizes,
        operations: Any = nn,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.sizes = sizes
        self.encoder = Encoder(sizes, operations, place)
        self.decoder = Decoder(sizes, operations, place)

    def encode(self, frames: Tensor) -> tuple[Tensor, ...]:
        """The codes of every level, finest first, each within -1..1.

        Raises ValueError for pictures of another size than the weights were trained with.
        """
        side = self.sizes.picture
        if frames.shape[1:] != (COLOURS, side, side):
            raise ValueError(
                f"frames for this autoencoder must be {side}x{side} pixels in {COLOURS} colours, "
                f"got {frames.shape[-1]}x{frames.shape[-2]} in {frames.shape[1]}"
            )
        patches = []
        for level in range(self.sizes.levels):
            patches.append(self._patches(frames))
            if level + 1 < self.sizes.levels:
                frames = F.avg_pool2d(frames, 2)
        half = self.encoder
        x = half.patchify(torch.cat(patches, dim=1))
        x = half.transformer(x + self._queries(half.level_embedding, x))
        codes = tuple(torch.tanh(half.bottleneck(x)).split(self.sizes.tokens, dim=1))
        return self._pooled(codes[0]) if self.sizes.pooled else codes

    def decode(self, level: int, codes: Tensor) -> Tensor:
        """The pictures that a level's codes `b n c` stand for; the other levels are not needed.

        Values may lie a little outside 0..1. Raises ValueError for codes of another level.
        """
        if not 0 <= level < self.sizes.levels or codes.shape[1] != self.sizes.tokens[level]:
            raise ValueError(
                f"codes of level {level} must have one of {self.sizes.tokens} cells, by level, got "
                f"{codes.shape[1]}"
            )
        half = self.decoder
        kept = [
            codes if one == level else codes.new_zeros(len(codes), count, codes.shape[2])
            for one, count in enumerate(self.sizes.tokens)
        ]
        x = half.unbottleneck(torch.cat(kept, dim=1))
        x = x + self._queries(half.level_embedding, x)
        asked = half.level_embedding(torch.tensor([[level]], device=x.device)).to(x)  # 1 1 d
        x = half.transformer(x, asked)[:, : self.sizes.tokens[0]]  # the finest picture only
        return self._picture(half.unpatchify(x))

    def _queries(self, embedding: nn.Module, x: Tensor) -> Tensor:
        """Position and level of all cells, `n d`, as `x` is placed."""
        parts, count = [], self.sizes.width // 4
        for level, side in enumerate(self.sizes.sides):
            row, column = angles(grid_places(side, side, x.device), count).unbind(1)
            place = torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=-1)
            parts.append(place + embedding(torch.tensor([level], device=x.device)).to(place))
        return torch.cat(parts).to(x)

    def _patches(self, picture: Tensor) -> Tensor:
        """b 3 h w -> b n pixels, in the order of the weights."""
        size = self.sizes.patch
        cells = picture.unflatten(2, (-1, size)).unflatten(4, (-1, size))  # b c rows p columns q
        if self.sizes.patch_order == "channel first":
            return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def _picture(self, patches: Tensor) -> Tensor:
        """b n pixels of the finest grid -> b 3 h w."""
        size, side = self.sizes.patch, self.sizes.grid
        if self.sizes.patch_order == "channel first":
            cells = patches.view(-1, side, side, COLOURS, size, size).permute(0, 3, 1, 4, 2, 5)
        else:
            cells = patches.view(-1, side, side, size, size, COLOURS).permute(0, 5, 1, 3, 2, 4)
        return cells.reshape(len(patches), COLOURS, self.sizes.picture, self.sizes.picture)

    def _pooled(self, codes: Tensor) -> tuple[Tensor, ...]:
        """Level 0 and its averages over 2x2 cells, again and again."""
        image = codes.transpose(1, 2).unflatten(2, (self.sizes.grid, self.sizes.grid))
        levels = [codes]
        for _ in range(self.sizes.levels - 1):
            image = F.avg_pool2d(image, 2)
            levels.append(image.flatten(2).transpose(1, 2))
        return tuple(levels)
