"""A LoRA file on a loaded model: the weight patches that core applies, every tensor accounted for.

`fit_lora` turns a file into what `ModelPatcher.add_patches` and core's weight hooks take, through
core's own `comfy.lora.load_lora`. Core passes over names that a model does not have with a line in
the log, and over shapes that do not fit while it samples; here both are errors by name before
anything is sampled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import comfy.lora
from torch import Tensor

from .lora_files import DIFF, DIFF_BIAS, DOWN, SET, UP, LoraFile
from .lora_names import LayerNames, Target

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

Patches = Mapping[Any, Any]
"""Core's: by weight, or (weight, rows), what changes it."""


def add_lora(model: ModelPatcher, lora: LoraFile, strength: float) -> ModelPatcher:
    """A clone of `model` with the LoRA among its weight patches; `model` itself at strength 0.

    Raises ValueError naming the file, its first tensor that does not fit, and the model.
    """
    patches = fit_lora(model, lora)
    if strength == 0.0:
        return model
    clone = model.clone()
    clone.add_patches(patches, strength)
    return clone


def fit_lora(model: ModelPatcher, lora: LoraFile) -> Patches:
    """The weight patches of a LoRA for this model, complete and of the right shapes.

    Raises ValueError naming the file, its first tensor that does not fit, and the model.
    """
    names = LayerNames(model)
    targets: dict[str, Target] = {}
    owners: dict[Target, str] = {}
    for layer, parts in lora.layers.items():
        target = names.find(layer)
        key = lora.keys[layer, next(iter(parts))]
        if target is None:
            raise _misfit(lora, key, model, "which has no such layer")
        if target in owners:
            raise ValueError(f"{lora.name}: {key} and {owners[target]} mean the same weight")
        owners[target] = key
        targets[layer] = target
        _check_shapes(lora, layer, target, names, model)
    state = {
        f"{layer}.{part}": t for layer, parts in lora.layers.items() for part, t in parts.items()
    }
    return comfy.lora.load_lora(state, targets, log_missing=False)


def _check_shapes(
    lora: LoraFile, layer: str, target: Target, names: LayerNames, model: ModelPatcher
) -> None:
    weight = target if isinstance(target, str) else target[0]
    rows, *inner = names.shapes[weight]
    if not isinstance(target, str):
        rows = target[1][2]
    columns = 1
    for size in inner:
        columns *= size
    for part, tensor in lora.layers[layer].items():
        wanted = _wanted_shape(part, tensor, rows, columns)
        if part == DIFF_BIAS:
            bias = weight.removesuffix(".weight") + ".bias"
            if not isinstance(target, str) or bias not in names.shapes:
                raise _misfit(lora, lora.keys[layer, part], model, "which has no such bias")
        if wanted is not None and _flat_shape(part, tensor) != wanted:
            reason = f"whose layer is {rows} x {columns}, got {tuple(tensor.shape)}"
            raise _misfit(lora, lora.keys[layer, part], model, reason)


def _wanted_shape(part: str, tensor: Tensor, rows: int, columns: int) -> tuple[int, ...] | None:
    """What `_flat_shape` must be for a layer of `rows` x `columns`; None where it is free."""
    if part == UP:
        return rows, tensor.shape[1]
    if part == DOWN:
        return tensor.shape[0], columns
    if part == DIFF_BIAS:
        return (rows, 1)
    if part in (DIFF, SET):
        return rows, columns
    return None


def _flat_shape(part: str, tensor: Tensor) -> tuple[int, ...]:
    """Rows and everything else: a convolution's kernel counts as columns."""
    if tensor.ndim == 0:
        return ()
    return tensor.shape[0], tensor[0].numel()


def _misfit(lora: LoraFile, key: str, model: ModelPatcher, reason: str) -> ValueError:
    kind = type(model.model).__name__
    return ValueError(f"{lora.name}: {key} does not fit the loaded model ({kind}), {reason}")
