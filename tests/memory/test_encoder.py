"""The history encoder: grids, exact streaming, causality, the gate, refusals."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from throughline.memory.encoder import (
    EncoderConfig,
    EncoderState,
    HistoryEncoder,
    as_tokens,
    fit_to_cells,
)
from throughline.memory.rates import RATES, ROUNDINGS, Grid, Rate, Rounding, memory_grid

CHANNELS, WIDTH, CAPTION = 5, 12, 7


def _config(rate: Rate, rounding: Rounding = "ceil", **changes: object) -> EncoderConfig:
    settings: dict[str, object] = {
        "in_channels": CHANNELS,
        "inner_dim": WIDTH,
        "rate": rate,
        "rounding": rounding,
        "widths": (6, 8, 12, 16),
        "heads": 4,
        "attention_cells": 3,
        "caption_dim": CAPTION,
    }
    return EncoderConfig(**{**settings, **changes})  # type: ignore[arg-type]


@torch.no_grad()
def _encoder(config: EncoderConfig, gate: float = 0.7) -> HistoryEncoder:
    """With weights of unit gain: torch's own let so little through that no test would see it."""
    generator = torch.Generator().manual_seed(0)
    encoder = HistoryEncoder(config)
    for name, weight in encoder.named_parameters():
        fan_in = weight[0].numel() if weight.ndim > 1 else 100
        gain = 1.6 if name.startswith("conv") else 1.0
        weight.copy_(torch.randn(weight.shape, generator=generator) * gain * fan_in**-0.5)
        if "norm" in name and name.endswith("weight"):
            weight.add_(1.0)
    encoder.gate.fill_(gate)
    return encoder


def _project() -> nn.Conv3d:
    torch.manual_seed(1)
    return nn.Conv3d(CHANNELS, WIDTH, (1, 2, 2), stride=(1, 2, 2))


def _history(frames: int, height: int = 7, width: int = 10, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, CHANNELS, frames, height, width, generator=generator)


def _caption(batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, CAPTION, generator=torch.Generator().manual_seed(3))


def _hidden(encoder: HistoryEncoder, latents: Tensor, caption: Tensor | None) -> Tensor:
    """One call over all of it."""
    done, state = encoder.append(EncoderState(), latents, caption)
    rest = encoder.flush(state, caption, latents.shape[2])
    return torch.cat([part for part in (done, rest) if part is not None], dim=2)


def _appended(
    encoder: HistoryEncoder, latents: Tensor, lengths: list[int], caption: Tensor | None
) -> Tensor:
    """The same in pieces of these lengths."""
    state, cells, first = EncoderState(), [], 0
    for length in lengths:
        done, state = encoder.append(state, latents[:, :, first : first + length], caption, first)
        first += length
        cells += [] if done is None else [done]
    rest = encoder.flush(state, caption, first)
    return torch.cat([*cells, *([] if rest is None else [rest])], dim=2)


@pytest.mark.parametrize("captioned", [False, True])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("rate", RATES, ids=str)
@torch.no_grad()
def test_appending_gives_what_one_call_gives(
    rate: Rate, rounding: Rounding, captioned: bool
) -> None:
    encoder, latents = _encoder(_config(rate, rounding)), _history(21)
    caption = _caption() if captioned else None
    whole = _hidden(encoder, latents, caption)
    for lengths in ([1, 5, 7, 8], [9, 1, 11], [3] * 7, [1] * 21, [20, 1]):
        parts = _appended(encoder, latents, lengths, caption)
        assert parts.shape == whole.shape
        assert torch.allclose(parts, whole, atol=1e-5), lengths


@pytest.mark.parametrize("rate", RATES, ids=str)
@torch.no_grad()
def test_appending_is_not_starting_anew(rate: Rate) -> None:
    """The test above would pass on an encoder that never looks back; this one looks back."""
    encoder, latents = _encoder(_config(rate)), _history(32)
    whole = _hidden(encoder, latents, None)
    anew = _hidden(encoder, latents[:, :, 16:], None)
    assert (whole[:, :, -anew.shape[2] :] - anew).abs().max() > 1e-2


@torch.no_grad()
def test_appending_leaves_the_given_state_as_it_is() -> None:
    encoder, latents = _encoder(_config(Rate(2, 2, 4))), _history(11)
    _, state = encoder.append(EncoderState(), latents[:, :, :6])
    before = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    copies = [x.clone() for x in (state.pending, *state.contexts, state.keys, state.values)]
    first = encoder.append(state, latents[:, :, 6:])[0]
    again = encoder.append(state, latents[:, :, 6:])[0]
    assert torch.equal(first, again)
    assert all(getattr(state, name) is value for name, value in before.items())
    held = (state.pending, *state.contexts, state.keys, state.values)
    assert all(torch.equal(x, y) for x, y in zip(held, copies, strict=True))


@pytest.mark.parametrize("rate", RATES, ids=str)
@torch.no_grad()
def test_no_cell_sees_later_latents(rate: Rate) -> None:
    """A cell may see all of its own latent frames and nothing after them."""
    encoder, latents = _encoder(_config(rate)), _history(18)
    before = _hidden(encoder, latents, _caption())
    for frame in (0, 5, 8, 17):
        changed = latents.clone()
        changed[:, :, frame:] += _history(18)[:, :, : 18 - frame]
        after = _hidden(encoder, changed, _caption())
        cell = frame // rate.time
        assert torch.equal(after[:, :, :cell], before[:, :, :cell])
        assert (after[:, :, cell] - before[:, :, cell]).abs().max() > 1e-2


@torch.no_grad()
def test_attention_looks_back_as_far_as_it_says_and_no_further() -> None:
    """Cells 3 apart are strangers to an attention of 3 cells; the convolutions are cut away."""
    config = _config(Rate(2, 2, 1), attention_cells=3)
    encoder = _encoder(config)
    x = torch.randn(1, 16, 6, 2, 2, generator=torch.Generator().manual_seed(4))
    before = encoder.attn(x, None, None, 3)[0]
    changed = x.clone()
    changed[:, :, 1] = torch.randn(1, 16, 2, 2, generator=torch.Generator().manual_seed(5))
    moved = (encoder.attn(changed, None, None, 3)[0] - before).abs().amax(dim=(0, 1, 3, 4))
    assert (moved[1:4] > 1e-3).all() and torch.equal(moved[[0, 4, 5]], torch.zeros(3))


@torch.no_grad()
def test_attention_equals_one_masked_matrix() -> None:
    """The slow form: all tokens at once under a band mask."""
    encoder = _encoder(_config(Rate(2, 2, 1)))
    attention, look_back, t, s, heads = encoder.attn, 3, 5, 6, 4
    x = torch.randn(2, 16, t, 2, 3, generator=torch.Generator().manual_seed(4))
    tokens = as_tokens(x)
    q, k, v = attention.qkv(attention.norm(tokens)).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    moment = torch.arange(t).repeat_interleave(s)
    behind = moment[:, None] - moment[None]
    weights = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = weights.masked_fill((behind < 0) | (behind >= look_back), -torch.inf).softmax(-1)
    slow = tokens + attention.out((weights @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(as_tokens(attention(x, None, None, look_back)[0]), slow, atol=1e-5)


@torch.no_grad()
def test_the_state_does_not_grow() -> None:
    encoder, state, sizes = _encoder(_config(Rate(2, 2, 2))), EncoderState(), []
    for step in range(12):
        _, state = encoder.append(state, _history(6), _caption(), 0)
        assert state.contexts is not None and state.keys is not None and state.pending is None
        held = (*state.contexts, state.keys, state.values)
        sizes.append(sum(x.numel() for x in held if x is not None))
        if step:
            assert state.keys.shape[1] == 2  # attention_cells less its own
    assert len(set(sizes)) == 1
    # nor are its tensors views of longer ones
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in held if x is not None)
    _, state = encoder.append(state, _history(7))
    assert state.pending is not None
    assert state.pending.untyped_storage().nbytes() == state.pending.nbytes


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("rate", RATES, ids=str)
@torch.no_grad()
def test_both_branches_have_the_grid_of_the_table(rate: Rate, rounding: Rounding) -> None:
    encoder, latents = _encoder(_config(rate, rounding)), _history(11, 15, 22, batch=1)
    grid = memory_grid(Grid(11, 8, 11), rate, rounding)  # 15 rows of latents are 8 of tokens
    assert encoder.config.memory_grid(latents.shape) == grid
    low = torch.randn(1, CHANNELS, grid.time, 2 * grid.height, 2 * grid.width)
    encoded = encoder(latents, low, _project(), _caption(1))
    assert encoded.hidden.shape == (1, 16, grid.time, grid.height, grid.width)
    assert encoded.tokens.shape == (1, grid.tokens, WIDTH)
    assert torch.isfinite(encoded.tokens).all()
    wrong = torch.randn(1, CHANNELS, grid.time, 2 * grid.height + 2, 2 * grid.width)
    with pytest.raises(ValueError, match=f"one grid, got .*{grid.height + 1}.*{grid.height}"):
        encoder(latents, wrong, _project(), _caption(1))


@torch.no_grad()
def test_a_grid_that_is_another_count_of_moments_is_refused() -> None:
    encoder = _encoder(_config(Rate(2, 2, 2)))
    with pytest.raises(ValueError, match=r"both branches must have one grid, got \(2, 2, 3\)"):
        encoder(_history(6, 8, 12), torch.randn(2, CHANNELS, 2, 4, 6), _project())


@pytest.mark.parametrize("rate", RATES, ids=str)
@torch.no_grad()
def test_an_untrained_encoder_is_its_low_resolution_branch(rate: Rate) -> None:
    torch.manual_seed(0)
    encoder, project = HistoryEncoder(_config(rate)), _project()  # as it comes: the gate is zero
    latents = _history(9, 8, 16)
    grid = encoder.config.memory_grid(latents.shape)
    low = torch.randn(2, CHANNELS, grid.time, 2 * grid.height, 2 * grid.width)
    tokens = encoder(latents, low, project, _caption()).tokens
    assert torch.equal(tokens, as_tokens(project(low)))


@torch.no_grad()
def test_the_gate_is_one_factor_per_channel() -> None:
    encoder, project = _encoder(_config(Rate(2, 2, 2)), gate=1.0), _project()
    latents, low = _history(4, 8, 8), torch.randn(2, CHANNELS, 2, 4, 4)
    base = as_tokens(project(low))
    fine = encoder(latents, low, project).tokens - base
    encoder.gate.copy_(torch.linspace(-1, 1, WIDTH))
    half = encoder(latents, low, project).tokens - base
    assert torch.allclose(half, fine * torch.linspace(-1, 1, WIDTH), atol=1e-5)


@torch.no_grad()
def test_a_cell_that_is_not_full_is_its_last_frame_repeated() -> None:
    encoder, latents = _encoder(_config(Rate(2, 2, 4))), _history(6)
    full = torch.cat([latents, latents[:, :, -1:], latents[:, :, -1:]], dim=2)
    caption = _caption()
    given, expected = _hidden(encoder, latents, caption), _hidden(encoder, full, caption)
    assert torch.allclose(given, expected, atol=1e-5)


@torch.no_grad()
def test_captions_change_the_cells_and_depend_on_the_place_in_the_segment() -> None:
    encoder, latents = _encoder(_config(Rate(2, 2, 2))), _history(6)
    plain = _hidden(encoder, latents, None)
    read = _hidden(encoder, latents, _caption())
    assert (plain - read).abs().max() > 1e-2
    later = encoder.append(EncoderState(), latents, _caption(), 6)[0]
    assert (later - read).abs().max() > 1e-2
    assert HistoryEncoder(_config(Rate(2, 2, 2), caption_dim=0)).caption is None


def test_cropping_and_padding_to_cells() -> None:
    latents = _history(1, 7, 10)
    ceil = fit_to_cells(latents, _config(Rate(2, 2, 2)))
    assert ceil.shape[-2:] == (8, 12)
    assert torch.equal(ceil[..., :7, :10], latents)
    assert torch.equal(ceil[..., 7, :10], latents[..., 6, :])
    assert torch.equal(ceil[..., :7, 10:], latents[..., 9:].expand(-1, -1, -1, 7, 2))
    floor = fit_to_cells(latents, _config(Rate(2, 2, 2), "floor"))
    assert torch.equal(floor, fit_to_cells(latents, _config(Rate(2, 2, 2), "floor")))
    assert floor.shape[-2:] == (8, 8) and torch.equal(floor[..., :7, :], latents[..., :8])


def test_the_paper_layout() -> None:
    """Strides of the rates, time first, and the size of section 1.3: 16.15 M at width 3072."""
    strides = {str(rate): _config(rate).strides for rate in RATES}
    half, side, none = (2, 1, 1), (1, 2, 2), (1, 1, 1)
    assert strides == {
        "4x4x2": (none, half, side, side, side, none),
        "2x2x8": (none, half, half, half, side, side),
        "2x2x4": (none, half, half, side, side, none),
        "2x2x2": (none, half, side, side, none, none),
        "2x2x1": (none, none, side, side, none, none),
    }
    counts = []
    for shortcut in (False, True):
        paper = EncoderConfig(in_channels=16, inner_dim=3072, rate=Rate(4, 4, 2), shortcut=shortcut)
        with torch.device("meta"):
            counts.append(sum(p.numel() for p in HistoryEncoder(paper).parameters()))
    assert 16.1e6 < counts[0] < 16.2e6
    assert counts[1] - counts[0] == 512 * 16 * 2 * 8 * 8 + 512  # ours: one linear map per cell


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch": (2, 2, 2)}, "one latent frame long, got 2"),
        ({"heads": 5}, "width 16 must divide by 5 heads"),
        ({"rate": Rate(3, 2, 2)}, "height stride .* power of 2, got 6"),
        ({"rate": Rate(2, 2, 3)}, "time stride .* power of 2, got 3"),
        ({"rate": Rate(4, 4, 8)}, "rate 4x4x8 needs 6 strides"),
    ],
)
def test_sizes_that_cannot_be_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _config(**{"rate": Rate(2, 2, 2), **changes})  # type: ignore[arg-type]


def test_layers_come_from_the_given_operations() -> None:
    """ComfyUI's casting reaches every weight but the gate through the namespace of layers."""
    made: list[str] = []

    class Operations:
        """Notes what is asked for."""

        def __getattr__(self, name: str) -> object:
            made.append(name)
            return getattr(nn, name)

    encoder = HistoryEncoder(_config(Rate(2, 2, 2)), Operations(), dtype=torch.bfloat16)
    layers = [m for m in encoder.modules() if not list(m.children())]
    assert len(made) == len(layers) == 6 + 3 + 4 + 2
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}
