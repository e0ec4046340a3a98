"""Whether a text conditioning fits a model, read from the loaded model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .family import Conditioning

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

TEXT_LAYERS = (
    "text_embedding.0",  # comfy.ldm.wan.model.WanModel
    "txt_in.input_embedder",  # comfy.ldm.hunyuan_video.model.HunyuanVideo
    "caption_projection.linear_1",  # comfy.ldm.lightricks.model.LTXVModel
    "txt_in",  # comfy.ldm.flux.model.Flux, comfy.ldm.qwen_image.model
    "time_caption_embed.caption_embedder.1",  # comfy.ldm.omnigen.omnigen2
)
"""The linear layer that reads the text features, by model class."""


def text_width(model: ModelPatcher) -> int | None:
    """Features per token that the model reads; None where its layers do not say."""
    network = model.model.diffusion_model
    for path in TEXT_LAYERS:
        layer = network
        for name in path.split("."):
            layer = getattr(layer, "_modules", {}).get(name)
        if layer is not None:
            return getattr(layer, "in_features", None)
    return None


def check_text(model: ModelPatcher, conditioning: Conditioning, name: str) -> None:
    """Refuse text that the model cannot read: none at all, not finite, or of another encoder.

    Raises ValueError that begins with `name`, the input.
    """
    if not conditioning:
        raise ValueError(f"{name} must hold a conditioning, got an empty one")
    width = text_width(model)
    for embedding, _ in conditioning:
        if not bool(torch.isfinite(embedding).all()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
        if width is not None and embedding.shape[-1] != width:
            raise ValueError(
                f"{name} must be {width} wide for this model, got {embedding.shape[-1]}: "
                "choose the text encoder that belongs to the model"
            )
