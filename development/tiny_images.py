"""Tiny random-weight image models of ComfyUI's own classes, with their VAEs and text encoders.

As `tiny_models.py` does for video: built through the `comfy.supported_models` classes that a loaded
file would give. Every axis of the models is small; positions, reference tokens and modulation are
those of the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.supported_models
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.text_encoders.qwen_image import QwenImageTokenizer

from .tiny_models import (
    TinyFamily,
    TinyTextModel,
    TinyTokenizer,
    randomise,
    tiny_text_encoder,
    tiny_wan_vae,
)

TEXT_WIDTH = 24

FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 16,
    "context_in_dim": TEXT_WIDTH,
    "hidden_size": 48,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [4, 10, 10],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}

FLUX_2 = {
    **FLUX,
    "image_model": "flux2",
    "in_channels": 128,
    "out_channels": 128,
    "vec_in_dim": None,
    "mlp_ratio": 3.0,
    "axes_dim": [6, 6, 6, 6],
    "theta": 2000,
    "patch_size": 1,
    "qkv_bias": False,
    "ops_bias": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
    "txt_ids_dims": [3],
}

QWEN = {
    "image_model": "qwen_image",
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 24,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT_WIDTH,
    "axes_dims_rope": (4, 10, 10),
}

OMNIGEN_2 = {
    "image_model": "omnigen2",
    "in_channels": 16,
    "hidden_size": 48,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "num_attention_heads": 2,
    "num_kv_heads": 1,
    "multiple_of": 16,
    "axes_dim_rope": (8, 8, 8),
    "axes_lens": (1024, 1664, 1664),
    "text_feat_dim": TEXT_WIDTH,
    "timestep_scale": 1000.0,
}

PICTURE_VAE = {
    "double_z": True,
    "z_channels": 16,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
"""The Flux VAE's class; its group norms need 32 channels."""


def tiny_flux_vae(seed: int = 0) -> comfy.sd.VAE:
    """16 channels, a latent cell for 8 x 8 pixels: Flux.1 and OmniGen2."""
    return _picture_vae(PICTURE_VAE, seed)


def tiny_flux2_vae(seed: int = 0) -> comfy.sd.VAE:
    """128 channels, normalised by the batch norm's statistics, a cell for 16 x 16 pixels."""
    vae = _picture_vae({**PICTURE_VAE, "z_channels": 32, "batch_norm_latent": True}, seed)
    vae.latent_channels *= 4
    vae.downscale_ratio *= 2
    vae.upscale_ratio *= 2
    return vae


def _picture_vae(config: dict[str, Any], seed: int) -> comfy.sd.VAE:
    """A VAE of core's AutoencoderKL, loaded as from a checkpoint that brings its config.

    Without one core would read 128 channels for the encoder, whatever the file holds. Only sizes
    that the config does not tell `comfy.sd.VAE` are set.
    """
    parameters = {"ddconfig": config, "embed_dim": config["z_channels"]}
    network = AutoencoderKL(**parameters)
    randomise(network, seed)
    vae = comfy.sd.VAE(sd=network.state_dict(), config={"params": parameters})
    vae.latent_channels = config["z_channels"]
    return vae


class TinyPictureText(TinyTextModel):
    """A table of 256 vectors for tokens of any vocabulary; a picture is its mean colour.

    It gives a mask, as language models do. `key` is the name that the tokenizer gives its tokens.
    """

    def __init__(self, key: str, *arguments: Any, **keywords: Any) -> None:
        super().__init__(TEXT_WIDTH, *arguments, **keywords)
        self.key = key

    def encode_token_weights(
        self, tokens: dict[str, list[list[Any]]]
    ) -> tuple[torch.Tensor, None, dict[str, Any]]:
        rows = [self._row(token[0]) for token in tokens[self.key][0]]
        states = torch.stack(rows)[None].detach()
        return states, None, {"attention_mask": torch.ones(states.shape[:2], dtype=torch.int64)}

    def _row(self, token: Any) -> torch.Tensor:
        weight = self.table.weight
        if isinstance(token, dict):
            return token["data"].mean(dim=(0, 1, 2)).to(weight.device).repeat(TEXT_WIDTH // 3)
        return weight[token % len(weight)]


@cache
def _qwen_tokenizer() -> QwenImageTokenizer:
    return QwenImageTokenizer()


def qwen_tokenizer(**_: Any) -> QwenImageTokenizer:
    """Qwen-Image's own tokenizer, read from ComfyUI's files once: that takes seconds.

    The arguments are those that `comfy.sd.CLIP` passes.
    """
    return _qwen_tokenizer()


def tiny_language_model(
    tokenizer: Callable[..., Any] = TinyTokenizer, key: str = "tiny", seed: int = 0
) -> comfy.sd.CLIP:
    """A CLIP object of a language model that may look at pictures."""
    network = TinyPictureText(key)
    randomise(network, seed)
    target = SimpleNamespace(params={}, clip=partial(TinyPictureText, key), tokenizer=tokenizer)
    return comfy.sd.CLIP(
        target,
        parameters=256 * TEXT_WIDTH,
        state_dict=network.state_dict(),
        model_options={"dtype": torch.float32},
    )


@dataclass(frozen=True)
class TinyImageFamily(TinyFamily):
    """A tiny image model with its VAE and text encoder, each made from a seed."""

    vae: Callable[..., comfy.sd.VAE] = tiny_flux_vae
    text_encoder: Callable[..., comfy.sd.CLIP] = tiny_language_model


models = comfy.supported_models
qwen_text = partial(tiny_language_model, qwen_tokenizer, "qwen25_7b")
qwen_edit = partial(
    TinyImageFamily,
    models.QwenImage,
    text_width=TEXT_WIDTH,
    vae=tiny_wan_vae,
    text_encoder=qwen_text,
)

IMAGE_FAMILIES: dict[str, TinyImageFamily] = {
    "flux": TinyImageFamily(models.Flux, FLUX, TEXT_WIDTH, 16, text_encoder=tiny_text_encoder),
    "flux2_dev": TinyImageFamily(models.Flux2, FLUX_2, TEXT_WIDTH, vae=tiny_flux2_vae),
    "flux2_klein": TinyImageFamily(
        models.Flux2, {**FLUX_2, "guidance_embed": False}, TEXT_WIDTH, vae=tiny_flux2_vae
    ),
    "qwen_edit_2509": qwen_edit(unet_config=QWEN),
    "qwen_edit_2511": qwen_edit(unet_config={**QWEN, "default_ref_method": "index_timestep_zero"}),
    "omnigen2": TinyImageFamily(models.Omnigen2, OMNIGEN_2, TEXT_WIDTH, masks_text=True),
}
"""Flux.1-dev and Kontext are one class with one state dict: `flux` stands for both, and its text
encoders give no mask."""
