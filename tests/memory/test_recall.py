"""Addresses by caption and place, and what is recalled at them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from throughline.memory.encoder import EncoderConfig, HistoryEncoder, as_tokens
from throughline.memory.rates import Grid, Rate
from throughline.memory.recall import (
    LIKENESS,
    SHARPNESS,
    Addresses,
    cell_places,
    latent_cells,
    likeness,
    low_patches,
    recalled_low,
)

WIDTH, CAPTION = 16, 6


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def addresses() -> Addresses:
    torch.manual_seed(0)
    return Addresses(WIDTH, CAPTION)


def test_places_of_a_grid_by_hand() -> None:
    found = cell_places(torch.tensor([0.5, 2.5]), 2, 1)
    assert found.tolist() == [
        [0.5, 0.25, 0.5],
        [0.5, 0.75, 0.5],
        [2.5, 0.25, 0.5],
        [2.5, 0.75, 0.5],
    ]


@torch.no_grad()
def test_an_address_is_a_direction(addresses: Addresses) -> None:
    found = addresses(_draw(3, 5, CAPTION), cell_places(torch.arange(4), 2, 3))
    assert found.shape == (3, 24, WIDTH)
    assert torch.allclose(found.norm(dim=-1), torch.ones(3, 24), atol=1e-5)


@torch.no_grad()
def test_equal_captions_and_places_have_equal_addresses(addresses: Addresses) -> None:
    """What makes it learnable: the right token is the nearest from the first step on."""
    captions, places = _draw(4, 5, CAPTION), cell_places(torch.arange(3), 2, 2)
    held = addresses(captions, places)
    asked = addresses(captions[2:3], places)
    assert torch.allclose(asked[0], held[2], atol=1e-6)
    for other in (0, 1, 3):
        assert (asked[0] - held[other]).abs().max() > 1e-2
    weights = addresses.weights(asked, held.flatten(0, 1)[None])
    assert torch.equal(weights[0].argmax(dim=-1), 2 * 12 + torch.arange(12))


@torch.no_grad()
def test_what_is_recalled_sums_to_one_and_sharpens(addresses: Addresses) -> None:
    assert addresses.sharpness.exp().item() == pytest.approx(SHARPNESS)
    asked = torch.tensor([[[1.0, 0.0]]])
    held = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    weights = addresses.weights(asked, held)
    expected = torch.tensor([SHARPNESS, 0.0, -SHARPNESS]).softmax(0)
    assert torch.allclose(weights[0, 0], expected, atol=1e-6)
    addresses.sharpness.fill_(math.log(2.0))
    softer = addresses.weights(asked, held)
    assert softer[0, 0, 0] < weights[0, 0, 0] and softer.sum().item() == pytest.approx(1.0)


def test_patches_of_low_latents_are_put_back_where_they_were() -> None:
    low = _draw(5, 3, 4, 6)
    patches = low_patches(low, (2, 2))
    assert patches.shape == (3 * 2 * 3, 5, 2, 2)
    assert torch.equal(patches[4], low[:, 0, 2:4, 2:4])  # second row, second column
    same = recalled_low(torch.eye(18), patches, (2, 2), Grid(3, 2, 3))
    assert torch.equal(same, low)


@torch.no_grad()
def test_projecting_a_mixture_is_mixing_projections() -> None:
    """So the low branch of recalled tokens needs the model's projection only."""
    project = nn.Conv3d(5, 7, (1, 2, 2), stride=(1, 2, 2))
    low, weights = _draw(5, 3, 4, 6), _draw(8, 18, seed=1).softmax(dim=-1)
    tokens = as_tokens(project(low[None]))[0]
    mixed = recalled_low(weights, low_patches(low, (2, 2)), (2, 2), Grid(2, 2, 2))
    assert torch.allclose(as_tokens(project(mixed[None]))[0], weights @ tokens, atol=1e-5)


@torch.no_grad()
def test_held_and_asked_addresses_meet_in_the_middle_of_a_cell() -> None:
    """A token of two latent frames is addressed between them, a question at each frame."""
    config = EncoderConfig(
        in_channels=3,
        inner_dim=8,
        rate=Rate(2, 2, 2),
        widths=(4, 4, 8, 8),
        caption_dim=CAPTION,
        address_dim=WIDTH,
    )
    torch.manual_seed(0)
    encoder, caption, grid = HistoryEncoder(config), _draw(1, 5, CAPTION), Grid(3, 2, 2)
    assert encoder.addresses is not None
    held = encoder.held_addresses(caption, grid)
    middles = torch.tensor([0.5, 2.5, 4.5])
    assert torch.equal(held, encoder.addresses(caption, cell_places(middles, 2, 2)))
    later = encoder.held_addresses(caption, Grid(1, 2, 2), first=4.0)
    assert torch.allclose(later, held[:, 8:], atol=1e-6)
    asked = encoder.asked_addresses(caption, 6, grid)
    frames = torch.arange(6.0)
    assert torch.equal(asked, encoder.addresses(caption, cell_places(frames, 2, 2)))


def test_addresses_are_made_from_captions() -> None:
    with pytest.raises(ValueError, match="addresses are made from captions"):
        EncoderConfig(in_channels=3, inner_dim=8, rate=Rate(2, 2, 2), address_dim=WIDTH)
    plain = EncoderConfig(in_channels=3, inner_dim=8, rate=Rate(2, 2, 2), widths=(4, 4, 8, 8))
    assert HistoryEncoder(plain).addresses is None


def test_cells_hold_their_own_latents() -> None:
    """By hand: cells of 2 frames, 2 rows and 3 columns; the last cell in time repeats its frame."""
    latents = _draw(1, 4, 3, 4, 6)
    cells = latent_cells(latents, (2, 2, 3))
    assert cells.shape == (1, 2 * 2 * 2, 2, 4 * 2 * 3)
    own = latents[0, :, 0:2, 2:4, 0:3]  # the third cell: first time, second row, first column
    assert torch.equal(cells[0, 2], own.movedim(1, 0).flatten(1))
    assert torch.equal(cells[0, 4, 0], cells[0, 4, 1])
    assert torch.equal(cells[0, 4, 0], latents[0, :, 2, 0:2, 0:3].flatten())


def test_what_looks_alike_is_what_should_be_found() -> None:
    held = _draw(1, 5, 2, 40)
    asked = held[:, [3, 1], 1] + 0.05 * _draw(1, 2, 40, seed=1)
    weights = likeness(asked, held)
    assert weights.shape == (1, 2, 5) and torch.allclose(weights.sum(-1), torch.ones(1, 2))
    assert weights[0, 0, 3] > 0.99 and weights[0, 1, 1] > 0.99
    # by the definition: nearest latent frame of a cell, mean squared distance over LIKENESS
    distance = (asked[:, :, None, None] - held[:, None]).square().mean(-1).amin(-1)
    assert torch.allclose(weights, (-distance / LIKENESS).softmax(-1), atol=1e-5)
