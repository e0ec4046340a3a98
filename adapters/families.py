"""The table of model families, and how a loaded model finds its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.model_base

from .family import Family
from .hunyuan_video import HUNYUAN_VIDEO_FAMILIES
from .ltxv import LTXV
from .wan import WAN_FAMILIES, concat_channels
from .wan_causal import WanCausal
from .wan_vace import WanVace

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

FAMILIES: tuple[Family, ...] = (
    WanCausal(),
    WanVace(),
    *WAN_FAMILIES,
    *HUNYUAN_VIDEO_FAMILIES,
    LTXV(),
)

CONTINUING_MODELS = (
    "Wan 2.1 or 2.2 (T2V, I2V, FLF2V, VACE, TI2V-5B, causal), HunyuanVideo 1.0 or 1.5, or LTXV"
)


def family_of(model: ModelPatcher) -> Family:
    """The family of a loaded model; refuses others by name and says what to use instead."""
    for family in FAMILIES:
        if family.recognises(model):
            return family
    raise ValueError(
        f"model must be able to continue a video, got {_description(model)}: "
        f"use {CONTINUING_MODELS}"
    )


def _description(model: ModelPatcher) -> str:
    """The model's class; Wan's own covers models that differ only in their input channels."""
    name = type(model.model).__name__
    if type(model.model) is comfy.model_base.WAN21:
        name += (
            f" with {concat_channels(model)} input channels beside the latent (a control model?)"
        )
    return name
