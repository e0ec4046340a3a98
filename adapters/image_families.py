"""The table of image model families, and how a loaded model finds its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_base

from .flux_images import FLUX_FAMILIES, LATENT_CHANNELS
from .flux_joint import FLUX_JOINT
from .image_family import ImageFamily
from .omnigen_images import OmniGen2
from .qwen_images import QWEN_FAMILIES

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

IMAGE_FAMILIES: tuple[ImageFamily, ...] = (*FLUX_FAMILIES, *QWEN_FAMILIES, OmniGen2())

REFERENCE_MODELS = "Flux.1 Kontext, Flux.2 (dev, klein), Qwen-Image-Edit (2509, 2511) or OmniGen2"


def image_family_of(model: ModelPatcher, joint: bool = False) -> ImageFamily:
    """The family of a loaded model; refuses others by name and says what to use instead.

    `joint` asks for stock Flux.1-dev, which makes pictures together instead of reading references:
    nothing in a loaded model tells it from Kontext.
    """
    families = (FLUX_JOINT,) if joint else IMAGE_FAMILIES
    for family in families:
        if family.recognises(model):
            return family
    wanted = "Flux.1-dev" if joint else REFERENCE_MODELS
    raise ValueError(
        f"model must {'make pictures jointly' if joint else 'read reference pictures'}, got "
        f"{_description(model)}: use {wanted}"
    )


def _description(model: ModelPatcher) -> str:
    """The model's class, and why a class that could do it does not."""
    name = type(model.model).__name__
    config = model.model.model_config.unet_config
    if type(model.model) is comfy.model_base.Flux:
        channels = config["in_channels"]
        if channels != LATENT_CHANNELS:
            return f"{name} with {channels} input channels (Fill, Canny or Depth)"
        return f"{name} without guidance (schnell)"
    if type(model.model) is comfy.model_base.QwenImage:
        return f"{name} that makes layers"
    return name
