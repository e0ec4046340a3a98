"""A LoRA on diffusers' HunyuanVideo layers as one on ComfyUI's, which holds several in one weight.

Query, key and value (and in single blocks the first feed-forward layer) are rows of one weight
there. Their LoRAs become one whose rank is the sum: the first factors stacked, the second ones on
a diagonal of blocks. That is exact, and needs no converter of diffusers (there is none for 1.5).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
}
BLOCKS = (
    ("transformer_blocks", "double_blocks", DOUBLE),
    ("single_transformer_blocks", "single_blocks", SINGLE),
)
"""Diffusers' lists of blocks, ComfyUI's, and which layers make up which weight
(comfy/ldm/flux/layers.py, comfy/ldm/hunyuan_video/model.py)."""


def core_factors(factors: Mapping[tuple[str, str], Tensor]) -> dict[tuple[str, str], Tensor]:
    """Factors by ComfyUI's layer and part from factors by diffusers' layer and part ("A" or "B").

    Raises ValueError for a layer that no block of HunyuanVideo has and for one that lacks its
    neighbours in the same weight.
    """
    left = dict(factors)
    found: dict[tuple[str, str], Tensor] = {}
    for theirs, ours, table in BLOCKS:
        start = f"{theirs}."
        numbers = {layer.split(".")[1] for layer, _ in factors if layer.startswith(start)}
        for number in sorted(numbers, key=int):
            for name, parts in table.items():
                layers = [f"{theirs}.{number}.{part}" for part in parts]
                given = [layer for layer in layers if (layer, "A") in left]
                if not given:
                    continue
                if given != layers:
                    raise ValueError(f"a LoRA on {given} needs one on all of {layers}")
                whole = f"{ours}.{number}.{name}"
                found[whole, "A"] = torch.cat([left.pop((layer, "A")) for layer in layers])
                found[whole, "B"] = torch.block_diag(*[left.pop((layer, "B")) for layer in layers])
    if left:
        raise ValueError(f"no block of HunyuanVideo has {sorted({layer for layer, _ in left})[0]}")
    return found
