"""Latents of clips that show nothing yet, encoded once per run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from comfy.sd import VAE

GREY = 0.5
"""Pixel value of frames that are not known yet (core's WanImageToVideo and WanVaceToVideo)."""


class BlankClips:
    """Encodes blank clips with a VAE and keeps what it encoded, for the length of one run.

    What a model was trained to see where nothing is known is the VAE's encoding of grey frames
    behind the known ones. The borders of the picture matter to it, so the whole picture is encoded.
    """

    def __init__(self, vae: VAE) -> None:
        self._vae = vae
        self._encoded: dict[tuple[int, ...], torch.Tensor] = {}

    def grey(self, latent: torch.Tensor) -> torch.Tensor:
        """A copy of the grey clip's latent with the shape, type and device of `latent`."""
        shape = tuple(latent.shape[2:])
        if shape not in self._encoded:
            latent_frames, height, width = shape
            pixels = self._vae.spacial_compression_encode()
            stride = self._vae.temporal_compression_decode() or 1
            frames = stride * (latent_frames - 1) + 1
            clip = torch.full((1, 1, 1, 1), GREY).expand(frames, height * pixels, width * pixels, 3)
            self._encoded[shape] = self._vae.encode(clip)
        return self._encoded[shape].to(latent).clone()
