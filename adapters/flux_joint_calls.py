"""What happens while keyframes are made jointly: core's wrappers around sampler and network."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from torch import Tensor

from ..planning.joint import JointMode, JointPlan, PairTokens
from .cache import CachedTensor, LatentCache, cached_weight
from .family import Conditioning
from .fingerprint import fingerprint_model, fingerprint_value
from .flux_joint_attention import JointAttention, ReadContext
from .memory_calls import memory_as_noise_shape

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

JOINT = "throughline_joint"
"""Key of the settings in `transformer_options`, and of our wrappers."""

RUN = "throughline_joint_run"
"""Key of what all steps of one sampling share, in core's options of that run."""

TEXT_TOKENS = "throughline_text_tokens"
"""Key of the lengths of joined prompts among a conditioning's `model_conds`."""

GUIDANCE = 3.5
"""What core takes where a conditioning says none (`comfy.model_base.Flux.extra_conds`)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ContextKeyframe:
    """A keyframe that exists.

    `latent` [1, c, h, w] in the VAE's space at the size that it is read at. `conditioning` is its
    own caption (one entry), None for the picture alone: no text tokens, and zeros for the pooled
    text.
    """

    latent: Tensor
    conditioning: Conditioning | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Joint:
    """The joint mode on a model; fields as the arguments of `joint_keyframes`.

    `base` is core's model, `content` names the context in plain strings, which `fingerprint_model`
    reads whole.
    """

    base: Any
    mode: JointMode
    context: tuple[ContextKeyframe, ...]
    context_noise: float
    context_seed: int
    stretched: bool
    time_step: float
    content: tuple[str, ...]
    cache: LatentCache


@dataclass(frozen=True, eq=False, kw_only=True)
class JointRun:
    """One sampling: how many pictures it makes, and the kept keys and values of the context by
    single block, None where each call makes them anew."""

    pairs: int
    kept: dict[int, CachedTensor] | None


def context_pairs(joint: Joint, patch: int) -> tuple[PairTokens, ...]:
    """Tokens of each context keyframe, `patch` latent cells along a token's side."""
    return tuple(
        PairTokens(
            text=0 if one.conditioning is None else one.conditioning[0][0].shape[1],
            image=(one.latent.shape[2] // patch) * (one.latent.shape[3] // patch),
        )
        for one in joint.context
    )


def context_tokens(joint: Joint, patch: int) -> int:
    return sum(pair.tokens for pair in context_pairs(joint, patch))


def prepare_jointly(
    executor: Any, model: ModelPatcher, noise_shape: Any, conds: Any, **kwargs: Any
) -> Any:
    """Core's wrapper around prepare_sampling: runs the context through the model, once, and lets
    core count its tokens.

    Core made these options for this run. Hooks may change weights between passes and steps, so a
    model that has some computes its context in every call.
    """
    options = kwargs["model_options"]["transformer_options"]
    joint: Joint = options[JOINT]
    kept = None
    if joint.context and not model.hook_patches:
        kept = _keep_context(model, joint, noise_shape, options)
    options[RUN] = JointRun(pairs=noise_shape[0], kept=kept)
    patch = model.model.diffusion_model.patch_size
    shared = math.ceil(context_tokens(joint, patch) / noise_shape[0])
    shape = memory_as_noise_shape(noise_shape, shared, (1, patch, patch))
    return executor(model, shape, conds, **kwargs)


def _keep_context(
    model: ModelPatcher, joint: Joint, noise_shape: Any, options: dict[str, Any]
) -> dict[int, CachedTensor]:
    """The context's keys and values by single block, in the cache; made unless they are there."""
    network = model.model.diffusion_model
    blocks = range(len(network.single_blocks))
    grid = tuple(noise_shape[-2:])
    content = fingerprint_value([fingerprint_model(model), list(grid)])
    keys = [f"{content}-{block}" for block in blocks]
    if not all(key in joint.cache for key in keys):
        device, dtype = model.load_device, model.model.get_dtype_inference()
        largest = max((one.latent for one in joint.context), key=Tensor.numel)
        needed = model.model.memory_required(list(largest.shape))
        needed += kept_bytes(model, context_tokens(joint, network.patch_size))
        comfy.model_management.load_models_gpu([model], memory_required=needed)
        made = run_context(network, joint, grid, device, dtype, options)
        for key, block in zip(keys, blocks, strict=True):
            joint.cache.add(key, made.pop(block))
    joint.cache.view(keys)
    found = {block: joint.cache.get(key) for block, key in zip(blocks, keys, strict=True)}
    return {block: leaf for block, leaf in found.items() if leaf is not None}


def kept_bytes(model: ModelPatcher, tokens: int) -> int:
    """What keeping so many tokens of context takes: a key and a value as wide as the model, per
    single block (Flux.1-dev in bfloat16: 38 x 2 x 3072 x 2 bytes = 0.47 MB per token)."""
    network, dtype = model.model.diffusion_model, model.model.get_dtype_inference()
    return tokens * len(network.single_blocks) * 2 * network.hidden_size * dtype.itemsize


@torch.no_grad()
def run_context(
    network: Any,
    joint: Joint,
    grid: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
    transformer_options: dict[str, Any],
) -> dict[int, Tensor]:
    """Keys and values [2, h, m, d] of the whole context by single block, oldest keyframe first.

    `network` is on the device, `grid` the height and width of the latent that is being made.
    Wrappers of other packs (step caches among them) are left out; patches and overrides are not.
    """
    before: dict[int, list[Tensor]] = {}
    pairs = context_pairs(joint, network.patch_size)
    for number, pair in enumerate(pairs):
        captured: dict[int, Tensor] = {}
        plan = JointPlan(mode="causal", pairs=(pair,), context=pairs[:number])
        call = _arguments(network, joint, number, device, dtype)
        read = partial(_read_list, before) if before else None
        attention = JointAttention(plan, 1, call["context"].shape[1], read, captured)
        placed = _placed(joint, number, grid, transformer_options)
        sigmas = torch.tensor([joint.context_noise, 0.0], device=device)
        place = {"sigmas": sigmas[:1], "sample_sigmas": sigmas, "cond_or_uncond": [0]}
        options = attention.options({**placed, **place, "wrappers": {}})
        network(**call, transformer_options=options)
        _check_captured(captured, len(network.single_blocks))
        for block, made in captured.items():
            before.setdefault(block, []).append(made)
    return {block: torch.cat(before[block], dim=-2) for block in sorted(before)}


def _check_captured(captured: dict[int, Tensor], blocks: int) -> None:
    missing = [block for block in range(blocks) if block not in captured]
    if missing:
        raise ValueError(
            f"context enters through ComfyUI's attention, and single block {missing[0]} did not "
            "use it: another node replaced its attention; remove that node or the context"
        )


def _read_list(before: dict[int, list[Tensor]], block: int, like: Tensor) -> Any:
    return nullcontext(torch.cat(before[block], dim=-2))


def _read_kept(
    kept: dict[int, CachedTensor], block: int, like: Tensor
) -> AbstractContextManager[Tensor]:
    return cached_weight(kept[block], like.device, like.dtype)


def _read_made(made: dict[int, Tensor], block: int, like: Tensor) -> AbstractContextManager[Tensor]:
    return nullcontext(made[block])


def _arguments(
    network: Any,
    joint: Joint,
    number: int,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """What the network is called with for one context keyframe, as core would for its latent."""
    keyframe = joint.context[number]
    latent = joint.base.process_latent_in(keyframe.latent.float().cpu())
    generator = torch.Generator(device="cpu").manual_seed(joint.context_seed + number)
    noise = torch.randn(latent.shape, generator=generator)
    noisy = (1.0 - joint.context_noise) * latent + joint.context_noise * noise
    text, options = torch.zeros(1, 1, network.params.context_in_dim), {}  # padding, never read
    if keyframe.conditioning is not None:
        text, options = keyframe.conditioning[0]
    pooled = options.get("pooled_output")
    guidance = options.get("guidance", GUIDANCE)
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    sigma = torch.tensor([joint.context_noise], device=device)
    return {
        "x": noisy.to(**place),
        "timestep": joint.base.model_sampling.timestep(sigma).float(),
        "context": text.to(**place),
        "y": None if pooled is None else pooled.to(**place),
        "guidance": None if guidance is None else torch.tensor([guidance]).to(**place),
    }


def _placed(
    joint: Joint,
    number: int,
    grid: tuple[int, ...],
    transformer_options: dict[str, Any],
) -> dict[str, Any]:
    """Options in which one context keyframe stands at its place.

    Stretched: token j of s stands at (j + 0.5) S / s - 0.5 on the S tokens of the picture being
    made (shared design, 2.5). Core's own `rope_options` can say that, and whatever another node
    has set there applies on top.
    """
    given = transformer_options.get("rope_options") or {}
    rope = {**given, "shift_t": given.get("shift_t", 0.0) + joint.time_step * _age(joint, number)}
    latent = joint.context[number].latent
    for name, whole, side in zip("yx", grid, latent.shape[2:], strict=True):
        scale = whole / side if joint.stretched else 1.0
        outer = given.get(f"scale_{name}", 1.0)
        rope[f"scale_{name}"] = outer * scale
        rope[f"shift_{name}"] = given.get(f"shift_{name}", 0.0) + outer * (scale - 1.0) / 2.0
    return {**transformer_options, "rope_options": rope}


def _age(joint: Joint, number: int) -> int:
    """Place of a context keyframe before the first picture being made, which is 0."""
    return number - len(joint.context)


def call_jointly(
    executor: Any,
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    y: Tensor | None = None,
    guidance: Tensor | None = None,
    ref_latents: Any = None,
    control: Any = None,
    transformer_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """Core's wrapper around Flux.forward: gives the call its joint attention.

    Core puts cfg passes behind one another in a batch, or calls them one by one; the pictures of
    each pass are neighbours in both (`comfy.samplers._calc_cond_batch`).
    """
    options = transformer_options or {}
    joint: Joint = options[JOINT]
    lengths = kwargs.pop(TEXT_TOKENS, None) or (context.shape[1],)
    groups = len(options.get("cond_or_uncond") or (0,))
    pairs = _pairs(len(x), groups, options.get(RUN))
    image = math.prod(math.ceil(side / executor.class_obj.patch_size) for side in x.shape[2:])
    plan = JointPlan(
        mode=joint.mode,
        pairs=tuple(PairTokens(text=lengths[i % len(lengths)], image=image) for i in range(pairs)),
        context=context_pairs(joint, executor.class_obj.patch_size),
    )
    read = _context_reader(executor.class_obj, joint, x, options)
    attention = JointAttention(plan, groups, context.shape[1], read)
    options = attention.options(_apart(joint, pairs, options))
    return executor(x, timestep, context, y, guidance, ref_latents, control, options, **kwargs)


def _context_reader(
    network: Any, joint: Joint, x: Tensor, options: dict[str, Any]
) -> ReadContext | None:
    """Where this call's single blocks find the context: kept, or made now where nothing is."""
    if not joint.context:
        return None
    run: JointRun | None = options.get(RUN)
    if run is not None and run.kept is not None:
        return partial(_read_kept, run.kept)
    made = run_context(network, joint, tuple(x.shape[-2:]), x.device, x.dtype, options)
    return partial(_read_made, made)


def _pairs(rows: int, groups: int, run: JointRun | None) -> int:
    """How many pictures a cfg pass of this call makes."""
    pairs = rows // groups if run is None else run.pairs
    if rows != groups * pairs:
        raise ValueError(
            f"keyframes that are made jointly must stay in one batch: {groups} cfg passes of "
            f"{pairs} pictures were expected and {rows} came; remove the node that splits batches"
        )
    return pairs


def _apart(joint: Joint, pairs: int, options: dict[str, Any]) -> dict[str, Any]:
    """Options in which the pictures of the batch stand apart in time."""
    if joint.time_step == 0.0:
        return options
    patches = options.get("patches", {})
    step = partial(_step_in_time, joint.time_step, pairs)
    return {
        **options,
        "patches": {**patches, "post_input": [*patches.get("post_input", ()), step]},
    }


def _step_in_time(time_step: float, pairs: int, args: dict[str, Any]) -> dict[str, Any]:
    ids = args["img_ids"].clone()
    numbers = torch.arange(len(ids), device=ids.device) % pairs
    ids[..., 0] += time_step * numbers[:, None]
    return {**args, "img_ids": ids}
