"""A LoRA trained on diffusers' HunyuanVideo gives the same output in ComfyUI."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from throughline.adapters.hunyuan_names import original_name, split_single_block
from throughline.adapters.lora import add_lora
from throughline.adapters.lora_files import read_lora

WIDTH = 128
NORMS = (
    ("_attn.norm.query_norm", "_attn_q_norm"),
    ("_attn.norm.key_norm", "_attn_k_norm"),
    (".norm.query_norm", ".q_norm"),
    (".norm.key_norm", ".k_norm"),
)
"""Core's norms and the original checkpoint's, which no LoRA names."""


@pytest.fixture(scope="module")
def hunyuan(tiny: ModuleType) -> Any:
    return tiny.FAMILIES["hunyuan_replace"].model()


@pytest.fixture(scope="module")
def transformer(hunyuan: Any) -> Any:
    """Diffusers' class with the same weights and a LoRA on every matrix but the last modulation."""
    from diffusers import HunyuanVideoTransformer3DModel
    from peft import LoraConfig

    network = HunyuanVideoTransformer3DModel(
        num_attention_heads=1,
        attention_head_dim=WIDTH,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=2,
        mlp_ratio=2.0,
        text_embed_dim=24,
        pooled_projection_dim=768,
        rope_axes_dim=(16, 56, 56),
    )
    network.load_state_dict(in_diffusers_names(hunyuan.model.diffusion_model.state_dict()))
    kinds = (torch.nn.Linear, torch.nn.Conv3d)
    layers = [name for name, module in network.named_modules() if isinstance(module, kinds)]
    layers.remove("norm_out.linear")
    network.add_adapter(LoraConfig(r=2, lora_alpha=3, target_modules=layers))
    generator = torch.Generator().manual_seed(3)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return network.eval()


def in_diffusers_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tiny model's weights as diffusers' converter gives them."""
    from diffusers.loaders.single_file_utils import convert_hunyuan_video_transformer_to_diffusers

    converted = {}
    for key, value in state.items():
        ending = key.rsplit(".", 1)[1]
        split = split_single_block(key.replace(".bias", ".weight"), value.clone(), WIDTH)
        if split:
            converted |= {name.replace(".weight", f".{ending}"): v for name, v in split.items()}
            continue
        name = original_name(key)
        for core, original in NORMS:
            if core in name:
                name = name.replace(core, original)
                break
        converted |= convert_hunyuan_video_transformer_to_diffusers({name: value.clone()})
    return converted


@torch.no_grad()
def outputs(hunyuan: Any, transformer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Core's and diffusers' prediction. Core takes the guidance in thousands."""
    import comfy.model_management

    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(1, 16, 3, 6, 8, generator=generator)
    text = torch.randn(1, 7, 24, generator=generator)
    pooled = torch.randn(1, 768, generator=generator)
    time, guidance = torch.tensor([500.0]), torch.tensor([6.0])
    comfy.model_management.load_models_gpu([hunyuan])
    ours = hunyuan.model.diffusion_model(
        latent, time, text, pooled, guidance=guidance, transformer_options={}
    )
    hunyuan.detach()
    comfy.model_management.unload_all_models()
    theirs = transformer(
        hidden_states=latent,
        timestep=time,
        encoder_hidden_states=text,
        encoder_attention_mask=torch.ones(1, 7),
        pooled_projections=pooled,
        guidance=1000.0 * guidance,
        return_dict=False,
    )[0]
    return ours, theirs


def test_the_models_agree_without_the_lora(hunyuan: Any, transformer: Any) -> None:
    transformer.disable_adapters()
    ours, theirs = outputs(hunyuan, transformer)
    transformer.enable_adapters()
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("form", ["diffusers", "peft"])
def test_a_lora_of_diffusers(form: str, hunyuan: Any, transformer: Any, tmp_path: Path) -> None:
    """Query, key and value are one weight in core and three in diffusers, in both blocks."""
    from peft.utils import get_peft_model_state_dict

    if form == "diffusers":
        transformer.save_lora_adapter(tmp_path)
        path = tmp_path / "pytorch_lora_weights.safetensors"
    else:
        transformer.peft_config["default"].save_pretrained(str(tmp_path))
        state = get_peft_model_state_dict(transformer).items()
        path = tmp_path / "adapter_model.safetensors"
        save_file({f"base_model.model.{key}": value.contiguous() for key, value in state}, path)
    bare, _ = outputs(hunyuan, transformer)
    ours, theirs = outputs(add_lora(hunyuan, read_lora(path, form), 1.0), transformer)
    assert (theirs - bare).abs().max() > 0.1
    assert (ours - theirs).abs().max() < 1e-4


def test_the_swapped_modulation_is_refused(hunyuan: Any, tmp_path: Path) -> None:
    """Diffusers has shift and scale the other way round; no patch of rows says that."""
    layer = "transformer.norm_out.linear"
    state = {
        f"{layer}.lora_A.weight": torch.ones(1, 128),
        f"{layer}.lora_B.weight": torch.ones(256, 1),
    }
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"norm_out.linear.lora_A.weight does not fit .*Hunyuan"):
        add_lora(hunyuan, read_lora(tmp_path / "x.safetensors", "x"), 1.0)
