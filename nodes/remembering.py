"""From the memory encoder node's inputs to a memory: what is given is checked, then encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import torch

from ..adapters.attach import attach_memory, can_remember
from ..adapters.cache import LatentCache, Spill
from ..adapters.encoders import LoadedEncoder, check_fits, model_patch
from ..adapters.fingerprint import fingerprint_vae
from ..adapters.geometry import check_vae, read_geometry
from ..adapters.history import remember
from ..adapters.memory_value import (
    WINDOW_LATENT_FRAMES,
    Form,
    Memory,
    empty_bank,
    one_cross_attention,
)
from ..adapters.recalled import with_recalled
from ..memory.bank import MemoryBank
from ..memory.rates import Rate
from ..planning.recall import RecallPolicy, Stream
from ..runs.atomic import write_atomic
from ..runs.run import Run
from .given_history import given_clips

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

    from ..adapters.family import Conditioning

FORMS: dict[str, Form] = {
    "trained encoder": "encoder",
    "small pictures (no training)": "low",
    "larger patches (no training)": "framepack",
    "whole recent frames (no training)": "window",
}
AUTOMATIC = "automatic"
REMEMBER, ANCHORS = "remember", "anchors only"
PIN_SHOT, PIN_REFERENCES = "references and first shot", "references only"

CACHE_FOLDER = "throughline_memory"
"""In ComfyUI's temp folder: what does not fit into the RAM ceiling of a cache."""

KEPT_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class MemoryRequest:
    """The inputs of ThroughlineMemoryEncoder, as they come from the graph."""

    model: ModelPatcher
    vae: VAE
    encoder: LoadedEncoder | None
    second_encoder: LoadedEncoder | None
    clip: CLIP | None
    history: dict[str, Any] | None
    references: torch.Tensor | None
    run: Run | None
    form: str
    rate: str
    recent_frames: str
    window: int
    pin: str
    captions: str
    width: int
    height: int


def memory_request(inputs: Mapping[str, Any]) -> MemoryRequest:
    """The request of a node's `execute`; optional inputs that are not connected become None."""
    values: dict[str, Any] = {field.name: inputs.get(field.name) for field in fields(MemoryRequest)}
    return MemoryRequest(**values)


@dataclass(frozen=True, kw_only=True)
class MadeMemory:
    """A memory and sentences about what of the inputs was not used."""

    memory: Memory
    warnings: tuple[str, ...]


def make_memory(request: MemoryRequest) -> MadeMemory:
    """Encode what is given. Raises ValueError naming input, rule and value, before encoding."""
    can_remember(request.model)
    geometry = read_geometry(request.model)
    check_vae(geometry, request.vae)
    memory = empty_memory(request)
    clips, warnings = given_clips(request, memory)
    if not clips:
        return MadeMemory(memory=memory, warnings=warnings)
    return MadeMemory(memory=remember(memory, clips), warnings=warnings)


def empty_memory(request: MemoryRequest) -> Memory:
    """The way to remember, with nothing in it yet."""
    encoders = _encoders(request)
    form = _form(request, encoders)
    recent = request.recent_frames
    _check_choice("recent_frames", recent, (AUTOMATIC, REMEMBER, ANCHORS))
    _check_choice("pin", request.pin, (PIN_SHOT, PIN_REFERENCES))
    dtype = request.model.model.get_dtype_inference()
    patch = model_patch(request.model) or (1, 2, 2)
    limits_recall = form in ("encoder", "low")
    window = request.window or (0 if limits_recall else WINDOW_LATENT_FRAMES)
    memory = Memory(
        bank=empty_bank(encoders),
        form=form,
        encoders=encoders,
        rate=Rate.parse(request.rate),
        window=window,
        vae=request.vae,
        vae_digest=fingerprint_vae(request.vae),
        latent_format=request.model.get_model_object("latent_format"),
        patch=(patch[0], patch[1], patch[2]),
        dtype=dtype if dtype in KEPT_TYPES else torch.float32,
        cache=encoders[0].cache if encoders else new_cache(),
        policy=RecallPolicy(
            recent=bool(encoders) if recent == AUTOMATIC else recent == REMEMBER,
            pin_first_shot=request.pin == PIN_SHOT,
            latent_frames=window,
            stream=_stream(encoders),
        ),
    )
    if limits_recall:
        return memory
    return memory.recalling(memory.recent_latent_frames)


def new_cache() -> LatentCache:
    """A cache that goes to files in ComfyUI's temp folder beyond its RAM ceiling."""
    folder = Path(folder_paths.get_temp_directory()) / CACHE_FOLDER
    return LatentCache(spill=Spill(folder, write_atomic))


def _encoders(request: MemoryRequest) -> tuple[LoadedEncoder, ...]:
    given = {"encoder": request.encoder, "second_encoder": request.second_encoder}
    for name, value in given.items():
        one: object = value
        if one is not None and not isinstance(one, LoadedEncoder):
            raise ValueError(
                f"{name} must come from a Load memory encoder node, got {type(one).__name__}"
            )
    encoders = tuple(one for one in given.values() if one is not None)
    if request.second_encoder is not None and request.encoder is None:
        raise ValueError("second_encoder needs encoder, got the second one alone")
    for one in encoders:
        check_fits(one.card, request.model)
    streams, kinds = {e.card.stream for e in encoders}, {e.card.kind for e in encoders}
    if len(streams) > 1 or len(kinds) > 1:
        raise ValueError(
            "encoder and second_encoder must be of one kind and stream, got "
            + " and ".join(f"{e.card.name} ({e.card.kind}, {e.card.stream})" for e in encoders)
        )
    one_cross_attention(encoders)
    return encoders


def _stream(encoders: tuple[LoadedEncoder, ...]) -> Stream:
    return encoders[0].card.stream if encoders and encoders[0].card.kind == "encoder" else "chain"


def _form(request: MemoryRequest, encoders: tuple[LoadedEncoder, ...]) -> Form:
    _check_choice("form", request.form, (AUTOMATIC, *FORMS))
    kind = encoders[0].card.kind if encoders else None
    by_kind: dict[str | None, Form] = {None: "low", "encoder": "encoder", "packing": "framepack"}
    form = by_kind[kind] if request.form == AUTOMATIC else FORMS[request.form]
    if form == "encoder" and kind != "encoder":
        raise ValueError(
            f"form '{request.form}' needs an encoder: connect a Load memory encoder node, or "
            "choose a form that needs no training"
        )
    if encoders and by_kind[kind] != form:
        raise ValueError(
            f"form '{request.form}' does not read encoder {encoders[0].card.name}: choose "
            f"'{AUTOMATIC}' or disconnect it"
        )
    return form


def _check_choice(name: str, value: str, accepted: tuple[str, ...]) -> None:
    """The host checks a widget's choice, but not one that comes over a wire."""
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {value!r}")


def chosen_bank(bank: MemoryBank, shots: frozenset[int] | None) -> MemoryBank:
    """The entries of these shots and the references. Raises ValueError when none is left."""
    if shots is None:
        return bank
    kept = tuple(entry for entry in bank.entries if entry.shot in shots or entry.shot == 0)
    if not kept:
        there = ", ".join(sorted({str(entry.shot) for entry in bank.entries}))
        raise ValueError(
            f"shots must name shots that the memory holds ({there}), got "
            f"{', '.join(map(str, sorted(shots)))}"
        )
    return MemoryBank(entries=kept, rope_mode=bank.rope_mode, trained=bank.trained)


def remembering_model(
    model: ModelPatcher,
    memory: Memory,
    bank: MemoryBank,
    strength: float,
    positive: Conditioning | None,
    latent: dict[str, Any] | None,
) -> ModelPatcher:
    """A clone of the model that samples a shot right after the bank, with what its text recalls.

    Raises ValueError for a latent of another size than what is remembered.
    """
    start = bank.latent_frames
    if positive is not None and memory.latent_size is not None:
        frames = max((encoder.card.segment_latents for encoder in memory.encoders), default=1)
        if latent is not None:
            frames = _latent_frames(latent, memory.latent_size)
        shape = (frames, *memory.latent_size)
        bank = with_recalled(
            bank, memory.encoders, memory.cache, memory.dtype, positive[0][0], shape, start
        )
    return attach_memory(
        model,
        bank,
        strength=strength,
        segment_start_latent_frames=start,
        patchers=(memory.view(bank),),
        cross_attention=memory.cross_attention(bank),
    )


def _latent_frames(latent: dict[str, Any], size: tuple[int, int]) -> int:
    shape = tuple(latent["samples"].shape)
    if len(shape) != 5 or shape[3:] != size:
        raise ValueError(
            f"latent must be a video latent of {size[0]} x {size[1]} cells like the memory, got "
            f"the shape {list(shape)}"
        )
    return int(shape[2])
