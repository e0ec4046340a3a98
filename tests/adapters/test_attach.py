"""What attaching a memory changes, what it leaves alone, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from .memory_banks import call_model, random_bank, slow_positions, slow_tokens
from .slow_memory import slow_wan

REMEMBERING = {
    "wan_t2v": (48, 16, (1, 2, 2)),
    "wan_i2v": (48, 16, (1, 2, 2)),
    "wan_ti2v": (48, 48, (1, 2, 2)),
    "wan_vace": (48, 16, (1, 2, 2)),
    "hunyuan_replace": (128, 16, (1, 2, 2)),
    "hunyuan_15": (128, 32, (1, 1, 1)),
}
"""Width, latent channels and patch of the tiny models."""

LATENT = (1, 3, 8, 6)
"""Batch, latent frames, height and width of what is sampled."""


def bank_for(name: str, **settings: Any) -> Any:
    return random_bank(*REMEMBERING[name], **settings)


def sampled(tiny: Any, name: str, model: Any, steps: int = 2) -> Tensor:
    """A short run of core's sampler with cfg 3: both passes in one batch."""
    import comfy.sample

    family = tiny.FAMILIES[name]
    batch, frames, height, width = LATENT
    latent = torch.zeros(batch, REMEMBERING[name][1], frames, height, width)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(4))
    return comfy.sample.sample(
        model,
        noise,
        steps,
        3.0,
        "euler",
        "simple",
        family.conditioning(1),
        family.conditioning(2),
        latent,
        disable_pbar=True,
        seed=4,
    )


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_sampler_runs_with_memory_and_the_model_stays(
    name: str, tiny: Any, model_state: Callable[[Any], Any]
) -> None:
    from throughline.adapters.attach import attach_memory

    model = tiny.FAMILIES[name].model()
    state, before = model_state(model), sampled(tiny, name, model)
    bank = bank_for(name)
    with_memory = sampled(tiny, name, attach_memory(model, bank))
    assert bool(torch.isfinite(with_memory).all())
    assert float((with_memory - before).abs().max()) > 1e-4
    assert torch.equal(sampled(tiny, name, model), before)
    assert model_state(model) == state
    again = sampled(tiny, name, attach_memory(model, bank))
    assert torch.equal(again, with_memory)  # nothing of a call is left in the next one


@pytest.mark.parametrize("name", REMEMBERING)
def test_no_tokens_and_no_strength_are_the_model_itself(name: str, tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory

    model = tiny.FAMILIES[name].model()
    base = sampled(tiny, name, model)
    bank = bank_for(name)
    nothing = attach_memory(model, replace(bank, entries=()))
    assert torch.equal(sampled(tiny, name, nothing), base)
    assert torch.equal(sampled(tiny, name, attach_memory(model, bank, strength=0.0)), base)
    assert attach_memory(model, bank, strength=0.0) is not model


def wan_inputs(model: Any, size: tuple[int, int, int] = (3, 5, 7)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    channels = model.model.diffusion_model.patch_embedding.weight.shape[1]
    x = torch.randn((2, channels, *size), generator=generator)
    return [x, torch.tensor([700.0, 700.0]), torch.randn((2, 7, 24), generator=generator)]


def test_a_faint_memory_is_near_the_model(tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory

    model = tiny.FAMILIES["wan_t2v"].model()
    bank, given = bank_for("wan_t2v"), wan_inputs(model)
    base = call_model(model, *given)

    def away(strength: float) -> float:
        made = call_model(attach_memory(model, bank, strength=strength), *given)
        return float((made - base).abs().max())

    assert 0.0 < away(1e-3) < 2e-3 * away(1.0)
    assert away(1e-3) < away(0.1) < away(0.5) < away(1.0)


def test_levels_of_strength_are_a_mean() -> None:
    from throughline.adapters.memory_stream import AttachedMemory, strength_levels
    from throughline.adapters.wan_memory import WAN_INJECTION

    def memory(strength: float, cells: int) -> AttachedMemory:
        bank = random_bank(48, 16, (1, 2, 2), grids=((1, 1, cells),))
        return AttachedMemory(
            bank=bank, injection=WAN_INJECTION, strength=strength, segment_start=0, content=()
        )

    assert strength_levels([memory(1.0, 5)]) == ((1.0, 5),)
    assert strength_levels([memory(0.25, 5)]) == ((0.75, 0), (0.25, 5))
    assert strength_levels([memory(1.0, 5), memory(1.0, 2)]) == ((1.0, 7),)
    assert strength_levels([memory(0.75, 5), memory(0.25, 2)]) == (
        (0.25, 0),
        (0.5, 5),
        (0.25, 7),
    )


def project(network: Any) -> Callable[[Tensor], Tensor]:
    return lambda low: network.patch_embedding(low[None])[0]


def test_two_memories_add_up(tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory

    model = tiny.FAMILIES["wan_t2v"].model()
    network, given = model.model.diffusion_model, wan_inputs(model)
    banks = [bank_for("wan_t2v", seed=1), bank_for("wan_t2v", seed=2, grids=((1, 2, 3),))]
    both = attach_memory(attach_memory(model, banks[0], segment_start_latent_frames=9), banks[1])
    made = call_model(both, *given)
    with torch.no_grad():
        tokens = slow_tokens(banks, project(network))
        starts = (9.0, float(banks[1].latent_frames))
        places = [slow_positions([b], -start) for b, start in zip(banks, starts, strict=True)]
        slow = slow_wan(network, *given, tokens, torch.cat(places), 0.0)
    torch.testing.assert_close(made, slow, atol=1e-5, rtol=0.0)
    merged = attach_memory(model, banks[0].with_entries(banks[1].entries))
    alone = attach_memory(model, banks[0])
    assert not torch.equal(call_model(merged, *given), call_model(alone, *given))
    assert float((made - call_model(alone, *given)).abs().max()) > 1e-4


def test_memories_of_different_strengths_may_come_in_any_order(tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory

    model = tiny.FAMILIES["wan_t2v"].model()
    first, second = bank_for("wan_t2v", seed=1), bank_for("wan_t2v", seed=2)
    given = wan_inputs(model)
    one = attach_memory(attach_memory(model, first, strength=0.3), second)
    other = attach_memory(attach_memory(model, second), first, strength=0.3)
    made = call_model(one, *given)
    torch.testing.assert_close(made, call_model(other, *given), atol=1e-6, rtol=0.0)
    full = call_model(attach_memory(attach_memory(model, first), second), *given)
    assert float((made - full).abs().max()) > 1e-4


def test_the_time_of_the_segment_counts(tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory

    model = tiny.FAMILIES["wan_t2v"].model()
    bank, given = bank_for("wan_t2v"), wan_inputs(model)
    at_the_end = call_model(attach_memory(model, bank), *given)
    named = attach_memory(model, bank, segment_start_latent_frames=bank.latent_frames)
    later = attach_memory(model, bank, segment_start_latent_frames=bank.latent_frames + 40)
    assert torch.equal(call_model(named, *given), at_the_end)
    assert float((call_model(later, *given) - at_the_end).abs().max()) > 1e-4


def test_a_reference_frame_stands_before_the_segment(tiny: Any) -> None:
    """Wan Fun-Control puts a reference at time 0; the segment and its past move by one frame."""
    from throughline.adapters.attach import attach_memory

    family = tiny.FAMILIES["wan_t2v"]
    model = replace(family, unet_config={**family.unet_config, "in_dim_ref_conv": 16}).model()
    network, bank = model.model.diffusion_model, bank_for("wan_t2v")
    given = wan_inputs(model, (3, 4, 6))
    picture = torch.randn((2, 16, 4, 6), generator=torch.Generator().manual_seed(8))
    made = call_model(attach_memory(model, bank), *given, reference_latent=picture)
    with torch.no_grad():
        tokens = slow_tokens([bank], project(network))
        places = slow_positions([bank], 1.0 - bank.latent_frames)
        slow = slow_wan(network, *given, tokens, places, 1.0, reference=picture)
    torch.testing.assert_close(made, slow, atol=1e-5, rtol=0.0)


def test_scaled_positions_scale_the_memory_too(tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory

    model = tiny.FAMILIES["wan_t2v"].model()
    network, bank, given = model.model.diffusion_model, bank_for("wan_t2v"), wan_inputs(model)
    options = {"scale_t": 0.5, "shift_t": 3.0, "scale_x": 2.0, "scale_y": 0.75, "shift_y": 1.5}
    attached = attach_memory(model, bank)
    made = call_model(attached, *given, transformer_options={"rope_options": options})
    scale, shift = torch.tensor([0.5, 0.75, 2.0]), torch.tensor([3.0, 1.5, 0.0])
    with torch.no_grad():
        tokens = slow_tokens([bank], project(network))
        places = slow_positions([bank], -float(bank.latent_frames)) * scale + shift
        slow = slow_wan(network, *given, tokens, places, 0.0, stretch=(scale, shift))
    torch.testing.assert_close(made, slow, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("name", REMEMBERING)
def test_projecting_is_the_models_own_first_layer(name: str, tiny: Any) -> None:
    from throughline.adapters.attach import injection_of

    model = tiny.FAMILIES[name].model()
    width, channels, _ = REMEMBERING[name]
    network = model.model.diffusion_model
    layer = network.img_in.proj if hasattr(network, "img_in") else network.patch_embedding
    low = torch.randn((2, channels, 3, 4, 6), generator=torch.Generator().manual_seed(1))
    missing = layer.weight.shape[1] - channels
    with torch.no_grad():
        made = injection_of(model).project(network, low)
    own = layer(torch.cat([low, torch.zeros(2, missing, 3, 4, 6)], dim=1))
    assert made.shape == (2, width, 3, *own.shape[3:])
    torch.testing.assert_close(made, own.detach(), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize(("name", "said"), [("ltxv", "LTXV"), ("wan_causal", "causal Wan")])
def test_a_model_without_injection_is_refused_by_name(name: str, said: str, tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory, can_remember

    model = tiny.FAMILIES[name].model()
    with pytest.raises(ValueError, match=f"got {said}: use Wan 2.1 or 2.2 .*HunyuanVideo"):
        can_remember(model)
    with pytest.raises(ValueError, match=said):
        attach_memory(model, random_bank(48, 16, (1, 2, 2)))


def test_models_that_remember_are_not_refused(tiny: Any) -> None:
    from throughline.adapters.attach import can_remember

    for name in (*REMEMBERING, "wan22_i2v", "wan_flf2v", "hunyuan_i2v", "hunyuan_skyreels"):
        can_remember(tiny.FAMILIES[name].model())
    assert bank_for("wan_t2v").tokens == 2 * 2 * 3 + 3


def test_memory_of_another_model_is_refused(tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory

    model = tiny.FAMILIES["wan_t2v"].model()
    with pytest.raises(ValueError, match=r"tokens of memory 'segment 1' must be 12x48.*got 12x64"):
        attach_memory(model, random_bank(64, 16, (1, 2, 2)))
    with pytest.raises(ValueError, match=r"latent channels of memory 'segment 1' must be 16.*48"):
        attach_memory(model, random_bank(48, 48, (1, 2, 2)))
    with pytest.raises(ValueError, match=r"cells of memory 'segment 1' must be 12.*got 48"):
        attach_memory(model, random_bank(48, 16, (1, 4, 4)))
    with pytest.raises(ValueError, match=r"strength of a memory must be 0 to 1, got 1.5"):
        attach_memory(model, bank_for("wan_t2v"), strength=1.5)
    first = attach_memory(model, bank_for("wan_t2v"))
    with pytest.raises(ValueError, match="one rope mode, got history_first and history_negative"):
        attach_memory(first, bank_for("wan_t2v", rope_mode="history_first"))


def test_attached_patchers_are_loaded_with_the_model(tiny: Any) -> None:
    import comfy.model_patcher

    from throughline.adapters.attach import attach_memory

    model, bank = tiny.FAMILIES["wan_t2v"].model(), bank_for("wan_t2v")
    cpu = torch.device("cpu")
    held = torch.nn.ModuleList([bank.entries[0].pieces[0].low])
    cache = comfy.model_patcher.CoreModelPatcher(held, load_device=cpu, offload_device=cpu)
    attached = attach_memory(model, bank, patchers=(cache,))
    assert [patcher.model for patcher in attached.get_nested_additional_models()] == [held]
    assert model.get_nested_additional_models() == []
    again = attach_memory(attached, bank_for("wan_t2v", seed=2), patchers=(cache,))
    assert [patcher.model for patcher in again.get_nested_additional_models()] == [held]


def test_a_fingerprint_changes_with_the_memory(tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory
    from throughline.adapters.fingerprint import fingerprint_model

    model = tiny.FAMILIES["wan_t2v"].model()
    bank = bank_for("wan_t2v")
    add_on = {
        f"xattn.0.{name}.weight": torch.full((48, columns), 0.1)
        for name, columns in (("k", 12), ("v", 12), ("o", 48))
    }
    more = {name: tensor + 1.0 for name, tensor in add_on.items()}
    one = fingerprint_model(attach_memory(model, bank))
    assert one == fingerprint_model(attach_memory(model, bank_for("wan_t2v")))
    others = [
        model,
        attach_memory(model, bank_for("wan_t2v", seed=1)),
        attach_memory(model, bank, strength=0.5),
        attach_memory(model, bank, segment_start_latent_frames=3),
        attach_memory(model, bank_for("wan_t2v", rope_mode="history_first")),
        attach_memory(model, replace(bank, entries=bank.entries[:1])),
        attach_memory(model, bank, cross_attention=add_on),
        attach_memory(model, bank, cross_attention=more),
    ]
    assert len({one, *map(fingerprint_model, others)}) == 1 + len(others)
