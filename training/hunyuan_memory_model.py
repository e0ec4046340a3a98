"""Diffusers' HunyuanVideo transformers (1.0 and 1.5) with memory tokens in their sequence.

The sequence is [memory | segment | text], as diffusers orders it: memory tokens take part as clean
tokens of the segment's stream (modulated with t = 0), carry positions of their own and never reach
the head. The arithmetic of a segment without memory is the classes' own.

Stories hold one text tensor `b n d`. Rows that are all zero are padding, which no token reads. For
1.0, which also reads a pooled vector, its first row is that vector (`with_pooled`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .libraries import library
from .memory_model import MemoryModel, grid_positions, rotate

TRAINING_GUIDANCE = 1000.0
"""What a guidance-distilled model is told while it is trained: scale 1, times 1000 as in diffusers'
pipeline (inferred; musubi-tuner trains with the same)."""


def rotary_tables(positions: Tensor, axes: tuple[int, ...], theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines `b n 1 head_dim` of positions `b n 3`, as the classes' own tables."""
    angles = []
    for axis, dim in enumerate(axes):
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
        angles.append(positions[..., axis, None].double() * theta**-exponents)
    turned = torch.cat(angles, dim=-1).repeat_interleave(2, dim=-1)[:, :, None]
    return turned.cos().float(), turned.sin().float()


def with_pooled(states: Tensor, pooled: Tensor) -> Tensor:
    """Text `b n+1 d` of HunyuanVideo 1.0 from text states `b n d` and the pooled vector `b p`.

    Raises ValueError when the vector is wider than the states.
    """
    missing = states.shape[-1] - pooled.shape[-1]
    if missing < 0:
        raise ValueError(
            f"a pooled vector of {pooled.shape[-1]} does not fit text states of {states.shape[-1]}"
        )
    return torch.cat([F.pad(pooled, (0, missing))[:, None], states], dim=1)


class _HunyuanModel(MemoryModel):
    """What both versions share."""

    @property
    def patch_projection(self) -> nn.Conv3d:
        return self.transformer.x_embedder.proj

    @property
    def text_dim(self) -> int:
        return int(self.transformer.config.text_embed_dim)

    def add_lora(self, rank: int, name: str) -> None:
        """A new LoRA on every linear layer of the blocks; the text refiner has none."""
        blocks = ("transformer_blocks.", "single_transformer_blocks.")
        names = [
            path
            for path, module in self.transformer.named_modules()
            if path.startswith(blocks)
            and isinstance(module, nn.Linear)
            and not path.endswith((".norm.linear", ".norm1.linear", ".norm1_context.linear"))
        ]
        self.transformer.add_adapter(
            library("peft").LoraConfig(r=rank, lora_alpha=rank, target_modules=names),
            adapter_name=name,
        )

    def _tables(
        self, memory_positions: Tensor, grid: tuple[int, int, int], start: Tensor
    ) -> tuple[Tensor, Tensor]:
        config = self.transformer.config
        positions = torch.cat([memory_positions, grid_positions(*grid, start)], dim=1)
        return rotary_tables(positions, tuple(config.rope_axes_dim), float(config.rope_theta))

    def _unpatchify(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """`b (t h w) (c patch)` to `b c t h w`."""
        x = x.reshape(len(x), *grid, -1, *self.patch)
        x = x.permute(0, 4, 1, 5, 2, 6, 3, 7)
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


class HunyuanMemoryModel(_HunyuanModel):
    """HunyuanVideoTransformer3DModel, text to video.

    Raises ValueError for one that takes its start image by its own way.
    """

    def __init__(self, transformer: Any) -> None:
        kind = transformer.config.image_condition_type
        if kind is not None:
            raise ValueError(
                f"this HunyuanVideo takes images by {kind}: only text to video is trained"
            )
        super().__init__(transformer)

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        text: Tensor,
        memory: Tensor,
        memory_positions: Tensor,
        start: Tensor,
    ) -> Tensor:
        """Velocity `b c t h w`; see WanMemoryModel.forward. `text` is as `with_pooled` gives it."""
        model = self.transformer
        grid = tuple(n // p for n, p in zip(noisy.shape[2:], self.patch, strict=True))
        rotary = self._tables(memory_positions, grid, start)
        pooled = text[:, 0, : model.config.pooled_projection_dim]
        states, mask = text[:, 1:], valid_rows(text[:, 1:])
        guidance = timestep.new_full(timestep.shape, TRAINING_GUIDANCE)
        times = [
            model.time_text_embed(time, pooled, guidance)[0]
            for time in (torch.zeros_like(timestep), timestep)
        ]
        x = model.x_embedder(noisy)
        states = model.context_embedder(states, timestep, mask)
        memory = memory.to(x.dtype)
        for block in model.transformer_blocks:
            memory, x, states = self.run_block(
                _double_block, block, memory, x, states, times, mask, rotary
            )
        for block in model.single_transformer_blocks:
            memory, x, states = self.run_block(
                _single_block, block, memory, x, states, times, mask, rotary
            )
        return self._unpatchify(model.proj_out(model.norm_out(x, times[1])), grid)


class Hunyuan15MemoryModel(_HunyuanModel):
    """HunyuanVideo15Transformer3DModel, text to video: no image states, no glyph text."""

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        text: Tensor,
        memory: Tensor,
        memory_positions: Tensor,
        start: Tensor,
    ) -> Tensor:
        """Velocity `b c t h w`; see WanMemoryModel.forward. `text` are Qwen's states.

        `noisy` may lack the channels of a start image and its mask: they are zero then.
        """
        model = self.transformer
        missing = model.config.in_channels - noisy.shape[1]
        noisy = F.pad(noisy, (0, 0, 0, 0, 0, 0, 0, missing))
        grid = tuple(n // p for n, p in zip(noisy.shape[2:], self.patch, strict=True))
        rotary = self._tables(memory_positions, grid, start)
        mask = valid_rows(text)
        times = [model.time_embed(time) for time in (torch.zeros_like(timestep), timestep)]
        x = model.x_embedder(noisy)
        states = model.context_embedder(text, timestep, mask)
        states = states + model.cond_type_embed(torch.zeros_like(mask, dtype=torch.long))
        memory = memory.to(x.dtype)
        for block in model.transformer_blocks:
            memory, x, states = self.run_block(
                _double_block, block, memory, x, states, times, mask, rotary
            )
        return self._unpatchify(model.proj_out(model.norm_out(x, times[1])), grid)


def valid_rows(text: Tensor) -> Tensor:
    """Which rows of `b n d` are text: those that are not all zero. At least the first one is."""
    valid = text.abs().amax(dim=-1) > 0
    valid[:, 0] = True
    return valid


def _double_block(
    block: Any,
    memory: Tensor,
    x: Tensor,
    text: Tensor,
    times: list[Tensor],
    mask: Tensor,
    rotary: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """A HunyuanVideo(15)TransformerBlock; memory and segment each with their own modulation."""
    streams = [memory, x]
    normed = [
        block.norm1(part, emb=time) for part, time in zip(streams, times, strict=True)
    ]  # each: x, gate_msa, shift_mlp, scale_mlp, gate_mlp
    words, gate, shift, scale, gate_feed = block.norm1_context(text, emb=times[1])
    attention = block.attn
    joined = torch.cat([part[0] for part in normed], dim=1)
    q, k, v = _heads(attention, joined, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"), rotary)
    names = ("add_q_proj", "add_k_proj", "add_v_proj")
    texts = _heads(attention, words, names, ("norm_added_q", "norm_added_k"), None)
    pairs = zip((q, k, v), texts, strict=True)
    mixed = _attend(*(torch.cat(pair, dim=1) for pair in pairs), mask)
    seen, read = mixed.split([joined.shape[1], words.shape[1]], dim=1)
    seen = attention.to_out[1](attention.to_out[0](seen))
    pieces = seen.split([memory.shape[1], x.shape[1]], dim=1)
    for i, (piece, part) in enumerate(zip(pieces, normed, strict=True)):
        streams[i] = streams[i] + piece * part[1].unsqueeze(1)
        fed = block.norm2(streams[i]) * (1 + part[3][:, None]) + part[2][:, None]
        streams[i] = streams[i] + part[4].unsqueeze(1) * block.ff(fed)
    text = text + attention.to_add_out(read) * gate.unsqueeze(1)
    fed = block.norm2_context(text) * (1 + scale[:, None]) + shift[:, None]
    return streams[0], streams[1], text + gate_feed.unsqueeze(1) * block.ff_context(fed)


def _single_block(
    block: Any,
    memory: Tensor,
    x: Tensor,
    text: Tensor,
    times: list[Tensor],
    mask: Tensor,
    rotary: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """A HunyuanVideoSingleTransformerBlock: text is modulated like the segment."""
    lengths = [memory.shape[1], x.shape[1] + text.shape[1]]
    parts = [memory, torch.cat([x, text], dim=1)]
    normed = [block.norm(part, emb=time) for part, time in zip(parts, times, strict=True)]
    joined = torch.cat([part for part, _ in normed], dim=1)
    fed = block.act_mlp(block.proj_mlp(joined))
    names = ("to_q", "to_k", "to_v")
    q, k, v = _heads(block.attn, joined, names, ("norm_q", "norm_k"), rotary)
    out = block.proj_out(torch.cat([_attend(q, k, v, mask), fed], dim=2)).split(lengths, dim=1)
    for i, (piece, (_, gate)) in enumerate(zip(out, normed, strict=True)):
        parts[i] = parts[i] + gate.unsqueeze(1) * piece
    x, text = parts[1].split([x.shape[1], text.shape[1]], dim=1)
    return parts[0], x, text


def _heads(
    attention: Any,
    x: Tensor,
    layers: tuple[str, str, str],
    norms: tuple[str, str],
    rotary: tuple[Tensor, Tensor] | None,
) -> list[Tensor]:
    """Queries, keys and values `b n heads d`; the first of them are turned to their positions."""
    q, k, v = (getattr(attention, name)(x).unflatten(2, (attention.heads, -1)) for name in layers)
    turned = []
    for part, norm in zip((q, k), norms, strict=True):
        module = getattr(attention, norm)
        part = part if module is None else module(part)
        if rotary is not None:
            length = rotary[0].shape[1]
            moved = rotate(part[:, :length].float(), *rotary).type_as(part)
            part = torch.cat([moved, part[:, length:]], dim=1)
        turned.append(part)
    return [*turned, v]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of `b n heads d` with padded text, which stands last, hidden; gives `b n (h d)`."""
    seen = F.pad(mask, (k.shape[1] - mask.shape[1], 0), value=True)[:, None, None]
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return mixed.transpose(1, 2).flatten(2)
