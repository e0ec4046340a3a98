"""LTXV: the tail stays clean by a per-token timestep from the noise mask.

`LTXV.process_timestep` turns the mask into a timestep per token, as core's LTXVImgToVideo uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_base
import torch

from .blank import BlankClips
from .family import Capabilities, Conditioning, SegmentInputs, keep_known

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

LTXV_LATENT_FRAMES = 13
"""Latent frames of core's default LTXV clip: 97 frames (`EmptyLTXVLatentVideo`)."""


@dataclass(frozen=True)
class LTXV:
    """LTX-Video without sound; the audio-video class has nested latents and is refused."""

    name: str = "LTXV"

    def recognises(self, model: ModelPatcher) -> bool:
        return isinstance(model.model, comfy.model_base.LTXV)

    def capabilities(self, model: ModelPatcher) -> Capabilities:
        return Capabilities(
            known_latent_frames=None,
            known_latent_frames_default=2,
            end_frame=True,
            end_known_latent_frames=1,
            middle_frames=True,
            per_frame_timestep=True,
            segment_latent_frames=LTXV_LATENT_FRAMES,
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
