"""The low-resolution branch of a history: one small picture per memory cell, encoded by the VAE.

The paper encodes the downsampled video; a picture of its own per cell is ours, so that appending is
exact (memory/rates.py: cell_frames). Pictures are [n, height, width, 3] in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..memory.encoder import EncoderConfig
from .decode import decode_chain

if TYPE_CHECKING:
    from comfy.sd import VAE


def decoded_frames(vae: VAE, latents: Tensor, frames: Sequence[int]) -> Tensor:
    """Chosen frames, 0-based and in order, of a clip `1 c t h w` in the VAE's latent space.

    The clip is decoded once, as a stream; only the chosen frames are kept.
    """
    kept, wanted, first = {}, set(frames), 0
    for piece in decode_chain(vae, [latents]):
        for index in wanted.intersection(range(first, first + len(piece))):
            kept[index] = piece[index - first].clone()
        first += len(piece)
    return torch.stack([kept[index] for index in frames])


def small_picture_latents(vae: VAE, pictures: Tensor, config: EncoderConfig) -> Tensor:
    """Latents `1 c n h w` in the VAE's space of pictures made small by the encoder's rate.

    Each is encoded alone: core's VAE crops a batch of clips as if time were a side of the picture.
    """
    small = shrunk_pictures(pictures, config, vae.spacial_compression_encode())
    return torch.cat([vae.encode(one[None]).float().cpu() for one in small], dim=2)


def shrunk_pictures(pictures: Tensor, config: EncoderConfig, pixels: int) -> Tensor:
    """Pictures cropped or padded to whole cells, then averaged down by the rate.

    `pixels` are the pixels of a latent cell, per side.
    """
    latent = (1, *(side // pixels for side in pictures.shape[1:3]))
    grid = config.memory_grid(latent)
    stride = config.spatial_stride
    height, width = grid.height * stride[0] * pixels, grid.width * stride[1] * pixels
    x = pictures.movedim(-1, 1)[:, :, :height, :width]  # n h w c -> n c h w
    x = F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), mode="replicate")
    size = (height // config.rate.height, width // config.rate.width)
    return F.interpolate(x, size=size, mode="area").movedim(1, -1)  # n c h w -> n h w c
