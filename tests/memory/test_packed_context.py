"""Embedders of packed context: where their tokens stand, and what they begin with."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from throughline.memory.hierarchy import HierarchyGrid, PooledHead
from throughline.memory.packed_context import (
    PackedConfig,
    PackedEmbedder,
    cell_positions,
    initialise_embedder,
)

CHANNELS, WIDTH = 3, 10


def test_tokens_stand_at_the_centres_of_their_cells() -> None:
    grid = HierarchyGrid(8, 12, 3)
    finest = cell_positions(grid, 0, 2)
    assert finest.shape == (2 * 24, 3)
    assert finest[:7].tolist() == [[0.0, 0.0, float(c)] for c in range(6)] + [[0.0, 1.0, 0.0]]
    assert finest[24].tolist() == [1.0, 0.0, 0.0]
    coarse = cell_positions(grid, 1, 1)
    assert coarse[:4].tolist() == [
        [0.0, 0.5, 0.5],
        [0.0, 0.5, 2.5],
        [0.0, 0.5, 4.5],
        [0.0, 2.5, 0.5],
    ]
    assert cell_positions(grid, 2, 1)[0].tolist() == [0.0, 1.5, 1.5]
    for level in (1, 2):  # the middle of the tokens below it
        below = finest[:24].view(4, 6, 3)[: 2**level, : 2**level].reshape(-1, 3).mean(0)
        assert torch.equal(cell_positions(grid, level, 1)[0], below)


@torch.no_grad()
def test_pooled_codes_begin_as_the_models_own_small_pictures() -> None:
    """A coarse token is what the model's projection makes of the averaged latents."""
    generator = torch.Generator().manual_seed(0)
    projection = nn.Conv3d(CHANNELS + 2, WIDTH, (1, 2, 2), stride=(1, 2, 2))  # two concat channels
    head = PooledHead(CHANNELS, 3)
    embedder = PackedEmbedder(PackedConfig(tuple(head.code_channels), WIDTH))
    assert list(embedder.state_dict()) == [
        f"level.{level}.{part}" for level in (1, 2) for part in ("weight", "bias")
    ]
    assert projection.bias is not None
    initialise_embedder(embedder, projection.weight, projection.bias, generator)
    latents = torch.randn(1, CHANNELS, 2, 8, 8, generator=generator)
    for level in (1, 2):
        tokens = embedder(level, head.encode(latents)[level])[0]  # t n d
        small = F.avg_pool3d(latents, (1, 2**level, 2**level))
        wanted = projection(F.pad(small, (0, 0) * 3 + (0, 2)))[0]  # d t h w
        assert torch.allclose(tokens, wanted.flatten(2).permute(1, 2, 0), atol=1e-5)


def test_other_codes_begin_small_and_sizes_are_checked() -> None:
    embedder = PackedEmbedder(PackedConfig((12, 7), WIDTH))
    weight, bias = torch.randn(WIDTH, CHANNELS, 1, 2, 2), torch.randn(WIDTH)
    initialise_embedder(embedder, weight, bias, torch.Generator().manual_seed(0))
    assert 0.005 < float(embedder.level["1"].weight.detach().std()) < 0.05
    assert torch.equal(embedder.level["1"].bias, bias)
    with pytest.raises(ValueError, match=r"two levels or more and a width, got \[12\] channels"):
        PackedConfig((12,), WIDTH)
