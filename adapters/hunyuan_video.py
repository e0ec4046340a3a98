"""HunyuanVideo 1.0 (text or token replace, concat, SkyReels) and 1.5 (concat image and mask).

What core takes as a start (`comfy_extras/nodes_hunyuan.py`):
- 1.0 with 16 input channels, "v2 (replace)": the first latent frame clean, at timestep 0
  (`guiding_frame_index`), the rest of the latent free: one known latent frame.
- 1.0 with 33 channels, "v1 (concat)": image latents and inverted mask as channels.
- SkyReels with 32 channels: image latents as channels.
- 1.5: `concat_latent_image` and `concat_mask`, any number of frames.
The known frames are kept by the noise mask as well in every one of them.
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

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

HUNYUAN_LATENT_FRAMES = 33
"""Latent frames of one HunyuanVideo clip: 129 frames (HunyuanVideo report, section 4.5)."""

HUNYUAN_15_LATENT_FRAMES = 31
"""Latent frames of one HunyuanVideo 1.5 clip: 121 frames at 24 fps (1.5 release)."""


def _concat(
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning,
    latent: torch.Tensor,
    known_latent_frames: int,
) -> SegmentInputs:
    """Known latent frames as channels (zeros behind them, as core pads) and kept by the mask."""
    mask = frame_mask(latent, known_latent_frames)
    image = torch.zeros_like(latent)
    image[:, :, :known_latent_frames] = latent[:, :, :known_latent_frames]
    values = {"concat_latent_image": image, "concat_mask": mask}
    return SegmentInputs(
        model=model,
        positive=with_values(positive, values),
        negative=with_values(negative, values),
        latent=latent,
        noise_mask=mask,
    )


@dataclass(frozen=True)
class HunyuanVideoReplace:
    """HunyuanVideo 1.0 with 16 channels: one clean first latent frame at timestep 0."""

    name: str = "HunyuanVideo 1.0"

    def recognises(self, model: ModelPatcher) -> bool:
        return type(model.model) is comfy.model_base.HunyuanVideo

    def capabilities(self, model: ModelPatcher) -> Capabilities:
        return Capabilities(
            known_latent_frames=1,
            known_latent_frames_default=1,
            segment_latent_frames=HUNYUAN_LATENT_FRAMES,
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
        values = {"guiding_frame_index": 0}
        return keep_known(
            model,
            with_values(positive, values),
            with_values(negative, values),
            latent,
            known_latent_frames,
        )


@dataclass(frozen=True)
class HunyuanVideoConcat:
    """HunyuanVideo 1.0 I2V (concat), SkyReels I2V and HunyuanVideo 1.5."""

    name: str
    model_class: type[comfy.model_base.BaseModel]
    segment_latent_frames: int
    known_latent_frames: int | None

    def recognises(self, model: ModelPatcher) -> bool:
        return type(model.model) is self.model_class

    def capabilities(self, model: ModelPatcher) -> Capabilities:
        return Capabilities(
            known_latent_frames=self.known_latent_frames,
            known_latent_frames_default=self.known_latent_frames or 2,
            segment_latent_frames=self.segment_latent_frames,
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
        return _concat(model, positive, negative, latent, known_latent_frames)


HUNYUAN_VIDEO_FAMILIES: tuple[Family, ...] = (
    HunyuanVideoReplace(),
    HunyuanVideoConcat(
        name="HunyuanVideo 1.0 I2V",
        model_class=comfy.model_base.HunyuanVideoI2V,
        segment_latent_frames=HUNYUAN_LATENT_FRAMES,
        known_latent_frames=None,
    ),
    HunyuanVideoConcat(
        name="SkyReels I2V",
        model_class=comfy.model_base.HunyuanVideoSkyreelsI2V,
        segment_latent_frames=HUNYUAN_LATENT_FRAMES,
        known_latent_frames=1,
    ),
    HunyuanVideoConcat(
        name="HunyuanVideo 1.5",
        model_class=comfy.model_base.HunyuanVideo15,
        segment_latent_frames=HUNYUAN_15_LATENT_FRAMES,
        known_latent_frames=None,
    ),
)
