"""The slow, obvious reference of memory injection: one concatenated sequence.

[memory | image] (Wan) or [text | memory | image] (HunyuanVideo) goes through the model's modules as
one row of tokens, with one modulation per token, an explicit n x n mask and plain softmax
attention. Nothing of the pack's injection is used here; only the tiny models' weights are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention of `b heads n d` with an additive mask `n n`."""
    scores = q.double() @ k.double().transpose(-1, -2) * q.shape[-1] ** -0.5
    return ((scores + mask.double()).softmax(-1) @ v.double()).to(v.dtype)


def turn(x: Tensor, positions: Tensor, sizes: list[int], theta: float) -> Tensor:
    """Rotary embedding of `b heads n d` at positions `n axes`, by complex multiplication."""
    angles = []
    for axis, size in enumerate(sizes):
        exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
        angles.append(positions[:, axis, None].double() * theta**-exponents)
    turns = torch.polar(torch.ones_like(torch.cat(angles, -1)), torch.cat(angles, -1))
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def grid(frames: int, height: int, width: int, start: float = 0.0) -> Tensor:
    """Positions `(t h w) 3` of a segment that starts at time `start`."""
    axes = [torch.arange(n).double() for n in (frames, height, width)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    return points + torch.tensor([start, 0.0, 0.0]).double()


def sinusoid(times: Tensor, width: int) -> Tensor:
    """Cosines and sines of `n` times, `n width`; in float32, whose rounding at t = 1000 shows."""
    rates = 10_000.0 ** (-torch.arange(width // 2).float() / (width // 2))
    angles = times.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


def padded(x: Tensor, patch: Any) -> Tensor:
    """Latents whose sides are padded up to whole patches, the way core pads (it wraps around)."""
    import comfy.ldm.common_dit

    return comfy.ldm.common_dit.pad_to_patch_size(x, patch)


def slow_wan(
    network: Any,
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    memory: Tensor,
    positions: Tensor,
    start: float,
    clip_fea: Tensor | None = None,
) -> Tensor:
    """WanModel's output for `x` (b c t h w) with tokens `memory` (m d) at `positions` (m 3).

    `start` is the time of the segment's first latent frame; `timestep` is b, or b frames.
    """
    b, _, frames, height, width = x.shape
    patched = network.patch_embedding(padded(x, network.patch_size))
    size = patched.shape[2:]
    image = patched.flatten(2).transpose(1, 2)
    sequence = torch.cat([memory.expand(b, -1, -1), image], dim=1)
    places = torch.cat([positions.double(), grid(*size, start=start)], dim=0)
    per_frame = timestep.reshape(b, -1).expand(b, size[0])
    per_token = per_frame.repeat_interleave(size[1] * size[2], dim=1)
    times = torch.cat([torch.zeros(b, len(memory)), per_token], dim=1)  # memory is clean
    embedded = network.time_embedding(sinusoid(times.flatten(), network.freq_dim))
    embedded = embedded.view(b, -1, network.dim)
    modulation = network.time_projection(embedded).unflatten(2, (6, network.dim))
    text = network.text_embedding(context)
    pictures = None
    if clip_fea is not None:
        text = torch.cat([network.img_emb(clip_fea), text], dim=1)
        pictures = clip_fea.shape[-2]
    for block in network.blocks:
        sequence = _slow_wan_block(block, sequence, modulation, places, text, pictures)
    shift, scale = (network.head.modulation[None] + embedded[:, :, None]).unbind(2)
    out = network.head.head(network.head.norm(sequence) * (1 + scale) + shift)
    return network.unpatchify(out[:, len(memory) :], size)[:, :, :frames, :height, :width]


def _slow_wan_block(
    block: Any, x: Tensor, modulation: Tensor, places: Tensor, text: Tensor, pictures: int | None
) -> Tensor:
    table = (block.modulation[None] + modulation).unbind(2)  # each b n d: one row per token
    normed = block.norm1(x) * (1 + table[1]) + table[0]
    attention = block.self_attn
    d = attention.head_dim
    sizes = [d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6)]

    def heads(tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (attention.num_heads, d)).transpose(1, 2)

    q = turn(heads(attention.norm_q(attention.q(normed))), places, sizes, 10_000.0)
    k = turn(heads(attention.norm_k(attention.k(normed))), places, sizes, 10_000.0)
    nothing_hidden = torch.zeros(x.shape[1], x.shape[1])
    read = attend(q, k, heads(attention.v(normed)), nothing_hidden).transpose(1, 2).flatten(2)
    x = x + attention.o(read) * table[2]
    x = x + _slow_wan_text(block.cross_attn, block.norm3(x), text, pictures)
    return x + block.ffn(block.norm2(x) * (1 + table[4]) + table[3]) * table[5]


def _slow_wan_text(attention: Any, x: Tensor, text: Tensor, pictures: int | None) -> Tensor:
    def heads(tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)

    q = heads(attention.norm_q(attention.q(x)))
    words, shown = text[:, pictures:], text[:, :pictures]  # without pictures core reads it twice
    mask = torch.zeros(x.shape[1], words.shape[1])
    read = attend(q, heads(attention.norm_k(attention.k(words))), heads(attention.v(words)), mask)
    if hasattr(attention, "k_img"):
        mask = torch.zeros(x.shape[1], shown.shape[1])
        keys = heads(attention.norm_k_img(attention.k_img(shown)))
        read = read + attend(q, keys, heads(attention.v_img(shown)), mask)
    return attention.o(read.transpose(1, 2).flatten(2))
