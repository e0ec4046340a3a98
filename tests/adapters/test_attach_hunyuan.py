"""Memory in HunyuanVideo equals one concatenated sequence with a modulation per token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from .memory_banks import call_model, random_bank, sharpen, slow_positions, slow_tokens
from .slow_memory import slow_hunyuan

TOLERANCE = 1e-5
WIDTH = 128
CHANNELS = {"hunyuan_15": 32}
SIZES = {"even": (2, 4, 6), "odd": (3, 5, 7)}
DEEPER = {"depth": 2, "depth_single_blocks": 2}
"""The tiny models with two blocks of each kind, so that memory passes from one to the next."""


def deep_model(tiny: Any, name: str) -> Any:
    family = tiny.FAMILIES[name]
    return sharpen(replace(family, unet_config={**family.unet_config, **DEEPER}).model())


def patch_of(name: str) -> tuple[int, int, int]:
    return (1, 1, 1) if name == "hunyuan_15" else (1, 2, 2)


def inputs(
    name: str, model: Any, size: tuple[int, int, int]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """A batch of two: x, timestep, context; and what the class takes besides."""
    generator = torch.Generator().manual_seed(3)
    channels = model.model.diffusion_model.in_channels
    sides = [n + -n % p for n, p in zip(size, patch_of(name), strict=True)]  # as core's VAE gives
    x = torch.randn((2, channels, *sides), generator=generator)
    context = torch.randn((2, 7, 24), generator=generator)
    if name == "hunyuan_15":
        more = {"clip_fea": torch.randn((2, 5, 1152), generator=generator)}
    else:
        y = torch.randn((2, 768), generator=generator)
        more = {"y": y, "guidance": torch.tensor([6.0, 6.0])}
    return [x, torch.tensor([820.0, 820.0]), context], more


def project(network: Any) -> Any:
    """Core's patch projection of latents c t h w with zeros in the channels they do not have."""

    def projected(low: Tensor) -> Tensor:
        full = torch.zeros(1, network.in_channels, *low.shape[1:])
        full[0, : len(low)] = low
        return network.img_in.proj(full)[0]

    return projected


def check(
    name: str,
    size: tuple[int, int, int],
    rope_mode: Any,
    tiny: Any,
    strength: float = 1.0,
    **more: Tensor,
) -> None:
    from throughline.adapters.attach import attach_memory

    model = deep_model(tiny, name)
    network = model.model.diffusion_model
    bank = random_bank(WIDTH, CHANNELS.get(name, 16), patch_of(name), rope_mode=rope_mode)
    given, known = inputs(name, model, size)
    if "attention_mask" in more:
        known.pop("clip_fea", None)  # core cannot mask text behind image tokens
    known = {**known, **more}
    made = call_model(attach_memory(model, bank, strength=strength), *given, **known)
    start = float(bank.latent_frames)
    shift, first = (-start, 0.0) if rope_mode == "history_negative" else (0.0, start)
    with torch.no_grad():
        tokens = slow_tokens([bank], project(network))
        places = slow_positions([bank], shift)
        slow = slow_hunyuan(network, *given, tokens, places, first, strength=strength, **known)
        slow_base = slow_hunyuan(network, *given, tokens[:0], places[:0], 0.0, **known)
    plain = call_model(model, *given, **known)
    torch.testing.assert_close(plain, slow_base, atol=TOLERANCE, rtol=0.0)
    torch.testing.assert_close(made, slow, atol=TOLERANCE, rtol=0.0)
    assert float((made - plain).abs().max()) > 100 * TOLERANCE
    later = attach_memory(model, bank, strength=strength, segment_start_latent_frames=99)
    moved = call_model(later, *given, **known)
    assert float((made - moved).abs().max()) > 30 * TOLERANCE  # positions count


@pytest.mark.parametrize("rope_mode", ["history_negative", "history_first"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(
    "name", ["hunyuan_replace", "hunyuan_i2v", "hunyuan_skyreels", "hunyuan_15"]
)
def test_memory_is_one_sequence(
    name: str, size: tuple[int, int, int], rope_mode: Any, tiny: Any
) -> None:
    check(name, size, rope_mode, tiny)


@pytest.mark.parametrize("rope_mode", ["history_negative", "history_first"])
def test_a_clean_first_frame_keeps_its_own_modulation(rope_mode: Any, tiny: Any) -> None:
    check("hunyuan_replace", (3, 4, 6), rope_mode, tiny, guiding_frame_index=torch.tensor([0.0]))


@pytest.mark.parametrize("name", ["hunyuan_replace", "hunyuan_15"])
def test_a_mask_over_the_text_grows_with_the_memory(name: str, tiny: Any) -> None:
    words = torch.tensor([[1, 1, 1, 1, 0, 0, 0]])
    check(name, (2, 4, 6), "history_first", tiny, attention_mask=words)


@pytest.mark.parametrize("name", ["hunyuan_replace", "hunyuan_15"])
def test_a_weaker_memory_is_a_mean_over_the_attention(name: str, tiny: Any) -> None:
    check(name, (3, 5, 7), "history_first", tiny, strength=0.4)
