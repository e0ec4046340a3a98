"""The third tier of the latent cache: one safetensors file for each entry, memory-mapped.

A leaf keeps its identity: its tensor in RAM is written, and then replaced by the same one mapped
from the file, whose pages the system reads when they are used and drops when it needs the room.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.utils
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .cache import CachedTensor

FILE_MARK = "_throughline_file"
"""Attribute of a storage that is mapped from a file; core's copies of it do not have it."""


@dataclass(frozen=True)
class Spill:
    """Where entries go beyond the RAM ceiling.

    `write(path, data)` must leave the whole file or none (`runs.atomic.write_atomic`); `folder`
    exists or is made. Files are named by their keys and may be shared by the runs of a folder.
    `give_back` is called after tensors left RAM (`runs.heap.give_back_freed_memory`): without it
    the C library kept 6 MB of holes for each 8 MB entry over 48 entries.
    """

    folder: Path
    write: Callable[[Path, bytes], None]
    give_back: Callable[[], None] = lambda: None


def is_mapped(leaf: CachedTensor) -> bool:
    return hasattr(leaf.weight.untyped_storage(), FILE_MARK)


def in_ram(leaf: CachedTensor) -> bool:
    return leaf.weight.device.type == "cpu" and not is_mapped(leaf)


def write_to_file(leaf: CachedTensor, key: str, spill: Spill) -> None:
    """Put the tensor on disk unless its file is there and holds the same."""
    path = spill.folder / f"{key}.safetensors"
    if leaf.file != path or not path.is_file():
        if not _holds(path, leaf.weight):
            spill.folder.mkdir(parents=True, exist_ok=True)
            data = safetensors.torch.save({"tensor": leaf.weight.detach()}, {"key": key})
            spill.write(path, data)
        leaf.file = path


def map_from_file(leaf: CachedTensor) -> None:
    """Replace the tensor in RAM by the same one mapped from its file."""
    mapped = comfy.utils.load_torch_file(str(leaf.file), safe_load=True)["tensor"]
    setattr(mapped.untyped_storage(), FILE_MARK, leaf.file)
    leaf.weight = nn.Parameter(mapped, requires_grad=False)


def _holds(path: Path, tensor: Tensor) -> bool:
    """Whether a file has exactly this tensor; a damaged or foreign one is written again."""
    if not path.is_file():
        return False
    try:
        found = safetensors.torch.load(path.read_bytes()).get("tensor")
    except (safetensors.SafetensorError, ValueError) as error:
        logging.warning("%s is written again: it cannot be read (%s)", path, error)
        return False
    return (
        found is not None
        and found.dtype == tensor.dtype
        and found.shape == tensor.shape
        and torch.equal(_bits(found), _bits(tensor))
    )


def _bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor: equal where NaN meets NaN, and defined for every type."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
