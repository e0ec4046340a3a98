"""Memory in Wan 2.1 and 2.2 (T2V, I2V, FLF2V, VACE, TI2V-5B), as core's WanModel runs it.

Wan's rotary code is relative and its text has no positions, so both rope modes are one: shifting
the segment and its memory together changes nothing. What counts is the time between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import comfy.ldm.common_dit
import comfy.model_management
import torch
from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.wan.model import (
    CameraWanModel,
    VaceWanModel,
    WanAttentionBlock,
    WanModel,
    repeat_e,
    sinusoidal_embedding_1d,
)
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .memory_cross_attention import add_to_patches
from .memory_stream import (
    ATTACHED,
    OVERRIDE,
    STREAM,
    AttachedMemory,
    Injection,
    MemoryStream,
    SharedAttention,
    has_cross_attention,
    memory_times,
    memory_tokens,
    once_in_run,
    read_cross_attention,
    replace_blocks,
    strength_levels,
    window_start,
)

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

NETWORKS = (WanModel, VaceWanModel, CameraWanModel)
"""Classes whose block loop is core's plain one. Their subclasses have loops of their own."""


CORE = WanModel.__module__
"""Where the `original_block` comes from that a patch gets when no other pack is around it."""


@dataclass(eq=False, kw_only=True)
class WanStream(MemoryStream):
    """`image_context` is how many of the context's tokens are image tokens, None without any."""

    image_context: int | None
    joined_rope: tuple[Tensor, Tensor] | None = None

    def rope_behind(self, rope: Tensor) -> Tensor:
        """The rotary table of [image | memory]; all blocks of a call are given the same image's."""
        if self.joined_rope is None or self.joined_rope[0] is not rope:
            own = self.rope.expand(len(rope), *self.rope.shape[1:])
            self.joined_rope = (rope, torch.cat([rope, own], dim=1))
        return self.joined_rope[1]


@dataclass(frozen=True)
class WanInjection:
    """All Wan models whose network is one of NETWORKS."""

    name: str = "Wan"

    def recognises(self, model: ModelPatcher) -> bool:
        return type(model.model.diffusion_model) in NETWORKS

    def width(self, network: Any) -> int:
        return int(network.dim)

    def patch_size(self, network: Any) -> tuple[int, int, int]:
        time, height, width = network.patch_size
        return int(time), int(height), int(width)

    def project(self, network: Any, latents: Tensor) -> Tensor:
        latents = comfy.ldm.common_dit.pad_to_patch_size(latents, network.patch_size)
        missing = network.patch_embedding.weight.shape[1] - latents.shape[1]
        zeros = latents.new_zeros(len(latents), missing, *latents.shape[2:])
        projected = network.patch_embedding(torch.cat([latents, zeros], dim=1).float())
        return projected.to(latents.dtype)

    def install(self, model: ModelPatcher) -> None:
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, ATTACHED, _call_with_memory)
        blocks = len(model.model.diffusion_model.blocks)
        replace_blocks(model, "double_block", blocks, _run_block)


WAN_INJECTION: Injection = WanInjection()


def _call_with_memory(
    executor: Any,
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    clip_fea: Tensor | None,
    time_dim_concat: Tensor | None,
    transformer_options: dict[str, Any],
    **kwargs: Any,
) -> Tensor:
    """Core's wrapper around WanModel.forward: gives the call its memory stream."""
    stream = _new_stream(executor.class_obj, x, clip_fea, transformer_options, kwargs)
    options = {**transformer_options, STREAM: stream}
    return executor(x, timestep, context, clip_fea, time_dim_concat, options, **kwargs)


def _new_stream(
    network: Any,
    x: Tensor,
    clip_fea: Tensor | None,
    transformer_options: dict[str, Any],
    kwargs: dict[str, Any],
) -> WanStream:
    attached = transformer_options[ATTACHED]
    start = window_start(transformer_options)
    if network.ref_conv is not None and "reference_latent" in kwargs:
        start -= 1  # the reference stands at time 0, the segment behind it
    rope_options = transformer_options.get("rope_options")
    place = (x.device, x.dtype)
    tokens = once_in_run(
        transformer_options,
        ("tokens", *place),
        lambda: memory_tokens(attached, lambda low: WAN_INJECTION.project(network, low), *place),
    )
    rope = once_in_run(
        transformer_options,
        ("rope", x.device, start, str(rope_options)),
        lambda: _rope(network, attached, x.device, start, rope_options),
    )
    return WanStream(
        network=network,
        tokens=tokens.expand(len(x), -1, -1),
        rope=rope,
        modulation=once_in_run(
            transformer_options, ("modulation", *place), lambda: _clean_modulation(network, x)
        ),
        levels=strength_levels(attached),
        attached=attached,
        image_context=None if clip_fea is None else clip_fea.shape[-2],
    )


def _rope(
    network: Any,
    attached: tuple[AttachedMemory, ...],
    device: torch.device,
    start: int,
    rope_options: dict[str, float] | None,
) -> Tensor:
    """Core's rotary table `1 m 1 d/2 2 2` of the memory's positions; the call begins at `start`."""
    positions = memory_times(attached, device)
    positions[:, 0] -= start
    return network.rope_embedder(_scaled(positions, rope_options)[None]).movedim(1, 2)


def _scaled(positions: Tensor, rope_options: dict[str, float] | None) -> Tensor:
    """Positions under core's `rope_options`, as `WanModel.rope_encode` stretches the segment's."""
    if rope_options is None:
        return positions
    axes = "tyx"
    scale = [rope_options.get(f"scale_{axis}", 1.0) for axis in axes]
    shift = [rope_options.get(f"shift_{axis}", 0.0) for axis in axes]
    return positions * positions.new_tensor(scale) + positions.new_tensor(shift)


def _clean_modulation(network: Any, x: Tensor) -> Tensor:
    """The time projection `1 6 d` at t = 0."""
    zero = torch.zeros(1, device=x.device)
    embedded = network.time_embedding(sinusoidal_embedding_1d(network.freq_dim, zero).to(x.dtype))
    return network.time_projection(embedded).unflatten(1, (6, network.dim))


def _run_block(
    stream: WanStream,
    index: int,
    args: dict[str, Any],
    original_block: Callable[..., Any],
) -> dict[str, Any]:
    """One WanAttentionBlock: core's own over the image, ours over the memory."""
    blocks, memory = stream.network.blocks, stream.tokens
    block = blocks[index]
    plain = _is_plain(block, stream, args["transformer_options"], original_block)
    if plain and index + 1 < len(blocks):
        return _run_together(stream, block, args)
    own = comfy.model_management.cast_to(block.modulation, dtype=memory.dtype, device=memory.device)
    table = (own + stream.modulation).chunk(6, dim=1)
    last = index + 1 == len(blocks)  # nobody reads what the last block makes of the memory
    shared = _shared_attention(stream, block, table, args["img"].shape[1], last)
    options = args["transformer_options"]
    changed = shared.options(options)
    if has_cross_attention(stream.attached, index):
        patch = partial(_add_cross_attention, stream, index, shared)
        changed = add_to_patches(changed, "attn2_patch", patch, first=True)
    result = original_block({**args, "transformer_options": changed})
    attended = shared.attended(index)
    if attended is None:
        return result
    memory = torch.addcmul(memory, block.self_attn.o(attended), table[2])
    memory = memory + block.cross_attn(
        block.norm3(memory),
        args["txt"],
        context_img_len=stream.image_context,
        transformer_options=options,
    )
    fed = block.ffn(torch.addcmul(table[3], block.norm2(memory), 1 + table[4]))
    stream.tokens = torch.addcmul(memory, fed, table[5])
    return result


def _is_plain(
    block: Any, stream: WanStream, options: dict[str, Any], original_block: Callable[..., Any]
) -> bool:
    """Whether nothing looks into the block, so that both parts may go through it as one sequence.

    Then every layer is called once: what a few memory tokens cost most is the second call. A pack
    may watch by a patch, an override of the attention, a block of its own in core's place, or a
    `forward` that it put on a layer (`add_object_patch`).
    """
    watched = {"attn1_patch", "attn2_patch"} & options.get("patches", {}).keys()
    layers = (block, block.self_attn, block.cross_attn, block.ffn)
    return (
        not torch.is_grad_enabled()  # what is changed in place has no gradient
        and type(block) is WanAttentionBlock
        and not watched
        and OVERRIDE not in options
        and getattr(original_block, "__module__", "") == CORE
        and not any("forward" in vars(layer) for layer in layers)
        and stream.levels == ((1.0, stream.tokens.shape[1]),)
        and all(memory.cross_attention is None for memory in stream.attached)
    )


def _run_together(stream: WanStream, block: Any, args: dict[str, Any]) -> dict[str, Any]:
    """WanAttentionBlock.forward over [image | memory], each part with its own modulation.

    What the layers return is ours and is changed in place: with few memory tokens, copying every
    intermediate result twice to take it apart and join it again is a good part of what they cost.
    """
    image, options, dtype = args["img"], args["transformer_options"], stream.tokens.dtype
    both = torch.cat([image, stream.tokens], dim=1)
    own = comfy.model_management.cast_to(block.modulation, dtype=dtype, device=image.device)
    vec = args["vec"]
    rows = (own + vec).chunk(6, dim=1) if vec.ndim < 4 else (own[None] + vec).unbind(2)
    tables = (rows, (own + stream.modulation).chunk(6, dim=1))  # one row, or one a latent frame
    places = (slice(0, image.shape[1]), slice(image.shape[1], None))

    def modulated(x: Tensor, shift: int, scale: int) -> Tensor:
        for place, table in zip(places, tables, strict=True):
            part = x[:, place]
            factor = 1 + repeat_e(table[scale], part)
            torch.addcmul(repeat_e(table[shift], part), part, factor, out=part)
        return x

    def add(output: Tensor, gate: int) -> None:
        for place, table in zip(places, tables, strict=True):
            part = both[:, place]
            part.addcmul_(output[:, place], repeat_e(table[gate], part))

    rope = stream.rope_behind(args["pe"])
    add(block.self_attn(modulated(block.norm1(both), 0, 1), rope, options), 2)
    both += block.cross_attn(
        block.norm3(both),
        args["txt"],
        context_img_len=stream.image_context,
        transformer_options=options,
    )
    add(block.ffn(modulated(block.norm2(both), 3, 4)), 5)
    result, stream.tokens = both[:, places[0]], both[:, places[1]]
    return {"img": result}


def _shared_attention(
    stream: WanStream, block: Any, table: tuple[Tensor, ...], image_tokens: int, last: bool
) -> SharedAttention:
    """With the memory's queries, keys and values (b m d) in this block."""
    attention, memory = block.self_attn, stream.tokens
    normed = torch.addcmul(table[0], block.norm1(memory.contiguous()), 1 + table[1])
    heads = (*memory.shape[:2], attention.num_heads, attention.head_dim)
    query = None
    if not last:
        query = apply_rope1(attention.norm_q(attention.q(normed)).view(heads), stream.rope)
        query = query.flatten(2)
    key = apply_rope1(attention.norm_k(attention.k(normed)).view(heads), stream.rope)
    value = attention.v(normed)
    return SharedAttention(query, key.flatten(2), value, stream.levels, image_tokens)


def _add_cross_attention(
    stream: WanStream, index: int, shared: SharedAttention, args: dict[str, Any]
) -> Tensor:
    """Core's `attn2_patch`, right after the text's cross-attention, whose query is used again."""
    x: Tensor = args["x"]
    if shared.next_query is None:
        raise ValueError(
            f"the memory's cross-attention uses the text's queries, and block {index} made none: "
            "another node replaced its text attention; remove that node or the add-on"
        )
    heads = stream.network.num_heads
    read = read_cross_attention(stream.attached, index, shared.next_query, heads)
    return x if read is None else x + read
