"""Keyframes through core's sampler: one picture, or several that are made in one batch.

The numbers are those of core's KSampler: the same noise for a seed, the same noise levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.sample
import torch

from .family import Conditioning, SegmentInputs
from .image_family import ImageInputs
from .lora_switch import Dress
from .sampling import (
    SamplerSettings,
    StepCallback,
    checked_latent,
    sample_given,
    segment_noise,
)

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def sample_keyframes(
    inputs: ImageInputs,
    settings: SamplerSettings,
    shape: Sequence[int],
    seeds: Sequence[int],
    callback: StepCallback | None = None,
    dress: Dress | None = None,
) -> torch.Tensor:
    """Latents of as many pictures as there are `seeds`, stacked along the batch, on the CPU.

    `shape` is that of one picture's latent (1 c h w or 1 c t h w). Every picture has the noise of
    its own seed, so that one made alone equals core's KSampler to the bit; samplers that add noise
    take it from the first seed. `dress` puts LoRAs on the model. With a second expert in `settings`
    (Wan 2.2 14B) one picture is made. Interruption raises core's InterruptProcessingException
    within one step. Raises ValueError for a latent that is not finite.
    """
    if settings.low_noise_model is not None:
        return _sample_with_experts(inputs, settings, shape, seeds, callback, dress)
    comfy.model_management.throw_exception_if_processing_interrupted()
    model, positive, negative = inputs.model, inputs.positive, inputs.negative
    if dress is not None:
        model, positive, negative = dress(model, positive, negative)
    empty = torch.zeros(tuple(shape), dtype=torch.float32, device="cpu")
    noise = torch.cat([segment_noise(empty, seed) for seed in seeds])
    samples = comfy.sample.sample_custom(
        model,
        noise,
        settings.cfg,
        settings.sampler,
        settings.sigmas,
        positive,
        negative,
        torch.zeros_like(noise),
        callback=callback,
        disable_pbar=True,
        seed=seeds[0],
    )
    return checked_latent(samples, seeds[0])


def _sample_with_experts(
    inputs: ImageInputs,
    settings: SamplerSettings,
    shape: Sequence[int],
    seeds: Sequence[int],
    callback: StepCallback | None,
    dress: Dress | None,
) -> torch.Tensor:
    """A picture of two experts, as a segment of one latent frame that starts from its text."""
    (seed,) = seeds
    batch, channels, frames, height, width = shape

    def as_is(
        model: ModelPatcher, positive: Conditioning, negative: Conditioning, latent: torch.Tensor
    ) -> SegmentInputs:
        return SegmentInputs(
            model=model, positive=positive, negative=negative, latent=latent, noise_mask=None
        )

    return sample_given(
        as_is,
        inputs.model,
        inputs.positive,
        inputs.negative,
        settings,
        (batch, channels, frames, height, width),
        (),
        seed,
        callback,
        dress,
    )


def as_frames(latents: torch.Tensor) -> torch.Tensor:
    """Latents of pictures as the run folder keeps them, b c 1 h w."""
    return latents if latents.ndim == 5 else latents.unsqueeze(2)


def as_model_latents(frames: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A kept latent 1 c 1 h w with the axes of `shape`, as its VAE decodes it."""
    return frames if len(shape) == 5 else frames.squeeze(2)
