"""The slow, obvious reference of memory injection: one concatenated sequence.

[memory | image] (Wan) or [text | memory | image] (HunyuanVideo) goes through the model's modules as
one row of tokens, with one modulation per token, an explicit n x n mask and plain softmax
attention. Nothing of the pack's injection is used here; only the tiny models' weights are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention of `b heads n d` with an additive mask `n n`."""
    scores = q.double() @ k.double().transpose(-1, -2) * q.shape[-1] ** -0.5
    return ((scores + mask.double()).softmax(-1) @ v.double()).to(v.dtype)


def attend_blended(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, memory: slice, strength: float
) -> Tensor:
    """As `attend`; tokens that are not memory read the mean of with it and without it."""
    seen = attend(q, k, v, mask)
    if strength == 1.0:
        return seen
    without = mask.clone()
    without[:, memory] = -torch.inf
    mixed = strength * seen + (1.0 - strength) * attend(q, k, v, without)
    mixed[:, :, memory] = seen[:, :, memory]
    return mixed


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
    half = width // 2
    rates = torch.exp(-math.log(10_000.0) * torch.arange(half).float() / half)
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
    strength: float = 1.0,
    reference: Tensor | None = None,
    stretch: tuple[Tensor, Tensor] | None = None,
    hints: dict[int, Tensor] | None = None,
    addon: tuple[dict[str, Tensor], Tensor] | None = None,
) -> Tensor:
    """WanModel's output for `x` (b c t h w) with tokens `memory` (m d) at `positions` (m 3).

    `start` is the time of the segment's first latent frame; `timestep` is b, or b frames.
    `reference` (b c h w) is a noisy frame right before it that the head never sees. `stretch` is
    what the segment's positions are multiplied by, and what is added. `hints` (b n d) are added to
    the image after a block (VACE). `addon` are cross-attention weights and hidden states m w.
    """
    b, _, frames, height, width = x.shape
    patched = network.patch_embedding(padded(x, network.patch_size))
    size = patched.shape[2:]
    image = patched.flatten(2).transpose(1, 2)
    own_places = grid(*size, start=start)
    if stretch is not None:
        own_places = own_places * stretch[0] + stretch[1]
    sequence = torch.cat([memory.expand(b, -1, -1), image], dim=1)
    places = torch.cat([positions.double(), own_places], dim=0)
    per_frame = timestep.reshape(b, -1).expand(b, size[0])
    per_token = per_frame.repeat_interleave(size[1] * size[2], dim=1)
    times = torch.cat([torch.zeros(b, len(memory)), per_token], dim=1)  # memory is clean
    if reference is not None:
        shown = network.ref_conv(reference).flatten(2).transpose(1, 2)
        sequence = torch.cat([sequence, shown], dim=1)
        places = torch.cat([places, grid(1, *size[1:], start=start - 1.0)], dim=0)
        times = torch.cat([times, per_frame[:, :1].expand(-1, shown.shape[1])], dim=1)
    embedded = network.time_embedding(sinusoid(times.flatten(), network.freq_dim))
    embedded = embedded.view(b, -1, network.dim)
    modulation = network.time_projection(embedded).unflatten(2, (6, network.dim))
    text = network.text_embedding(context)
    pictures = None
    if clip_fea is not None:
        text = torch.cat([network.img_emb(clip_fea), text], dim=1)
        pictures = clip_fea.shape[-2]
    own = slice(len(memory), len(memory) + image.shape[1])
    for index, block in enumerate(network.blocks):
        known = (slice(0, len(memory)), strength)
        extra = None if addon is None else (index, own, *addon)
        sequence = _slow_wan_block(
            block, sequence, modulation, places, text, pictures, known, extra
        )
        if hints is not None and index in hints:
            sequence[:, own] += hints[index]
    shift, scale = (network.head.modulation[None] + embedded[:, :, None]).unbind(2)
    out = network.head.head(network.head.norm(sequence) * (1 + scale) + shift)
    return network.unpatchify(out[:, own], size)[:, :, :frames, :height, :width]


def _slow_wan_block(
    block: Any,
    x: Tensor,
    modulation: Tensor,
    places: Tensor,
    text: Tensor,
    pictures: int | None,
    known: tuple[slice, float],
    addon: tuple[int, slice, dict[str, Tensor], Tensor] | None,
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
    read = attend_blended(q, k, heads(attention.v(normed)), nothing_hidden, *known)
    x = x + attention.o(read.transpose(1, 2).flatten(2)) * table[2]
    read_text = _slow_wan_text(block.cross_attn, block.norm3(x), text, pictures)
    if addon is not None:
        index, image, weights, hidden = addon
        text_attention = block.cross_attn
        q = text_attention.norm_q(text_attention.q(block.norm3(x)))[:, image]
        k, v = (hidden @ weights[f"xattn.{index}.{name}.weight"].T for name in "kv")
        mask = torch.zeros(q.shape[1], len(hidden))
        seen = attend(heads(q), heads(k[None]), heads(v[None]), mask).transpose(1, 2).flatten(2)
        read_text[:, image] += seen @ weights[f"xattn.{index}.o.weight"].T
    x = x + read_text
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


def slow_hunyuan(
    network: Any,
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    memory: Tensor,
    positions: Tensor,
    start: float,
    y: Tensor | None = None,
    guidance: Tensor | None = None,
    guiding_frame_index: Tensor | None = None,
    attention_mask: Tensor | None = None,
    clip_fea: Tensor | None = None,
    strength: float = 1.0,
) -> Tensor:
    """HunyuanVideo's output, arguments as in `slow_wan`.

    Text has no place in the film: it stands at 0, 0, 0. A masked text token (0 in
    `attention_mask`) is read by nobody.
    """
    b = len(x)
    padded_x = padded(x, network.patch_size)
    size = [n // p for n, p in zip(padded_x.shape[2:], network.patch_size, strict=True)]
    image = network.img_in.proj(padded_x).flatten(2).transpose(1, 2)
    text = _slow_hunyuan_text(network, timestep, context, attention_mask, clip_fea)
    counts = [text.shape[1], len(memory), image.shape[1]]

    def vector(time: Tensor) -> Tensor:
        made = network.time_in(sinusoid(time, 256))
        if network.vector_in is not None:
            made = made + network.vector_in(y)
        if network.params.guidance_embed and guidance is not None:
            made = made + network.guidance_in(sinusoid(1000.0 * guidance, 256))
        return made.expand(b, -1)[:, None]

    noisy, clean = vector(timestep), vector(torch.zeros(1))
    parts = [noisy.expand(-1, counts[0], -1), clean.expand(-1, counts[1], -1)]
    segment = noisy.expand(-1, counts[2], -1).clone()
    per_token = torch.cat([*parts, segment], dim=1)
    single = per_token.clone()
    if guiding_frame_index is not None:
        first = size[1] * size[2]
        guided = vector(guiding_frame_index)
        segment[:, :first] = guided
        per_token = torch.cat([*parts, segment], dim=1)
        # Core counts the first frame's tokens from the start of the text in its single blocks.
        visible = [i for i in range(sum(counts)) if not counts[0] <= i < sum(counts[:2])]
        single[:, visible[:first]] = guided
    places = torch.cat([torch.zeros(counts[0], 3), positions, grid(*size, start=start)])
    mask = torch.zeros(sum(counts), sum(counts))
    if attention_mask is not None:
        words = text.shape[1] - context.shape[1]
        hidden = torch.cat([torch.ones(words), attention_mask[0].float()]) - 1.0
        mask[:, : counts[0]] += hidden * torch.finfo(torch.float32).max
    sequence = torch.cat([text, memory.expand(b, -1, -1), image], dim=1)
    known = (slice(counts[0], sum(counts[:2])), strength)
    for block in network.double_blocks:
        sequence = _slow_double(network, block, sequence, per_token, places, mask, known)
    for block in network.single_blocks:
        sequence = _slow_single(network, block, sequence, single, places, mask, known)
    image, head = sequence[:, sum(counts[:2]) :], network.final_layer
    shift, scale = head.adaLN_modulation(segment).chunk(2, dim=-1)
    out = head.linear(head.norm_final(image) * (1 + scale) + shift)
    out = out.reshape(b, *size, network.out_channels, *network.patch_size)
    out = out.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(6, 7).flatten(4, 5).flatten(2, 3)
    return out[:, :, : x.shape[2], : x.shape[3], : x.shape[4]]


def _slow_hunyuan_text(
    network: Any,
    timestep: Tensor,
    context: Tensor,
    attention_mask: Tensor | None,
    clip_fea: Tensor | None,
) -> Tensor:
    """The text as core refines it, with image tokens before it where there are any."""
    mask = None
    if attention_mask is not None:
        mask = (attention_mask.float() - 1.0) * torch.finfo(torch.float32).max
    text = network.txt_in(context, timestep, mask)
    if network.cond_type_embedding is not None:
        text = text + network.cond_type_embedding.weight[0]
    if clip_fea is not None:
        seen = network.vision_in(clip_fea) + network.cond_type_embedding.weight[2]
        text = torch.cat([seen, text], dim=1)
    return text


def _slow_heads(network: Any, qkv: Tensor, norm: Any, places: Tensor) -> list[Tensor]:
    """Queries, keys and values `b heads n d`, turned by their positions."""
    q, k, v = qkv.unflatten(2, (3, network.num_heads, -1)).permute(2, 0, 3, 1, 4)
    sizes, theta = network.params.axes_dim, float(network.params.theta)
    q, k = norm.query_norm(q), norm.key_norm(k)
    return [turn(q, places, sizes, theta), turn(k, places, sizes, theta), v]


def _slow_double(
    network: Any,
    block: Any,
    x: Tensor,
    vector: Tensor,
    places: Tensor,
    mask: Tensor,
    known: tuple[slice, float],
) -> Tensor:
    """A DoubleStreamBlock: text by its own layers, memory and image by the image's."""
    text_tokens = known[0].start
    parts = x.split([text_tokens, x.shape[1] - text_tokens], dim=1)
    vectors = vector.split([text_tokens, x.shape[1] - text_tokens], dim=1)
    tables, qkv = [], []
    for name, part, vec in zip(("txt", "img"), parts, vectors, strict=True):
        layers = {key: getattr(block, f"{name}_{key}") for key in ("mod", "norm1", "attn")}
        table = layers["mod"].lin(torch.nn.functional.silu(vec)).chunk(6, dim=-1)
        tables.append(table)
        normed = layers["norm1"](part) * (1 + table[1]) + table[0]
        own = layers["attn"].qkv(normed)
        place = places[:text_tokens] if name == "txt" else places[text_tokens:]
        qkv.append(_slow_heads(network, own, layers["attn"].norm, place))
    q, k, v = (torch.cat(pair, dim=2) for pair in zip(*qkv, strict=True))
    read = attend_blended(q, k, v, mask, *known).transpose(1, 2).flatten(2)
    out = []
    for name, part, table, piece in zip(
        ("txt", "img"),
        parts,
        tables,
        read.split([text_tokens, x.shape[1] - text_tokens], dim=1),
        strict=True,
    ):
        part = part + getattr(block, f"{name}_attn").proj(piece) * table[2]
        normed = getattr(block, f"{name}_norm2")(part) * (1 + table[4]) + table[3]
        out.append(part + getattr(block, f"{name}_mlp")(normed) * table[5])
    return torch.cat(out, dim=1)


def _slow_single(
    network: Any,
    block: Any,
    x: Tensor,
    vector: Tensor,
    places: Tensor,
    mask: Tensor,
    known: tuple[slice, float],
) -> Tensor:
    table = block.modulation.lin(torch.nn.functional.silu(vector)).chunk(3, dim=-1)
    normed = block.pre_norm(x) * (1 + table[1]) + table[0]
    qkv, hidden = block.linear1(normed).split([3 * x.shape[2], block.mlp_hidden_dim], dim=-1)
    q, k, v = _slow_heads(network, qkv, block.norm, places)
    read = attend_blended(q, k, v, mask, *known).transpose(1, 2).flatten(2)
    return x + block.linear2(torch.cat([read, block.mlp_act(hidden)], dim=2)) * table[2]
