"""Latents of single pictures at the start and at the end of a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from comfy.sd import VAE

STILL_LATENT_FRAMES = 3
"""Latent frames of the still clip whose last one stands for a picture at the end of a segment.
Measured with the demo VAE, the end decoded behind another picture: RMSE 0.0268 with 3, the same
with 4, 0.0365 with the picture's own first-frame latent; 0.0268 is what the VAE loses anyway."""


def start_latent(vae: VAE, picture: torch.Tensor) -> torch.Tensor:
    """The latent b c 1 h w, float32 on the CPU, of a picture [1, height, width, 3] that a clip
    begins with."""
    return vae.encode(picture).float().cpu()


def end_latent(vae: VAE, picture: torch.Tensor) -> torch.Tensor:
    """The latent b c 1 h w of a picture that a clip ends on, float32 on the CPU.

    A latent frame behind the first stands for several frames, and a VAE reads a picture alone as a
    first one: so the picture stands still for a few latent frames and the last is taken.
    """
    stride = vae.temporal_compression_decode() or 1
    frames = stride * (STILL_LATENT_FRAMES - 1) + 1
    still = vae.encode(picture.expand(frames, -1, -1, -1))
    return still[:, :, -1:].float().cpu()
