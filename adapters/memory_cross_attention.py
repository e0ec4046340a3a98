"""The decoupled cross-attention add-on: image tokens read the encoder's last hidden states.

The paper says that it exists and helps (v6, section 4.6), not how. Ours (inferred): per block, keys
and values are linear in the hidden states, the query is the block's own (Wan: that of its text
cross-attention; HunyuanVideo: the image's, before its rotary turn), and what comes out is added to
the image's residual. Weights are named `xattn.{block}.{k,v,o}.weight` (`.bias` optional), blocks
counted through the model; a new add-on has o = 0 and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

from ..memory.bank import MemoryBank
from .cache import CachedTensor, read_cached

NAME = re.compile(r"(?:.*\.)?xattn\.(\d+)\.([kvo])\.(weight|bias)")


class CrossAttention(nn.Module):
    """Keys, values and output layers of the blocks that have them, one leaf per tensor.

    Keys and values are made once, when the memory is attached; they stay the same over all steps.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.add_module(name, CachedTensor(tensor))

    def has(self, block: int) -> bool:
        return f"{block}_k" in self._modules

    def read(self, block: int, query: Tensor, heads: int) -> Tensor:
        """What queries `b n d` of a block read, `b n d`."""
        key, value = (self._tensor(f"{block}_{name}", query) for name in "kv")
        batch = (len(query), -1, -1)
        mixed = optimized_attention(
            query, key[None].expand(batch), value[None].expand(batch), heads
        )
        bias = self._tensor(f"{block}_bias", query) if f"{block}_bias" in self._modules else None
        return F.linear(mixed, self._tensor(f"{block}_o", query), bias)

    def _tensor(self, name: str, like: Tensor) -> Tensor:
        return read_cached(getattr(self, name), like.device, like.dtype)


def make_cross_attention(
    weights: Mapping[str, Tensor] | nn.Module,
    bank: MemoryBank,
    width: int,
    device: torch.device,
    dtype: torch.dtype,
) -> CrossAttention:
    """The add-on for one bank, computed on `device`, kept on the CPU in `dtype`.

    Raises ValueError for names or shapes that do not fit, and for a bank without hidden states.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    layers = _layers(state)
    hidden = _hidden(bank, device)
    tensors: dict[str, Tensor] = {}
    for block, own in layers.items():
        for name, sides in (("k", (width, hidden.shape[1])), ("v", (width, hidden.shape[1]))):
            weight, bias = own[name]
            _check(weight, sides, f"xattn.{block}.{name}")
            made = F.linear(hidden, weight.to(hidden), None if bias is None else bias.to(hidden))
            tensors[f"{block}_{name}"] = made.to("cpu", dtype)
        weight, bias = own["o"]
        _check(weight, (width, width), f"xattn.{block}.o")
        tensors[f"{block}_o"] = weight.detach().to("cpu", dtype)
        if bias is not None:
            tensors[f"{block}_bias"] = bias.detach().to("cpu", dtype)
    return CrossAttention(tensors)


Layer = dict[str, tuple[Tensor, Tensor | None]]
"""Weight and bias of k, v and o."""


def _layers(state: Mapping[str, Tensor]) -> dict[int, Layer]:
    found: dict[int, dict[str, dict[str, Tensor]]] = {}
    for name, tensor in state.items():
        match = NAME.fullmatch(name)
        if match is not None:
            block, layer, kind = match.groups()
            found.setdefault(int(block), {}).setdefault(layer, {})[kind] = tensor
    for block, layers in found.items():
        missing = [name for name in "kvo" if "weight" not in layers.get(name, {})]
        if missing:
            raise ValueError(f"cross-attention weights must have xattn.{block}.{missing[0]}.weight")
    if not found:
        raise ValueError(
            "cross-attention weights must be named like xattn.0.k.weight, got "
            f"{', '.join(list(state)[:3]) or 'none'}"
        )
    return {
        block: {name: (layer["weight"], layer.get("bias")) for name, layer in layers.items()}
        for block, layers in found.items()
    }


def _hidden(bank: MemoryBank, device: torch.device) -> Tensor:
    """The hidden states n w, float32, of the pieces that keep them: those of an encoder without
    the add-on, and what a shot recalls, do not."""
    pieces = [(entry.title, piece) for entry in bank.entries for piece in entry.pieces]
    leaves = [piece.hidden for _, piece in pieces if piece.hidden is not None]
    if not leaves:
        title, piece = pieces[0]
        raise ValueError(
            f"memory {title!r} ({piece.form}) must keep hidden states for cross-attention, got "
            "none: encode it with an encoder that has them"
        )
    return torch.cat([read_cached(leaf, device, torch.float32) for leaf in leaves])


def _check(weight: Tensor, expected: Sequence[int], name: str) -> None:
    if tuple(weight.shape) != tuple(expected):
        raise ValueError(
            f"{name}.weight must be {'x'.join(map(str, expected))} for this model and memory, got "
            f"{'x'.join(map(str, weight.shape))}"
        )


def add_to_patches(
    transformer_options: dict[str, Any], name: str, patch: Any, first: bool
) -> dict[str, Any]:
    """Options with one more patch in a list of core's `patches`; the given ones stay."""
    patches = transformer_options.get("patches", {})
    there = patches.get(name, [])
    together = [patch, *there] if first else [*there, patch]
    return {**transformer_options, "patches": {**patches, name: together}}
