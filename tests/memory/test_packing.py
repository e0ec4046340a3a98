"""FramePack's larger patches: their initialisation, their spans, their padding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from throughline.memory.encoder import as_tokens
from throughline.memory.packing import (
    FRAMEPACK_BUCKETS,
    Bucket,
    PackedSpan,
    PatchPacker,
    packed_spans,
    pad_to,
)
from throughline.memory.positions import memory_positions
from throughline.memory.rates import RATES, Grid, Rate


def _projection(channels: int) -> nn.Conv3d:
    torch.manual_seed(0)
    return nn.Conv3d(channels, 12, (1, 2, 2), stride=(1, 2, 2))


@pytest.mark.parametrize("rate", [*RATES, Rate(4, 4, 4), Rate(1, 1, 1)], ids=str)
def test_a_constant_history_gives_the_models_own_token(rate: Rate) -> None:
    model = _projection(channels=4 + 5)  # five more channels, as an I2V model has
    packer = PatchPacker(4, 12, rate)
    packer.tile(model.weight, model.bias)
    corner = torch.randn(2, 4, 1, 2, 2)  # constant means: every patch of the model is the same
    sides = (2 * rate.time, 2 * rate.height, 3 * rate.width)
    history = corner.repeat(1, 1, *sides)
    own = model(torch.cat([corner, torch.zeros(2, 5, 1, 2, 2)], dim=1))
    given = packer(history)
    assert given.shape == (2, 2 * 2 * 3, 12)
    assert torch.allclose(given, as_tokens(own).expand_as(given), atol=1e-5)


def test_a_model_without_bias_gives_a_packer_of_zero_bias() -> None:
    packer = PatchPacker(4, 12, Rate(2, 2, 2))
    packer.tile(_projection(4).weight, None)
    assert packer(torch.zeros(1, 4, 2, 4, 4)).abs().max() == 0


def test_a_token_is_the_mean_of_the_models_tokens_in_its_cell() -> None:
    """Tiling by the ratio of volumes is averaging: a blur of the history."""
    model, packer = _projection(4), PatchPacker(4, 12, Rate(2, 2, 2))
    packer.tile(model.weight, model.bias)
    history = torch.randn(1, 4, 4, 8, 4)
    own = model(history)
    mean = torch.nn.functional.avg_pool3d(own, 2)
    assert torch.allclose(packer(history), as_tokens(mean), atol=1e-5)


def test_sides_are_padded_by_their_edge() -> None:
    history = torch.arange(3 * 3 * 5).float().view(1, 1, 3, 3, 5)
    padded = pad_to(history, (2, 4, 4))
    assert padded.shape == (1, 1, 4, 4, 8)
    assert torch.equal(padded[..., :3, :3, :5], history)
    assert torch.equal(padded[:, :, 3], padded[:, :, 2])
    assert torch.equal(padded[..., 3, :], padded[..., 2, :])
    assert torch.equal(padded[..., 5:], padded[..., 4:5].expand(1, 1, 4, 4, 3))
    assert pad_to(padded, (2, 4, 4)) is padded


def test_tokens_and_positions_agree_at_odd_sizes() -> None:
    for rate in RATES:
        packer = PatchPacker(3, 12, rate)
        tokens = packer(torch.zeros(1, 3, 7, 10, 14)).shape[1]
        assert tokens == len(memory_positions(Grid(7, 5, 7), rate, "ceil"))


def test_spans_of_framepack_by_hand() -> None:
    one, two, four = Rate(1, 1, 1), Rate(2, 2, 2), Rate(4, 4, 4)
    assert packed_spans(30) == (
        PackedSpan(four, 11, 27),
        PackedSpan(two, 27, 29),
        PackedSpan(one, 29, 30),
    )
    assert packed_spans(5) == (PackedSpan(four, 0, 2), PackedSpan(two, 2, 4), PackedSpan(one, 4, 5))
    assert packed_spans(2) == (PackedSpan(two, 0, 1), PackedSpan(one, 1, 2))
    assert packed_spans(1) == (PackedSpan(one, 0, 1),)
    assert packed_spans(0) == ()
    assert packed_spans(9, (Bucket(one, 5),)) == (PackedSpan(one, 4, 9),)


def test_framepacks_budget_is_constant() -> None:
    """Tokens at 480x832: 1560 + 390 + 390, which is 416 padded (design, section 7)."""

    def tokens(latent_frames: int) -> list[int]:
        return [
            len(memory_positions(span.grid(30, 52), span.rate, "ceil"))
            for span in packed_spans(latent_frames, FRAMEPACK_BUCKETS)
        ]

    assert tokens(19) == tokens(500) == [416, 390, 1560]
