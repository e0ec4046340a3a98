"""Memory in Wan equals one concatenated sequence with a modulation per token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from .memory_banks import call_model, random_bank, sharpen, slow_positions, slow_tokens
from .slow_memory import slow_wan

TOLERANCE = 1e-5
PATCH = (1, 2, 2)
CHANNELS = {"wan_ti2v": 48}
"""Latent channels where they are not 16."""

SIZES = {"even": (2, 4, 6), "odd": (3, 5, 7), "one frame": (1, 3, 5)}


def inputs(name: str, model: Any, size: tuple[int, int, int], seed: int = 3) -> list[Tensor]:
    """A batch of two: x (b c t h w), timestep, context."""
    generator = torch.Generator().manual_seed(seed)
    channels = model.model.diffusion_model.patch_embedding.weight.shape[1]
    x = torch.randn((2, channels, *size), generator=generator)
    context = torch.randn((2, 7, 24), generator=generator)
    return [x, torch.tensor([820.0, 820.0]), context]


def clip_features(name: str) -> Tensor | None:
    """Image tokens of the classes that read a CLIP picture: two of them for FLF2V."""
    pictures = {"wan_i2v": 257, "wan_flf2v": 514}.get(name)
    if pictures is None:
        return None
    return torch.randn((2, pictures, 1280), generator=torch.Generator().manual_seed(5))


def project(network: Any) -> Any:
    """Core's patch embedding of latents c t h w with zeros in the channels they do not have."""
    channels = network.patch_embedding.weight.shape[1]

    def projected(low: Tensor) -> Tensor:
        full = torch.zeros(1, channels, *low.shape[1:])
        full[0, : len(low)] = low
        return network.patch_embedding(full)[0]

    return projected


def check(
    name: str,
    size: tuple[int, int, int],
    tiny: Any,
    rope_mode: Any = "history_negative",
    strength: float = 1.0,
    timestep: Tensor | None = None,
) -> None:
    from throughline.adapters.attach import attach_memory

    model = sharpen(tiny.FAMILIES[name].model())
    network = model.model.diffusion_model
    bank = random_bank(48, CHANNELS.get(name, 16), PATCH, rope_mode=rope_mode)
    x, time, context = inputs(name, model, size)
    given = [x, time if timestep is None else timestep, context]
    pictures = clip_features(name)
    made = call_model(attach_memory(model, bank, strength=strength), *given, clip_fea=pictures)
    start = float(bank.latent_frames)
    shift, first = (-start, 0.0) if rope_mode == "history_negative" else (0.0, start)
    with torch.no_grad():
        tokens = slow_tokens([bank], project(network))
        places = slow_positions([bank], shift)
        slow = slow_wan(network, *given, tokens, places, first, pictures, strength)
    assert bank.tokens == 15
    torch.testing.assert_close(made, slow, atol=TOLERANCE, rtol=0.0)
    watched = model.clone()  # another pack's patch, which must see the image alone
    watched.set_model_patch(lambda args: args["x"], "attn2_patch")
    beside = attach_memory(watched, bank, strength=strength)
    made = call_model(beside, *given, clip_fea=pictures)
    torch.testing.assert_close(made, slow, atol=TOLERANCE, rtol=0.0)
    plain = call_model(model, *given, clip_fea=pictures)
    assert float((made - plain).abs().max()) > 100 * TOLERANCE
    later = attach_memory(model, bank, strength=strength, segment_start_latent_frames=99)
    moved = call_model(later, *given, clip_fea=pictures)
    assert float((made - moved).abs().max()) > 30 * TOLERANCE  # positions count


@pytest.mark.parametrize("rope_mode", ["history_negative", "history_first"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", ["wan_t2v", "wan_i2v", "wan22_i2v", "wan_flf2v", "wan_ti2v"])
def test_memory_is_one_sequence(
    name: str, size: tuple[int, int, int], rope_mode: Any, tiny: Any
) -> None:
    check(name, size, tiny, rope_mode)


@pytest.mark.parametrize("strength", [0.25, 0.9])
def test_a_weaker_memory_is_a_mean_over_the_attention(strength: float, tiny: Any) -> None:
    check("wan_t2v", (3, 5, 7), tiny, strength=strength)


def test_frames_may_have_timesteps_of_their_own(tiny: Any) -> None:
    known_first = torch.tensor([[0.0, 820.0, 410.0], [0.0, 0.0, 820.0]])
    check("wan_ti2v", (3, 5, 7), tiny, timestep=known_first)


def test_vace_hints_are_added_as_before(tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory

    model = sharpen(tiny.FAMILIES["wan_vace"].model())
    network, bank = model.model.diffusion_model, random_bank(48, 16, PATCH)
    given = inputs("wan_vace", model, (3, 4, 6))
    generator = torch.Generator().manual_seed(9)
    control = {
        "vace_context": torch.randn((2, 1, 96, 3, 4, 6), generator=generator),
        "vace_strength": [0.7],
    }
    hints: dict[int, Tensor] = {}
    handle = network.vace_blocks[0].register_forward_hook(
        lambda _, __, out: hints.update({0: 0.7 * out[0]})
    )
    made = call_model(attach_memory(model, bank), *given, **control)
    handle.remove()
    with torch.no_grad():
        tokens = slow_tokens([bank], project(network))
        places = slow_positions([bank], -bank.latent_frames)
        slow = slow_wan(network, *given, tokens, places, 0.0, hints=hints)
    torch.testing.assert_close(made, slow, atol=TOLERANCE, rtol=0.0)
    assert float((made - call_model(model, *given, **control)).abs().max()) > 100 * TOLERANCE
