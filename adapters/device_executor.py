"""The same model on several devices of this machine, each driven by a thread of its own.

Each device gets core's own multi-GPU deep clone (`ModelPatcher.deepclone_multigpu`, what
`SelectModelDevice` and `MultiGPU_WorkUnits` use): weights loaded once more from the file, with
the patches, LoRAs and options of the clone's origin.

ComfyUI runs one node at a time, and `comfy.model_management` relies on it: `load_models_gpu` pops
from and inserts into the list of loaded models while it walks over it, `free_memory` and
`cleanup_models_gc` do the same, and a patcher is patched and given back around each sampling
(read in ComfyUI 0.30.0). Core's own threads for the two branches of guidance run inside the sampler
only. So do these: a thread holds the host's lock for everything but the sampler's loop itself, in
which only its own clone is used. VAE and text encoder stay on their device and are used under
the lock.

On a CPU the devices are threads that share it: for trying it out, and for tests.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from .family import Conditioning

KEY = "throughline_devices"
"""Of our wrapper."""


THREADS_OF_CPU = 2
"""Devices of a machine without a graphics card, where none are asked for: enough to try it."""


def devices_here(count: int) -> tuple[torch.device, ...]:
    """`count` devices of this machine, 0 for all. A CPU can be as many as it has cores.

    Raises ValueError for more than there are.
    """
    management = comfy.model_management
    found = list(management.get_all_torch_devices())
    if management.cpu_mode():
        found = [torch.device("cpu")] * max(os.cpu_count() or 1, THREADS_OF_CPU)
        count = count or THREADS_OF_CPU
    if count > len(found):
        raise ValueError(f"devices must be at most the {len(found)} of this machine, got {count}")
    return tuple(found[: count or len(found)])


def device_names(devices: Sequence[torch.device]) -> tuple[str, ...]:
    """ "cuda:0", "cuda:1"; "cpu 1", "cpu 2" where one device stands several times."""
    texts = [str(device) for device in devices]
    if len(set(texts)) == len(texts):
        return tuple(texts)
    return tuple(f"{text} {i + 1}" for i, text in enumerate(texts))


def check_conditioning(name: str, conditioning: Conditioning | None) -> None:
    """Raises ValueError for a conditioning that keeps state of the sampling in itself."""
    for _, options in conditioning or ():
        if options.get("control") is not None:
            raise ValueError(
                f"{name} holds a ControlNet, which runs on one device only: disconnect the "
                "executor, or use a Ray cluster"
            )


class HostLock:
    """Held by the one thread that may use ComfyUI, let go of while a sampler steps."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            yield

    def while_sampling(self, executor: Any, *arguments: Any, **keywords: Any) -> Any:
        """Wrapper around core's `sampler.sample`, which runs between loading the model and giving
        it back. Its thread must hold the lock."""
        self._lock.release()
        try:
            return executor(*arguments, **keywords)
        finally:
            self._lock.acquire()


def on_device(
    model: ModelPatcher, device: torch.device, lock: HostLock, name: str, own: bool
) -> ModelPatcher:
    """A clone of `model` for a device. With `own` it has weights of its own, else those of `model`,
    for whichever device has it already.

    Raises ValueError naming the input `name` for a model that cannot be loaded once more.
    """
    if not own and model.load_device == device:
        clone = model.clone()
    elif model.cached_patcher_init is None:
        raise ValueError(
            f"{name} cannot be loaded for another device, since its loader does not say how: use "
            "one of ComfyUI's own loaders, this process alone, or a Ray cluster"
        )
    else:
        clone = model.deepclone_multigpu(new_load_device=device)
    clone.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, lock.while_sampling)
    return clone
