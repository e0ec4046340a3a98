"""What a memory encoder is given, as clips in order of time: references, a latent, a run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import comfy.utils
import torch

from ..adapters.geometry import read_geometry
from ..adapters.memory_value import HistoryClip, Memory
from ..planning.recall import segment_starts
from ..runs.run import Run

if TYPE_CHECKING:
    from .remembering import MemoryRequest


def given_clips(
    request: MemoryRequest, memory: Memory
) -> tuple[list[HistoryClip], tuple[str, ...]]:
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
        replace(clip, text=lines[index] if index < len(lines) else "")
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
        captioned.append(replace(clip, caption=states))
    return captioned, tuple(warnings)
