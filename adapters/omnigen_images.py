"""OmniGen2: five references at most, since the model has five embeddings of their places.

Its makers advise pictures above 512 x 512 (OmniGen2's README; shared design
`golden-memory-and-keyframes.md`, section 9.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_base

from .image_family import ImageCapabilities
from .reference_latents import ReferenceLatents

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

ADVISED_SIDE = 512


@dataclass(frozen=True)
class OmniGen2(ReferenceLatents):
    """References stand before the picture, each further along the first axis of positions by the
    longer side of the one before (comfy/ldm/omnigen/omnigen2.py)."""

    name: str = "OmniGen2"

    def recognises(self, model: ModelPatcher) -> bool:
        return type(model.model) is comfy.model_base.Omnigen2

    def capabilities(self, model: ModelPatcher) -> ImageCapabilities:
        cells = model.get_model_object("latent_format").spacial_downscale_ratio
        places = len(model.get_model_object("diffusion_model.image_index_embedding"))
        return ImageCapabilities(
            unit=cells * model.get_model_object("diffusion_model.patch_size"),
            most_references=places,
            advised_references=places,
            method="",
            negative_references=True,
            template="numbered",
            least_side=ADVISED_SIDE,
        )
