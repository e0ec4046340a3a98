"""Tiny random-weight models of ComfyUI's own classes, for tests and benchmarks of the plumbing.

They are built through the same `comfy.supported_models` classes that a loaded file would give, so
that everything behaves as with real weights except for the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import comfy.latent_formats
import comfy.ldm.wan.vae
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import torch

WEIGHT_SCALE = 0.1
"""Standard deviation of the random weights: small enough that ten steps stay finite."""

TEXT_TOKENS = 7


@dataclass(frozen=True)
class TinyFamily:
    """How one family's tiny model and its text conditioning are made."""

    config: type
    unet_config: dict[str, Any]
    text_width: int
    pooled_width: int = 0
    masks_text: bool = False

    def model(self, seed: int = 0) -> comfy.model_patcher.ModelPatcher:
        """A ModelPatcher on the CPU in float32 with weights drawn from `seed`."""
        config = self.config(self.unet_config)
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "", device=torch.device("cpu"))
        randomise(model.diffusion_model, seed)
        patcher = comfy.model_patcher.CoreModelPatcher(
            model, load_device=torch.device("cpu"), offload_device=torch.device("cpu")
        )
        patcher.cached_patcher_init = (self.model, (seed,))  # as core's loaders say it
        return patcher

    def conditioning(self, seed: int = 0) -> list[list[Any]]:
        """A random CONDITIONING that the model accepts."""
        generator = torch.Generator().manual_seed(seed)
        embedding = torch.randn((1, TEXT_TOKENS, self.text_width), generator=generator)
        options: dict[str, Any] = {"pooled_output": None}
        if self.pooled_width:
            options["pooled_output"] = torch.randn((1, self.pooled_width), generator=generator)
        if self.masks_text:
            options["attention_mask"] = torch.ones((1, TEXT_TOKENS), dtype=torch.int64)
        return [[embedding, options]]


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Fill every parameter and buffer of a module with numbers drawn from `seed`, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * WEIGHT_SCALE)
        for name, buffer in sorted(module.named_buffers()):
            if buffer.is_floating_point() and not torch.isfinite(buffer).all():
                raise ValueError(f"buffer {name} has no value of its own")


WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 48,
    "ffn_dim": 64,
    "freq_dim": 32,
    "text_dim": 24,
    "num_heads": 2,
    "num_layers": 2,
    "in_dim": 16,
    "out_dim": 16,
}

HUNYUAN = {
    "image_model": "hunyuan_video",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "vec_in_dim": 768,
    "context_in_dim": 24,
    "hidden_size": 128,
    "mlp_ratio": 2.0,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 256,
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}

HUNYUAN_15 = {
    **HUNYUAN,
    "in_channels": 65,
    "out_channels": 32,
    "patch_size": [1, 1, 1],
    "vec_in_dim": None,
    "guidance_embed": False,
    "use_cond_type_embedding": True,
    "vision_in_dim": 1152,
    "meanflow_sum": True,
}

LTXV = {
    "image_model": "ltxv",
    "in_channels": 128,
    "cross_attention_dim": 64,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "caption_channels": 24,
    "num_layers": 2,
}

models = comfy.supported_models

FAMILIES: dict[str, TinyFamily] = {
    "wan_t2v": TinyFamily(models.WAN21_T2V, WAN, 24),
    "wan_i2v": TinyFamily(models.WAN21_I2V, {**WAN, "model_type": "i2v", "in_dim": 36}, 24),
    "wan22_i2v": TinyFamily(models.WAN21_T2V, {**WAN, "in_dim": 36}, 24),
    "wan_flf2v": TinyFamily(
        models.WAN21_I2V,
        {**WAN, "model_type": "i2v", "in_dim": 36, "flf_pos_embed_token_number": 514},
        24,
    ),
    "wan_ti2v": TinyFamily(models.WAN22_T2V, {**WAN, "in_dim": 48, "out_dim": 48}, 24),
    "wan_vace": TinyFamily(
        models.WAN21_Vace,
        {**WAN, "model_type": "vace", "vace_in_dim": 96, "vace_layers": 1},
        24,
    ),
    "wan_causal": TinyFamily(models.WAN21_CausalAR_T2V, {**WAN, "causal_ar": True}, 24),
    "hunyuan_replace": TinyFamily(models.HunyuanVideo, HUNYUAN, 24, 768),
    "hunyuan_i2v": TinyFamily(models.HunyuanVideoI2V, {**HUNYUAN, "in_channels": 33}, 24, 768),
    "hunyuan_skyreels": TinyFamily(
        models.HunyuanVideoSkyreelsI2V, {**HUNYUAN, "in_channels": 32}, 24, 768
    ),
    "hunyuan_15": TinyFamily(models.HunyuanVideo15, HUNYUAN_15, 24),
    "ltxv": TinyFamily(models.LTXV, LTXV, 24, masks_text=True),
}


def tiny_wan_vae(width: int = 8, seed: int = 0) -> comfy.sd.VAE:
    """ComfyUI's Wan 2.1 VAE class with `width` channels, loaded as from a file."""
    network = comfy.ldm.wan.vae.WanVAE(
        dim=width, z_dim=16, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True]
    )
    randomise(network, seed)
    return comfy.sd.VAE(sd=network.state_dict())


class TinyTokenizer:
    """Bytes of the text, with what `comfy.sd.CLIP` calls on a tokenizer."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        """The arguments are those that `comfy.sd.CLIP` passes."""

    def tokenize_with_weights(self, text: str, *_: Any, **__: Any) -> dict[str, list[list[Any]]]:
        """At least TEXT_TOKENS tokens; shorter texts are padded with 0."""
        padded = text.encode().ljust(TEXT_TOKENS, b"\0")
        return {"tiny": [[(byte, 1.0) for byte in padded]]}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}


class TinyTextModel(torch.nn.Module):
    """A table of 256 vectors, with what `comfy.sd.CLIP` calls on its `cond_stage_model`."""

    def __init__(
        self,
        width: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        model_options: Any = None,
    ) -> None:
        super().__init__()
        self.dtypes = {torch.float32}
        self.table = torch.nn.Embedding(256, width, device=device, dtype=torch.float32)

    def encode_token_weights(
        self, tokens: dict[str, list[list[Any]]]
    ) -> tuple[torch.Tensor, None, dict[str, Any]]:
        ids = torch.tensor([byte for byte, _ in tokens["tiny"][0]])
        return self.table(ids.to(self.table.weight.device))[None].detach(), None, {}

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """One layer on one device: nothing to set."""

    def reset_clip_options(self) -> None:
        """Nothing was set."""

    def load_sd(self, state: dict[str, torch.Tensor]) -> Any:
        return self.load_state_dict(state, strict=False)


def tiny_text_encoder(width: int = 24, seed: int = 0) -> comfy.sd.CLIP:
    """A CLIP object for models whose text is `width` wide."""
    network = TinyTextModel(width)
    randomise(network, seed)
    target = SimpleNamespace(params={}, clip=partial(TinyTextModel, width), tokenizer=TinyTokenizer)
    return comfy.sd.CLIP(
        target,
        parameters=256 * width,
        state_dict=network.state_dict(),
        model_options={"dtype": torch.float32},
    )
