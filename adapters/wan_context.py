"""Wan weights that see further pictures beside the video: Bernini and Phantom.

Both are finetunes of Wan T2V whose files look like T2V's, so an artist says which one is loaded.
- Bernini: each picture is a stream of its own size in `context_latents`; source ids 1, 2, ... turn
  its positions away from the video's (`comfy_extras/nodes_bernini.py`, `comfy/ldm/wan/model.py`).
- Phantom: pictures of the film's size follow the video as latent frames in `time_dim_concat`, and
  are left out of what is guided away from (`WanPhantomSubjectToVideo`, its `negative_img_text`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.latent_formats
import comfy.utils
import torch

from ..memory.golden import PackingPolicy, pack_references
from .family import Conditioning, with_values

if TYPE_CHECKING:
    from comfy.sd import VAE

BERNINI_PICTURES = 5
"""As its makers state (shared design, section 9.6); core's node has eight sockets."""

BERNINI_SIZES = PackingPolicy(
    group_size=2, levels=3, least_side=0, most_references=BERNINI_PICTURES
)
"""Golden sizes of Bernini's pictures, level 0 the film's. Two to a level over three levels have
room for five, the last with a short side of 176 pixels in a film of 480 (our choice)."""

PHANTOM_PICTURES = 4
"""Subjects that Phantom's examples show at most (inferred: its node takes any number)."""


@dataclass(frozen=True)
class ContextWeights:
    """How one finetune sees pictures [1, height, width, 3] in 0..1, the closest to the shot first.

    `most_pictures`: what it was made for. `encode(vae, pictures, height, width)` gives one latent
    b c 1 h w for each, in the VAE's space; height and width are the film's in pixels.
    `attach(positive, negative, latents)` gives both conditionings with them; the given ones stay.
    """

    name: str
    most_pictures: int
    encode: Callable[[VAE, Sequence[torch.Tensor], int, int], list[torch.Tensor]]
    attach: Callable[
        [Conditioning, Conditioning, list[torch.Tensor]], tuple[Conditioning, Conditioning]
    ]


def _scaled(picture: torch.Tensor, height: int, width: int, method: str, crop: str) -> torch.Tensor:
    pixels = picture[..., :3].movedim(-1, 1)
    return comfy.utils.common_upscale(pixels, width, height, method, crop).movedim(1, -1)


def _encode_golden(
    vae: VAE, pictures: Sequence[torch.Tensor], height: int, width: int
) -> list[torch.Tensor]:
    """Latents of golden sizes; a picture keeps its shape, and none is enlarged."""
    sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
    packing = pack_references(sizes, (height, width), BERNINI_SIZES)
    return [
        vae.encode(_scaled(pictures[one.source], one.height, one.width, "area", "disabled"))
        for one in packing.references
    ]


def _attach_streams(
    positive: Conditioning, negative: Conditioning, latents: list[torch.Tensor]
) -> tuple[Conditioning, Conditioning]:
    values = {"context_latents": latents}
    return with_values(positive, values), with_values(negative, values)


def _encode_film_size(
    vae: VAE, pictures: Sequence[torch.Tensor], height: int, width: int
) -> list[torch.Tensor]:
    return [vae.encode(_scaled(one, height, width, "bilinear", "center")) for one in pictures]


def _attach_frames(
    positive: Conditioning, negative: Conditioning, latents: list[torch.Tensor]
) -> tuple[Conditioning, Conditioning]:
    frames = torch.cat(latents, dim=2)
    nothing = comfy.latent_formats.Wan21().process_out(torch.zeros_like(frames))
    return (
        with_values(positive, {"time_dim_concat": frames}),
        with_values(negative, {"time_dim_concat": nothing}),
    )


CONTEXT_WEIGHTS = {
    one.name: one
    for one in (
        ContextWeights("Bernini", BERNINI_PICTURES, _encode_golden, _attach_streams),
        ContextWeights("Phantom", PHANTOM_PICTURES, _encode_film_size, _attach_frames),
    )
}
