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
    `start` are the pixels [frames, height, width, 3] that a segment begins with, where they are
    known as pixels (a start image); a tail is known as a latent only.
    """

    def __init__(self, vae: VAE, start: torch.Tensor | None = None) -> None:
        self._vae = vae
        self._start = start
        self._encoded: dict[tuple[int, ...], torch.Tensor] = {}

    def grey(self, latent: torch.Tensor) -> torch.Tensor:
        """A copy of the grey clip's latent with the shape, type and device of `latent`."""
        return self._clip(latent, None)

    def behind_start(self, latent: torch.Tensor) -> torch.Tensor:
        """The start frames with grey behind them, encoded as one clip (core's WanImageToVideo): the
        VAE carries a little of them into the first grey frames. Grey alone behind a tail."""
        return self._clip(latent, self._start)

    def _clip(self, latent: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
        shape = (0 if start is None else start.shape[0], *latent.shape[2:])
        if shape not in self._encoded:
            _, latent_frames, height, width = shape
            pixels = self._vae.spacial_compression_encode()
            stride = self._vae.temporal_compression_decode() or 1
            frames = stride * (latent_frames - 1) + 1
            clip = torch.full((1, 1, 1, 1), GREY).expand(frames, height * pixels, width * pixels, 3)
            if start is not None:
                clip = torch.cat((start[:frames].to(clip), clip[start.shape[0] :]))
            self._encoded[shape] = self._vae.encode(clip)
        return self._encoded[shape].to(latent).clone()
