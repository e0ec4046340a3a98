"""The latent cache: remembered tensors that ComfyUI itself counts, moves, evicts and brings back.

Each entry (a segment's latents, a block of memory tokens, one layer's keys or values) is a leaf
module with its tensor as `weight`, and one ModelPatcher holds the leaves, so that ComfyUI's model
management treats a history like any model: `load_models_gpu` places it, `free_memory` takes it
off the device leaf by leaf, low-VRAM modes stream it. See the shared design `latent-cache.md`.

Three tiers:
- device: where ComfyUI puts what the next segment reads (`LatentCache.view`).
- RAM: everything else, up to `ram_bytes`; without a `Spill` there is no third tier and no limit.
- files: beyond `ram_bytes` the entries that were used longest ago are read from one safetensors
  file each, memory-mapped. A file is whole on disk before the tensor in RAM is let go, so the only
  copy is never dropped. Entries that ComfyUI has on the device count in neither tier.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from comfy.patcher_extension import CallbacksMP
from torch import Tensor, nn

from .cache_files import Spill, in_ram, is_mapped, map_from_file, write_to_file

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

RAM_BYTES = 4 << 30
"""Default ceiling of the RAM tier: a minute of Wan 2.1 14B memory at 2x2x2 is 0.5 GB (table 1.4 of
`memory-encoder.md`: 46,800 tokens of 5120 values in bfloat16), so eight of them (our choice)."""

KEY = re.compile(r"[0-9A-Za-z_-]{1,128}")
"""What a key may look like: it names a module and a file."""

CALLBACK_KEY = "throughline_cache"
PREFIX = "entry_"
"""In front of a key in the module's names, so that no key hides an attribute of nn.Module."""

STAGED = ("_v", "_v_signature", "_v_weight", "_v_bias")
"""What core's dynamic patcher writes on a module that it stages (`ModelPatcherDynamic.load`)."""


class CachedTensor(nn.Module):
    """A leaf module that holds one tensor as `weight`, read by `read_cached` only.

    The attributes are those of core's `CastWeightBiasOp`: they tell ComfyUI that this module's
    weight may stay in RAM and be cast when it is read.
    """

    comfy_cast_weights = True
    bias = None

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensor.detach(), requires_grad=False)
        self.weight_function: list[Any] = []
        self.bias_function: list[Any] = []
        self.file: Path | None = None  # where the tensor is on disk as well

    @property
    def bytes(self) -> int:
        return self.weight.nbytes


@contextmanager
def cached_weight(source: nn.Module, device: torch.device, dtype: torch.dtype) -> Iterator[Tensor]:
    """The tensor of a leaf on a device, for as long as the block lasts; it must not be written to.

    Where core left the leaf in RAM it is streamed into a buffer that core uses again afterwards.
    """
    weight, _, offload = comfy.ops.cast_bias_weight(
        source, device=device, dtype=dtype, offloadable=True
    )
    try:
        yield weight
    finally:
        comfy.ops.uncast_bias_weight(source, weight, None, offload)


def read_cached(source: nn.Module, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The tensor of a leaf on a device, in a type; the caller may keep it, not write to it.

    Without a move or a change of type it is the cache's own tensor, so that readers share one copy.
    """
    with cached_weight(source, device, dtype) as weight:
        held = source.weight
        assert isinstance(held, Tensor)
        own = weight.device == held.device and weight.data_ptr() == held.data_ptr()
        fresh = own or held.dtype != dtype
        return weight.detach() if fresh else weight.detach().clone()


@dataclass(frozen=True)
class CacheSizes:
    """Bytes of the entries by the tier that holds them."""

    device: int
    ram: int
    files: int

    @property
    def total(self) -> int:
        return self.device + self.ram + self.files


class Entries(nn.Module):
    """The parent of the leaves; it has no parameter of its own, or core would skip it."""


class LatentCache:
    """Entries by key, each held once, behind one ModelPatcher.

    Rules:
    - A key stands for its content: a hash of the tensor (`fingerprint_value`) or of all that it
      follows from. Adding a key that is there gives the leaf that is there; leaves never change.
    - One cache serves a whole graph: the first node that makes a memory makes the cache, its value
      on the wire carries it, and every later node extends the cache of the value that it gets. So
      two nodes that remember the same thing hold one copy, without anything kept in a module.
    - A longer history is a longer list of leaves. The cache keeps those of the last `view` (and
      what was added since); the others live as long as somebody, a memory bank, holds them.
    - Whoever samples attaches `view(keys)` through `set_additional_models`; the value on the wire
      must own the cache, since ComfyUI only holds weak references. `patcher` is also the name
      under which ComfyUI looks for a model in a node's output.
    - `ram_bytes` and `spill` may be set later: only a sampler knows its run folder.
    - `add` and `view` change the size of what ComfyUI manages: they take the entries off the device
      and must not be called while a sampler runs. The next sampling loads them again.
    """

    def __init__(
        self,
        ram_bytes: int = RAM_BYTES,
        spill: Spill | None = None,
        load_device: torch.device | None = None,
        offload_device: torch.device | None = None,
    ) -> None:
        """Devices are ComfyUI's own unless given; `ram_bytes` is the ceiling of the RAM tier."""
        if ram_bytes < 0:
            raise ValueError(f"ram_bytes must be 0 or more, got {ram_bytes}")
        management = comfy.model_management
        self.ram_bytes = ram_bytes
        self.spill = spill
        self._leaves: weakref.WeakValueDictionary[str, CachedTensor] = weakref.WeakValueDictionary()
        self._used: dict[str, int] = {}
        self._clock = 0
        self._root = Entries()
        self.patcher: ModelPatcher = comfy.model_patcher.CoreModelPatcher(
            self._root,
            load_device=load_device or management.get_torch_device(),
            offload_device=offload_device or management.unet_offload_device(),
        )
        self._patchers: weakref.WeakSet[ModelPatcher] = weakref.WeakSet([self.patcher])
        self.patcher.add_callback_with_key(
            CallbacksMP.ON_CLONE, CALLBACK_KEY, partial(_remember_clone, self._patchers)
        )
        self.patcher.add_callback_with_key(
            CallbacksMP.ON_DETACH, CALLBACK_KEY, partial(_after_detach, weakref.ref(self))
        )

    def __len__(self) -> int:
        return len(self._leaves)

    def __contains__(self, key: str) -> bool:
        return key in self._leaves

    def add(self, key: str, tensor: Tensor) -> CachedTensor:
        """The leaf of a key, made from `tensor` unless it is there already.

        The tensor becomes the cache's: the caller must not write to it afterwards. Raises
        ValueError for a key that cannot name a file, or one that stands for another shape or type.
        """
        if KEY.fullmatch(key) is None:
            raise ValueError(f"a cache key has 1 to 128 letters, digits, - or _, got {key!r}")
        leaf = self._leaves.get(key)
        if leaf is None:
            leaf = CachedTensor(_owned(tensor, self.patcher.offload_device))
            self._leaves[key] = leaf
            self._resize([*self._root_keys(), key])
        elif leaf.weight.shape != tensor.shape or leaf.weight.dtype != tensor.dtype:
            raise ValueError(
                f"cache key {key} stands for {tuple(leaf.weight.shape)} {leaf.weight.dtype}, "
                f"got {tuple(tensor.shape)} {tensor.dtype}"
            )
        self._touch(key)
        self.settle()
        return leaf

    def get(self, key: str) -> CachedTensor | None:
        """The leaf of a key, None when it is not held."""
        leaf = self._leaves.get(key)
        if leaf is not None:
            self._touch(key)
        return leaf

    def view(self, keys: Iterable[str]) -> ModelPatcher:
        """The patcher, holding exactly the entries that the next segment reads.

        Leaves of an earlier view stay readable: who still reads them has them streamed from RAM.
        Raises ValueError naming a key that is not held.
        """
        wanted = list(dict.fromkeys(keys))
        missing = [key for key in wanted if key not in self._leaves]
        if missing:
            raise ValueError(f"the cache must hold every key of a view, got {missing[0]!r}")
        for key in wanted:
            self._touch(key)
        if set(wanted) != set(self._root_keys()):
            self._resize(wanted)
        self.settle()
        return self.patcher

    def sizes(self) -> CacheSizes:
        """Bytes in each tier. `device` counts leaves whose tensor lies on another device than the
        CPU; what the dynamic patcher stages is counted by `patcher.loaded_size()`."""
        device = ram = files = 0
        for leaf in self._leaves.values():
            if leaf.weight.device.type != "cpu":
                device += leaf.bytes
            elif is_mapped(leaf):
                files += leaf.bytes
            else:
                ram += leaf.bytes
        return CacheSizes(device, ram, files)

    def settle(self) -> None:
        """Bring the RAM tier below its ceiling: longest unused first, each written before it is
        dropped. Does nothing without a folder to write to.

        Entries are off the device meanwhile: core may have pinned the memory that is given up. What
        comes back from the device later, and has no file yet, waits for the next `add` or `view`.
        """
        self._used = {key: when for key, when in self._used.items() if key in self._leaves}
        if self.spill is None or self.sizes().ram <= self.ram_bytes:
            return
        self._unload()
        excess = self.sizes().ram - self.ram_bytes
        for key in sorted(self._used, key=self._used.__getitem__):
            leaf = self._leaves.get(key)
            if leaf is not None and excess > 0 and in_ram(leaf):
                excess -= leaf.bytes
                write_to_file(leaf, key, self.spill)
                map_from_file(leaf)
        self.spill.give_back()

    def map_again(self) -> None:
        """Map what has a file and came back from the device as a copy in RAM. Writes nothing."""
        for leaf in self._leaves.values():
            if leaf.file is not None and leaf.file.is_file() and in_ram(leaf):
                map_from_file(leaf)

    def _touch(self, key: str) -> None:
        self._clock += 1
        self._used[key] = self._clock

    def _root_keys(self) -> list[str]:
        return [name.removeprefix(PREFIX) for name, _ in self._root.named_children()]

    def _resize(self, keys: list[str]) -> None:
        """Make these leaves the root's children. What ComfyUI derived from the old ones goes: the
        place on the device, the size that each patcher keeps, the dynamic patcher's ranges."""
        self._unload()
        leaves = {key: self._leaves[key] for key in keys}  # the root may hold the only reference
        for name in [name for name, _ in self._root.named_children()]:
            _forget_range(getattr(self._root, name))
            delattr(self._root, name)
        for key, leaf in leaves.items():
            self._root.add_module(PREFIX + key, leaf)
        for patcher in self._patchers:
            patcher.size = 0
        _forget_ranges(self._root)

    def _unload(self) -> None:
        """Take the entries off the device by core's own way, and nothing else."""
        management = comfy.model_management
        loaded = management.current_loaded_models
        others = [one for one in loaded if not self.patcher.is_clone(one.model)]
        if len(others) < len(loaded):
            management.free_memory(EVERYTHING, self.patcher.load_device, others)


EVERYTHING = 1e30
"""The bytes that core's `unload_all_models` asks for."""


def _owned(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device without whatever larger storage it was cut from."""
    moved = tensor.detach().to(device).contiguous()
    return moved.clone() if moved.untyped_storage().nbytes() > moved.nbytes else moved


def _remember_clone(
    patchers: weakref.WeakSet[ModelPatcher], _: ModelPatcher, clone: ModelPatcher
) -> None:
    """A clone of a model clones what is attached to it, and keeps the size that it found."""
    patchers.add(clone)


def _after_detach(cache: weakref.ref[LatentCache], _: ModelPatcher, unpatched: bool) -> None:
    """What core brings back from the device lies in RAM, whether it was mapped before or not. Where
    it only hands the weights from one clone to another, they stay as they are, pinned or not."""
    held = cache()
    if held is not None and unpatched:
        held.map_again()


def _forget_ranges(root: nn.Module) -> None:
    """Let core's dynamic patcher size its ranges anew.

    It reserves addresses for ten times the model, and pinned memory for twice, at the first load
    (`ModelPatcherDynamic._vbar_get`, `.load`); a history grows beyond both.
    """
    getattr(root, "dynamic_vbars", {}).clear()
    for pins in getattr(root, "dynamic_pins", {}).values():
        pins["hostbufs_initialized"] = False


def _forget_range(leaf: nn.Module) -> None:
    for name in STAGED:
        leaf.__dict__.pop(name, None)
