"""From a memory training to the files that nodes load: encoders, packing and their LoRA.

Stage II trains a new LoRA on top of Stage I's, which was merged into the frozen model. The shipped
LoRA is both: their factors side by side, which is their sum exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..memory.lora_digest import ENCODER_KEY, LORA_HASH_KEY, LORA_KEY, lora_digest
from ..memory.weight_format import write_encoder_file
from .checkpoints import write_tensors
from .hunyuan_lora import core_factors

LAYER_NAMES = (
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q", ".q"),
    (".to_k", ".k"),
    (".to_v", ".v"),
    (".to_out.0", ".o"),
    (".ffn.net.0.proj", ".ffn.0"),
    (".ffn.net.2", ".ffn.2"),
)
"""Diffusers' names of a Wan block's layers and ComfyUI's (diffusers, single_file_utils.py:
convert_wan_transformer_to_diffusers, read backwards)."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What the files say of themselves. `base` names the video model, `stem` begins file names.

    `low_mode` is "pixel" where small pictures were encoded, "latent" where latents were averaged.
    """

    base: str
    stem: str
    title: str
    fps: float
    segment_latents: int
    training: str
    low_mode: str = "pixel"


def lora_factors(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A trained LoRA in ComfyUI's names: `diffusion_model.LAYER.lora_A.weight` and `lora_B`.

    `values` are a trainer's parameters by name; those that are no LoRA are left out.
    """
    factors: dict[tuple[str, str], Tensor] = {}
    for name, value in values.items():
        stem, found, rest = name.partition(".lora_")
        if found:
            factors[stem.split("transformer.", 1)[1], rest[0]] = value
    if any(layer.startswith("blocks.") for layer, _ in factors):
        named = {(_wan_name(layer), part): value for (layer, part), value in factors.items()}
    else:
        named = core_factors(factors)
    return {
        f"diffusion_model.{layer}.lora_{part}.weight": value
        for (layer, part), value in named.items()
    }


def _wan_name(layer: str) -> str:
    for theirs, ours in LAYER_NAMES:
        layer = layer.replace(theirs, ours)
    return layer


def layer_factors(lora: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Down and up factor of a shipped LoRA by diffusers' name of the layer: `lora_factors` read
    backwards."""
    layers = {}
    for name, down in lora.items():
        layer, found, _ = name.partition(".lora_A.")
        if not found:
            continue
        up = lora[name.replace(".lora_A.", ".lora_B.")]
        theirs_name = layer.removeprefix("diffusion_model.")
        for theirs, ours in LAYER_NAMES:
            inner = ours.endswith(".")  # a part in the middle of a name
            if (ours in theirs_name) if inner else theirs_name.endswith(ours):
                theirs_name = theirs_name.replace(ours, theirs)
        layers[theirs_name] = (down, up)
    return layers


def added_loras(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One LoRA that does what two do one after the other's merge. Both name the same layers."""
    joined = {}
    for name, factor in second.items():
        axis = 0 if ".lora_A." in name else 1  # A is rank x in, B is out x rank
        joined[name] = torch.cat([first[name], factor], dim=axis) if name in first else factor
    return {**first, **joined}


def export_memory(
    values: Mapping[str, Tensor],
    encoders: nn.ModuleDict,
    packers: nn.ModuleDict,
    folder: Path,
    provenance: Provenance,
    earlier_lora: Mapping[str, Tensor] | None = None,
) -> list[Path]:
    """Write `memory_encoders/*` and `loras/*` below `folder`, bfloat16; gives their paths.

    `values` are the trainer's averaged parameters by name, `earlier_lora` the factors that were
    merged before this training (see `lora_factors`).
    """
    lora = lora_factors(values)
    if earlier_lora:
        lora = added_loras(earlier_lora, lora)
    lora = {name: value.to(torch.bfloat16).contiguous() for name, value in lora.items()}
    lora_name, digest = f"{provenance.stem}_memory.safetensors", lora_digest(lora)
    common = {
        LORA_KEY: lora_name,
        LORA_HASH_KEY: digest,
        "license": "GPL-3.0-or-later",
        "training": provenance.training,
        "base": provenance.base,
    }
    paths = []
    for rate, encoder in encoders.items():
        path = folder / "memory_encoders" / f"{provenance.stem}_{rate}.safetensors"
        state = _part(values, f"ways.encoders.{rate}.")
        metadata = {**common, **_encoder_metadata(encoder, provenance)}
        metadata["title"] = f"{provenance.title}, {rate}"
        paths.append(_write(path, state, metadata))
    packing = {f"packer.{key}": value for key, value in _part(values, "ways.packers.").items()}
    if packing:
        path = folder / "memory_encoders" / f"{provenance.stem}_packing.safetensors"
        first = next(iter(encoders.values()))
        metadata = {**common, **_encoder_metadata(first, provenance), "kind": "packing"}
        metadata["title"] = f"{provenance.title}, FramePack kernels"
        paths.append(_write(path, packing, metadata))
    names = ",".join(path.name for path in paths)
    lora_path = folder / "loras" / lora_name
    metadata = {**common, ENCODER_KEY: names, "modelspec.title": f"{provenance.title}, LoRA"}
    write_tensors(lora_path, lora, metadata)
    return [*paths, lora_path]


def _part(values: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value.to(torch.bfloat16)
        for name, value in values.items()
        if name.startswith(prefix)
    }


def _write(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_encoder_file(path, state, metadata)
    path.chmod(0o644)  # safetensors makes it readable for its owner only
    return path


def _encoder_metadata(encoder: nn.Module, provenance: Provenance) -> dict[str, str]:
    config = encoder.config
    return {
        "in_channels": str(config.in_channels),
        "inner_dim": str(config.inner_dim),
        "rate": str(config.rate),
        "grid_round": config.rounding,
        "patch": ",".join(map(str, config.patch)),
        "widths": ",".join(map(str, config.widths)),
        "heads": str(config.heads),
        "attention_cells": str(config.attention_cells),
        "caption_dim": str(config.caption_dim),
        "address_dim": str(config.address_dim),
        "rope_mode": "history_negative",
        "causal": "1",
        "lr_mode": provenance.low_mode,
        "memory_t0": "1",
        "stream": "segment",
        "segment_latents": str(provenance.segment_latents),
        "fps": f"{provenance.fps:g}",
    }
