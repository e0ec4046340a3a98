"""Layers and positions that the authors' autoencoder and video model of MilliVid share.

MilliVid (arXiv 2606.09056), with the constants of the released weights as the shared design
`hierarchical-latents.md` states them (sections 1.2, 1.3, 2.1, 2.5 and 5). Module names are those of
the released state dicts. `operations` is a namespace of layer classes, as ComfyUI's core has them.

Axes: tokens are `b n d`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 1e4
"""Of every sin/cos embedding (section 2.5)."""

NORM_EPSILON = 1e-6
"""Of the layer norms, which have no weights (section 1.2)."""

MLP_RATIO = 4
MODULATIONS = 6
"""Per block and token: shift, scale and gate of the attention, then of the MLP (section 2.5)."""


def frequencies(count: int, device: torch.device | None = None) -> Tensor:
    """TEMPERATURE ** (-i / (count - 1)) for i = 0 .. count - 1 (section 2.5)."""
    steps = torch.arange(count, dtype=torch.float32, device=device)
    return TEMPERATURE ** (-steps / max(count - 1, 1))


def angles(places: Tensor, count: int) -> Tensor:
    """Places `...` times `count` frequencies: `... count`, in float32."""
    return places.float().unsqueeze(-1) * frequencies(count, places.device)


def grid_places(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """Row and column `n 2` of every cell of a level's own grid, row by row."""
    row, column = torch.arange(rows, device=device), torch.arange(columns, device=device)
    return torch.cartesian_prod(row, column).view(-1, 2)


def normalised(x: Tensor) -> Tensor:
    """Layer norm without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPSILON)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return normalised(x) * (1 + scale) + shift


def for_tokens(modulations: Tensor, rows: Tensor | None) -> Tensor:
    """What each token takes of modulations `b v m`: `b n m`, or `b 1 m` for one that all share."""
    return modulations if rows is None else modulations[:, rows]


class Attention(nn.Module):
    """Full attention without a mask; queries and keys are normed per head, in float32."""

    def __init__(self, width: int, head_width: int, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.heads = width // head_width
        self.qkv = operations.Linear(width, 3 * width, **place)
        self.q_norm = operations.RMSNorm(head_width, **place)
        self.k_norm = operations.RMSNorm(head_width, **place)
        self.proj = operations.Linear(width, width, **place)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each b heads n d
        query = self.q_norm(query.float()).to(value.dtype)
        key = self.k_norm(key.float()).to(value.dtype)
        read = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.proj(read.transpose(1, 2).flatten(2))
        return output


class Mlp(nn.Module):
    def __init__(self, width: int, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.fc1 = operations.Linear(width, MLP_RATIO * width, **place)
        self.fc2 = operations.Linear(MLP_RATIO * width, width, **place)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return output


class Block(nn.Module):
    """A transformer block that norms first; `conditioned` by six modulations of a vector, or not.

    There are few vectors `b v d` and many tokens: `rows` (n) says whose is whose, None where the
    one vector is everybody's.
    """

    def __init__(
        self,
        width: int,
        head_width: int,
        conditioned: bool,
        operations: Any,
        place: dict[str, Any],
    ) -> None:
        super().__init__()
        self.attn = Attention(width, head_width, operations, place)
        self.mlp = Mlp(width, operations, place)
        if conditioned:
            linear = operations.Linear(width, MODULATIONS * width, **place)
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), linear)

    def forward(
        self, x: Tensor, vectors: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        if vectors is None:
            x = x + self.attn(normalised(x))
            return x + self.mlp(normalised(x))
        parts = for_tokens(self.adaLN_modulation(vectors), rows).chunk(MODULATIONS, dim=-1)
        x = x + parts[2] * self.attn(modulated(x, parts[0], parts[1]))
        return x + parts[5] * self.mlp(modulated(x, parts[3], parts[4]))


class Transformer(nn.Module):
    """Blocks one after the other."""

    def __init__(
        self,
        depth: int,
        width: int,
        head_width: int,
        conditioned: bool,
        operations: Any,
        place: dict[str, Any],
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, head_width, conditioned, operations, place) for _ in range(depth)
        )

    def forward(
        self, x: Tensor, vectors: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        for block in self.blocks:
            x = block(x, vectors, rows)
        return x
