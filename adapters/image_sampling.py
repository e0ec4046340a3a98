"""Keyframes through core's sampler: one picture, or several that are made in one batch.

The numbers are those of core's KSampler: the same noise for a seed, the same noise levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management
import comfy.sample
import torch

from .image_family import ImageInputs
from .sampling import SamplerSettings, StepCallback, checked_latent, segment_noise


def sample_keyframes(
    inputs: ImageInputs,
    settings: SamplerSettings,
    shape: Sequence[int],
    seeds: Sequence[int],
    callback: StepCallback | None = None,
) -> torch.Tensor:
    """Latents of as many pictures as there are `seeds`, stacked along the batch, on the CPU.

    `shape` is that of one picture's latent (1 c h w or 1 c t h w). Every picture has the noise of
    its own seed, so that one made alone equals core's KSampler to the bit; samplers that add noise
    take it from the first seed. Interruption raises core's InterruptProcessingException within one
    step. Raises ValueError for a latent that is not finite.
    """
    comfy.model_management.throw_exception_if_processing_interrupted()
    empty = torch.zeros(tuple(shape), dtype=torch.float32, device="cpu")
    noise = torch.cat([segment_noise(empty, seed) for seed in seeds])
    samples = comfy.sample.sample_custom(
        inputs.model,
        noise,
        settings.cfg,
        settings.sampler,
        settings.sigmas,
        inputs.positive,
        inputs.negative,
        torch.zeros_like(noise),
        callback=callback,
        disable_pbar=True,
        seed=seeds[0],
    )
    return checked_latent(samples, seeds[0])


def as_frames(latents: torch.Tensor) -> torch.Tensor:
    """Latents of pictures as the run folder keeps them, b c 1 h w."""
    return latents if latents.ndim == 5 else latents.unsqueeze(2)


def as_model_latents(frames: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A kept latent 1 c 1 h w with the axes of `shape`, as its VAE decodes it."""
    return frames if len(shape) == 5 else frames.squeeze(2)
