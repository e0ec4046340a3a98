"""Memory weights as ComfyUI's models: found in its folders, loaded and moved by its management."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor, nn

from ..memory.encoder import HistoryEncoder
from ..memory.packing import PatchPacker
from ..memory.rates import Rate
from ..memory.weight_format import EncoderCard, EncoderFile, read_encoder_file
from .cache import LatentCache

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CATEGORY = "memory_encoders"
"""Folder of ComfyUI's models folder, and of the pack's weights, that memory weights lie in."""

BASES: tuple[tuple[str, type[comfy.model_base.BaseModel]], ...] = (
    ("wan", comfy.model_base.WAN21),
    ("throughline", comfy.model_base.WAN21),
    ("hunyuan", comfy.model_base.HunyuanVideo),
)
"""Which class of core a card's `base` belongs to, by the beginning of its name. The sizes tell the
models of one class apart."""


@dataclass(frozen=True, eq=False)
class LoadedEncoder:
    """The value on the socket TL_ENCODER: weights that ComfyUI moves, and what they are.

    `cache` holds what the encoder has encoded, so that all nodes that use it hold one copy.
    `cross_attention` are the weights of the add-on that was trained with it, None without one.
    """

    patcher: ModelPatcher
    card: EncoderCard
    cache: LatentCache
    cross_attention: Mapping[str, Tensor] | None = None

    @property
    def encoder(self) -> HistoryEncoder:
        """The module of a card of kind `encoder`."""
        module = self.patcher.model
        assert isinstance(module, HistoryEncoder)
        return module

    def packer(self, rate: Rate) -> PatchPacker:
        """The packer of a rate of a card of kind `packing`."""
        module = self.patcher.model
        assert isinstance(module, PackingModel)
        packer = module.packer[str(rate)]
        assert isinstance(packer, PatchPacker)
        return packer


class PackingModel(nn.Module):
    """Larger patchifiers by rate."""

    def __init__(self, card: EncoderCard, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.packer = nn.ModuleDict(
            {
                str(rate): PatchPacker(
                    card.in_channels,
                    card.inner_dim,
                    rate,
                    card.patch,
                    comfy.ops.manual_cast,
                    device,
                    dtype,
                )
                for rate in card.rates
            }
        )


def load_encoder(path: Path, cache: LatentCache | None = None) -> LoadedEncoder:
    """Load a file of memory weights; `cache` is where it keeps what it encodes.

    Raises ValueError naming file, rule and value.
    """
    own = LatentCache() if cache is None else cache
    return encoder_from_file(read_encoder_file(path), own)


def encoder_from_file(file: EncoderFile, cache: LatentCache) -> LoadedEncoder:
    """The weights in a module of core's layers, behind a patcher of core's own kind.

    The weights stay in the file's type and are cast where they are used.
    """
    offload = comfy.model_management.unet_offload_device()
    dtype = next(iter(file.tensors.values())).dtype
    card = file.card
    module: nn.Module = (
        HistoryEncoder(card.config, comfy.ops.manual_cast, offload, dtype)
        if card.kind == "encoder"
        else PackingModel(card, dtype, offload)
    )
    module.load_state_dict(file.tensors)
    module.requires_grad_(False)
    patcher = comfy.model_patcher.CoreModelPatcher(
        module.train(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=offload,
    )
    return LoadedEncoder(patcher, card, cache, file.cross_attention)


def model_width(model: ModelPatcher) -> int | None:
    """Width of the video model's tokens; None where its class does not say."""
    network = model.model.diffusion_model
    return getattr(network, "dim", None) or getattr(network, "hidden_size", None)


def model_patch(model: ModelPatcher) -> tuple[int, ...] | None:
    """Latent frames, rows and columns of one token; None where the model's class does not say."""
    patch = getattr(model.model.diffusion_model, "patch_size", None)
    return None if patch is None else tuple(int(size) for size in patch)


def check_fits(card: EncoderCard, model: ModelPatcher) -> None:
    """Refuse weights of another video model. Raises ValueError naming both."""
    model_name = type(model.model).__name__
    for start, base in BASES:
        if card.base.lower().startswith(start) and not isinstance(model.model, base):
            raise ValueError(
                f"encoder {card.name} was trained for {card.base}, got a model of class "
                f"{model_name}: use the encoder of your model"
            )
    channels = int(model.get_model_object("latent_format").latent_channels)
    wanted = (
        ("latent channels", card.in_channels, channels),
        ("width", card.inner_dim, model_width(model)),
        ("patch", card.patch, model_patch(model)),
    )
    for what, trained, given in wanted:
        if given is not None and trained != given:
            raise ValueError(
                f"encoder {card.name} was trained for {card.base} of {what} {trained}, got a model "
                f"({model_name}) of {what} {given}: use the encoder of your model"
            )
