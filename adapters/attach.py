"""Memory on a model: a clone that reads a bank of remembered tokens while it samples.

The model that is given stays as it is; everything is keyed wrappers, block patches and additional
models on the clone. One file per model family says how tokens enter it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.model_patcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ..memory.bank import MemoryBank, MemoryPiece
from .families import family_of
from .fingerprint import fingerprint_value
from .hunyuan_memory import HUNYUAN_INJECTION
from .memory_calls import apply_uncompiled, passes_that_fit, prepare_with_memory
from .memory_calls import memory_as_noise_shape as memory_as_noise_shape
from .memory_cross_attention import CrossAttention, make_cross_attention
from .memory_stream import ATTACHED, AttachedMemory, Injection
from .wan_memory import WAN_INJECTION

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

INJECTIONS: tuple[Injection, ...] = (WAN_INJECTION, HUNYUAN_INJECTION)

REMEMBERING_MODELS = "Wan 2.1 or 2.2 (T2V, I2V, FLF2V, VACE, TI2V-5B) or HunyuanVideo 1.0 or 1.5"
"""What a model without injection is answered with."""


def attach_memory(
    model: ModelPatcher,
    bank: MemoryBank,
    *,
    strength: float = 1.0,
    segment_start_latent_frames: int | None = None,
    patchers: Sequence[ModelPatcher] = (),
    cross_attention: Mapping[str, Tensor] | nn.Module | None = None,
) -> ModelPatcher:
    """A clone of `model` that samples with the tokens of `bank`; the given model stays as it is.

    `segment_start_latent_frames` is the sampled segment's first latent frame on the film's time
    line that `bank.entries` stand on (default: the end of the bank). `strength` 0..1: 0 is the
    model without memory, 1 the memory as trained; between them what image tokens read is the mean
    of both, at the cost of a second attention per block. `patchers` hold the bank's tensors and are
    loaded together with the model. `cross_attention` are weights of the decoupled add-on; its keys
    and values are computed here, once.

    A second bank on the same clone adds to the first. While memory is on it a compiled model runs
    uncompiled (`memory_calls.apply_uncompiled`). Raises ValueError for a model that cannot read
    memory, a bank or weights of another width or latent, and a strength outside 0..1.
    """
    injection = injection_of(model)
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength of a memory must be 0 to 1, got {strength}")
    for entry in bank.entries:
        for piece in entry.pieces:
            _check_piece(model, injection, piece, entry.title)
    clone = model.clone()
    if strength == 0.0 or bank.tokens == 0:
        return clone
    start = segment_start_latent_frames
    memory = AttachedMemory(
        bank=bank,
        injection=injection,
        strength=strength,
        segment_start=bank.latent_frames if start is None else start,
        content=_content(bank, cross_attention),
        cross_attention=_cross_attention(model, injection, bank, cross_attention),
    )
    _add(clone, injection, memory)
    before = clone.get_additional_models_with_key(ATTACHED)
    held = [one for one in before if not any(one.is_clone(new) for new in patchers)]
    held += patchers
    if memory.cross_attention is not None:
        held.append(
            comfy.model_patcher.CoreModelPatcher(
                memory.cross_attention, model.load_device, model.offload_device
            )
        )
    if held:
        clone.set_additional_models(ATTACHED, held)
    return clone


def injection_of(model: ModelPatcher) -> Injection:
    """How memory enters a model. Raises ValueError by name where it cannot."""
    for injection in INJECTIONS:
        if injection.recognises(model):
            return injection
    raise ValueError(
        f"model must be one that memory can enter, got {family_of(model).name}: "
        f"use {REMEMBERING_MODELS}"
    )


def can_remember(model: ModelPatcher) -> None:
    """Raises ValueError, naming the family and what to use instead, where memory cannot enter."""
    injection_of(model)


def _add(clone: ModelPatcher, injection: Injection, memory: AttachedMemory) -> None:
    """Put a memory beside those that the clone has, strongest first."""
    options = clone.model_options["transformer_options"]
    attached = (*options.get(ATTACHED, ()), memory)
    _check_agree(attached)
    ordered = tuple(sorted(attached, key=lambda one: -one.strength))
    clone.model_options["transformer_options"] = {**options, ATTACHED: ordered}
    if len(attached) == 1:
        injection.install(clone)
        clone.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, ATTACHED, prepare_with_memory)
        clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, ATTACHED, passes_that_fit)
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, ATTACHED, apply_uncompiled)


def _content(
    bank: MemoryBank, cross_attention: Mapping[str, Tensor] | nn.Module | None
) -> tuple[str, ...]:
    """What a fingerprint of the model must change with."""
    pieces = [f"{e.start} {piece.form} {piece.key}" for e in bank.entries for piece in e.pieces]
    if cross_attention is None:
        return (bank.rope_mode, *pieces)
    if isinstance(cross_attention, nn.Module):
        cross_attention = cross_attention.state_dict()
    return (bank.rope_mode, *pieces, fingerprint_value(cross_attention))


def _cross_attention(
    model: ModelPatcher,
    injection: Injection,
    bank: MemoryBank,
    weights: Mapping[str, Tensor] | nn.Module | None,
) -> CrossAttention | None:
    if weights is None:
        return None
    width = injection.width(model.model.diffusion_model)
    dtype = model.model.get_dtype_inference()
    return make_cross_attention(weights, bank, width, model.load_device, dtype)


def _check_agree(attached: Sequence[AttachedMemory]) -> None:
    modes = {memory.bank.rope_mode for memory in attached}
    if len(modes) > 1:
        raise ValueError(
            "memories on one model must have one rope mode, got "
            f"{' and '.join(sorted(modes))}: use encoders that were trained alike"
        )
    starts = {memory.segment_start for memory in attached}
    if modes == {"history_first"} and len(starts) > 1:
        raise ValueError(
            "memories with the rope mode history_first must agree where the segment starts, got "
            f"latent frames {' and '.join(map(str, sorted(starts)))}"
        )


def _check_piece(model: ModelPatcher, injection: Injection, piece: MemoryPiece, title: str) -> None:
    network, tokens = model.model.diffusion_model, len(piece.positions)
    if piece.low is None and piece.fine is None:
        raise ValueError(
            f"memory {title!r} ({piece.form}) must hold latents or tokens, got neither"
        )
    if piece.fine is not None:
        expected = (tokens, injection.width(network))
        _check_shape(_shape(piece.fine), expected, f"tokens of memory {title!r}")
    if piece.low is None:
        return
    channels = int(model.get_model_object("latent_format").latent_channels)
    shape = _shape(piece.low)
    _check_shape(shape[:1], (channels,), f"latent channels of memory {title!r}")
    sides = zip(shape[1:], injection.patch_size(network), strict=True)
    cells = math.prod(-(-length // patch) for length, patch in sides)
    _check_shape((cells,), (tokens,), f"cells of memory {title!r}")


def _shape(leaf: nn.Module) -> tuple[int, ...]:
    """The shape of a cached tensor."""
    weight = leaf.weight
    assert isinstance(weight, Tensor)
    return tuple(weight.shape)


def _check_shape(got: Sequence[int], expected: Sequence[int], what: str) -> None:
    if tuple(got) != tuple(expected):
        raise ValueError(
            f"{what} must be {'x'.join(map(str, expected))} for this model, got "
            f"{'x'.join(map(str, got))}: encode the history again for it"
        )
