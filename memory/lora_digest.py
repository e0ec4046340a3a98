"""The content hash that pairs a history encoder with the LoRA it was trained with.

An encoder is only meaningful with its LoRA (design, memory-encoder.md, 5.3), so each file names the
other: the encoder's metadata holds `lora` (the LoRA's file name) and `lora_hash`, the LoRA's
metadata holds `memory_encoder` (the encoders' file names) and its own `lora_hash`. The hash is over
tensors and names alone, so that it survives a renamed file and edited metadata.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from blake3 import blake3
from torch import Tensor

LORA_KEY = "lora"
"""Metadata of an encoder: file name of its LoRA."""

LORA_HASH_KEY = "lora_hash"
"""Metadata of an encoder: digest of its LoRA. Of a LoRA: digest of its own tensors."""

ENCODER_KEY = "memory_encoder"
"""Metadata of a LoRA: file names of the encoders it was trained with, apart by a comma."""


def lora_digest(tensors: Mapping[str, Tensor]) -> str:
    """BLAKE3 of tensors and their names, as 64 hexadecimal digits.

    The order of the mapping, the device and the memory order of the tensors do not matter; their
    names, types, shapes and bits do. Nothing is mutated.
    """
    digest = blake3()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        header = f"{len(name)}:{name}|{tensor.dtype}|{tuple(tensor.shape)}|"
        digest.update(header.encode())
        plain = tensor.to(device="cpu").contiguous().reshape(-1).view(torch.uint8)
        digest.update(plain.numpy().tobytes())
    return digest.hexdigest()
