"""The cross-attention add-on: image tokens that read the encoder's last hidden states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from .memory_banks import call_model, random_bank, sharpen, slow_positions, slow_tokens
from .slow_memory import slow_wan

HIDDEN = 12
"""Width of the random banks' hidden states."""

SIZES = {"wan_t2v": (48, 16, (1, 2, 2)), "hunyuan_replace": (128, 16, (1, 2, 2))}


def weights(width: int, blocks: int, out_scale: float = 0.2) -> dict[str, Tensor]:
    """A random add-on; `out_scale` 0 is a new one."""
    generator = torch.Generator().manual_seed(12)
    state = {}
    for block in range(blocks):
        for name, columns in (("k", HIDDEN), ("v", HIDDEN), ("o", width)):
            scale = out_scale if name == "o" else 0.5
            drawn = torch.randn((width, columns), generator=generator) * scale
            state[f"xattn.{block}.{name}.weight"] = drawn
    return state


def inputs(name: str) -> tuple[list[Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((2, 16, 3, 4, 6), generator=generator)
    given = [x, torch.tensor([700.0, 700.0]), torch.randn((2, 7, 24), generator=generator)]
    if name == "wan_t2v":
        return given, {}
    y = torch.randn((2, 768), generator=generator)
    return given, {"y": y, "guidance": torch.tensor([6.0, 6.0])}


@pytest.mark.parametrize("name", SIZES)
def test_a_new_add_on_changes_nothing(name: str, tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory

    model, bank = tiny.FAMILIES[name].model(), random_bank(*SIZES[name])
    width = SIZES[name][0]
    given, more = inputs(name)
    base = call_model(attach_memory(model, bank), *given, **more)

    def with_weights(state: dict[str, Tensor], strength: float = 1.0) -> Tensor:
        attached = attach_memory(model, bank, strength=strength, cross_attention=state)
        return call_model(attached, *given, **more)

    new = with_weights(weights(width, 2, out_scale=0.0))
    torch.testing.assert_close(new, base, atol=1e-6, rtol=0.0)
    assert float((with_weights(weights(width, 2)) - base).abs().max()) > 1e-3
    without = call_model(model, *given, **more)
    assert float((with_weights(weights(width, 2), 1e-4) - without).abs().max()) < 1e-3


def test_wan_reads_as_the_slow_reference(tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory

    model = sharpen(tiny.FAMILIES["wan_t2v"].model())
    network, bank = model.model.diffusion_model, random_bank(*SIZES["wan_t2v"])
    given, _ = inputs("wan_t2v")
    state = weights(48, 2)
    made = call_model(attach_memory(model, bank, cross_attention=state), *given)
    hidden = torch.cat([entry.pieces[0].hidden.weight for entry in bank.entries])
    with torch.no_grad():
        tokens = slow_tokens([bank], lambda low: network.patch_embedding(low[None])[0])
        places = slow_positions([bank], -bank.latent_frames)
        slow = slow_wan(network, *given, tokens, places, 0.0, addon=(state, hidden))
    torch.testing.assert_close(made, slow, atol=1e-5, rtol=0.0)


def test_hunyuan_adds_what_its_image_reads(tiny: Any) -> None:
    """With every hidden state the same, what is read does not depend on the query."""
    from throughline.adapters.attach import attach_memory
    from throughline.adapters.cache import CachedTensor

    name = "hunyuan_replace"
    model, bank = tiny.FAMILIES[name].model(), random_bank(*SIZES[name], grids=((1, 2, 2),))
    entry = bank.entries[0]
    same = torch.linspace(-1, 1, HIDDEN).expand(4, -1)
    piece = replace(entry.pieces[0], hidden=CachedTensor(same))
    bank = replace(bank, entries=(replace(entry, pieces=(piece,)),))
    state = weights(128, 2)
    given, more = inputs(name)
    seen: list[Tensor] = []

    def note(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        out = extra["original_block"](args)
        seen.append(out["img"].clone())
        return out

    for kind in ("double_block", "single_block"):
        noted = model.clone()
        noted.set_model_patch_replace(note, "dit", kind, 0)
        block = 0 if kind == "double_block" else 1  # counted through the model
        own = {key: value for key, value in state.items() if key.startswith(f"xattn.{block}.")}
        seen.clear()
        call_model(attach_memory(noted, bank), *given, **more)
        call_model(attach_memory(noted, bank, cross_attention=own), *given, **more)
        read = state[f"xattn.{block}.o.weight"] @ (state[f"xattn.{block}.v.weight"] @ same[0])
        image = seen[0].shape[1] - 3 * 2 * 3
        text = 0 if kind == "double_block" else 7
        assert image == text
        changed = seen[1] - seen[0]
        torch.testing.assert_close(changed[:, text:], read.expand(2, 18, -1), atol=1e-4, rtol=1e-4)
        assert not bool(changed[:, :text].any())  # the text is as it was


def test_keys_and_values_are_computed_once(tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory
    from throughline.adapters.memory_cross_attention import CrossAttention

    model, bank = tiny.FAMILIES["wan_t2v"].model(), random_bank(*SIZES["wan_t2v"])
    state = weights(48, 2)
    attached = attach_memory(model, bank, cross_attention=state)
    (patcher,) = attached.get_nested_additional_models()
    assert isinstance(patcher.model, CrossAttention)
    hidden = torch.cat([entry.pieces[0].hidden.weight for entry in bank.entries])
    torch.testing.assert_close(
        patcher.model.get_parameter("1_k.weight"), hidden @ state["xattn.1.k.weight"].T
    )
    given, _ = inputs("wan_t2v")
    state["xattn.1.k.weight"].zero_()
    first = call_model(attached, *given)
    assert torch.equal(first, call_model(attached, *given))


def test_an_add_on_that_does_not_fit_is_refused(tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory

    model, bank = tiny.FAMILIES["wan_t2v"].model(), random_bank(*SIZES["wan_t2v"])
    with pytest.raises(ValueError, match=r"xattn.0.k.weight must be 48x12 .*, got 64x12"):
        attach_memory(model, bank, cross_attention=weights(64, 1))
    missing = weights(48, 1)
    missing.pop("xattn.0.o.weight")
    with pytest.raises(ValueError, match=r"must have xattn.0.o.weight"):
        attach_memory(model, bank, cross_attention=missing)
    with pytest.raises(ValueError, match=r"named like xattn.0.k.weight, got a.b"):
        attach_memory(model, bank, cross_attention={"a.b": torch.zeros(1)})
    entry = bank.entries[0]
    bare = replace(entry, pieces=(replace(entry.pieces[0], hidden=None),))
    with pytest.raises(ValueError, match="'segment 1' .* must keep hidden states"):
        attach_memory(model, replace(bank, entries=(bare,)), cross_attention=weights(48, 1))
