"""HunyuanVideo's layers by the names of the original checkpoint, which diffusers' converter reads.

The inverse of `comfy.supported_models.HunyuanVideo.process_unet_state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

# the first that fits counts: no name holds two of them
_ORIGINAL = (
    ("txt_in.t_embedder.in_layer.", "txt_in.t_embedder.mlp.0."),
    ("txt_in.t_embedder.out_layer.", "txt_in.t_embedder.mlp.2."),
    ("txt_in.c_embedder.in_layer.", "txt_in.c_embedder.linear_1."),
    ("txt_in.c_embedder.out_layer.", "txt_in.c_embedder.linear_2."),
    ("time_in.in_layer.", "time_in.mlp.0."),
    ("time_in.out_layer.", "time_in.mlp.2."),
    ("guidance_in.in_layer.", "guidance_in.mlp.0."),
    ("guidance_in.out_layer.", "guidance_in.mlp.2."),
    ("_mod.lin.", "_mod.linear."),
    (".modulation.lin.", ".modulation.linear."),
    ("_attn.qkv.", "_attn_qkv."),
    ("_attn.proj.", "_attn_proj."),
    ("img_mlp.0.", "img_mlp.fc1."),
    ("img_mlp.2.", "img_mlp.fc2."),
    ("txt_mlp.0.", "txt_mlp.fc1."),
    ("txt_mlp.2.", "txt_mlp.fc2."),
    (".mlp.0.", ".mlp.fc1."),
    (".mlp.2.", ".mlp.fc2."),
)


def original_name(name: str) -> str:
    """The original checkpoint's name of a weight of core's model (without its prefix)."""
    for core, original in _ORIGINAL:
        if core in name:
            return name.replace(core, original)
    return name


def split_single_block(name: str, rows: torch.Tensor, width: int) -> Mapping[str, torch.Tensor]:
    """Diffusers' parts of a single block's first layer; empty for every other weight.

    Diffusers' converter does the same for the width of 3072 only.
    """
    if not (name.startswith("single_blocks.") and name.endswith(".linear1.weight")):
        return {}
    block = name.replace("single_blocks", "single_transformer_blocks").removesuffix(
        ".linear1.weight"
    )
    parts = torch.split(rows, [width, width, width, len(rows) - 3 * width])
    names = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    return {f"{block}.{part}.weight": rows for part, rows in zip(names, parts, strict=True)}
