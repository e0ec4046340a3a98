"""From the memory encoder node's inputs to a memory: what is given is checked, then encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.utils
import folder_paths
import torch

from ..adapters.attach import can_remember
from ..adapters.cache import LatentCache, Spill
from ..adapters.encoders import LoadedEncoder, check_fits, model_patch
from ..adapters.fingerprint import fingerprint_vae
from ..adapters.geometry import check_vae, read_geometry
from ..adapters.history import (
    WINDOW_LATENT_FRAMES,
    Form,
    HistoryClip,
    Memory,
    empty_bank,
    remember,
)
from ..memory.bank import MemoryBank
from ..memory.rates import Rate
from ..planning.recall import RecallPolicy, Stream, segment_starts
from ..runs.atomic import write_atomic
from ..runs.run import Run

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

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
    return MemoryRequest(**{field.name: inputs.get(field.name) for field in fields(MemoryRequest)})


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
    clips, warnings = _clips(request, memory)
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


def _clips(request: MemoryRequest, memory: Memory) -> tuple[list[HistoryClip], tuple[str, ...]]:
    """What is given, in order of time: references, then the latent, then the run."""
    lines = [line.strip() for line in request.captions.splitlines() if line.strip()]
    history = _history_latent(request, memory)
    run = _run_of(request, memory)
    clips: list[HistoryClip] = []
    for picture in _reference_pictures(request, memory, history, run):
        latents = request.vae.encode(picture[None]).float().cpu()
        number = len(clips) + 1
        clips.append(
            HistoryClip(
                latents=latents,
                title=f"reference {number}",
                shot=0,
                start=_end(clips),
                pinned=True,
                frames=picture[None],
            )
        )
    clips += _latent_clips(memory, history, _end(clips))
    clips = [
        HistoryClip(**{**vars(clip), "text": lines[index] if index < len(lines) else ""})
        for index, clip in enumerate(clips)
    ]
    warnings = []
    if len(lines) > len(clips):
        warnings.append(f"captions has {len(lines)} lines for {len(clips)} references and clips")
    clips += _run_clips(memory, run, _end(clips))
    return _captioned(request, memory, clips, warnings)


def _end(clips: list[HistoryClip]) -> int:
    return clips[-1].start + clips[-1].latents.shape[2] if clips else 0


def _history_latent(request: MemoryRequest, memory: Memory) -> torch.Tensor | None:
    if request.history is None:
        return None
    samples = request.history.get("samples")
    channels = int(memory.latent_format.latent_channels)
    if not isinstance(samples, torch.Tensor) or samples.ndim != 5 or samples.shape[0] != 1:
        came = tuple(samples.shape) if isinstance(samples, torch.Tensor) else type(samples).__name__
        raise ValueError(
            f"history must be one video latent [1, {channels}, t, height, width], got {came}"
        )
    if samples.shape[1] != channels:
        raise ValueError(
            f"history must have the model's {channels} latent channels, got {samples.shape[1]}"
        )
    if 0 in samples.shape:
        raise ValueError(f"history must not be empty, got {tuple(samples.shape)}")
    if not bool(torch.isfinite(samples).all()):
        raise ValueError("history must be finite, got NaN or infinity")
    return samples.float().cpu()


def _run_of(request: MemoryRequest, memory: Memory) -> Run | None:
    run: object = request.run
    if run is None:
        return None
    if not isinstance(run, Run):
        raise ValueError(f"run must come from a Throughline sampler, got {type(run).__name__}")
    finished = [record.index for record in run.segments if record.finished]
    if not finished:
        raise ValueError(f"run {run.name!r} must have a finished segment, it has none")
    channels = int(memory.latent_format.latent_channels)
    made = run.latent(finished[0]).shape[1]
    if made != channels:
        raise ValueError(
            f"run {run.name!r} must have the model's {channels} latent channels, got {made}"
        )
    return run


def _reference_pictures(
    request: MemoryRequest, memory: Memory, history: torch.Tensor | None, run: Run | None
) -> list[torch.Tensor]:
    """References [height, width, 3] in the size of the film, as far as it is known."""
    pictures = request.references
    if pictures is None:
        return []
    if pictures.ndim != 4 or pictures.shape[-1] < 3 or 0 in pictures.shape:
        raise ValueError(
            f"references must be pictures, height, width, 3 colours, got {tuple(pictures.shape)}"
        )
    if not bool(torch.isfinite(pictures).all()):
        raise ValueError("references must be finite, got NaN or infinity")
    pixels = request.vae.spacial_compression_encode()
    height, width = pictures.shape[1] // pixels * pixels, pictures.shape[2] // pixels * pixels
    known = history if history is not None else None if run is None else run.latent(0)
    if known is not None:
        height, width = known.shape[3] * pixels, known.shape[4] * pixels
    height, width = request.height or height, request.width or width
    read_geometry(request.model).latent_shape(1, height, width)
    scaled = comfy.utils.common_upscale(
        pictures[..., :3].movedim(-1, 1), width, height, "area", "center"
    )
    return list(scaled.movedim(1, -1))  # n c h w -> n h w c


def _latent_clips(memory: Memory, history: torch.Tensor | None, start: int) -> list[HistoryClip]:
    """The latent as one clip, or in parts as long as the encoder was trained with."""
    if history is None:
        return []
    length = history.shape[2]
    if memory.policy.stream == "segment":
        length = memory.encoders[0].card.segment_latents
    parts = history.split(length, dim=2)
    return [
        HistoryClip(
            latents=part,
            title="history" if len(parts) == 1 else f"history {index + 1}",
            shot=index + 1,
            start=start + index * length,
            pinned=False,
        )
        for index, part in enumerate(parts)
    ]


def _run_clips(memory: Memory, run: Run | None, start: int) -> list[HistoryClip]:
    """A run's finished segments that the policy keeps."""
    if run is None:
        return []
    policy = memory.policy
    starts = segment_starts(run.segments, policy.stream)
    clips = []
    for record in run.segments:
        pinned = policy.pin_first_shot and record.shot == 0
        if not record.finished or not (pinned or policy.recent):
            continue
        continues = record.start == "tail"
        clips.append(
            HistoryClip(
                latents=run.latent(record.index),
                title=f"segment {record.number}",
                shot=record.shot + 1,
                start=start + starts[record.index],
                pinned=pinned,
                handed=record.known_latent_frames if continues else 0,
                continues=continues,
                text=record.prompt,
            )
        )
    return clips


def _captioned(
    request: MemoryRequest, memory: Memory, clips: list[HistoryClip], warnings: list[str]
) -> tuple[list[HistoryClip], tuple[str, ...]]:
    """The clips with the text states of their captions, where an encoder reads them."""
    wanted = {encoder.card.caption_dim for encoder in memory.encoders} - {0}
    if not wanted or not any(clip.text for clip in clips):
        return clips, tuple(warnings)
    if request.clip is None:
        warnings.append("clip is not connected, so the encoder reads no captions")
        return clips, tuple(warnings)
    captioned = []
    for clip in clips:
        states = None
        if clip.text:
            states = request.clip.encode_from_tokens_scheduled(request.clip.tokenize(clip.text))
            states = states[0][0]
            if states.shape[-1] not in wanted:
                warnings.append(
                    f"clip gives text states {states.shape[-1]} wide, the encoder reads "
                    f"{', '.join(map(str, sorted(wanted)))}: captions are left out"
                )
                return clips, tuple(warnings)
        captioned.append(HistoryClip(**{**vars(clip), "caption": states}))
    return captioned, tuple(warnings)


def describe_memory(made: MadeMemory, model: ModelPatcher) -> str:
    """Tokens, seconds and sizes of a memory, and what a film adds to it, in lines of text."""
    memory, bank = made.memory, made.memory.bank
    form = next(name for name, value in FORMS.items() if value == memory.form)
    names = " + ".join(encoder.card.name for encoder in memory.encoders)
    lines = [f"{form}{f': {names}' if names else ''}"]
    lines.append(
        f"holds {len(bank.entries)} entries, {bank.tokens} tokens, "
        f"{_seconds(memory, model)}{memory.cache.sizes().total / 1e6:.1f} MB"
    )
    if memory.latent_size is not None:
        height, width = memory.latent_size
        per_frame = -(-height // memory.patch[1]) * -(-width // memory.patch[2])
        lines.append(
            f"budget: every step reads {bank.tokens} tokens more, as many as "
            f"{bank.tokens / per_frame:.1f} latent frames of the film ({per_frame} tokens each)"
        )
    lines.append(_policy_line(memory))
    lines += [f"{entry.title}: {entry.tokens} tokens" for entry in bank.entries]
    lines += [f"Warning, {warning}" for warning in made.warnings]
    return "\n".join(lines)


def _seconds(memory: Memory, model: ModelPatcher) -> str:
    """How long the remembered film is, where the frame rate is known."""
    latent_frames = sum(entry.latent_frames for entry in memory.bank.entries)
    frames = latent_frames * read_geometry(model).grid.frames_per_latent
    if not memory.encoders:
        return f"{frames} frames, "
    fps = memory.encoders[0].card.fps
    return f"{frames} frames ({frames / fps:.1f} s at {fps:g} fps), "


def _policy_line(memory: Memory) -> str:
    policy = memory.policy
    kept = ["references"] if memory.bank.entries else []
    kept += ["its first shot"] if policy.pin_first_shot else []
    if policy.recent:
        reach = policy.latent_frames
        kept.append(f"its newest {reach} latent frames" if reach else "all earlier segments")
    return f"a film remembers {', '.join(kept) or 'nothing'}"


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
