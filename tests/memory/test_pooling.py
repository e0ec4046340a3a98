"""Smaller latents: averages against hand-computed ones, packing against the tiled kernels."""

from __future__ import annotations

import pytest
import torch

from throughline.memory.encoder import EncoderConfig, as_tokens
from throughline.memory.packing import PatchPacker
from throughline.memory.pooling import averaged_latents, packed_latents
from throughline.memory.rates import Rate


def test_averages_by_hand() -> None:
    config = EncoderConfig(in_channels=1, inner_dim=4, rate=Rate(2, 2, 2))
    latents = torch.arange(3.0).view(1, 1, 3, 1, 1) * 10 + torch.arange(4.0)[:, None]
    latents = latents.expand(1, 1, 3, 4, 4)
    low = averaged_latents(latents, config)
    assert low.shape == (1, 1, 2, 2, 2)
    assert low[0, 0, :, :, 0].tolist() == [[5.5, 7.5], [20.5, 22.5]]  # the last frame is repeated


@pytest.mark.parametrize("rate", ["1x1x1", "2x2x2", "4x4x4", "2x4x1"])
@pytest.mark.parametrize("shape", [(4, 8, 8), (5, 6, 10), (1, 3, 5)], ids=str)
@pytest.mark.parametrize("patch", [(1, 2, 2), (1, 1, 1)], ids=str)
def test_packing_is_the_models_projection_of_packed_latents(
    rate: str, shape: tuple[int, int, int], patch: tuple[int, int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 5, *patch, generator=generator)  # two channels beyond the latent's
    bias = torch.randn(6, generator=generator)
    latents = torch.randn(2, 3, *shape, generator=generator)
    packer = PatchPacker(3, 6, Rate.parse(rate), patch)
    packer.tile(weight, bias)
    low = packed_latents(latents, Rate.parse(rate), patch)
    projected = torch.nn.functional.conv3d(low, weight[:, :3], bias, stride=patch)
    assert torch.allclose(as_tokens(projected), packer(latents), atol=1e-5)
