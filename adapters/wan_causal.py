"""Causal Wan 2.1 (Self-Forcing, Causal-Forcing): the tail is a clean prefix of the K/V cache.

Core's `ar_video` sampler seeds its cache with `ar_config.initial_latent`; ARVideoI2V puts one
latent frame there, and the sampler takes any number (`comfy/k_diffusion/sampling.py`,
sample_ar_video).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_base
import torch

from .blank import BlankClips
from .family import Capabilities, Conditioning, SegmentInputs
from .wan import WAN_LATENT_FRAMES

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


@dataclass(frozen=True)
class WanCausal:
    """Causal Wan: any prefix, sampled by core's `ar_video`."""

    name: str = "causal Wan"

    def recognises(self, model: ModelPatcher) -> bool:
        return isinstance(model.model, comfy.model_base.WAN21_CausalAR)

    def capabilities(self, model: ModelPatcher) -> Capabilities:
        return Capabilities(
            known_latent_frames=None,
            known_latent_frames_default=3,
            own_sampler="ar_video",
            guidance=False,
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
        prefixed = model.clone()
        options = prefixed.model_options.get("transformer_options", {})
        settings = {
            **options.get("ar_config", {}),
            "initial_latent": latent[:, :, :known_latent_frames],
        }
        prefixed.model_options["transformer_options"] = {**options, "ar_config": settings}
        return SegmentInputs(
            model=prefixed,
            positive=positive,
            negative=negative,
            latent=torch.zeros_like(latent),
            noise_mask=None,
        )
