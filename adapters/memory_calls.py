"""What core is told of a model with memory: how much it takes, and that it must not be compiled.

Core's estimate of activations is linear in the latent's cells (`BaseModel.memory_required`); memory
tokens are counted as the cells that as many of the model's own tokens cover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from torch import Tensor

from .memory_stream import ATTACHED, RUN, AttachedMemory, RunStore

if TYPE_CHECKING:
    from comfy.model_base import BaseModel
    from comfy.model_patcher import ModelPatcher

ROOM = 1.5
"""Core batches both cfg passes when this many times their estimate is free (`_calc_cond_batch`)."""


def memory_as_noise_shape(
    noise_shape: Sequence[int], tokens: int, patch_size: tuple[int, int, int]
) -> list[int]:
    """A noise shape whose number of latent cells includes `tokens` memory tokens.

    Core's estimate reads the batch and the product of what follows the channels. All cells go to
    the last axis, so that core's context windows, which shorten the time axis, find it short.
    """
    batch, channels, *sides = noise_shape
    return [batch, channels, 1, 1, math.prod(sides) + tokens * math.prod(patch_size)]


def _longer(
    network: Any, noise_shape: Sequence[int], attached: Sequence[AttachedMemory]
) -> list[int]:
    tokens = sum(memory.bank.tokens for memory in attached)
    patch_size = attached[0].injection.patch_size(network)
    return memory_as_noise_shape(noise_shape, tokens, patch_size)


def prepare_with_memory(
    executor: Any, model: ModelPatcher, noise_shape: Sequence[int], conds: Any, **kwargs: Any
) -> Any:
    """Core's wrapper around prepare_sampling: what it reserves then counts the memory tokens.

    It also begins the run's store of what no step changes; core made these options for this run.
    Hooks may change weights between passes, so a model that has some computes it in every step.
    """
    options = kwargs["model_options"]
    if not model.hook_patches:
        options["transformer_options"][RUN] = RunStore()
    shape = list(noise_shape)
    windows = options.get("context_handler")
    if windows is not None:
        shape[windows.dim] = min(shape[windows.dim], windows.context_length)
    attached = options["transformer_options"][ATTACHED]
    shape = _longer(model.model.diffusion_model, shape, attached)
    return executor(model, shape, conds, **kwargs)


def passes_that_fit(
    executor: Any,
    model: BaseModel,
    conds: list[Any],
    x: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
) -> list[Tensor]:
    """Core's wrapper around calc_cond_batch: one cfg pass at a time where both do not fit.

    Core decides by the latent alone whether both passes go in one batch, so this asks before it.
    """
    passes = sum(cond is not None for cond in conds)
    attached = model_options["transformer_options"][ATTACHED]
    both = [passes * len(x), *x.shape[1:]]
    needed = ROOM * model.memory_required(_longer(model.diffusion_model, both, attached))
    if passes < 2 or needed < model.current_patcher.get_free_memory(x.device):
        return executor(model, conds, x, timestep, model_options)
    return [executor(model, [cond], x, timestep, model_options)[0] for cond in conds]


def apply_uncompiled(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None,
    c_crossattn: Tensor | None,
    control: Any,
    transformer_options: dict[str, Any],
    **kwargs: Any,
) -> Any:
    """Core's wrapper around apply_model: a compiled model runs uncompiled while memory is on it.

    Core's compile node tells torch never to look at `transformer_options` again
    (`skip_torch_compile_dict`), so code that was compiled without memory would go on without it:
    measured, a memory attached after the first segment changed nothing, without an error.
    """
    arguments = (x, t, c_concat, c_crossattn, control, transformer_options)
    set_stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    if set_stance is not None:
        with set_stance("force_eager"):
            return executor(*arguments, **kwargs)
    if COMPILE_KEY in transformer_options["wrappers"][WrappersMP.APPLY_MODEL]:
        raise ValueError(
            f"memory or joint keyframes on a compiled model need torch 2.6 or newer, got "
            f"{torch.__version__}: "
            "update torch or take the compile node away"
        )
    return executor(*arguments, **kwargs)
