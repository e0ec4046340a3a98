"""Reads a LoRA file: safetensors of ComfyUI, kohya, diffusers or PEFT, as layers with parts.

The formats differ in what they call a layer, in what they call its two factors, and in where the
scale stands: an `alpha` tensor per layer (kohya, ComfyUI), the metadata key `lora_adapter_metadata`
(diffusers 0.35 on; before that, and in files without it, alpha is the rank) or the file
adapter_config.json beside the weights (PEFT). Here each becomes ComfyUI's parts `lora_up.weight`,
`lora_down.weight`, `alpha`, `diff`, `diff_b`, `set_weight`, `dora_scale`. Which layer of a loaded
model a name stands for is decided in `adapters/lora_names.py`. Nothing is left out: a tensor that
is no part of a LoRA is an error that names it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..memory.lora_digest import lora_digest

PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
"""PEFT's names of the two files of an adapter's folder (peft, utils/constants.py)."""

DIFFUSERS_KEY = "lora_adapter_metadata"
"""Where diffusers keeps PEFT's config (diffusers, loaders/lora_base.py)."""

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
DIFF, DIFF_BIAS, SET, DORA = "diff", "diff_b", "set_weight", "dora_scale"

_ADAPTER = r"(?:\.[A-Za-z0-9_\-]+)?"  # PEFT writes its adapter's name there while training
_PARTS = (
    (re.compile(rf"\.lora_A{_ADAPTER}\.weight|[._]lora[._]down\.weight"), DOWN),
    (re.compile(rf"\.lora_B{_ADAPTER}\.weight|[._]lora[._]up\.weight"), UP),
    (re.compile(r"\.lora_linear_layer\.down\.weight|\.lora_A"), DOWN),
    (re.compile(r"\.lora_linear_layer\.up\.weight|\.lora_B"), UP),
    (re.compile(rf"\.lora_B{_ADAPTER}\.bias"), DIFF_BIAS),
    (re.compile(r"\.alpha"), ALPHA),
    (re.compile(r"\.dora_scale"), DORA),
    (re.compile(r"\.diff|\.w_norm"), DIFF),
    (re.compile(r"\.diff_b|\.b_norm"), DIFF_BIAS),
    (re.compile(r"\.set_weight"), SET),
)
"""Endings of names in files, and ComfyUI's word for what stands there (comfy/lora.py load_lora,
comfy/weight_adapter/lora.py; peft, utils/save_and_load.py)."""

_SCALED_BIAS = re.compile(rf"\.lora_B{_ADAPTER}\.bias$")
"""PEFT's bias of the second factor is scaled like the factors; ComfyUI's `diff_b` is not."""

_REFUSED_FIELDS = (
    "modules_to_save",
    "trainable_token_indices",
    "layer_replication",
    "target_parameters",
    "fan_in_fan_out",
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "megatron_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)
"""Fields of adapter_config.json that change what the adapter computes in a way that two factors and
a scale cannot say (peft 0.18, tuners/lora/config.py). DoRA is among them: PEFT divides by the norm
of the changed weight and ComfyUI by the norm of the model's own."""

_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""`init_lora_weights` under which training starts from another base weight than the model's."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The scale of PEFT's layers: alpha / rank, or alpha / sqrt(rank) with `rank_stabilised`.

    The patterns map regular expressions on the end of a layer's name to other values.
    """

    rank: int
    alpha: float
    rank_stabilised: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    def scale(self, layer: str, rank: int) -> float:
        """What the product of the factors is multiplied by. Raises ValueError for another rank."""
        expected = _matching(self.rank_pattern, layer, self.rank)
        if rank != expected:
            raise ValueError(f"{layer} has rank {rank}, but its config says {expected}")
        alpha = _matching(self.alpha_pattern, layer, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A LoRA as it was read, finite and complete. `name` is what the artist chose.

    `layers` hold ComfyUI's parts by the layer's name in the file; `keys` what each part was called
    there, by (layer, part). `digest` is over the file's own tensors (memory/lora_digest.py).
    """

    name: str
    layers: Mapping[str, Mapping[str, Tensor]]
    keys: Mapping[tuple[str, str], str]
    metadata: Mapping[str, str]
    digest: str

    @property
    def effect(self) -> str:
        """Digest of what the LoRA does, its scales included."""
        parts = {f"{k}.{p}": t for k, layer in self.layers.items() for p, t in layer.items()}
        return lora_digest(parts)


def read_lora(path: Path, name: str) -> LoraFile:
    """Read the file at `path`, called `name` in errors.

    Raises ValueError for another kind of file, a damaged one, NaN, a tensor that is no part of a
    LoRA, half a LoRA, and a PEFT config that says more than two factors and a scale can.
    """
    tensors, metadata = _tensors(path, name)
    config = _config(path, name, tensors, metadata)
    layers: dict[str, dict[str, Tensor]] = {}
    keys: dict[tuple[str, str], str] = {}
    for key, tensor in tensors.items():
        layer, part = _split(key, name)
        if (layer, part) in keys:
            raise ValueError(f"{name}: {key} says the same as {keys[layer, part]}")
        keys[layer, part] = key
        layers.setdefault(layer, {})[part] = tensor
    for layer, parts in layers.items():
        _check_parts(parts, {part: keys[layer, part] for part in parts}, name)
        if config is not None and DOWN in parts:
            _apply_config(parts, layer, config, name, keys)
    return LoraFile(
        name=name, layers=layers, keys=keys, metadata=metadata, digest=lora_digest(tensors)
    )


def _tensors(path: Path, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata, on the CPU."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        raise ValueError(f"{name}: only safetensors files are read as LoRAs")
    if not path.is_file():
        raise ValueError(f"{name}: no such LoRA file")
    try:
        with safe_open(path, "pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{name}: the file is damaged or no safetensors file: {error}") from error
    if not tensors:
        raise ValueError(f"{name}: the file holds no tensors")
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise ValueError(f"{name}: {key} must be finite, got NaN or infinity")
    return tensors, metadata


def _split(key: str, name: str) -> tuple[str, str]:
    """The layer and the part that a tensor's name speaks of."""
    if ".lora_magnitude_vector" in key:
        raise ValueError(
            f"{name}: {key} belongs to a DoRA of PEFT, which ComfyUI scales differently; "
            "merge it or train without use_dora"
        )
    for ending, part in _PARTS:
        match = re.search(rf"(?:{ending.pattern})$", key)
        if match and match.start() > 0:
            return key[: match.start()], part
    raise ValueError(f"{name}: {key} is no part of a LoRA that can be read")


def _check_parts(parts: Mapping[str, Tensor], keys: Mapping[str, str], name: str) -> None:
    """Both factors of one rank, and nothing that would be passed over."""
    first = next(iter(keys.values()))
    if (DOWN in parts) != (UP in parts):
        raise ValueError(f"{name}: {first} is one factor without the other")
    if DOWN not in parts:
        for part in (ALPHA, DORA):
            if part in parts:
                raise ValueError(f"{name}: {keys[part]} stands alone, without its two factors")
    elif parts[UP].ndim < 2 or parts[DOWN].ndim < 2 or parts[UP].shape[1] != parts[DOWN].shape[0]:
        raise ValueError(
            f"{name}: {keys[UP]} and {keys[DOWN]} must share a rank, got "
            f"{tuple(parts[UP].shape)} and {tuple(parts[DOWN].shape)}"
        )
    weights = [part for part in (UP, DIFF, SET) if part in parts]
    if len(weights) > 1:
        raise ValueError(f"{name}: {keys[weights[0]]} and {keys[weights[1]]} change one weight")
    if ALPHA in parts and parts[ALPHA].numel() != 1:
        raise ValueError(f"{name}: {keys[ALPHA]} must be one number")


def _apply_config(
    parts: dict[str, Tensor],
    layer: str,
    config: LoraConfig,
    name: str,
    keys: Mapping[tuple[str, str], str],
) -> None:
    """Turn PEFT's scale into ComfyUI's `alpha`, which ComfyUI divides by the rank."""
    if ALPHA in parts:
        raise ValueError(f"{name}: {keys[layer, ALPHA]} says a scale that the config says too")
    rank = parts[DOWN].shape[0]
    try:
        scale = config.scale(layer, rank)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    parts[ALPHA] = torch.tensor(scale * rank)
    if DIFF_BIAS in parts and _SCALED_BIAS.search(keys[layer, DIFF_BIAS]):
        parts[DIFF_BIAS] = parts[DIFF_BIAS] * scale


def _config(
    path: Path, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> LoraConfig | None:
    """The config beside a PEFT file or in the metadata of a diffusers file, None without one."""
    if path.name == PEFT_FILE:
        beside = path.with_name(PEFT_CONFIG)
        if not beside.is_file():
            raise ValueError(f"{name}: a PEFT adapter needs its {PEFT_CONFIG} in the same folder")
        return _read_config(beside.read_bytes(), name, PEFT_CONFIG)
    if DIFFUSERS_KEY in metadata:
        return _read_config(metadata[DIFFUSERS_KEY].encode(), name, DIFFUSERS_KEY)
    biased = [key for key in tensors if _SCALED_BIAS.search(key)]
    if biased:
        raise ValueError(f"{name}: {biased[0]} needs the scale of a PEFT config, got none")
    return None


def _read_config(data: bytes, name: str, where: str) -> LoraConfig:
    """The fields that matter; in diffusers' metadata they begin with the model's part."""
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{name}: {where} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{name}: {where} must be an object, got {type(fields).__name__}")
    fields = {key.removeprefix("transformer."): value for key, value in fields.items()}
    _check_fields(fields, name, where)
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        raise ValueError(f"{name}: {where} must say r and lora_alpha, got {rank!r} and {alpha!r}")
    return LoraConfig(
        rank=rank,
        alpha=float(alpha),
        rank_stabilised=bool(fields.get("use_rslora")),
        rank_pattern=_pattern(fields, "rank_pattern", name, where),
        alpha_pattern=_pattern(fields, "alpha_pattern", name, where),
    )


def _check_fields(fields: Mapping[str, Any], name: str, where: str) -> None:
    """Refuse a config that means more than factors and a scale."""
    kind = fields.get("peft_type", "LORA")
    if kind != "LORA":
        raise ValueError(f"{name}: {where}: peft_type must be LORA, got {kind!r}")
    for field in _REFUSED_FIELDS:
        if fields.get(field):
            raise ValueError(f"{name}: {where}: {field} is not supported, got {fields[field]!r}")
    if fields.get("bias", "none") != "none":
        raise ValueError(f"{name}: {where}: bias must be 'none', got {fields['bias']!r}")
    start = fields.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGED_BASE):
        raise ValueError(
            f"{name}: {where}: init_lora_weights {start!r} was trained on another base weight; "
            "save the adapter with path_initial_model_for_weight_conversion"
        )


def _pattern(fields: Mapping[str, Any], key: str, name: str, where: str) -> dict[str, Any]:
    pattern = fields.get(key) or {}
    if not isinstance(pattern, dict) or not all(
        isinstance(value, int | float) and value > 0 for value in pattern.values()
    ):
        raise ValueError(f"{name}: {where}: {key} must map layers to numbers, got {pattern!r:.80}")
    for expression in pattern:
        try:
            re.compile(expression)
        except re.error as error:
            raise ValueError(f"{name}: {where}: {key} {expression!r}: {error}") from None
    return pattern


def _matching(pattern: Mapping[str, Any], layer: str, otherwise: Any) -> Any:
    """The value of the first expression that fits the end of a layer's name, as PEFT looks it up
    (peft, utils/other.py get_pattern_key)."""
    for expression, value in pattern.items():
        if re.match(rf"(.*\.)?({expression})$", layer):
            return value
    return otherwise
