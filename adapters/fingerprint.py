"""What a model, VAE or text encoder is, in 32 hexadecimal digits that survive a restart.

A run folder must notice that another model, LoRA or sampling patch was connected, without reading
gigabytes: a few values of every weight are hashed, with its name, shape and type, and with every
patch that ComfyUI will apply to it. Two models that agree in all of that are taken as the same.
"""

from __future__ import annotations

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

DESCRIPTION_DEPTH = 6
"""Nested values of model options are followed this far (our choice)."""

DIGITS = 32


def fingerprint_model(model: ModelPatcher) -> str:
    """Fingerprint of a diffusion model with its LoRAs, patches and sampling settings."""
    digest = blake3()
    _add(digest, type(model.model).__qualname__, 0)
    _add_weights(digest, model)
    _add(digest, model.get_model_object("model_sampling"), 0)
    options = {key: value for key, value in model.model_options.items() if key not in _HOST_OPTIONS}
    _add(digest, options, 0)
    _add(digest, sorted(model.object_patches), 0)
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
    for key, (weight, *patches) in sorted(patcher.get_key_patches().items()):
        _add(digest, key, 0)
        _add(digest, weight[0] if isinstance(weight, tuple) else weight, 0)
        for patch in patches:
            _add(digest, patch, 0)


def _add(digest: blake3, value: Any, depth: int, whole: bool = False) -> None:
    """Feed a value to the digest: tensors by their numbers, containers by their items, functions
    by their names, other objects by their class and plain attributes."""
    if isinstance(value, torch.Tensor):
        _add_tensor(digest, value, whole)
    elif value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        digest.update(repr(value).encode() + b";")
    elif isinstance(value, (types.FunctionType, types.MethodType, types.BuiltinFunctionType, type)):
        digest.update(f"{value.__module__}.{value.__qualname__};".encode())
    elif depth >= DESCRIPTION_DEPTH:
        digest.update(f"{type(value).__qualname__};".encode())
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
        _add_object(digest, value, depth)


def _add_object(digest: blake3, value: Any, depth: int) -> None:
    digest.update(f"{type(value).__qualname__};".encode())
    attributes = dict(getattr(value, "__dict__", {}))
    attributes.update(attributes.pop("_buffers", {}))
    attributes.update(attributes.pop("_parameters", {}))
    plain = {
        name: attribute
        for name, attribute in attributes.items()
        if isinstance(attribute, (torch.Tensor, bool, int, float, str, list, tuple))
    }
    _add(digest, plain, depth + 1)


def _add_tensor(digest: blake3, tensor: torch.Tensor, whole: bool) -> None:
    digest.update(f"{tuple(tensor.shape)}{tensor.dtype};".encode())
    flat = tensor.detach().reshape(-1)
    if not whole and flat.numel() > SAMPLES_PER_TENSOR:
        positions = torch.linspace(0, flat.numel() - 1, SAMPLES_PER_TENSOR).long()
        flat = flat[positions.to(flat.device)]
    values = flat.contiguous().to(device="cpu").view(torch.uint8)
    digest.update(values.numpy().tobytes())
