"""One segment through core's sampler: known frames in, latent out, numbers equal to KSampler's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from .blank import BlankClips
from .family import Conditioning, Family, SegmentInputs

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

StepCallback = Callable[[int, torch.Tensor, torch.Tensor, int], None]
"""Called after each step with (step, denoised, noisy, total steps), as core's previewers expect."""


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """What a sampler is set to. `sigmas` run from the first noise level down."""

    sampler: comfy.samplers.KSAMPLER
    sigmas: torch.Tensor
    cfg: float

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1


def schedule_sigmas(
    model: ModelPatcher, sampler_name: str, scheduler: str, steps: int
) -> torch.Tensor:
    """The noise levels that core's KSampler uses, float32 [steps + 1] on the CPU."""
    kept = comfy.samplers.KSampler(
        model,
        steps=steps,
        device=model.load_device,
        sampler=sampler_name,
        scheduler=scheduler,
        denoise=1.0,
        model_options=model.model_options,
    )
    return kept.sigmas.float().cpu()


def check_sigmas(sigmas: torch.Tensor) -> torch.Tensor:
    """Refuse noise levels that no sampler can follow."""
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(f"sigmas need 2 values or more, got {tuple(sigmas.shape)}")
    if not bool(torch.isfinite(sigmas).all()):
        raise ValueError(f"sigmas must be finite, got {sigmas.tolist()}")
    if bool((sigmas[1:] > sigmas[:-1]).any()):
        raise ValueError(f"sigmas must fall, got {sigmas.tolist()}")
    return sigmas.float().cpu()


def segment_noise(latent: torch.Tensor, seed: int) -> torch.Tensor:
    """Gaussian noise with the shape of `latent`, equal to what core's KSampler draws for a seed."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    noise = torch.randn(latent.shape, generator=generator, dtype=torch.float32, device="cpu")
    return noise.to(latent.dtype)


def sample_segment(
    family: Family,
    model: ModelPatcher,
    blanks: BlankClips,
    positive: Conditioning,
    negative: Conditioning,
    settings: SamplerSettings,
    shape: tuple[int, int, int, int, int],
    known: torch.Tensor | None,
    seed: int,
    callback: StepCallback | None = None,
) -> torch.Tensor:
    """Sample one segment of `shape` (b c t h w) that starts with the latent frames `known`.

    `known` (b c k h w) is in the VAE's latent space. Returns the whole segment on the CPU, in
    float32, the known frames included. Interruption raises core's InterruptProcessingException
    within one step.
    """
    comfy.model_management.throw_exception_if_processing_interrupted()
    latent = torch.zeros(shape, dtype=torch.float32, device="cpu")
    inputs = SegmentInputs(
        model=model, positive=positive, negative=negative, latent=latent, noise_mask=None
    )
    if known is not None:
        latent[:, :, : known.shape[2]] = known
        inputs = family.prepare(model, blanks, positive, negative, latent, known.shape[2])
    samples = comfy.sample.sample_custom(
        inputs.model,
        segment_noise(inputs.latent, seed),
        settings.cfg,
        settings.sampler,
        settings.sigmas,
        inputs.positive,
        inputs.negative,
        inputs.latent,
        noise_mask=inputs.noise_mask,
        callback=callback,
        disable_pbar=True,
        seed=seed,
    )
    return _checked(samples, seed)


def _checked(samples: torch.Tensor, seed: int) -> torch.Tensor:
    """The sampled latent on the CPU; a NaN is refused before it reaches disk."""
    latent = samples.detach().to(device="cpu", dtype=torch.float32)
    if not bool(torch.isfinite(latent).all()):
        raise ValueError(
            f"sampling must give finite latents, got NaN or infinity at seed {seed}: "
            "try another sampler, a lower cfg or a wider type for the weights"
        )
    return latent
