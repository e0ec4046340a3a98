"""A model that was compiled, by core's own way, remembers as one that was not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from .memory_banks import random_bank


def sample(tiny: Any, model: Any) -> Tensor:
    """Two steps of core's sampler with cfg 3."""
    import comfy.sample

    family = tiny.FAMILIES["wan_t2v"]
    latent = torch.zeros(1, 16, 3, 4, 6)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(4))
    conditioning = (family.conditioning(1), family.conditioning(2))
    return comfy.sample.sample(
        model, noise, 2, 3.0, "euler", "simple", *conditioning, latent, disable_pbar=True, seed=4
    )


@pytest.mark.filterwarnings("ignore:Dynamo")  # it says that core's code breaks its graphs
@pytest.mark.parametrize("keys", [["diffusion_model"], ["diffusion_model.blocks.0"]])
def test_a_compiled_model_remembers_too(keys: list[str], tiny: Any) -> None:
    """The compiled code comes from a run without memory; core tells torch not to guard options."""
    from comfy.ldm.modules.attention import attention_pytorch
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    from throughline.adapters.attach import attach_memory

    def traceable(_: Any, *args: Any, **kwargs: Any) -> Tensor:
        return attention_pytorch(*args, **kwargs)

    torch.compiler.reset()
    model = tiny.FAMILIES["wan_t2v"].model()
    model.model_options["transformer_options"]["optimized_attention_override"] = traceable
    compiled = model.clone()
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(compiled, backend="eager", options=options, keys=keys)
    plain = sample(tiny, compiled)
    torch.testing.assert_close(plain, sample(tiny, model), atol=1e-5, rtol=0.0)
    for grids in (((2, 2, 3),), ((2, 2, 3), (1, 3, 1))):
        bank = random_bank(48, 16, (1, 2, 2), grids=grids)
        made = sample(tiny, attach_memory(compiled, bank))
        own = sample(tiny, attach_memory(model, bank))
        torch.testing.assert_close(made, own, atol=1e-5, rtol=0.0)
        assert float((made - plain).abs().max()) > 1e-4
    assert torch.equal(sample(tiny, compiled), plain)
    torch.compiler.reset()


def test_an_old_torch_is_refused_when_the_model_is_compiled(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    from throughline.adapters.attach import attach_memory

    model = tiny.FAMILIES["wan_t2v"].model()
    attached = attach_memory(model, random_bank(48, 16, (1, 2, 2)))
    made = sample(tiny, attached)
    monkeypatch.delattr(torch.compiler, "set_stance")
    assert torch.equal(sample(tiny, attached), made)
    set_torch_compile_wrapper(attached, backend="eager")
    with pytest.raises(ValueError, match="a compiled model need torch 2.6 or newer, got 2"):
        sample(tiny, attached)
