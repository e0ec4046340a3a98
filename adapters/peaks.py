"""How much memory a sampler step is expected to take, as core itself reckons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import comfy.model_management

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

GUIDED = 2
"""Core runs the conditional and the unconditional branch as one batch where it has the memory."""


def step_bytes(model: ModelPatcher, shape: Sequence[int]) -> float:
    """Bytes that a step over a latent of `shape` (b c t h w) takes beside the weights, which core
    moves as it needs (`BaseModel.memory_required` in comfy/model_base.py)."""
    return float(model.model.memory_required(list(shape)))


def device_bytes(model: ModelPatcher) -> float:
    """Memory of the device that the model runs on."""
    return float(comfy.model_management.get_total_memory(model.load_device))


def weight_bytes(model: ModelPatcher) -> float:
    """Bytes of the weights as they are loaded: what a step reads, and with it, roughly, its
    arithmetic."""
    return float(model.model_size())
