"""Cached tensors that ComfyUI's model management counts, moves and brings back.

See the shared design `latent-cache.md`. (The cache itself is being built on top of these two.)
"""

from __future__ import annotations

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn


class CachedTensor(nn.Module):
    """A leaf module that holds one tensor, so that core can load and unload it by itself."""

    comfy_cast_weights = True
    weight_function: list = []
    bias_function: list = []
    bias = None

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensor.detach(), requires_grad=False)


def read_cached(source: nn.Module, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The tensor of a leaf on a device, in a type; streamed when core left it in RAM."""
    return comfy.model_management.cast_to(source.weight, dtype=dtype, device=device)
