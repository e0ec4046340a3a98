"""Wan VACE: the tail in the control video, known by a mask built at latent resolution.

Core's WanVaceToVideo shrinks a pixel mask from 81 frames to 21 by nearest-exact, which flags the
wrong latent frames for short tails; the mask is therefore built on latent frames directly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_base
import torch

from .blank import BlankClips
from .family import Capabilities, Conditioning, SegmentInputs, frame_mask
from .wan import WAN_LATENT_FRAMES

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

VACE_MASK_CHANNELS = 64
"""One mask channel for each of the 8 x 8 pixels of a latent cell (WanVaceToVideo of core)."""

VACE_STRENGTH = 1.0
"""Core's default strength of a control video."""


@dataclass(frozen=True)
class WanVace:
    """Wan VACE: control video (inactive, reactive) and mask, beside what the artist attached."""

    name: str = "Wan VACE"

    def recognises(self, model: ModelPatcher) -> bool:
        return isinstance(model.model, comfy.model_base.WAN21_Vace)

    def capabilities(self, model: ModelPatcher) -> Capabilities:
        return Capabilities(
            known_latent_frames=None,
            known_latent_frames_default=2,
            end_frame=True,
            end_known_latent_frames=1,
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
        reactive = blanks.grey(latent)
        inactive = blanks.behind_start(latent)
        mask = frame_mask(latent, known_latent_frames, end_known_latent_frames)
        inactive = torch.where(mask == 0.0, latent, inactive)
        frames = torch.cat((inactive, reactive), dim=1)
        return SegmentInputs(
            model=model,
            positive=add_control(positive, frames, mask),
            negative=add_control(negative, frames, mask),
            latent=latent,
            noise_mask=mask,
        )


def add_control(
    conditioning: Conditioning, frames: torch.Tensor, mask: torch.Tensor
) -> Conditioning:
    """Append a control video to those that are there, as core's node does.

    `frames` b 2c t h w are the latents of what is kept and of what is made anew, `mask` 1 1 t h w
    is 0 where the first holds.
    """
    channels = mask.expand(-1, VACE_MASK_CHANNELS, -1, -1, -1)
    return [
        [
            embedding,
            {
                **options,
                "vace_frames": [*options.get("vace_frames", []), frames],
                "vace_mask": [*options.get("vace_mask", []), channels],
                "vace_strength": [*options.get("vace_strength", []), VACE_STRENGTH],
            },
        ]
        for embedding, options in conditioning
    ]
