"""What every level of a hierarchy knows of the same latent frames, as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from latent_preview import Latent2RGBPreviewer
from PIL import Image
from torch import Tensor

from ..adapters.hierarchy_value import Timeline
from ..planning.rollout import Span
from .rendering import PREVIEW_SIDE, frame_picture

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.sd import VAE

SHOWN = 5
"""Latent frames of a row, spread over the span (our choice: a node is as wide)."""

BLANK = (39, 39, 42)
"""Where a level does not know a latent frame."""


def level_pictures(timeline: Timeline, span: Span, vae: VAE | None) -> Tensor:
    """An IMAGE [1, height, width, 3]: a row per level, finest on top, of frames of `span`."""
    last = span.stop - 1
    frames = sorted(
        {span.start + round(i * (last - span.start) / (SHOWN - 1)) for i in range(SHOWN)}
    )
    rows = [
        [_picture(timeline, level, frame, vae) for frame in frames]
        for level in range(timeline.levels)
    ]
    width, height = next(one.size for one in rows[span.level] if one is not None)
    sheet = Image.new("RGB", (width * len(frames), height * len(rows)), BLANK)
    for level, row in enumerate(rows):
        for place, picture in enumerate(row):
            if picture is not None:
                sheet.paste(picture.resize((width, height)), (place * width, level * height))
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255.0).unsqueeze(0)


def _picture(timeline: Timeline, level: int, frame: int, vae: VAE | None) -> Image.Image | None:
    if not timeline.known(level, frame, frame + 1):
        return None
    return latent_picture(timeline.latents(level, frame, frame + 1), timeline.latent_format, vae)


def latent_picture(latent: Tensor, latent_format: LatentFormat, vae: VAE | None) -> Image.Image:
    """A small picture of a raw latent frame `1 c 1 h w`: by the VAE, or by ComfyUI's quick guess,
    or grey, where the latent format says nothing about colours."""
    if vae is not None:
        return frame_picture(vae, latent[:, :, 0])
    factors = latent_format.latent_rgb_factors
    if factors is None:
        grey = latent[0, :, 0].mean(dim=0)
        spread = (grey - grey.min()) / (grey.max() - grey.min()).clamp(min=1e-6)
        picture = Image.fromarray((spread * 255).round().to(torch.uint8).numpy()).convert("RGB")
    else:
        previewer = Latent2RGBPreviewer(
            factors,
            latent_format.latent_rgb_factors_bias,
            latent_format.latent_rgb_factors_reshape,
        )
        picture = previewer.decode_latent_to_preview(latent_format.process_in(latent))
    scale = max(1, PREVIEW_SIDE // max(picture.size))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
