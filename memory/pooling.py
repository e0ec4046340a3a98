"""Smaller latents that the video model's own projection turns into memory tokens.

Axes: `b c t h w`. The results are what a `MemoryPiece` holds as `low`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .encoder import EncoderConfig, fit_to_cells
from .packing import pad_to
from .rates import Rate


def averaged_latents(latents: Tensor, config: EncoderConfig) -> Tensor:
    """Latents averaged down by the rate: the low-resolution branch without pixels (AlayaWorld).

    A last cell that is not full repeats its last latent frame, as the encoder does.
    """
    missing = -latents.shape[2] % config.rate.time
    full = torch.cat([latents, *[latents[:, :, -1:]] * missing], dim=2)
    rate = config.rate
    return F.avg_pool3d(fit_to_cells(full, config), (rate.time, rate.height, rate.width))


def packed_latents(latents: Tensor, rate: Rate, patch: tuple[int, int, int]) -> Tensor:
    """Latents of which the model's own projection gives the tokens of an untrained `PatchPacker`.

    Its kernel is the model's, tiled and divided by the volume, so that it averages what lies a
    patch apart; the averaging is done here. So each model that reads the memory uses its own
    projection, its LoRAs included.
    """
    kernel = (patch[0] * rate.time, patch[1] * rate.height, patch[2] * rate.width)
    x = pad_to(latents, kernel)
    for axis, (many, size) in zip(
        (2, 3, 4), zip((rate.time, rate.height, rate.width), patch, strict=True), strict=True
    ):
        x = x.unflatten(axis, (-1, many, size)).mean(dim=axis + 1).flatten(axis, axis + 1)
    return x
