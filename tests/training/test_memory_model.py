"""Diffusers' Wan with memory tokens: against its own forward, and against one long sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from throughline.training.memory_model import (
    PlainAttention,
    WanMemoryModel,
    grid_positions,
    rotary_tables,
)

GRID, TOKENS, WIDTH, TEXT = (3, 4, 6), 18, 48, 20


def _wan(**changes: Any) -> Any:
    """A random WanTransformer3DModel; diffusers makes its last layers and tables small."""
    pytest.importorskip("diffusers")
    from diffusers import WanTransformer3DModel

    sizes: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": TEXT,
        "freq_dim": 32,
        "ffn_dim": 64,
        "num_layers": 2,
        "rope_max_seq_len": 32,
    }
    model = WanTransformer3DModel(**{**sizes, **changes})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 1.0 if parameter.ndim < 2 else 1.5 * parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def _inputs(channels: int = 4, memory: int = 0, start: float = 0.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    positions = torch.rand(2, memory, 3, generator=generator) * 4 - torch.tensor([5.0, 0, 0])
    return {
        "noisy": draw(2, channels, *GRID),
        "timestep": torch.tensor([310.0, 870.0]),
        "text": draw(2, 7, TEXT),
        "memory": draw(2, memory, WIDTH),
        "memory_positions": positions,
        "start": torch.full((2,), start),
    }


@torch.no_grad()
def test_without_memory_it_is_diffusers_own_forward() -> None:
    model, given = _wan(), _inputs()
    own = model(given["noisy"], given["timestep"], given["text"]).sample
    assert own.std() > 0.1
    assert torch.allclose(WanMemoryModel(model)(**given), own, atol=1e-5)


@torch.no_grad()
def test_plain_attention_is_diffusers_attention() -> None:
    model = _wan()
    attention = model.blocks[0].attn1
    x = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(2))
    tables = rotary_tables(grid_positions(3, 2, 3, torch.zeros(2)), 24)
    own = attention(x, None, None, tables)
    assert torch.allclose(PlainAttention()(attention, x, None, None, tables), own, atol=1e-5)


def test_tables_are_diffusers_own_at_whole_positions() -> None:
    cosines, sines = _wan().rope(torch.zeros(1, 4, *GRID))
    given = rotary_tables(grid_positions(3, 2, 3, torch.zeros(1)), 24)
    assert torch.allclose(given[0], cosines, atol=1e-6)
    assert torch.allclose(given[1], sines, atol=1e-6)


def _one_sequence(model: Any, given: dict[str, Tensor]) -> Tensor:
    """Slow and plain: memory and segment as one sequence through diffusers' own blocks, with a
    modulation per token (4-D temb) in which memory stands at t = 0."""
    x = model.patch_embedding(given["noisy"]).flatten(2).transpose(1, 2)
    x = torch.cat([given["memory"], x], dim=1)
    count = given["memory"].shape[1]
    times = given["timestep"][:, None].repeat(1, x.shape[1])
    times[:, :count] = 0.0
    embedded, projected, text, _ = model.condition_embedder(
        times.flatten(), given["text"], None, timestep_seq_len=x.shape[1]
    )
    frames = grid_positions(3, 2, 3, given["start"])
    tables = rotary_tables(torch.cat([given["memory_positions"], frames], dim=1), 24)
    for block in model.blocks:
        x = block(x, text, projected.unflatten(2, (6, -1)), tables)
    x, embedded = x[:, count:], embedded[:, count:]
    table = model.scale_shift_table.unsqueeze(0) + embedded.unsqueeze(2)
    shift, scale = table.squeeze(2).chunk(2, dim=2)
    x = model.proj_out(model.norm_out(x) * (1 + scale.squeeze(2)) + shift.squeeze(2))
    x = x.reshape(2, 3, 2, 3, 1, 2, 2, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


@pytest.mark.parametrize("memory", [0, 1, 11])
@torch.no_grad()
def test_memory_tokens_are_clean_tokens_of_one_sequence(memory: int) -> None:
    model = _wan()
    given = _inputs(memory=memory, start=3.0)
    slow = _one_sequence(model, given)
    fast = WanMemoryModel(model)(**given)
    assert torch.allclose(fast, slow, atol=1e-5)


@torch.no_grad()
def test_memory_and_its_positions_change_the_segment() -> None:
    model = WanMemoryModel(_wan())
    given = _inputs(memory=5)
    with_memory = model(**given)
    none = {**given, "memory": given["memory"][:, :0]}
    none["memory_positions"] = given["memory_positions"][:, :0]
    assert (model(**none) - with_memory).abs().max() > 1e-2
    moved = {**given, "memory_positions": given["memory_positions"] + torch.tensor([3.0, 0, 0])}
    assert (model(**moved) - with_memory).abs().max() > 1e-2
    # only differences of positions matter
    both = {**moved, "start": given["start"] + 3.0}
    assert torch.allclose(model(**both), with_memory, atol=1e-4)


@torch.no_grad()
def test_the_first_projection_is_the_models_with_other_channels_zero() -> None:
    model = WanMemoryModel(_wan(in_channels=24))
    low = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    own = model.transformer.patch_embedding(torch.cat([low, torch.zeros(1, 20, 2, 4, 4)], dim=1))
    assert torch.equal(model.project(low), own)
    assert model.takes_known and model.extra_channels == 20 and model.patch == (1, 2, 2)
    assert not WanMemoryModel(_wan()).takes_known


@torch.no_grad()
def test_merging_a_lora_changes_nothing_and_freezes_it() -> None:
    model, given = WanMemoryModel(_wan()), _inputs(memory=4)
    plain = model(**given)
    model.add_lora(3, "retrieval")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 10 and all("lora" in name for name in trained)
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    before = model(**given)
    assert (before - plain).abs().max() > 1e-2
    model.merge_lora()
    assert torch.allclose(model(**given), before, atol=1e-5)
    assert not any(p.requires_grad for p in model.parameters())
    model.add_lora(2, "film")  # a new one begins with nothing
    assert torch.allclose(model(**given), before, atol=1e-5)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 40 and all(".film." in name for name in trained)


@torch.no_grad()
def test_the_merged_weight_is_the_weight_and_the_product_of_the_factors() -> None:
    model = WanMemoryModel(_wan())
    weight = model.transformer.blocks[1].ffn.net[2].weight.clone()
    model.add_lora(3, "retrieval")
    layer = model.transformer.blocks[1].ffn.net[2]
    a, b = layer.lora_A["retrieval"].weight, layer.lora_B["retrieval"].weight
    b.copy_(torch.randn(b.shape, generator=torch.Generator().manual_seed(5)))
    product = b @ a  # alpha is the rank: scale 1
    model.merge_lora()
    assert torch.equal(model.transformer.blocks[1].ffn.net[2].weight, weight + product)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for again in (False, True):
        model = WanMemoryModel(_wan())
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            model.add_lora(2, "film")
        if again:
            model.transformer.enable_gradient_checkpointing()
        given = _inputs(memory=4)
        given["memory"].requires_grad_()
        model(**given).square().mean().backward()
        trained = [p.grad for p in model.parameters() if p.requires_grad]
        gradients.append([*trained, given["memory"].grad])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))
    assert gradients[0][-1].abs().max() > 0


def test_models_that_read_more_than_a_story_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="reads image embeddings .image_dim 8."):
        WanMemoryModel(_wan(image_dim=8, added_kv_proj_dim=WIDTH))
    with pytest.raises(ValueError, match="takes 0 or 20 channels .* takes 32"):
        WanMemoryModel(_wan(in_channels=36))
