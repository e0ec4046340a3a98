"""MilliVid's released checkpoints with random weights of any width, for tests.

Names and shapes are those that the shared design lists (`hierarchical-latents.md`, section 5),
written out here and not taken from the modules that read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COLOURS = 3
ACTIONS = 3


@dataclass(frozen=True, kw_only=True)
class TinySizes:
    """Sizes of a checkpoint; what is not here is as released."""

    width: int = 24
    head_width: int = 8
    channels: int = 4
    patch: int = 4
    levels: int = 4
    depth: int = 2
    time_width: int = 16


TINY = TinySizes()
RELEASED = TinySizes(
    width=768, head_width=64, channels=32, patch=16, levels=4, depth=12, time_width=256
)

Shapes = dict[str, tuple[int, ...]]


def _linear(name: str, into: int, out: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _blocks(prefix: str, sizes: TinySizes, conditioned: bool) -> Shapes:
    width = sizes.width
    shapes: Shapes = {}
    for block in range(sizes.depth):
        own = f"{prefix}.{block}"
        shapes |= _linear(f"{own}.attn.qkv", width, 3 * width)
        shapes |= {f"{own}.attn.{n}_norm.weight": (sizes.head_width,) for n in "qk"}
        shapes |= _linear(f"{own}.attn.proj", width, width)
        shapes |= _linear(f"{own}.mlp.fc1", width, 4 * width)
        shapes |= _linear(f"{own}.mlp.fc2", 4 * width, width)
        if conditioned:
            shapes |= _linear(f"{own}.adaLN_modulation.1", width, 6 * width)
    return shapes


def autoencoder_shapes(sizes: TinySizes = TINY) -> Shapes:
    width, pixels = sizes.width, COLOURS * sizes.patch**2
    return {
        "encoder.level_embedding.weight": (sizes.levels, width),
        **_linear("encoder.patchify", pixels, width),
        **_linear("encoder.bottleneck", width, sizes.channels),
        **_blocks("encoder.transformer.blocks", sizes, False),
        "decoder.level_embedding.weight": (sizes.levels, width),
        **_linear("decoder.unbottleneck", sizes.channels, width),
        **_linear("decoder.unpatchify", width, pixels),
        **_blocks("decoder.transformer.blocks", sizes, True),
    }


def video_shapes(sizes: TinySizes = TINY, framepack: bool = False) -> Shapes:
    width = sizes.width
    patchify = (
        {
            name: shape
            for level in range(sizes.levels)
            for name, shape in _linear(
                f"dit.patchify.{level}", sizes.channels * 4**level, width
            ).items()
        }
        if framepack
        else _linear("dit.patchify", sizes.channels, width)
    )
    return {
        **_blocks("dit.dit.dit.blocks", sizes, True),
        **_linear("dit.dit.time_embedding.mlp.0", sizes.time_width, width),
        **_linear("dit.dit.time_embedding.mlp.2", width, width),
        "dit.dit.level_embedding.weight": (sizes.levels, width),
        "dit.dit.action_encoder.action_embedding.weight": (ACTIONS, width),
        **patchify,
        **_linear("dit.unpatchify.linear", width, sizes.channels),
        **_linear("dit.unpatchify.adaLN_modulation.1", width, 2 * width),
    }


def random_state(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Weights large enough that every one of them shows in the result."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.3
        state[name] = drawn * scale + (1.0 if "_norm." in name else 0.0)
    return state


def write_release(path: Path, state: Mapping[str, Tensor]) -> Path:
    """As the authors' trainer saves it: with what it needs to go on, under other keys."""
    torch.save({"model": dict(state), "optimizer": {}, "scheduler": {}, "step": 192_000}, path)
    return path


def write_converted(path: Path, state: Mapping[str, Tensor], **config: Any) -> Path:
    """A converted file with another config than the released one, e.g. a smaller grid."""
    import safetensors.torch

    from throughline.memory.millivid_format import write_metadata

    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(dict(state), path, write_metadata(config))
    return path


def write_clips(workflow: Mapping[str, Any], folder: Path, frames: int = 256) -> None:
    """A clip of noise for every file that a workflow's LoadVideo nodes name."""
    import imageio.v3 as iio
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    for node in workflow["nodes"]:
        if node["type"] == "LoadVideo":
            noise = np.random.default_rng(0).integers(0, 255, (frames, 64, 64, 3), dtype=np.uint8)
            path = folder / node["widgets_values"][0]
            iio.imwrite(path, noise, plugin="pyav", codec="mpeg4", fps=20)
