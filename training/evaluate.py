"""Measurements of the demo models on held-out seeds, through core's loaders and samplers.

PSNR is over uint8 frames. The continuation measure: a true prefix of two latent frames of a
held-out long take, its caption, four new latent frames (16 frames), against the true frames; the
baseline repeats the last known frame.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .world import HOLD_LATENT_FRAMES, Split, Take, frames_of_latents, long_take, random_take
from .world_rendering import Frames, render_take

HELD_OUT_SEEDS = range(32)
SEGMENT_LATENT_FRAMES = 6


@dataclass(frozen=True)
class SamplingSettings:
    """What a continuation is sampled with.

    `shift` None leaves the model's own (8). `keep_known` also holds the known frames by core's
    noise mask, as the pack's adapter does.
    """

    steps: int = 12
    cfg: float = 1.0
    sampler: str = "euler"
    scheduler: str = "simple"
    shift: float | None = None
    keep_known: bool = True


@dataclass(frozen=True)
class ContinuationResult:
    """PSNR in dB per held-out seed over the new frames of the first segment."""

    generated: tuple[float, ...]
    repeated: tuple[float, ...]
    ceiling: tuple[float, ...]  # the true frames through the VAE

    @property
    def gain(self) -> float:
        """Mean of generated minus mean of repeated."""
        return float(np.mean(self.generated) - np.mean(self.repeated))


def psnr(a: Frames, b: Frames) -> float:
    """Peak signal-to-noise ratio of two uint8 arrays in dB; equal arrays give infinity."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def frames_to_image(frames: Frames) -> Tensor:
    """uint8 `t h w c` -> ComfyUI IMAGE, float `t h w c` in 0..1."""
    return torch.from_numpy(frames).float() / 255.0


def image_to_frames(image: Tensor) -> Frames:
    """ComfyUI IMAGE `t h w c` or `1 t h w c` -> uint8 `t h w c`."""
    image = image.reshape(-1, *image.shape[-3:])
    return (image.clamp(0, 1) * 255).round().byte().cpu().numpy()


def vae_psnr(vae: Any, seeds: Iterable[int], latent_frames: int = 9) -> list[float]:
    """PSNR of one round trip of held-out clips with a moving camera."""
    values = []
    for seed in seeds:
        frames = render_take(random_take(seed, latent_frames, Split.HELD_OUT))
        values.append(
            psnr(frames, image_to_frames(vae.decode(vae.encode(frames_to_image(frames)))))
        )
    return values


def prefix_conditioning(conditioning: list, prefix: Tensor, grey: Tensor) -> list:
    """Add a clean prefix to CONDITIONING by core's keys.

    `prefix` `1 16 k h w` and `grey` `1 16 t h w` are of raw scale.
    """
    image = grey.clone()
    image[:, :, : prefix.shape[2]] = prefix
    mask = torch.ones(1, 1, *grey.shape[2:])  # core inverts it: 0 is known
    mask[:, :, : prefix.shape[2]] = 0.0
    keys = {"concat_latent_image": image, "concat_mask": mask}
    return [[tensor, {**options, **keys}] for tensor, options in conditioning]


def shifted(model: Any, shift: float | None) -> Any:
    """The model with another noise shift, as core's node ModelSamplingSD3 does it."""
    if shift is None:
        return model
    import comfy.model_sampling

    class Sampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        """Flow matching with the given shift."""

    clone = model.clone()
    sampling = Sampling(model.model.model_config)
    sampling.set_parameters(shift=shift, multiplier=1000)
    clone.add_object_patch("model_sampling", sampling)
    return clone


def sample_continuation(
    model: Any,
    clip: Any,
    caption: str,
    prefix: Tensor | None,
    grey: Tensor,
    seed: int,
    settings: SamplingSettings,
) -> Tensor:
    """Latents `1 16 t h w`, raw scale, of a window whose first latent frames are `prefix`."""
    import comfy.sample

    positive, negative = (
        clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (caption, "")
    )
    if prefix is not None:
        positive = prefix_conditioning(positive, prefix, grey)
        negative = prefix_conditioning(negative, prefix, grey)
    start, noise_mask = torch.zeros_like(grey), None
    if prefix is not None and settings.keep_known:
        start[:, :, : prefix.shape[2]] = prefix
        noise_mask = torch.ones(1, 1, *grey.shape[2:])
        noise_mask[:, :, : prefix.shape[2]] = 0.0
    noise = torch.randn(grey.shape, generator=torch.Generator().manual_seed(seed))
    samples = comfy.sample.sample(
        shifted(model, settings.shift),
        noise,
        settings.steps,
        settings.cfg,
        settings.sampler,
        settings.scheduler,
        positive,
        negative,
        start,
        noise_mask=noise_mask,
        disable_pbar=True,
        seed=seed,
    )
    return samples


def grey_clip(vae: Any, latent_frames: int, size: int = 64) -> Tensor:
    """Raw latents `1 16 t h w` of a grey clip, what core fills unknown frames with."""
    return vae.encode(torch.full((frames_of_latents(latent_frames), size, size, 3), 0.5))


def continue_take(
    model: Any,
    clip: Any,
    vae: Any,
    take: Take,
    seed: int,
    settings: SamplingSettings,
    grey: Tensor | None = None,
) -> tuple[Frames, Frames, Frames]:
    """Generated, true and VAE round-trip frames of the first segment of a take, prefix included.

    `grey` is the grey clip's latent when it has been encoded before.
    """
    length = take.segments[0].latent_frames
    grey = grey_clip(vae, length) if grey is None else grey
    truth = render_take(take, 0, frames_of_latents(length))
    encoded = vae.encode(frames_to_image(truth))
    prefix = encoded[:, :, :HOLD_LATENT_FRAMES]
    caption = take.captions[0]
    latents = sample_continuation(model, clip, caption, prefix, grey, seed, settings)
    latents[:, :, :HOLD_LATENT_FRAMES] = prefix
    return image_to_frames(vae.decode(latents)), truth, image_to_frames(vae.decode(encoded))


def roll_out(
    model: Any, clip: Any, vae: Any, take: Take, seed: int, settings: SamplingSettings
) -> Frames:
    """All segments of a long take from its true first two latent frames, each from the tail before.

    Tails are handed over as latents. Compare with `render_take(take)`.
    """
    truth = render_take(take, 0, frames_of_latents(HOLD_LATENT_FRAMES))
    latents = vae.encode(frames_to_image(truth))
    for index, segment in enumerate(take.segments):
        tail = latents[:, :, -HOLD_LATENT_FRAMES:]
        grey = grey_clip(vae, segment.latent_frames)
        made = sample_continuation(model, clip, segment.caption, tail, grey, seed + index, settings)
        latents = torch.cat([latents, made[:, :, HOLD_LATENT_FRAMES:]], dim=2)
    return image_to_frames(vae.decode(latents))


def measure_continuation(
    models: tuple[Any, Any, Any],
    seeds: Iterable[int] = HELD_OUT_SEEDS,
    settings: SamplingSettings | None = None,
) -> ContinuationResult:
    """First-segment PSNR of generated continuations and of repeating the last known frame."""
    settings = settings or SamplingSettings()
    rows = []
    known = frames_of_latents(HOLD_LATENT_FRAMES)
    grey = grey_clip(models[2], SEGMENT_LATENT_FRAMES)
    for seed in seeds:
        take = long_take(seed, 1, SEGMENT_LATENT_FRAMES)
        generated, truth, ceiling = continue_take(*models, take, seed, settings, grey)
        new = truth[known:]
        repeated = np.repeat(truth[known - 1 : known], len(new), axis=0)
        rows.append((psnr(generated[known:], new), psnr(repeated, new), psnr(ceiling[known:], new)))
    return ContinuationResult(*(tuple(column) for column in zip(*rows, strict=True)))
