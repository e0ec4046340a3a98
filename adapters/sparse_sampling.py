"""The groups of a layout one after another through core's sampler, each reading finished frames.

MMPL's inference (arXiv 2508.03334; shared design `macro-micro-planning.md`, 2.4 and 4.1): a group
is denoised together, then run once more clean, which leaves its final keys and values. Frames that
are known are only run clean. The plan of a segment are its initial frames and anchors; its fill
begins with the same two clean passes and goes on from there, on any device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ..memory.frame_store import StoredGroup, visible_frames
from ..planning.layout import Group, Kind, Layout
from .cache import CachedTensor, LatentCache
from .family import Conditioning
from .fingerprint import fingerprint_model, fingerprint_value
from .sampling import SamplerSettings, StepCallback, segment_noise
from .sparse_wan import SparseFrames, check_sparse_model, sparse_model

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

ALL_KINDS: tuple[Kind, ...] = ("initial", "plan", "fill")


@dataclass(eq=False, kw_only=True)
class SparseSegment:
    """One segment while it is made. `latents` are finished frames b c 1 h w by id, in the VAE's
    space; `stored` what they left behind for the groups after them, `leaves` its tensors, which the
    cache itself keeps only while they are read."""

    model: ModelPatcher
    positive: Conditioning
    negative: Conditioning
    settings: SamplerSettings
    shape: tuple[int, int, int, int, int]
    seed: int
    cache: LatentCache
    latents: dict[int, Tensor] = field(default_factory=dict)
    stored: list[StoredGroup] = field(default_factory=list)
    leaves: list[CachedTensor] = field(default_factory=list)


def sample_groups(
    model: ModelPatcher,
    layout: Layout,
    known: Mapping[int, Tensor],
    positive: Conditioning,
    negative: Conditioning,
    settings: SamplerSettings,
    shape: tuple[int, int, int, int, int],
    seed: int,
    kinds: Collection[Kind] = ALL_KINDS,
    callback: StepCallback | None = None,
    until: int | None = None,
) -> dict[int, Tensor]:
    """Make the groups of these `kinds` of a segment of `shape` (b c t h w), with `until` only those
    that begin before that latent frame.

    `known` are finished latent frames b c 1 h w by id; a group must be known whole or not at all.
    Noise is that of the whole segment, drawn from `seed`. Gives all frames that are finished then,
    float32 on the CPU. `callback` counts the steps of all groups. Raises ValueError for models that
    cannot, a second expert, and known frames that do not fit the layout.
    """
    check_sparse_model(model)
    _check(layout, known, shape, settings)
    end = layout.latent_frames if until is None else until
    groups = [group for group in layout.groups if group.kind in kinds and group.ids[0] < end]
    made = SparseSegment(
        model=model,
        positive=positive,
        negative=negative,
        settings=settings,
        shape=shape,
        seed=seed,
        cache=LatentCache(load_device=model.load_device, offload_device=model.offload_device),
        latents={i: latent.float().cpu() for i, latent in known.items()},
    )
    to_make = [group for group in groups if not _is_known(group, known)]
    done, steps = 0, settings.steps * len(to_make)
    for number, group in enumerate(groups):
        comfy.model_management.throw_exception_if_processing_interrupted()
        if group in to_make:
            _denoise(made, group, _counted(callback, done, steps))
            done += settings.steps
        if any(set(group.ids) & set(later.visible) for later in groups[number + 1 :]):
            _leave_behind(made, group)
    return made.latents


def plan_noise(shape: Sequence[int], seed: int, ids: Sequence[int]) -> Tensor:
    """The noise of some latent frames of a segment: the rows of the whole segment's."""
    return segment_noise(torch.empty(tuple(shape)), seed)[:, :, list(ids)]


def _denoise(made: SparseSegment, group: Group, callback: StepCallback | None) -> None:
    noise = plan_noise(made.shape, made.seed, group.ids)
    frames = SparseFrames(
        ids=group.ids, visible=visible_frames(made.stored, group.visible), cache=made.cache
    )
    samples = _sample(made, frames, torch.zeros_like(noise), noise, callback)
    if not bool(torch.isfinite(samples).all()):
        raise ValueError(f"frames {group.ids} came out with NaN or infinite values")
    for place, i in enumerate(group.ids):
        made.latents[i] = samples[:, :, place : place + 1]


def _leave_behind(made: SparseSegment, group: Group) -> None:
    """Run finished frames once, clean, and keep their keys and values in the cache."""
    latent = torch.cat([made.latents[i] for i in group.ids], dim=2)
    visible = visible_frames(made.stored, group.visible)
    captured: dict[tuple[int, int], Tensor] = {}
    frames = SparseFrames(ids=group.ids, visible=visible, cache=made.cache, captured=captured)
    _sample(made, frames, latent, torch.zeros_like(latent), None, clean=True)
    name = fingerprint_value(
        [
            fingerprint_model(made.model),
            latent,
            list(group.ids),
            [[seen.group.name, list(seen.ids)] for seen in visible],
            made.positive,
            made.negative,
            made.settings.cfg,
        ]
    )
    stored = StoredGroup(ids=group.ids, name=name)
    for branch, block in sorted(captured):
        kept = captured.pop((branch, block))
        made.leaves.append(made.cache.add(stored.key(branch, block), kept))
    made.stored.append(stored)


def _sample(
    made: SparseSegment,
    frames: SparseFrames,
    latent: Tensor,
    noise: Tensor,
    callback: StepCallback | None,
    clean: bool = False,
) -> Tensor:
    settings = made.settings
    samples = comfy.sample.sample_custom(
        sparse_model(made.model, frames),
        noise,
        settings.cfg,
        comfy.samplers.KSAMPLER(_run_clean) if clean else settings.sampler,
        torch.zeros(2) if clean else settings.sigmas,
        made.positive,
        made.negative,
        latent,
        callback=callback,
        disable_pbar=True,
        seed=made.seed,
    )
    return samples.float().cpu()


def _run_clean(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], **_: Any
) -> Tensor:
    """A sampler of core's kind that calls the model once, at noise level 0, and changes nothing."""
    model(x, sigmas[:1].expand(len(x)), **extra_args)
    return x


def _counted(callback: StepCallback | None, done: int, steps: int) -> StepCallback | None:
    if callback is None:
        return None

    def counted(step: int, denoised: Tensor, noisy: Tensor, _: int) -> None:
        callback(done + step, denoised, noisy, steps)

    return counted


def _is_known(group: Group, known: Collection[int]) -> bool:
    return all(i in known for i in group.ids)


def _check(
    layout: Layout,
    known: Mapping[int, Tensor],
    shape: tuple[int, int, int, int, int],
    settings: SamplerSettings,
) -> None:
    if settings.low_noise_model is not None:
        raise ValueError("a sparse plan takes one model, got a low_noise_model as well")
    if shape[2] != layout.latent_frames:
        raise ValueError(
            f"layout {layout.name!r} has {layout.latent_frames} latent frames, got {shape[2]}"
        )
    one = (*shape[:2], 1, *shape[3:])
    for i, latent in known.items():
        if not 0 <= i < layout.latent_frames or tuple(latent.shape) != one:
            raise ValueError(
                f"known frame {i} of layout {layout.name!r} must be {one}, got "
                f"{tuple(latent.shape)}"
            )
    for group in layout.groups:
        given = [i for i in group.ids if i in known]
        if given and len(given) < len(group.ids):
            raise ValueError(
                f"group {group.ids} of layout {layout.name!r} must be known whole or not at all, "
                f"got {given}"
            )
