"""Recall by what a shot says: memory tokens are found by the captions that they were made under.

Ours; the paper leaves open how a token is found when its time is not known. Every memory token has
an address, made from the caption of its segment, how far into the segment it stands and where in
the picture. A new shot makes addresses of the same kind for its own frames from its own caption,
and what lies at the nearest ones is put beside the segment as *recalled* tokens, at the segment's
own times. Reading a token at its own time is what Stage I teaches, so only the addresses are new.
Equal captions give equal addresses from the first training step on, which is what makes this
learnable: attention alone did not learn to find anything within 600 steps (measured, docs/log.md).

Axes: tokens `b m d`, addresses `b m w`, captions `b n c`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rates import Grid

HEADS, BLOCKS = 4, 2
"""Of the address network. One block did not learn where a camera stands (measured)."""

SHARPNESS = 20.0
"""What the cosine of two addresses is multiplied with before the softmax, to begin with."""


class Addresses(nn.Module):
    """Addresses of unit length from captions and places in a segment.

    A place reads the caption twice: where a camera stands at a moment follows from several words.
    """

    def __init__(
        self,
        width: int,
        caption_dim: int,
        operations: Any = nn,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.width = width
        self.place = operations.Linear(2, width, **place)
        self.caption_norm = operations.LayerNorm(caption_dim, **place)
        self.blocks = nn.ModuleList(
            AddressBlock(width, caption_dim, operations, place) for _ in range(BLOCKS)
        )
        self.out = operations.Linear(width, width, **place)
        self.sharpness = nn.Parameter(torch.full((1,), math.log(SHARPNESS), **place))

    def forward(self, caption: Tensor, places: Tensor) -> Tensor:
        """Addresses `b m w` of `places` (m 3: latent frames into the segment, row and column in
        0..1) under captions `b n c`."""
        return F.normalize(self.out(self.read(caption, places)).float(), dim=-1)

    def read(self, caption: Tensor, places: Tensor) -> Tensor:
        """What the places know after reading the captions, `b m w`."""
        dtype = caption.dtype
        x = time_code(places[:, 0], self.width).to(dtype) + self.place(places[:, 1:].to(dtype))
        x, caption = x.expand(len(caption), -1, -1), self.caption_norm(caption)
        for block in self.blocks:
            x = block(x, caption)
        return x

    def weights(self, asked: Tensor, held: Tensor) -> Tensor:
        """How much of each held token is recalled at each asked address: `b k m`, rows sum to 1."""
        sharpness = self.sharpness.float().exp().to(asked.device)
        return torch.softmax(sharpness * torch.matmul(asked, held.transpose(-1, -2)), dim=-1)


class AddressBlock(nn.Module):
    """Pre-norm attention of places `b m w` to a caption `b n c`, then a feed-forward."""

    def __init__(
        self, width: int, caption_dim: int, operations: Any, place: dict[str, Any]
    ) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(width, **place)
        self.q = operations.Linear(width, width, **place)
        self.kv = operations.Linear(caption_dim, 2 * width, **place)
        self.mix = operations.Linear(width, width, **place)
        self.feed_norm = operations.LayerNorm(width, **place)
        self.feed_in = operations.Linear(width, 4 * width, **place)
        self.feed_out = operations.Linear(4 * width, width, **place)

    def forward(self, x: Tensor, caption: Tensor) -> Tensor:
        b, m, width = x.shape
        q = self.q(self.norm(x)).view(b, m, HEADS, -1).transpose(1, 2)
        k, v = self.kv(caption).view(b, -1, 2, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, m, width)
        x = x + self.mix(read)
        return x + self.feed_out(F.silu(self.feed_in(self.feed_norm(x))))


def time_code(times: Tensor, width: int) -> Tensor:
    """Sinusoids of latent-frame numbers, `n width`; longest period 10,000 (Vaswani et al. 2017)."""
    half = width // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=times.device) / half)
    angles = times.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def cell_places(frames: Tensor, height: int, width: int) -> Tensor:
    """Places `m 3` of a grid of cells at these times: row and column are centres in 0..1."""
    rows = (torch.arange(height, device=frames.device) + 0.5) / height
    columns = (torch.arange(width, device=frames.device) + 0.5) / width
    grid = torch.meshgrid(frames.float(), rows, columns, indexing="ij")
    return torch.stack(grid, dim=-1).reshape(-1, 3)


def recalled_low(weights: Tensor, low: Tensor, patch: tuple[int, int], grid: Grid) -> Tensor:
    """Low-resolution latents of recalled tokens, `c t h w` of the grid.

    `weights` (k m) mix the patches of `low` (m tokens as `m c h w`, one patch each). The model's
    projection is linear and the weights sum to 1, so projecting the mixture equals mixing tokens.
    """
    mixed = torch.matmul(weights.to(low.dtype), low.flatten(1))
    shape = (grid.time, grid.height, grid.width, low.shape[1], *patch)
    tiles = mixed.view(shape).permute(3, 0, 1, 4, 2, 5)
    return tiles.flatten(4, 5).flatten(2, 3)


def low_patches(low: Tensor, patch: tuple[int, int]) -> Tensor:
    """The patches of low-resolution latents `c t h w` as `m c h w`, in the order of tokens."""
    c, t, h, w = low.shape
    tiles = low.view(c, t, h // patch[0], patch[0], w // patch[1], patch[1])
    return tiles.permute(1, 2, 4, 0, 3, 5).flatten(0, 2)


LIKENESS = 0.1
"""Mean squared distance of unit-variance latents at which a likeness has fallen to 1/e: the same
view again differs by less, one that moved by a latent cell by about ten times more (measured on the
demo world)."""


def likeness(asked: Tensor, held: Tensor) -> Tensor:
    """What the addresses should give: `b k m`, how alike the latents at asked and held places are.

    `asked` b k n are the true latents of a shot at each asked place, `held` b m t n those of each
    held cell's latent frames, of which the nearest counts. Rows sum to 1. Only training knows it.
    """
    flat = held.flatten(1, 2)
    squares = asked.square().sum(-1)[..., None] + flat.square().sum(-1)[:, None]
    distance = (squares - 2 * torch.matmul(asked, flat.transpose(-1, -2))) / asked.shape[-1]
    nearest = distance.unflatten(-1, held.shape[1:3]).amin(dim=-1)
    return torch.softmax(-nearest / LIKENESS, dim=-1)


def latent_cells(latents: Tensor, cell: tuple[int, int, int]) -> Tensor:
    """Latents `b c t h w` as `b m t n`: per cell its latent frames, flattened.

    Height and width are whole cells; in time the last frame is repeated where a cell is not full.
    """
    missing = -latents.shape[2] % cell[0]
    latents = torch.cat([latents, *[latents[:, :, -1:]] * missing], dim=2)
    b, c, t, h, w = latents.shape
    split = latents.view(b, c, t // cell[0], cell[0], h // cell[1], cell[1], w // cell[2], cell[2])
    return split.permute(0, 2, 4, 6, 3, 1, 5, 7).flatten(5).flatten(1, 3)
