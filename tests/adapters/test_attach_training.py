"""What a model is trained to read is what it is given: the trainer's forward and the injection."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from .memory_banks import call_model, random_bank, sharpen, slow_positions, slow_tokens

TOLERANCE = 1e-4
MEMORY_SCALE = 0.3
"""Random memory about as large as the demo's own tokens."""


@pytest.fixture(scope="module")
def shipped(comfy: ModuleType) -> Any:
    """The demo's MODEL, as its loader gives it."""
    from throughline.adapters.demo_models import load_demo_models

    return load_demo_models()[0]


@pytest.fixture(scope="module")
def trained() -> Any:
    """The same weights in diffusers' class, with the trainer's forward."""
    from throughline.adapters.demo_models import VIDEO_FILE
    from throughline.training.memory_model import WanMemoryModel, wan_from_comfy

    return WanMemoryModel(wan_from_comfy(VIDEO_FILE)).eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of diffusers
@pytest.mark.parametrize("size", [(5, 8, 12), (3, 6, 10)])
def test_the_demo_model_reads_memory_as_it_was_trained(
    size: tuple[int, int, int], shipped: Any, trained: Any
) -> None:
    from throughline.adapters.attach import attach_memory

    generator = torch.Generator().manual_seed(3)
    network = shipped.model.diffusion_model
    x = torch.randn((2, 36, *size), generator=generator)
    text = torch.randn((2, 17, trained.text_dim), generator=generator)
    time = torch.tensor([640.0, 640.0])
    bank = random_bank(network.dim, 16, (1, 2, 2), scale=MEMORY_SCALE)
    made = call_model(attach_memory(shipped, bank), x, time, text)
    with torch.no_grad():
        tokens = slow_tokens([bank], lambda low: trained.project(low[None])[0])
        places = slow_positions([bank], -bank.latent_frames)
        both = (tokens.expand(2, -1, -1), places.expand(2, -1, -1))
        expected = trained(x, time, text, *both, torch.zeros(2))
        nothing = (both[0][:, :0], both[1][:, :0])
        plain = trained(x, time, text, *nothing, torch.zeros(2))
    torch.testing.assert_close(made, expected, atol=TOLERANCE, rtol=0.0)
    torch.testing.assert_close(call_model(shipped, x, time, text), plain, atol=TOLERANCE, rtol=0.0)
    assert float((expected - plain).abs().max()) > 0.01


def diffusers_hunyuan(network: Any) -> Any:
    """Core's HunyuanVideo 1.0 as diffusers' class, with the same weights."""
    from diffusers import HunyuanVideoTransformer3DModel
    from diffusers.loaders.single_file_utils import (
        convert_hunyuan_video_transformer_to_diffusers as convert,
    )

    from throughline.adapters.hunyuan_names import original_name

    sizes = network.params
    model = HunyuanVideoTransformer3DModel(
        in_channels=sizes.in_channels,
        out_channels=sizes.out_channels,
        num_attention_heads=sizes.num_heads,
        attention_head_dim=sizes.hidden_size // sizes.num_heads,
        num_layers=sizes.depth,
        num_single_layers=sizes.depth_single_blocks,
        num_refiner_layers=2,
        mlp_ratio=sizes.mlp_ratio,
        text_embed_dim=sizes.context_in_dim,
        pooled_projection_dim=sizes.vec_in_dim,
        rope_axes_dim=tuple(sizes.axes_dim),
        rope_theta=float(sizes.theta),
        guidance_embeds=True,
    )
    first_layers, others = {}, {}
    for name, tensor in network.state_dict().items():
        if ".linear1." in name:
            block, kind = name.replace("single_blocks", "single_transformer_blocks").split(
                ".linear1."
            )
            width = sizes.hidden_size
            parts = tensor.split([width, width, width, len(tensor) - 3 * width])
            names = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
            first_layers |= {
                f"{block}.{part}.{kind}": rows for part, rows in zip(names, parts, strict=True)
            }
            continue
        name = name.replace("_attn.norm.query_norm", "_attn_q_norm")
        name = name.replace("_attn.norm.key_norm", "_attn_k_norm")
        name = name.replace("norm.query_norm", "q_norm").replace("norm.key_norm", "k_norm")
        others[original_name(name)] = tensor
    model.load_state_dict({**convert(others), **first_layers})
    return model.eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of diffusers
@pytest.mark.parametrize("rope_mode", ["history_negative", "history_first"])
def test_hunyuan_reads_memory_as_it_is_trained(rope_mode: Any, tiny: Any) -> None:
    from throughline.adapters.attach import attach_memory
    from throughline.training.hunyuan_memory_model import (
        TRAINING_GUIDANCE,
        HunyuanMemoryModel,
        with_pooled,
    )

    family = tiny.FAMILIES["hunyuan_replace"]
    deeper = {"depth": 2, "depth_single_blocks": 2, "vec_in_dim": 16}
    deeper = {**family.unet_config, **deeper}
    model = sharpen(replace(family, unet_config=deeper).model())
    trainer = HunyuanMemoryModel(diffusers_hunyuan(model.model.diffusion_model))
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((2, 16, 3, 4, 6), generator=generator)
    text = torch.randn((2, 7, 24), generator=generator)
    pooled = torch.randn((2, 16), generator=generator)
    time = torch.tensor([640.0, 640.0])
    bank = random_bank(128, 16, (1, 2, 2), rope_mode=rope_mode, scale=MEMORY_SCALE)
    guidance = torch.full((2,), TRAINING_GUIDANCE / 1000.0)  # core's factor
    given = {"y": pooled, "guidance": guidance}
    made = call_model(attach_memory(model, bank), x, time, text, **given)
    start = float(bank.latent_frames)
    shift, first = (-start, 0.0) if rope_mode == "history_negative" else (0.0, start)
    with torch.no_grad():
        tokens = slow_tokens([bank], lambda low: trainer.project(low[None])[0])
        places = slow_positions([bank], shift)
        both = (tokens.expand(2, -1, -1), places.expand(2, -1, -1))
        expected = trainer(x, time, with_pooled(text, pooled), *both, torch.full((2,), first))
    torch.testing.assert_close(made, expected, atol=TOLERANCE, rtol=0.0)
    plain = call_model(model, x, time, text, **given)
    assert float((expected - plain).abs().max()) > 0.01
