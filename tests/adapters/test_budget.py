"""What the budget reads from loaded models, against core's own figures and the design's table."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

GIB = 1 << 30
WAN_14B = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 5120,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "text_dim": 4096,
    "num_heads": 40,
    "num_layers": 40,
    "in_dim": 16,
    "out_dim": 16,
}
WAN_1B = {**WAN_14B, "dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30}


def full_size(unet_config: dict[str, Any], dtype: torch.dtype) -> Any:
    """A model of real size whose weights take no memory."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.WAN21_T2V(unet_config)
    config.set_inference_dtype(dtype, torch.bfloat16)
    model = config.get_model({}, "", device=torch.device("meta"))
    cpu = torch.device("cpu")
    return comfy.model_patcher.CoreModelPatcher(model, load_device=cpu, offload_device=cpu)


def facts_of(model: Any) -> Any:
    from throughline.adapters.budget import read_model

    return read_model(model)


@pytest.mark.parametrize(
    ("config", "parameters", "blocks", "longest"),
    [(WAN_14B, 14_288_491_584, 40, 21), (WAN_1B, 1_418_996_800, 30, 21)],
)
def test_the_sizes_are_the_loaded_models(
    config: dict[str, Any], parameters: int, blocks: int, longest: int, comfy: ModuleType
) -> None:
    """Parameters counted by the class itself; the patch embedding stays in float32 in core."""
    model = full_size(config, torch.bfloat16)
    facts = facts_of(model)
    loaded, narrow = facts.weights
    assert sum(p.numel() for p in model.model.parameters()) == parameters
    assert loaded.total == model.model_size()
    assert 2 * parameters <= loaded.total < 2 * parameters * 1.001
    assert (loaded.dtype, narrow.dtype) == ("bfloat16", "fp8_e4m3fn")
    assert (len(loaded.blocks), len(narrow.blocks)) == (blocks, blocks)
    assert parameters <= narrow.total < parameters * 1.002
    assert (facts.patch, facts.width, facts.longest) == ((1, 2, 2), config["dim"], longest)
    # the largest leaf is the feed-forward's matrix, with room for it and the next two
    assert loaded.buffer == 3 * 2 * (config["dim"] + 1) * config["ffn_dim"]


def test_a_model_in_eight_bits_has_no_narrower_type(comfy: ModuleType) -> None:
    (loaded,) = facts_of(full_size(WAN_14B, torch.float8_e4m3fn)).weights
    assert loaded.dtype == "fp8_e4m3fn"
    assert abs(loaded.total - 13.3 * GIB) < 0.1 * GIB


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_activations_are_cores_own_estimate(
    dtype: torch.dtype, comfy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`memory_required` of one pass over 81 frames of 480 x 832, as on a card."""
    import comfy.model_management as management

    monkeypatch.setattr(management, "xformers_enabled", lambda: True)
    model = full_size(WAN_14B, dtype)
    facts = facts_of(model)
    core = model.model.memory_required([1, 16, 21, 60, 104])
    ours = facts.grid(21, 480, 832).tokens * facts.cost.activation
    assert core == pytest.approx(5.9 * GIB, rel=0.01)
    assert core <= ours <= core + 21 * 30 * 52


def test_memory_tokens_cost_what_core_is_told_of_them(
    comfy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget and the wrapper that raises core's estimate agree."""
    import comfy.model_management as management

    from throughline.adapters.attach import memory_as_noise_shape

    monkeypatch.setattr(management, "xformers_enabled", lambda: True)
    model = full_size(WAN_14B, torch.bfloat16)
    facts = facts_of(model)
    told = memory_as_noise_shape((1, 16, 21, 60, 104), 4160, facts.patch)
    ours = (facts.grid(21, 480, 832).tokens + 4160) * facts.cost.activation
    assert model.model.memory_required(told) == pytest.approx(ours, rel=1e-5)


def test_a_cached_token_is_its_values_and_its_latents(comfy: ModuleType) -> None:
    """5120 values of the encoder and 2 x 2 cells of 16 channels, 16 bits each."""
    assert facts_of(full_size(WAN_14B, torch.bfloat16)).cost.cached == 2 * (5120 + 64)


def rates(model: Any, seconds: float, fps: float) -> dict[str, int]:
    from throughline.adapters.budget import memory_rates

    facts = facts_of(model)
    return {rate.name: rate.tokens for rate in memory_rates(facts, seconds, fps, 480, 832)}


def test_tokens_of_table_1_4(comfy: ModuleType) -> None:
    """20 s at 480 x 832, rounded up: Wan 16 fps, HunyuanVideo 24 fps, TI2V-5B 24 fps."""
    from development.tiny_models import FAMILIES

    wan = {"4x4x2": 4160, "2x2x8": 3900, "2x2x4": 7800, "2x2x2": 15600, "2x2x1": 31200}
    assert rates(FAMILIES["wan_t2v"].model(), 20, 16) == wan
    hunyuan = {"4x4x2": 6240, "2x2x8": 5850, "2x2x4": 11700, "2x2x2": 23400, "2x2x1": 46800}
    assert rates(FAMILIES["hunyuan_replace"].model(), 20, 24) == hunyuan
    small = {"4x4x2": 1680, "2x2x8": 1560, "2x2x4": 3120, "2x2x2": 6240, "2x2x1": 12480}
    assert rates(FAMILIES["wan_ti2v"].model(), 20, 24) == small
    assert set(rates(FAMILIES["wan_t2v"].model(), 0, 16).values()) == {0}


@pytest.mark.parametrize(
    ("family", "patch", "blocks", "width"),
    [
        ("wan_i2v", (1, 2, 2), 2, 48),
        ("wan_vace", (1, 2, 2), 3, 48),
        ("hunyuan_replace", (1, 2, 2), 2, 128),
        ("hunyuan_15", (1, 1, 1), 2, 128),
    ],
)
def test_every_family_that_remembers(
    family: str, patch: tuple[int, int, int], blocks: int, width: int, comfy: ModuleType
) -> None:
    from development.tiny_models import FAMILIES

    facts = facts_of(FAMILIES[family].model())
    assert (facts.patch, len(facts.weights[0].blocks), facts.width) == (patch, blocks, width)
    assert all(block > 0 for block in facts.weights[0].blocks)
    assert facts.weights[0].dtype == "float32"


def test_a_model_without_memory_is_refused_by_name(comfy: ModuleType) -> None:
    from development.tiny_models import FAMILIES

    with pytest.raises(ValueError, match="must be a Wan or HunyuanVideo model, got LTXV"):
        facts_of(FAMILIES["ltxv"].model())


def test_segments_from_the_one_that_was_asked_for(comfy: ModuleType) -> None:
    from development.tiny_models import FAMILIES
    from throughline.adapters.budget import segment_lengths

    facts = facts_of(FAMILIES["wan_t2v"].model())
    lengths = segment_lengths(facts, 5.0, 16.0, 480, 832)
    assert [one.latent_frames for one in lengths] == list(range(21, 4, -1))
    assert (lengths[0].frames, lengths[0].tokens) == (81, 21 * 30 * 52)
    assert segment_lengths(facts, 60.0, 16.0, 480, 832)[0].frames == 81
    assert [one.frames for one in segment_lengths(facts, 0.25, 16.0, 480, 832)] == [5]
    with pytest.raises(ValueError, match="width must be a multiple of 8"):
        segment_lengths(facts, 5.0, 16.0, 480, 831)


def test_decoding_is_the_vaes_own_estimate(comfy: ModuleType) -> None:
    """Core's Wan 2.1 VAE: 7000 values for each of 480 x 832 pixels in bfloat16, and its weights."""
    from development.tiny_models import FAMILIES, tiny_wan_vae
    from throughline.adapters.budget import decode_bytes

    vae = tiny_wan_vae()
    facts = facts_of(FAMILIES["wan_t2v"].model())
    used = decode_bytes(vae, facts, 21, 480, 832)
    assert used - vae.patcher.model_size() == 7000 * 480 * 832 * 2


def test_the_card_keeps_what_this_comfyui_keeps(comfy: ModuleType) -> None:
    import comfy.model_management as management

    from throughline.adapters.budget import read_card

    card = read_card(12)
    assert card.total == 12 * GIB
    assert card.reserve == management.extra_reserved_memory()
    assert card.least == int(0.8 * GIB + card.reserve)
