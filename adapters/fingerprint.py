"""What a model, VAE or text encoder is, in 32 hexadecimal digits that survive a restart.

A run folder must notice that another model, LoRA or sampling patch was connected, without reading
gigabytes: a few values of every weight are hashed, with its name, shape and type, and with every
patch that ComfyUI will apply to it. Two models that agree in all of that are taken as the same.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

SAMPLES_PER_TENSOR = 16
"""Values read of each weight; over a thousand weights that is 16,000 values (our choice)."""

DESCRIPTION_DEPTH = 10
"""Nested values of model options are followed this far: the settings in the closure of a patch that
replaces one block's attention lie 8 deep, and two more are room."""

DIGITS = 32


def fingerprint_model(model: ModelPatcher) -> str:
    """Fingerprint of a diffusion model with its LoRAs, patches and sampling settings."""
    digest = blake3()
    _add(digest, type(model.model).__qualname__, 0)
    _add_weights(digest, model)
    _add(digest, model.get_model_object("model_sampling"), 0)
    options = {key: value for key, value in model.model_options.items() if key not in _HOST_OPTIONS}
    _add(digest, options, 0)
    _add(digest, model.object_patches, 0)
    _add(digest, model.wrappers, 0)
    return digest.hexdigest()[:DIGITS]


_HOST_OPTIONS = ("multigpu_clones", "registered_hooks")


def fingerprint_text_encoder(clip: CLIP) -> str:
    """Fingerprint of a CLIP object: weights, LoRAs, skipped layers and tokenizer options."""
    digest = blake3()
    _add(digest, type(clip.cond_stage_model).__qualname__, 0)
    _add_weights(digest, clip.patcher)
    _add(digest, [clip.layer_idx, clip.tokenizer_options], 0)
    return digest.hexdigest()[:DIGITS]


def fingerprint_vae(vae: VAE) -> str:
    digest = blake3()
    _add(digest, type(vae.first_stage_model).__qualname__, 0)
    _add_weights(digest, vae.patcher)
    return digest.hexdigest()[:DIGITS]


def fingerprint_value(value: Any) -> str:
    """Fingerprint of tensors and plain values, whole tensors included (conditioning, images)."""
    digest = blake3()
    _add(digest, value, 0, whole=True)
    return digest.hexdigest()[:DIGITS]


def _add_weights(digest: blake3, patcher: ModelPatcher) -> None:
    """Weights with their patches. What object patches replace is left out: while a model is loaded
    the state dict shows the replacement, or that of a clone that shares the weights."""
    replaced = tuple(f"{name}." for name in ("model_sampling", *patcher.object_patches))
    for key, (weight, *patches) in sorted(patcher.get_key_patches().items()):
        if key.startswith(replaced):
            continue
        _add(digest, key, 0)
        _add(digest, weight[0] if isinstance(weight, tuple) else weight, 0)
        for patch in patches:
            _add(digest, patch, 0)


def _add(digest: blake3, value: Any, depth: int, whole: bool = False) -> None:
    """Feed a value to the digest: tensors by their numbers, containers by their items, functions
    by their names and what they hold on to, other objects by their class and attributes."""
    if isinstance(value, torch.Tensor):
        _add_tensor(digest, value, whole)
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        digest.update(repr(value).encode() + b";")
    elif depth >= DESCRIPTION_DEPTH:
        digest.update(f"{type(value).__qualname__};".encode())
    elif isinstance(value, _FUNCTIONS):
        _add_function(digest, value, depth, whole)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            digest.update(repr(key).encode() + b":")
            _add(digest, value[key], depth + 1, whole)
    elif isinstance(value, (list, tuple)):
        digest.update(b"[")
        for item in value:
            _add(digest, item, depth + 1, whole)
        digest.update(b"]")
    else:
        _add_object(digest, value, depth, whole)


_FUNCTIONS = (
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    functools.partial,
    type,
)


def _add_function(digest: blake3, value: Any, depth: int, whole: bool) -> None:
    """A patch keeps its settings in its closure (RescaleCFG), defaults, object or partial."""
    if isinstance(value, functools.partial):
        held: Any = [value.func, value.args, value.keywords]
    else:
        digest.update(f"{_module(value)}.{value.__qualname__};".encode())
        held = [
            [_content(cell) for cell in getattr(value, "__closure__", None) or ()],
            getattr(value, "__defaults__", None),
            getattr(value, "__kwdefaults__", None),
            value.__self__ if isinstance(value, types.MethodType) else None,
        ]
    _add(digest, held, depth + 1, whole)


def _module(value: Any) -> str:
    """The module of a function. ComfyUI names a pack's by the folder that it lies in, which is
    another one on another machine."""
    return str(value.__module__).replace("\\", "/").rpartition("/")[2]


def _content(cell: types.CellType) -> Any:
    """What a closure holds, None for a name that its function has not set yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


SCRATCH = frozenset({"cond_hint", "extra_concat", "timestep_range"})
"""What core's ControlBase keeps in itself while it samples."""

_DESCRIBED = (torch.Tensor, bool, int, float, str, list, tuple, Mapping, *_FUNCTIONS)


def _add_object(digest: blake3, value: Any, depth: int, whole: bool) -> None:
    """Class and attributes; private ones are state (a context handler's `_step`), not settings."""
    digest.update(f"{type(value).__qualname__};".encode())
    if hasattr(value, "get_key_patches"):
        _add_weights(digest, value)
        return
    attributes = dict(getattr(value, "__dict__", {}))
    attributes.update(attributes.pop("_buffers", {}))
    attributes.update(attributes.pop("_parameters", {}))
    described = {
        name: attribute
        for name, attribute in attributes.items()
        if isinstance(attribute, _DESCRIBED) or _is_control_or_patcher(attribute)
        if not name.startswith("_") and name not in SCRATCH
    }
    _add(digest, described, depth + 1, whole)


def _is_control_or_patcher(value: Any) -> bool:
    return hasattr(value, "cond_hint_original") or hasattr(value, "get_key_patches")


def _add_tensor(digest: blake3, tensor: torch.Tensor, whole: bool) -> None:
    digest.update(f"{tuple(tensor.shape)}{tensor.dtype};".encode())
    flat = tensor.detach().reshape(-1)
    last = flat.numel() - 1
    if not whole and last >= SAMPLES_PER_TENSOR:
        positions = [last * i // (SAMPLES_PER_TENSOR - 1) for i in range(SAMPLES_PER_TENSOR)]
        flat = flat[torch.tensor(positions, device=flat.device)]
    values = flat.contiguous().to(device="cpu").view(torch.uint8)
    digest.update(values.numpy().tobytes())
