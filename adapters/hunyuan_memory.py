"""Memory in HunyuanVideo 1.0 and 1.5, as core's HunyuanVideo runs it.

Text and image are one sequence there, and both read the memory. Memory tokens take the image's
layers: its modulation, projections and feed-forward in the double blocks. Text stands at time 0,
so the two rope modes differ: with `history_first` the image moves along the time axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import comfy.ldm.common_dit
import torch
from comfy.ldm.flux.layers import apply_mod, timestep_embedding
from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.hunyuan_video.model import HunyuanVideo
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .memory_cross_attention import add_to_patches
from .memory_stream import (
    ATTACHED,
    STREAM,
    Injection,
    MemoryStream,
    SharedAttention,
    has_cross_attention,
    memory_times,
    memory_tokens,
    read_cross_attention,
    replace_blocks,
    strength_levels,
    window_start,
)

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

TIME_FEATURES = 256
"""Width of the sinusoids of a timestep (core's HunyuanVideo.forward_orig)."""


@dataclass(eq=False, kw_only=True)
class HunyuanStream(MemoryStream):
    """`turn` (1 1 1 d/2 2 2) moves image tokens to the segment's time, None where it is 0.

    `moved` is the model's rotary table as it came and as it is with the image moved.
    """

    turn: Tensor | None
    moved: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class HunyuanInjection:
    """HunyuanVideo 1.0 (all input kinds) and 1.5; not the picture models of the same class."""

    name: str = "HunyuanVideo"

    def recognises(self, model: ModelPatcher) -> bool:
        network = model.model.diffusion_model
        return type(network) is HunyuanVideo and len(network.patch_size) == 3

    def width(self, network: Any) -> int:
        return int(network.hidden_size)

    def patch_size(self, network: Any) -> tuple[int, int, int]:
        time, height, width = network.patch_size
        return int(time), int(height), int(width)

    def project(self, network: Any, latents: Tensor) -> Tensor:
        latents = comfy.ldm.common_dit.pad_to_patch_size(latents, network.patch_size)
        missing = network.in_channels - latents.shape[1]
        zeros = latents.new_zeros(len(latents), missing, *latents.shape[2:])
        return network.img_in.proj(torch.cat([latents, zeros], dim=1))

    def install(self, model: ModelPatcher) -> None:
        network = model.model.diffusion_model
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, ATTACHED, _call_with_memory)
        replace_blocks(model, "double_block", len(network.double_blocks), _run_double)
        replace_blocks(model, "single_block", len(network.single_blocks), _run_single)


HUNYUAN_INJECTION: Injection = HunyuanInjection()


def _call_with_memory(
    executor: Any,
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    y: Tensor | None,
    txt_byt5: Tensor | None,
    clip_fea: Tensor | None,
    guidance: Tensor | None,
    attention_mask: Tensor | None,
    guiding_frame_index: Tensor | None,
    ref_latent: Tensor | None,
    disable_time_r: bool,
    control: Any,
    transformer_options: dict[str, Any],
    **kwargs: Any,
) -> Tensor:
    """Core's wrapper around HunyuanVideo.forward: gives the call its memory stream."""
    stream = _new_stream(executor.class_obj, x, y, guidance, transformer_options)
    return executor(
        x,
        timestep,
        context,
        y,
        txt_byt5,
        clip_fea,
        guidance,
        attention_mask,
        guiding_frame_index,
        ref_latent,
        disable_time_r,
        control,
        {**transformer_options, STREAM: stream},
        **kwargs,
    )


def _new_stream(
    network: Any,
    x: Tensor,
    y: Tensor | None,
    guidance: Tensor | None,
    transformer_options: dict[str, Any],
) -> HunyuanStream:
    attached = transformer_options[ATTACHED]
    tokens = memory_tokens(
        attached, lambda low: HUNYUAN_INJECTION.project(network, low), x.device, x.dtype
    )
    positions = memory_times(attached, x.device)
    first = attached[0].bank.rope_mode == "history_first"
    start = attached[0].segment_start if first else 0
    positions[:, 0] += start - window_start(transformer_options)
    turn = network.pe_embedder(positions.new_tensor([[[start, 0.0, 0.0]]])) if start else None
    return HunyuanStream(
        network=network,
        tokens=tokens.expand(len(x), -1, -1),
        rope=network.pe_embedder(positions[None]),
        modulation=_clean_modulation(network, x, y, guidance),
        levels=strength_levels(attached),
        attached=attached,
        turn=turn,
    )


def _clean_modulation(network: Any, x: Tensor, y: Tensor | None, guidance: Tensor | None) -> Tensor:
    """The vector `b d` that modulates clean tokens, as core makes it for `guiding_frame_index`."""
    zero = torch.zeros(1, device=x.device)
    vector = network.time_in(timestep_embedding(zero, TIME_FEATURES, time_factor=1.0).to(x.dtype))
    if network.vector_in is not None and y is not None:
        vector = vector + network.vector_in(y[:, : network.params.vec_in_dim])
    if network.params.guidance_embed and guidance is not None:
        vector = vector + network.guidance_in(timestep_embedding(guidance, TIME_FEATURES).to(x))
    return vector


def _run_double(
    stream: HunyuanStream,
    index: int,
    args: dict[str, Any],
    original_block: Callable[..., Any],
) -> dict[str, Any]:
    """One DoubleStreamBlock: core's own over text and image, the image's layers over the memory."""
    network, memory = stream.network, stream.tokens
    block = network.double_blocks[index]
    first, second = block.img_mod(stream.modulation)
    normed = apply_mod(block.img_norm1(memory), 1 + first.scale, first.shift)
    qkv = block.img_attn.qkv(normed)
    last = index + 1 == len(network.double_blocks) + len(network.single_blocks)
    shared = _shared_attention(stream, qkv, block.img_attn.norm, last)
    result = _run_original(stream, index, args, original_block, shared, args["txt"].shape[1])
    attended = shared.attended(index)
    if attended is None:
        return result
    memory = memory + apply_mod(block.img_attn.proj(attended), first.gate)
    fed = apply_mod(block.img_norm2(memory), 1 + second.scale, second.shift)
    stream.tokens = memory + apply_mod(block.img_mlp(fed), second.gate)
    return result


def _run_single(
    stream: HunyuanStream,
    index: int,
    args: dict[str, Any],
    original_block: Callable[..., Any],
) -> dict[str, Any]:
    """One SingleStreamBlock: core's own over text and image, ours over the memory."""
    network, memory = stream.network, stream.tokens
    block, number = network.single_blocks[index], len(network.double_blocks) + index
    table, _ = block.modulation(stream.modulation)
    normed = apply_mod(block.pre_norm(memory), 1 + table.scale, table.shift)
    sizes = [3 * block.hidden_size, block.mlp_hidden_dim_first]
    qkv, hidden = torch.split(block.linear1(normed), sizes, dim=-1)
    last = index + 1 == len(network.single_blocks)
    shared = _shared_attention(stream, qkv, block.norm, last)
    text_tokens = args["transformer_options"]["img_slice"][0]
    result = _run_original(stream, number, args, original_block, shared, text_tokens)
    attended = shared.attended(number)
    if attended is None:
        return result
    joined = torch.cat((attended, block.mlp_act(hidden)), dim=2)
    stream.tokens = memory + apply_mod(block.linear2(joined), table.gate)
    return result


def _shared_attention(
    stream: HunyuanStream, qkv: Tensor, norm: Callable[..., Any], last: bool
) -> SharedAttention:
    """The memory's queries, keys and values (b heads m d) from one projection (b m 3d)."""
    heads = stream.network.num_heads
    query, key, value = qkv.view(*qkv.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
    query, key = norm(query, key, value)
    query = None if last else apply_rope1(query, stream.rope)
    return SharedAttention(query, apply_rope1(key, stream.rope), value, stream.levels, None)


def _run_original(
    stream: HunyuanStream,
    number: int,
    args: dict[str, Any],
    original_block: Callable[..., Any],
    shared: SharedAttention,
    text_tokens: int,
) -> dict[str, Any]:
    """Core's block, whose attention also reads the memory; then the add-on, where there is one."""
    options = shared.options(args["transformer_options"])
    queries: list[Tensor] = []
    cross = has_cross_attention(stream.attached, number)
    if cross:
        options = add_to_patches(options, "attn1_patch", partial(_keep_query, queries), first=False)
    rope = _moved(stream, args["pe"], text_tokens)
    result = original_block({**args, "pe": rope, "transformer_options": options})
    if not cross:
        return result
    query = queries[0][:, :, text_tokens:].transpose(1, 2).flatten(2)
    read = read_cross_attention(stream.attached, number, query, stream.network.num_heads)
    assert read is not None  # the block has an add-on
    image = result["img"]
    before = image.shape[1] - read.shape[1]  # a single block's row begins with the text
    image = torch.cat([image[:, :before], image[:, before:] + read], dim=1)
    return {**result, "img": image}


def _keep_query(queries: list[Tensor], q: Tensor, *_: Any, **__: Any) -> dict[str, Any]:
    """Core's `attn1_patch`, which sees queries (b heads n d) before their rotary turn."""
    queries.append(q)
    return {}


def _moved(stream: HunyuanStream, rope: Tensor, text_tokens: int) -> Tensor:
    """The model's rotary table (b 1 n d/2 2 2) with the image behind the text at its time."""
    if stream.turn is None:
        return rope
    if stream.moved is None or stream.moved[0] is not rope:
        image = torch.matmul(rope[:, :, text_tokens:], stream.turn.to(rope))
        stream.moved = (rope, torch.cat([rope[:, :, :text_tokens], image], dim=2))
    return stream.moved[1]
