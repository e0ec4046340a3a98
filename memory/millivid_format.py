"""The file format of converted MilliVid weights: the released tensors as safetensors.

Tensors keep the names of the released state dicts (shared design `hierarchical-latents.md`,
section 5), and every size is read from them. The metadata `config` (JSON) says what they cannot:
`kind` (autoencoder or video); of an autoencoder `grid` (cells of level 0 on a side), `patch_order`
and `pooled`; of a video model `rollout` and `windows`. `dev.py convert millivid` writes it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .millivid_autoencoder import COLOURS, AutoencoderSizes, MilliVidAutoencoder
from .millivid_video import MilliVidVideo, VideoSizes
from .weight_format import read_tensors, tensors_digest

FORMAT = "throughline-millivid"
VERSION = 1

Kind = Literal["autoencoder", "video"]
RolloutName = Literal["coarse to fine", "full resolution", "FramePack"]
ROLLOUTS: tuple[RolloutName, ...] = ("coarse to fine", "full resolution", "FramePack")

RELEASED_GRID = 16
"""Cells of level 0 on a side: pictures of 256 pixels in patches of 16 (section 1.1)."""

RELEASED_WINDOWS: dict[RolloutName, tuple[int, ...]] = {
    "coarse to fine": (3, 12, 48, 192),
    "FramePack": (3, 12, 48, 192),
    "full resolution": (14,),
}
"""Of the released files (sections 3.1 and 3.8)."""

ENCODER_BLOCK = "encoder.transformer.blocks"
DECODER_BLOCK = "decoder.transformer.blocks"
VIDEO_BLOCK = "dit.dit.dit.blocks"


@dataclass(frozen=True, kw_only=True)
class MilliVidFile:
    """One file: what it is, its sizes, how its video model rolls out, and its tensors.

    `rollout` and `windows` are None and empty for an autoencoder. `digest` is a hash of the tensors
    and of what they mean.
    """

    name: str
    kind: Kind
    sizes: AutoencoderSizes | VideoSizes
    rollout: RolloutName | None
    windows: tuple[int, ...]
    tensors: Mapping[str, Tensor]
    digest: str


def kind_of(names: Iterable[str]) -> Kind | None:
    """What released tensors of these names belong to; None for foreign ones."""
    held = set(names)
    if {"encoder.patchify.weight", "decoder.unpatchify.weight"} <= held:
        return "autoencoder"
    if {"dit.unpatchify.linear.weight", "dit.dit.level_embedding.weight"} <= held:
        return "video"
    return None


def read_millivid_file(path: Path) -> MilliVidFile:
    """Read and check a converted file.

    Raises ValueError that begins with the file's name: a file that is missing, not safetensors or
    truncated, no MilliVid weights, of a newer version, a config that does not fit, and tensors that
    are missing, foreign, of another shape or not finite.
    """
    tensors, metadata = read_tensors(path)
    try:
        return _checked(path.name, tensors, metadata)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _checked(name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> MilliVidFile:
    kind = kind_of(tensors)
    if metadata.get("format") != FORMAT or kind is None:
        raise ValueError(
            "holds no MilliVid weights that were converted by `dev.py convert millivid`"
        )
    config = _config(metadata)
    said = config.choice("kind", ("autoencoder", "video"))
    if said != kind:
        raise ValueError(f"config 'kind' must be {kind!r} for these tensors, got {said!r}")
    sizes: AutoencoderSizes | VideoSizes
    rollout: RolloutName | None = None
    windows: tuple[int, ...] = ()
    meta = torch.device("meta")
    if kind == "autoencoder":
        orders = ("channel first", "channel last")
        sizes = autoencoder_sizes(
            tensors,
            config.whole("grid"),
            config.choice("patch_order", orders),
            config.choice("pooled", (False, True)),
        )
        module: torch.nn.Module = MilliVidAutoencoder(sizes, device=meta)
    else:
        sizes = video_sizes(tensors)
        module = MilliVidVideo(sizes, device=meta)
        chosen: RolloutName = config.choice("rollout", ROLLOUTS)
        rollout, windows = chosen, config.windows()
        _check_rollout(sizes, chosen, windows)
    _check_tensors(tensors, module)
    digest = tensors_digest(dict(tensors), [metadata["config"]])
    return MilliVidFile(
        name=name,
        kind=kind,
        sizes=sizes,
        rollout=rollout,
        windows=windows,
        tensors=tensors,
        digest=digest,
    )


def autoencoder_sizes(
    tensors: Mapping[str, Tensor], grid: int, patch_order: Any, pooled: bool
) -> AutoencoderSizes:
    """Sizes that an autoencoder's tensors say, and the three that they do not."""
    width, pixels = _shape(tensors, "encoder.patchify.weight", 2)
    patch = math.isqrt(pixels // COLOURS)
    if COLOURS * patch**2 != pixels:
        raise ValueError(f"encoder.patchify.weight must read square patches, got {pixels} numbers")
    return AutoencoderSizes(
        width=width,
        head_width=_shape(tensors, f"{ENCODER_BLOCK}.0.attn.q_norm.weight", 1)[0],
        channels=_shape(tensors, "encoder.bottleneck.weight", 2)[0],
        patch=patch,
        levels=_shape(tensors, "encoder.level_embedding.weight", 2)[0],
        encoder_depth=_depth(tensors, ENCODER_BLOCK),
        decoder_depth=_depth(tensors, DECODER_BLOCK),
        grid=grid,
        patch_order=patch_order,
        pooled=pooled,
    )


def video_sizes(tensors: Mapping[str, Tensor]) -> VideoSizes:
    """Sizes that a video model's tensors say."""
    channels, width = _shape(tensors, "dit.unpatchify.linear.weight", 2)
    patched = {name for name in tensors if re.fullmatch(r"dit\.patchify\.\d+\.weight", name)}
    return VideoSizes(
        width=width,
        head_width=_shape(tensors, f"{VIDEO_BLOCK}.0.attn.q_norm.weight", 1)[0],
        channels=channels,
        levels=_shape(tensors, "dit.dit.level_embedding.weight", 2)[0],
        actions=_shape(tensors, "dit.dit.action_encoder.action_embedding.weight", 2)[0],
        depth=_depth(tensors, VIDEO_BLOCK),
        time_width=_shape(tensors, "dit.dit.time_embedding.mlp.0.weight", 2)[1],
        patched_levels=len(patched),
    )


def _check_rollout(sizes: VideoSizes, rollout: RolloutName, windows: tuple[int, ...]) -> None:
    if (rollout == "FramePack") != bool(sizes.patched_levels):
        raise ValueError(
            f"config 'rollout' must be FramePack where every level has its own first projection, "
            f"and only there, got {rollout!r}"
        )
    levels = {"coarse to fine": sizes.levels, "FramePack": sizes.patched_levels}.get(rollout, 1)
    if len(windows) != levels:
        raise ValueError(f"config 'windows' must hold {levels} numbers here, got {len(windows)}")


class _Config:
    """The JSON of the metadata, read with errors that name key, rule and value."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def choice(self, key: str, options: tuple[Any, ...]) -> Any:
        value = self._values.get(key)
        for option in options:
            if option == value and type(option) is type(value):
                return option
        raise self._wrong(key, f"must be one of {', '.join(map(str, options))}")

    def whole(self, key: str) -> int:
        value = self._values.get(key)
        if type(value) is not int or value < 1:
            raise self._wrong(key, "must be a whole number from 1")
        return value

    def windows(self) -> tuple[int, ...]:
        value = self._values.get("windows")
        if not isinstance(value, list) or not all(type(n) is int and n > 0 for n in value):
            raise self._wrong("windows", "must be a list of whole numbers from 1")
        return tuple(value)

    def _wrong(self, key: str, rule: str) -> ValueError:
        return ValueError(
            f"config {key!r} {rule}, got {str(self._values.get(key, 'nothing'))[:60]}"
        )


def _config(metadata: Mapping[str, str]) -> _Config:
    if metadata.get("version") != str(VERSION):
        raise ValueError(
            f"metadata 'version' must be {VERSION}, got {metadata.get('version', 'nothing')!r}: "
            "update Throughline or convert the weights again"
        )
    try:
        values = json.loads(metadata.get("config", ""))
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ValueError("metadata 'config' must be JSON of an object")
    return _Config(values)


def _shape(tensors: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    if name not in tensors or tensors[name].ndim != axes:
        raise ValueError(f"must hold the tensor {name} of {axes} axes")
    return tuple(tensors[name].shape)


def _depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    blocks = (re.match(re.escape(prefix) + r"\.(\d+)\.", name) for name in tensors)
    return 1 + max((int(match[1]) for match in blocks if match), default=-1)


def _check_tensors(tensors: Mapping[str, Tensor], module: torch.nn.Module) -> None:
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    for problem, names in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has the foreign", tensors.keys() - expected.keys()),
    ):
        if names:
            raise ValueError(f"{problem} tensor {min(names)}")
    for name, shape in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise ValueError(
                f"tensor {name} must hold floating-point numbers of shape {list(shape)}, got "
                f"{tensor.dtype} {list(tensor.shape)}"
            )
        if not bool(torch.isfinite(tensor.float()).all()):
            raise ValueError(f"tensor {name} must be finite, got NaN or infinity")


def write_metadata(config: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a file with this config."""
    return {"format": FORMAT, "version": str(VERSION), "config": json.dumps(dict(config))}


def check_millivid(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Raises ValueError where tensors and config would not be read back."""
    _checked("", tensors, write_metadata(config))
