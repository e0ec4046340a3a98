"""A tiny VAE of Wan 2.2's own class: 48 channels, 16 pixels per latent cell.

ComfyUI builds the class at one size only, so its VAE is that of Wan 2.1 with the other network.
"""

from __future__ import annotations

from typing import Any

import comfy.ldm.wan.vae2_2
import comfy.model_patcher
import torch

from .tiny_models import randomise, tiny_wan_vae

CHANNELS, PIXELS, STRIDE = 48, 16, 4


def tiny_wan22_vae(width: int = 8, seed: int = 0) -> Any:
    """ComfyUI's VAE with a Wan 2.2 network of `width` channels (comfy/sd.py, "Wan 2.2 VAE")."""
    network = comfy.ldm.wan.vae2_2.WanVAE(
        dim=width,
        dec_dim=width,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    randomise(network, seed)
    vae = tiny_wan_vae(seed=seed)
    vae.first_stage_model = network.eval().to(vae.vae_dtype)
    vae.patcher = comfy.model_patcher.CoreModelPatcher(
        network, load_device=vae.device, offload_device=torch.device("cpu")
    )
    vae.latent_channels = CHANNELS
    vae.upscale_ratio = (lambda frames: max(0, frames * STRIDE - 3), PIXELS, PIXELS)
    vae.upscale_index_formula = (STRIDE, PIXELS, PIXELS)
    vae.downscale_ratio = (lambda frames: max(0, (frames + 3) // STRIDE), PIXELS, PIXELS)
    vae.downscale_index_formula = (STRIDE, PIXELS, PIXELS)
    return vae
