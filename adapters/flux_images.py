"""Flux.1 with references (Kontext) and Flux.2, dev and klein.

Caps: Black Forest Labs advise 6 references for Flux.2-dev and 4 for klein; Kontext was trained with
one and takes more, one plane of positions for all, with users reporting 2 to 4 as usable (shared
design `golden-memory-and-keyframes.md`, section 9.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_base

from .image_family import ImageCapabilities
from .reference_latents import ReferenceLatents

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

LATENT_CHANNELS = 16
"""Input channels of Flux.1 without control or inpainting channels beside the latent."""

MOST_PIXELS = 1024 * 1024
"""Of one of several references of Flux.2 (`encode_image_refs` of its makers' sampling.py)."""


@dataclass(frozen=True)
class FluxKontext(ReferenceLatents):
    """Flux.1 Kontext. A loaded Flux.1-dev looks the same: class and weights have one shape, so
    that only the artist knows which of them was loaded; dev ignores what references mean."""

    name: str = "Flux.1 Kontext"

    def recognises(self, model: ModelPatcher) -> bool:
        config = model.model.model_config.unet_config
        return (
            type(model.model) is comfy.model_base.Flux
            and bool(config.get("guidance_embed"))
            and config["in_channels"] == LATENT_CHANNELS
        )

    def capabilities(self, model: ModelPatcher) -> ImageCapabilities:
        return ImageCapabilities(
            unit=_unit(model),
            most_references=None,
            advised_references=4,
            method=_method(model),
            negative_references=False,
            template="instruction",
        )


@dataclass(frozen=True)
class Flux2Dev(ReferenceLatents):
    """FLUX.2-dev: with embedded guidance, which klein has not."""

    name: str = "Flux.2 dev"

    def recognises(self, model: ModelPatcher) -> bool:
        return _is_flux2(model) and bool(model.model.model_config.unet_config["guidance_embed"])

    def capabilities(self, model: ModelPatcher) -> ImageCapabilities:
        return ImageCapabilities(
            unit=_unit(model),
            most_references=6,
            advised_references=6,
            method=_method(model),
            negative_references=False,
            template="numbered",
            most_pixels=MOST_PIXELS,
        )


@dataclass(frozen=True)
class Flux2Klein(ReferenceLatents):
    """FLUX.2 klein, 4B and 9B, distilled or base; the base ones sample with a negative prompt."""

    name: str = "Flux.2 klein"

    def recognises(self, model: ModelPatcher) -> bool:
        return _is_flux2(model) and not model.model.model_config.unet_config["guidance_embed"]

    def capabilities(self, model: ModelPatcher) -> ImageCapabilities:
        return ImageCapabilities(
            unit=_unit(model),
            most_references=4,
            advised_references=4,
            method=_method(model),
            negative_references=True,
            template="numbered",
            most_pixels=MOST_PIXELS,
        )


FLUX_FAMILIES = (FluxKontext(), Flux2Dev(), Flux2Klein())


def _is_flux2(model: ModelPatcher) -> bool:
    return type(model.model) is comfy.model_base.Flux2


def _unit(model: ModelPatcher) -> int:
    """Pixels along a side of a token."""
    cells = model.get_model_object("latent_format").spacial_downscale_ratio
    return cells * model.model.model_config.unet_config["patch_size"]


def _method(model: ModelPatcher) -> str:
    """Where the model puts references by itself, or since core's node FluxKVCache.

    Read from the config that the file was detected as: other packs' Flux has no `params`.
    """
    own = model.model.model_config.unet_config.get("default_ref_method", "offset")
    return model.object_patches.get("diffusion_model.params.default_ref_method", own)
