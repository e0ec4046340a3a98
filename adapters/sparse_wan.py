"""Wan over some latent frames of a segment, each at its own time, reading finished ones.

What MMPL's sampler needs of the network (shared design `macro-micro-planning.md`, 2.3, 2.4, 7.1):
the rotary position of a frame is its place in the segment, however many frames are in the call;
self-attention also reads the keys and values that finished frames left in the same block, separate
for the two passes of the guidance. Modules stay untouched, so LoRAs and quantised weights work.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import comfy.ldm.common_dit
import comfy.ldm.wan.ar_model
import comfy.ldm.wan.model
import comfy.model_base
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..memory.frame_store import VisibleFrames, pack_frames, read_frames
from .cache import LatentCache, cached_weight
from .flux_joint_attention import OVERRIDE
from .memory_calls import apply_uncompiled
from .wan import concat_channels

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

SPARSE = "throughline_sparse"
"""Key of the frames of a call in `transformer_options`, and of our wrappers."""

NETWORKS = (comfy.ldm.wan.model.WanModel, comfy.ldm.wan.ar_model.CausalWanModel)


@dataclass(frozen=True, eq=False, kw_only=True)
class SparseFrames:
    """What one sampling runs over: the latent frames `ids` in the order of the latent, the finished
    ones that they read, and the cache that holds those.

    `captured` receives this call's own keys and values by (branch, block); None keeps nothing.
    """

    ids: tuple[int, ...]
    visible: tuple[VisibleFrames, ...]
    cache: LatentCache
    captured: dict[tuple[int, int], Tensor] | None = None


def check_sparse_model(model: ModelPatcher) -> None:
    """Raises ValueError, naming the model's class, where frames cannot be made sparsely."""
    kind, name = type(model.model), type(model.model).__name__
    known = (comfy.model_base.WAN21, comfy.model_base.WAN21_CausalAR, comfy.model_base.WAN22)
    if kind not in known or type(model.model.diffusion_model) not in NETWORKS:
        raise ValueError(
            f"model must be Wan T2V, causal Wan, MMPL or TI2V-5B to plan sparsely, got {name}"
        )
    extra = concat_channels(model)
    if extra:
        raise ValueError(
            "model must be a Wan model without inputs beside the latent to plan sparsely, got "
            f"{name} with {extra} more input channels"
        )


def sparse_model(model: ModelPatcher, frames: SparseFrames) -> ModelPatcher:
    """A clone that runs over these frames; the given model stays as it is."""
    check_sparse_model(model)
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    if SPARSE not in options:
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, SPARSE, call_sparsely)
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, SPARSE, apply_uncompiled)
    clone.model_options["transformer_options"] = {**options, SPARSE: frames}
    keys = [
        seen.group.key(branch, block)
        for seen in frames.visible
        for branch in (0, 1)
        for block in range(len(model.model.diffusion_model.blocks))
    ]
    held = [key for key in keys if key in frames.cache]  # without guidance there is one branch
    clone.set_additional_models(SPARSE, [frames.cache.view(held)] if held else [])
    return clone


def call_sparsely(
    executor: Any,
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    clip_fea: Tensor | None = None,
    time_dim_concat: Tensor | None = None,
    transformer_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """Core's wrapper around WanModel.forward: gives the call its positions and its attention."""
    options = transformer_options or {}
    frames: SparseFrames = options[SPARSE]
    if x.shape[2] != len(frames.ids):
        raise ValueError(
            f"a sparse call must have the {len(frames.ids)} latent frames {frames.ids}, got "
            f"{x.shape[2]}: remove the node that changes the latent's length"
        )
    network = executor.class_obj
    positions = sparse_positions(network, x, frames.ids, options)
    attention = SparseAttention(frames, tuple(options.get("cond_or_uncond") or (0,)))
    replaced = options.get("patches_replace", {})
    theirs = replaced.get("dit", {})
    ours = {
        ("double_block", i): partial(_run_block, attention, i, positions, theirs)
        for i in range(len(network.blocks))
    }
    options = attention.options({**options, "patches_replace": {**replaced, "dit": theirs | ours}})
    return executor(x, timestep, context, clip_fea, time_dim_concat, options, **kwargs)


def sparse_positions(
    network: Any, x: Tensor, ids: Sequence[int], transformer_options: dict[str, Any]
) -> Tensor:
    """Rotary positions of a latent `b c t h w` whose t frames stand at `ids`: the rows that the
    network's own dense table has there."""
    x = comfy.ldm.common_dit.pad_to_patch_size(x, network.patch_size)
    rows = [
        network.rope_encode(
            1,
            *x.shape[-2:],
            t_start=i,
            device=x.device,
            dtype=x.dtype,
            transformer_options=transformer_options,
        )
        for i in ids
    ]
    return torch.cat(rows, dim=1)


def _run_block(
    attention: SparseAttention,
    number: int,
    positions: Tensor,
    theirs: dict[Any, Any],
    args: dict[str, Any],
    extra: dict[str, Any],
) -> dict[str, Any]:
    """One block at the right positions, through whatever another node put in its place."""
    attention.begin(number)
    placed = {**args, "pe": positions}
    replaced = theirs.get(("double_block", number))
    out: dict[str, Any]
    out = extra["original_block"](placed) if replaced is None else replaced(placed, extra)
    attention.end()
    return out


class SparseAttention:
    """The attention override of one call: the first attention of a block, its self-attention, also
    reads the finished frames. Whatever override was installed is called with what is joined."""

    def __init__(self, frames: SparseFrames, branches: tuple[int, ...]) -> None:
        """`branches` are the passes of the guidance that lie in the batch, one after another."""
        if len(set(branches)) < len(branches):
            raise ValueError(
                "a sparse plan takes one positive and one negative conditioning, got several that "
                "are combined"
            )
        self.frames, self.branches = frames, branches
        self.previous: Any = None
        self._block: int | None = None

    def options(self, transformer_options: dict[str, Any]) -> dict[str, Any]:
        """Options in which this override stands before the one that was there."""
        self.previous = transformer_options.get(OVERRIDE)
        return {**transformer_options, OVERRIDE: self}

    def begin(self, block: int) -> None:
        self._block = block

    def end(self) -> None:
        """Raises ValueError when the block ran without ComfyUI's attention."""
        if self._block is not None:
            raise ValueError(
                f"finished frames enter through ComfyUI's attention, and block {self._block} did "
                "not use it: remove the node that replaces its attention"
            )

    def __call__(
        self, attention: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        run = attention if self.previous is None else partial(self.previous, attention)
        block, self._block = self._block, None
        if block is None:
            return run(q, k, v, *args, **kwargs)
        if self.frames.captured is not None:
            self._capture(block, k, v)
        if not self.frames.visible:
            return run(q, k, v, *args, **kwargs)
        joined = [
            self._with_visible(block, branch, *part)
            for branch, part in zip(self.branches, self._parts(k, v), strict=True)
        ]
        keys, values = (torch.cat(parts) for parts in zip(*joined, strict=True))
        return run(q, keys, values, *args, **kwargs)

    def _parts(self, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each pass of the guidance, which lie one after another."""
        count = len(self.branches)
        return list(zip(k.chunk(count), v.chunk(count), strict=True))

    def _capture(self, block: int, k: Tensor, v: Tensor) -> None:
        assert self.frames.captured is not None
        device = self.frames.cache.patcher.offload_device
        for branch, (keys, values) in zip(self.branches, self._parts(k, v), strict=True):
            kept = pack_frames(keys, values, len(self.frames.ids)).to(device)
            self.frames.captured[branch, block] = kept

    def _with_visible(self, block: int, branch: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = [k], [v]
        with ExitStack() as read:
            for seen in self.frames.visible:
                leaf = self.frames.cache.get(seen.group.key(branch, block))
                if leaf is None:
                    raise ValueError(
                        f"frames {seen.ids} left nothing for pass {branch} of the guidance: plan "
                        "and continue with the same cfg"
                    )
                stored = read.enter_context(cached_weight(leaf, k.device, k.dtype))
                more = read_frames(stored, seen)
                keys.append(more[0])
                values.append(more[1])
            return torch.cat(keys, dim=1), torch.cat(values, dim=1)
