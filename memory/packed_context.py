"""Packed context: a hierarchy's coarse codes as clean extra tokens of a large video model.

The third way to use MilliVid's hierarchies (shared design `hierarchical-latents.md`, 7.4, M3; a
proposal of that document, not the paper's): the video model stays as it is and denoises level 0;
each coarser level gets one linear layer into the model's width, its tokens stand at the centres of
their cells, and a LoRA learns to read them. Level 0 of the context goes through the model's own
first projection.

Without training nobody has taught the model to read these tokens: nothing is promised then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .hierarchy import HierarchyGrid

NEW_WEIGHTS = 0.02
"""Deviation of a new layer's weights where codes are no patches (our choice)."""


@dataclass(frozen=True)
class PackedConfig:
    """`code_channels` per level of the head, finest first; `width` of the video model's tokens."""

    code_channels: tuple[int, ...]
    width: int

    def __post_init__(self) -> None:
        if len(self.code_channels) < 2 or min(*self.code_channels, self.width) < 1:
            raise ValueError(
                "packed context needs a hierarchy of two levels or more and a width, got "
                f"{list(self.code_channels)} channels and width {self.width}"
            )


class PackedEmbedder(nn.Module):
    """One linear layer per coarser level. `operations` are layer classes as core has them."""

    def __init__(
        self,
        config: PackedConfig,
        operations: Any = nn,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.level = nn.ModuleDict(
            {
                str(level): operations.Linear(channels, config.width, device=device, dtype=dtype)
                for level, channels in enumerate(config.code_channels)
                if level
            }
        )

    def forward(self, level: int, codes: Tensor) -> Tensor:
        """Tokens `... d` of codes `... c` of one level from 1 on."""
        tokens: Tensor = self.level[str(level)](codes)
        return tokens


@torch.no_grad()
def initialise_embedder(
    embedder: PackedEmbedder, weight: Tensor, bias: Tensor, generator: torch.Generator
) -> None:
    """First weights, in place, from the video model's own first projection `d c 1 p p`.

    Codes that are patches (those of the pooled head) are projected as the model projects its own;
    others begin small.
    """
    for level, layer in embedder.level.items():
        own = layer.state_dict()  # shares the parameters' memory
        patches = weight[:, : embedder.config.code_channels[int(level)] // weight[0, 0].numel()]
        if patches.flatten(1).shape == own["weight"].shape:
            own["weight"].copy_(patches.flatten(1))
        else:
            drawn = torch.randn(own["weight"].shape, generator=generator)
            own["weight"].copy_(drawn * NEW_WEIGHTS)
        own["bias"].copy_(bias)


def cell_positions(grid: HierarchyGrid, level: int, frames: int) -> Tensor:
    """Time, row and column `f*n 3` of the cells of so many latent frames: a cell of a coarser level
    stands in the middle of the tokens of level 0 that it covers."""
    cells = grid.centres(level) - 0.5  # a token of level 0 stands at its whole number
    times = torch.arange(frames, dtype=cells.dtype).repeat_interleave(len(cells))
    return torch.cat([times[:, None], cells.repeat(frames, 1)], dim=1)
