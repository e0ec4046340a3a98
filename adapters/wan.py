"""Wan 2.1 and 2.2 without control branches: T2V, I2V and FLF2V, and the TI2V-5B.

How a tail enters (all of it core's own conditioning):
- I2V, FLF2V and Fun-InP (concat channels): the tail's latents in `concat_latent_image`, grey
  after them as in training, and a 4-channel frame mask (`comfy_extras/nodes_wan.py`,
  WanImageToVideo); the same frames are also kept by the noise mask, so that the new frames
  follow the tail itself and not the model's copy of it.
  An end is shown to the model as in WanFirstLastFrameToVideo: the picture is the last frame behind
  grey ones, known in the last of the four mask channels only, and the model draws its latent.
- T2V (no extra channels): masked replacement by the noise mask; core re-noises the known frames
  to the current sigma at each step (`BaseModel.scale_latent_inpaint`).
- TI2V-5B: the noise mask becomes a per-frame timestep of 0 (`WAN22.process_timestep`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_base
import torch

from .blank import BlankClips
from .family import (
    Capabilities,
    Conditioning,
    Family,
    SegmentInputs,
    frame_mask,
    keep_known,
    with_values,
)
from .wan_context import CONTEXT_WEIGHTS

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

WAN_LATENT_FRAMES = 21
"""Latent frames of one Wan clip: 81 frames (Wan 2.1 technical report, section 4)."""

TI2V_LATENT_FRAMES = 31
"""Latent frames of one TI2V-5B clip: 121 frames at 24 fps (Wan 2.2 release)."""

MASK_CHANNELS = 4
"""Mask channels of Wan I2V, one for each frame of a latent frame (`WAN21.concat_cond`)."""


def ending_mask(mask: torch.Tensor) -> torch.Tensor:
    """A mask 1 1 t h w with a channel for each frame of a latent frame (1 4 t h w), 0 on the very
    last frame, too (`comfy_extras/nodes_wan.py`, WanFirstLastFrameToVideo)."""
    channels = mask.repeat(1, MASK_CHANNELS, 1, 1, 1)
    channels[:, -1, -1] = 0.0
    return channels


def concat_channels(model: ModelPatcher) -> int:
    """Input channels beyond the noisy latent: 0 for T2V, 20 for I2V (4 of mask, 16 of image)."""
    weight_channels = int(model.model.diffusion_model.patch_embedding.weight.shape[1])
    return weight_channels - int(model.get_model_object("latent_format").latent_channels)


@dataclass(frozen=True)
class WanText:
    """Wan T2V: masked replacement."""

    name: str = "Wan T2V"

    def recognises(self, model: ModelPatcher) -> bool:
        return type(model.model) is comfy.model_base.WAN21 and concat_channels(model) == 0

    def capabilities(self, model: ModelPatcher) -> Capabilities:
        return Capabilities(
            known_latent_frames=None,
            known_latent_frames_default=2,
            end_frame=True,
            end_known_latent_frames=1,
            context=tuple(CONTEXT_WEIGHTS),
            middle_frames=True,
            segment_latent_frames=WAN_LATENT_FRAMES,
        )

    def prepare(
        self,
        model: ModelPatcher,
        blanks: BlankClips,
        positive: Conditioning,
        negative: Conditioning,
        latent: torch.Tensor,
        known_latent_frames: int,
        end_known_latent_frames: int = 0,
    ) -> SegmentInputs:
        return keep_known(
            model, positive, negative, latent, known_latent_frames, end_known_latent_frames
        )


@dataclass(frozen=True)
class WanImage:
    """Wan I2V, FLF2V and Fun-InP: concat image and mask."""

    name: str = "Wan I2V"

    def recognises(self, model: ModelPatcher) -> bool:
        if type(model.model) is not comfy.model_base.WAN21:
            return False
        channels = int(model.get_model_object("latent_format").latent_channels)
        return concat_channels(model) == MASK_CHANNELS + channels

    def capabilities(self, model: ModelPatcher) -> Capabilities:
        return Capabilities(
            known_latent_frames=None,
            known_latent_frames_default=2,
            end_frame=True,
            middle_frames=True,
            segment_latent_frames=WAN_LATENT_FRAMES,
        )

    def prepare(
        self,
        model: ModelPatcher,
        blanks: BlankClips,
        positive: Conditioning,
        negative: Conditioning,
        latent: torch.Tensor,
        known_latent_frames: int,
        end_known_latent_frames: int = 0,
    ) -> SegmentInputs:
        mask = frame_mask(latent, known_latent_frames)
        image = blanks.behind_start(latent)
        image[:, :, :known_latent_frames] = latent[:, :, :known_latent_frames]
        shown = mask if not end_known_latent_frames else ending_mask(mask)
        values = {"concat_latent_image": image, "concat_mask": shown}
        return SegmentInputs(
            model=model,
            positive=with_values(positive, values),
            negative=with_values(negative, values),
            latent=latent,
            noise_mask=mask,
        )


@dataclass(frozen=True)
class WanTextImage:
    """Wan 2.2 TI2V-5B: per-frame timestep through the noise mask."""

    name: str = "Wan 2.2 TI2V"

    def recognises(self, model: ModelPatcher) -> bool:
        return type(model.model) is comfy.model_base.WAN22

    def capabilities(self, model: ModelPatcher) -> Capabilities:
        return Capabilities(
            known_latent_frames=None,
            known_latent_frames_default=2,
            end_frame=True,
            end_known_latent_frames=1,
            middle_frames=True,
            per_frame_timestep=True,
            segment_latent_frames=TI2V_LATENT_FRAMES,
        )

    def prepare(
        self,
        model: ModelPatcher,
        blanks: BlankClips,
        positive: Conditioning,
        negative: Conditioning,
        latent: torch.Tensor,
        known_latent_frames: int,
        end_known_latent_frames: int = 0,
    ) -> SegmentInputs:
        return keep_known(
            model, positive, negative, latent, known_latent_frames, end_known_latent_frames
        )


WAN_FAMILIES: tuple[Family, ...] = (WanText(), WanImage(), WanTextImage())
