"""One segment through core's sampler: known frames in, latent out, numbers equal to KSampler's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from .blank import BlankClips
from .family import Conditioning, Family, SegmentInputs
from .guide import Guide, guided_settings, prepare_control
from .lora_switch import Dress, Dressed

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

StepCallback = Callable[[int, torch.Tensor, torch.Tensor, int], None]
"""Called after each step with (step, denoised, noisy, total steps), as core's previewers expect."""

Given = tuple[slice, torch.Tensor]
"""Places among the latent frames, and what is known there: b c k h w in the VAE's space."""

Prepare = Callable[["ModelPatcher", Conditioning, Conditioning, torch.Tensor], SegmentInputs]
"""From (model, positive, negative, latent b c t h w) to what the sampler is called with."""


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """What a sampler is set to. `sigmas` run from the first noise level down.

    `low_noise_model` is the second expert of Wan 2.2 14B; it takes the steps whose noise level is
    below `switch_sigma` (0..1).
    """

    sampler: comfy.samplers.KSAMPLER
    sigmas: torch.Tensor
    cfg: float
    low_noise_model: ModelPatcher | None = None
    switch_sigma: float = 0.0

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
    if bool((sigmas < 0).any()):
        raise ValueError(f"sigmas must be 0 or more, got {sigmas.tolist()}")
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
    dress: Dress | None = None,
    end: torch.Tensor | None = None,
    guide: Guide | None = None,
) -> torch.Tensor:
    """Sample one segment of `shape` (b c t h w) that starts with the latent frames `known`.

    `known` (b c k h w) is in the VAE's latent space. Returns the whole segment on the CPU, in
    float32; its first frames are `known` to the bit (a mask keeps them while sampling, but the
    latent format's scaling rounds, and samplers such as uni_pc end beside it). The last ones are
    `end` (b c k h w), to the bit as well where the family keeps an end
    (`Capabilities.end_known_latent_frames`). Interruption raises core's
    InterruptProcessingException within one step. `dress` puts LoRAs on each expert
    (adapters/lora_switch.py). It follows `guide`, where there is one (adapters/guide.py).
    """
    num_known = 0 if known is None else known.shape[2]
    num_end = 0 if end is None else end.shape[2]
    given: list[Given] = [] if known is None else [(slice(num_known), known)]
    if end is not None and family.capabilities(model).end_known_latent_frames:
        given.append((slice(shape[2] - num_end, None), end))

    def prepare(
        dressed: ModelPatcher, wanted: Conditioning, unwanted: Conditioning, latent: torch.Tensor
    ) -> SegmentInputs:
        inputs = SegmentInputs(
            model=dressed, positive=wanted, negative=unwanted, latent=latent, noise_mask=None
        )
        if num_known or num_end:
            inputs = family.prepare(dressed, blanks, wanted, unwanted, latent, num_known, num_end)
        if guide is not None and guide.as_control:
            return prepare_control(blanks, inputs, wanted, unwanted, guide, num_known, num_end)
        return inputs

    begin = None
    if guide is not None:
        settings = guided_settings(settings, guide)
        begin = None if guide.as_control else guide.latent
    return sample_given(
        prepare, model, positive, negative, settings, shape, given, seed, callback, dress, begin
    )


def sample_given(
    prepare: Prepare,
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning,
    settings: SamplerSettings,
    shape: tuple[int, int, int, int, int],
    given: Sequence[Given],
    seed: int,
    callback: StepCallback | None = None,
    dress: Dress | None = None,
    begin: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sample a latent of `shape` (b c t h w) in which the `given` frames stand, wherever that is.

    They come out to the bit. `prepare` says how they enter the model; what is not given begins as
    the noised latent `begin`, or as noise. The rest is as in `sample_segment`.
    """
    comfy.model_management.throw_exception_if_processing_interrupted()
    latent = torch.zeros(shape, dtype=torch.float32, device="cpu")
    if begin is not None:
        latent.copy_(begin)
    _keep(latent, given)
    noise = segment_noise(latent, seed)
    samples, done = latent, 0
    for expert, sigmas in expert_phases(model, settings):
        if done:
            samples = _resume(expert, samples, noise, float(sigmas[0]))
            _keep(samples, given)
        dressed, wanted, unwanted = (dress or _plain)(expert, positive, negative)
        inputs = prepare(dressed, wanted, unwanted, samples)
        samples = comfy.sample.sample_custom(
            inputs.model,
            noise,
            settings.cfg,
            settings.sampler,
            sigmas,
            inputs.positive,
            inputs.negative,
            inputs.latent,
            noise_mask=inputs.noise_mask,
            callback=_offset(callback, done, settings.steps),
            disable_pbar=True,
            seed=seed,
        )
        samples = checked_latent(samples, seed)
        done += len(sigmas) - 1
    _keep(samples, given)
    return samples


def _keep(latent: torch.Tensor, given: Sequence[Given]) -> None:
    """Put known latent frames into their places of a latent b c t h w, in place."""
    for place, frames in given:
        latent[:, :, place] = frames


def _plain(model: ModelPatcher, positive: Conditioning, negative: Conditioning) -> Dressed:
    """A segment without LoRAs."""
    return model, positive, negative


def expert_phases(
    model: ModelPatcher, settings: SamplerSettings
) -> list[tuple[ModelPatcher, torch.Tensor]]:
    """Which model takes which noise levels: one phase, or the high-noise expert's then the other's.

    A step belongs to the high-noise expert when it starts at `switch_sigma` or above, as in Wan
    2.2's own sampling loop (boundary 0.875 for T2V, 0.900 for I2V).
    """
    if settings.low_noise_model is None:
        return [(model, settings.sigmas)]
    switch = int((settings.sigmas[:-1] >= settings.switch_sigma).sum())
    phases = [
        (model, settings.sigmas[: switch + 1]),
        (settings.low_noise_model, settings.sigmas[switch:]),
    ]
    return [(expert, sigmas) for expert, sigmas in phases if len(sigmas) > 1]


def _resume(
    model: ModelPatcher, samples: torch.Tensor, noise: torch.Tensor, sigma: float
) -> torch.Tensor:
    """The latent from which core's noise scaling arrives at a half-finished sample again.

    A flow model's x = (1 - sigma) latent + sigma noise, and core gives back x / (1 - sigma) in the
    latent's space; so the same noise can be handed over again, which the noise mask needs to
    re-noise the known frames.
    """
    inner = model.model
    scaled = inner.process_latent_in(samples) - sigma / (1.0 - sigma) * noise
    return inner.process_latent_out(scaled)


def _offset(callback: StepCallback | None, done: int, total: int) -> StepCallback | None:
    """The callback of one phase of several: its steps follow the `done` ones of `total`."""
    if callback is None:
        return None

    def shifted(step: int, denoised: torch.Tensor, noisy: torch.Tensor, steps: int) -> None:
        callback(step + done, denoised, noisy, total)

    return shifted


def checked_latent(samples: torch.Tensor, seed: int) -> torch.Tensor:
    """The sampled latent on the CPU; a NaN is refused before it reaches disk."""
    latent = samples.detach().to(device="cpu", dtype=torch.float32)
    if not bool(torch.isfinite(latent).all()):
        raise ValueError(
            f"sampling must give finite latents, got NaN or infinity at seed {seed}: "
            "try another sampler, a lower cfg or a wider type for the weights"
        )
    return latent
