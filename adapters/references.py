"""Reference pictures made small and laid out, as a packing says.

Pictures are [1, height, width, 3] in 0..1. They are made smaller as pixels, before the VAE (Captain
Cinema's ablation; the filter is unknown, ours is the area), and never larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..memory.atlas import Atlas, AtlasTile
from ..memory.golden import Packing

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CROPPED_SHARE = 0.1
"""Up to this share of a picture may be cut off to fill a tile of another shape (our choice)."""


def shrink(picture: Tensor, height: int, width: int) -> Tensor:
    """The picture at this size in pixels: cut to its shape around the middle, averaged by area.

    Raises ValueError for a size that would enlarge it.
    """
    own_height, own_width = picture.shape[1:3]
    if height > own_height or width > own_width:
        raise ValueError(
            f"a reference of {own_width} x {own_height} pixels is never enlarged, "
            f"got {width} x {height}"
        )
    scale = min(own_height / height, own_width / width)
    kept_height, kept_width = round(height * scale), round(width * scale)
    top, left = (own_height - kept_height) // 2, (own_width - kept_width) // 2
    kept = picture[:, top : top + kept_height, left : left + kept_width]
    if kept.shape[1:3] == (height, width):
        return kept
    return F.interpolate(kept.movedim(-1, 1), (height, width), mode="area").movedim(1, -1)


def packed_pictures(pictures: Sequence[Tensor], packing: Packing) -> list[Tensor]:
    """Every reference of a packing at its size, the atlas last; `pictures` are the sources."""
    made = [
        shrink(pictures[reference.source], reference.height, reference.width)
        for reference in packing.references
    ]
    if packing.atlas is not None:
        chosen = [pictures[source] for source in packing.atlas.sources]
        made.append(atlas_picture(chosen, packing.atlas.atlas))
    return made


def atlas_picture(pictures: Sequence[Tensor], atlas: Atlas) -> Tensor:
    """One picture of the tiles, `pictures` in their order.

    A picture fills its tile where that cuts off a tenth or less, else it is shown whole between
    bars of its mean colour, as one that is smaller than its tile.
    """
    canvas = pictures[0].new_zeros((1, atlas.height, atlas.width, 3))
    for picture, tile in zip(pictures, atlas.tiles, strict=True):
        rows = slice(tile.top, tile.top + tile.height)
        columns = slice(tile.left, tile.left + tile.width)
        canvas[:, rows, columns] = _tile_picture(picture[..., :3], tile)
    return canvas


def _tile_picture(picture: Tensor, tile: AtlasTile) -> Tensor:
    height, width = picture.shape[1:3]
    rows, columns = tile.height / height, tile.width / width
    fills = max(rows, columns) <= 1 and min(rows, columns) >= (1 - CROPPED_SHARE) * max(
        rows, columns
    )
    if fills:
        return shrink(picture, tile.height, tile.width)
    scale = min(1.0, rows, columns)
    small = shrink(picture, max(1, int(height * scale)), max(1, int(width * scale)))
    whole = picture.mean(dim=(1, 2), keepdim=True).expand(1, tile.height, tile.width, 3).clone()
    top, left = (tile.height - small.shape[1]) // 2, (tile.width - small.shape[2]) // 2
    whole[:, top : top + small.shape[1], left : left + small.shape[2]] = small
    return whole


def noisy_latents(
    model: ModelPatcher, latents: Sequence[Tensor], share: float, seed: int
) -> list[Tensor]:
    """Latents (VAE space) of which the model sees (1 - share) x + share noise.

    Captain Cinema conditions on frames with up to a quarter of noise (section 3.4 of the paper);
    stock models were trained with clean references, for which `share` is 0. The noise is drawn
    from `seed`, one after another. Raises ValueError for a share outside 0 to 1.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"reference_noise must be 0 to 1, got {share}")
    if share == 0.0:
        return list(latents)
    latent_format = model.get_model_object("latent_format")
    generator = torch.Generator().manual_seed(seed)
    noisy = []
    for latent in latents:
        clean = latent_format.process_in(latent)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float32).to(clean)
        noisy.append(latent_format.process_out((1.0 - share) * clean + share * noise))
    return noisy
