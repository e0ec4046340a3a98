"""Which weight of a loaded model a LoRA file means, for every way of naming layers.

Core's own names and kohya's come from `comfy.lora.model_lora_keys_unet`. Diffusers' and PEFT's
names come from diffusers' own converters: each weight of the model goes through the converter as a
list of its row numbers, and what comes out under diffusers' name says which rows of which weight it
is (HunyuanVideo has query, key and value in one weight, diffusers in three).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import comfy.lora
import comfy.model_base
import torch

from .hunyuan_names import original_name, split_single_block

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

Rows = tuple[int, int, int]
"""ComfyUI's offset of a patch: dimension, first index, length."""

Target = str | tuple[str, Rows]
"""A weight of the model's state dict, or some rows of one."""

CORE_PREFIX = "diffusion_model."

DOTTED_PREFIXES = ("base_model.model.", "transformer.", "model.diffusion_model.", CORE_PREFIX)
"""What PEFT, diffusers and the files of original checkpoints write before a layer's name."""

FLAT_PREFIXES = ("lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_")
"""What kohya's trainers, VideoX-Fun, OneTrainer and SimpleTuner write before a name with
underscores for dots (comfy/lora.py, comfy/lora_convert.py convert_lora_wan_fun)."""


class LayerNames:
    """Looks layers of a LoRA up in one loaded model. Diffusers' names are made when needed."""

    def __init__(self, model: ModelPatcher) -> None:
        self._model = model
        self.shapes = {key: tuple(w.shape) for key, w in model.model.state_dict().items()}
        self._core = _core_names(model, self.shapes)
        self._diffusers: dict[str, Target] | None = None

    def find(self, layer: str) -> Target | None:
        """The weight that `layer` names, None where the model has no such layer."""
        if layer in self._core:
            return self._core[layer]
        plain = _without_prefixes(layer)
        if plain in self._core:
            return self._core[plain]
        if self._diffusers is None:
            self._diffusers = _diffusers_names(self._model, self.shapes)
        return self._diffusers.get(plain)


def _without_prefixes(layer: str) -> str:
    """The layer as a path with dots or with underscores, whichever the file uses."""
    for prefix in FLAT_PREFIXES:
        if layer.startswith(prefix):
            return layer[len(prefix) :]
    for prefix in DOTTED_PREFIXES:
        layer = layer.removeprefix(prefix)
    return layer


def _core_names(model: ModelPatcher, shapes: Mapping[str, Any]) -> dict[str, Target]:
    """Core's table, and the model's own paths with dots and with underscores; for HunyuanVideo
    also those of the original checkpoint, which kohya's trainer writes."""
    names: dict[str, Target] = {}
    hunyuan = isinstance(model.model, comfy.model_base.HunyuanVideo)
    for key in shapes:
        if key.startswith(CORE_PREFIX):
            path = key.removeprefix(CORE_PREFIX)
            for spelling in dict.fromkeys((original_name(path) if hunyuan else path, path)):
                layer = spelling.removesuffix(".weight")
                names[layer] = names[layer.replace(".", "_")] = key
    return names | comfy.lora.model_lora_keys_unet(model.model, {})


def _diffusers_names(model: ModelPatcher, shapes: Mapping[str, Any]) -> dict[str, Target]:
    """Diffusers' paths with dots and with underscores; empty for families without a converter.

    Raises ValueError saying how to install diffusers where it is missing.
    """
    convert = _converter(model)
    if convert is None:
        return {}
    names: dict[str, Target] = {}
    for key, shape in shapes.items():
        if key.startswith(CORE_PREFIX) and key.endswith(".weight") and len(shape) > 1:
            rows = torch.arange(shape[0])
            for name, part in convert(key.removeprefix(CORE_PREFIX), rows).items():
                start, length = int(part[0]), len(part)
                if not torch.equal(part, torch.arange(start, start + length)):
                    continue  # rows in another order: no patch can say that, so it is no name
                target = key if length == shape[0] else (key, (0, start, length))
                path = name.removesuffix(".weight")
                names[path] = names[path.replace(".", "_")] = target
    return names


Converter = Callable[[str, torch.Tensor], Mapping[str, torch.Tensor]]
"""From one core name and its rows to diffusers' names and theirs."""


def _converter(model: ModelPatcher) -> Converter | None:
    kind = model.model
    if isinstance(kind, comfy.model_base.HunyuanVideo15):
        return None  # diffusers has no converter for its names
    if isinstance(kind, comfy.model_base.WAN21):
        convert_wan = _from_diffusers("convert_wan_transformer_to_diffusers")
        return lambda name, rows: convert_wan({name: rows})
    if isinstance(kind, comfy.model_base.HunyuanVideo):
        convert = _from_diffusers("convert_hunyuan_video_transformer_to_diffusers")
        width = int(kind.diffusion_model.hidden_size)

        def convert_hunyuan(name: str, rows: torch.Tensor) -> Mapping[str, torch.Tensor]:
            split = split_single_block(name, rows, width)
            return split or convert({original_name(name): rows})

        return convert_hunyuan
    return None


def _from_diffusers(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    try:
        module = importlib.import_module("diffusers.loaders.single_file_utils")
    except ImportError as error:
        raise ValueError(
            "a LoRA with diffusers' names needs the package diffusers: install it into ComfyUI's "
            f"Python with 'pip install diffusers' ({error})"
        ) from error
    return getattr(module, name)
