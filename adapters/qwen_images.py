"""Qwen-Image-Edit 2509 and 2511.

Best with one to three pictures (model card). A loaded 2509 looks the same as the first
Qwen-Image-Edit, which was trained with one, and as Qwen-Image, which ignores references; 2511 is
known by a marker in its file (`__index_timestep_zero__`, comfy/model_detection.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_base
import torch

from .family import Conditioning
from .image_family import ImageCapabilities
from .reference_latents import ReferenceLatents
from .references import shrink

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

CLEAN_REFERENCES = "index_timestep_zero"
LAYERED = "negative_index"

PICTURE_PLACE = "<|vision_start|><|image_pad|><|vision_end|>"
"""Where a picture stands in the prompt, in the tokens of Qwen2.5-VL."""

SEEN_AREA = 384 * 384
"""Pixels of a picture for the text encoder (TextEncodeQwenImageEditPlus, comfy_extras)."""


class QwenEdit(ReferenceLatents):
    """What the versions share."""

    def capabilities(self, model: ModelPatcher) -> ImageCapabilities:
        cells = model.get_model_object("latent_format").spacial_downscale_ratio
        return ImageCapabilities(
            unit=cells * model.get_model_object("diffusion_model.patch_size"),
            most_references=3,
            advised_references=3,
            method=_method(model),
            negative_references=True,
            template="numbered",
        )

    def encode_prompt(
        self, clip: CLIP, text: str, pictures: Sequence[torch.Tensor]
    ) -> Conditioning:
        """The prompt with all pictures before it by number, as core's node does it for three.

        The pictures that become references keep their own sizes: core's node would enlarge them to
        a megapixel.
        """
        if not pictures:
            return clip.encode_from_tokens_scheduled(clip.tokenize(text))
        places = [f"Picture {number + 1}: {PICTURE_PLACE}" for number in range(len(pictures))]
        tokens = clip.tokenize(
            "".join(places) + text,
            images=[_seen(picture) for picture in pictures],
            llama_template=_edit_template(clip),
        )
        return clip.encode_from_tokens_scheduled(tokens)


@dataclass(frozen=True)
class QwenEdit2509(QwenEdit):
    name: str = "Qwen-Image-Edit 2509"

    def recognises(self, model: ModelPatcher) -> bool:
        return _is_qwen(model) and _method(model) not in (CLEAN_REFERENCES, LAYERED)


@dataclass(frozen=True)
class QwenEdit2511(QwenEdit):
    name: str = "Qwen-Image-Edit 2511"

    def recognises(self, model: ModelPatcher) -> bool:
        return _is_qwen(model) and _method(model) == CLEAN_REFERENCES


QWEN_FAMILIES = (QwenEdit2509(), QwenEdit2511())


def _is_qwen(model: ModelPatcher) -> bool:
    return type(model.model) is comfy.model_base.QwenImage


def _method(model: ModelPatcher) -> str:
    return model.get_model_object("diffusion_model.default_ref_method")


def _seen(picture: torch.Tensor) -> torch.Tensor:
    """What the text encoder looks at: the picture, made smaller where it is large."""
    height, width = picture.shape[1:3]
    scale = min(1.0, math.sqrt(SEEN_AREA / (height * width)))
    return shrink(picture[..., :3], max(1, round(height * scale)), max(1, round(width * scale)))


def _edit_template(clip: CLIP) -> str:
    """The tokenizer's own template for one picture, without the place of that picture."""
    template = getattr(clip.tokenizer, "llama_template_images", "")
    if PICTURE_PLACE not in template:
        raise ValueError(
            f"clip must be Qwen-Image's text encoder, got {type(clip.cond_stage_model).__name__}: "
            "load qwen_2.5_vl_7b with type qwen_image"
        )
    return template.replace(PICTURE_PLACE, "")
