"""What a film starts from and how long its segments are, checked against the model's family."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..adapters.family import Capabilities, Family
from ..adapters.geometry import LatentGeometry
from ..planning.frames import FrameGrid
from ..planning.segments import Start

if TYPE_CHECKING:
    from .film import FilmRequest


def check_start(
    request: FilmRequest, capabilities: Capabilities, geometry: LatentGeometry, family: Family
) -> tuple[Start, int]:
    """What the first segment starts from, and how many latent frames of it are known."""
    if request.start_image is not None and request.start_latent is not None:
        raise ValueError(f"start_image or {request.latent_input} may be connected, got both")
    if request.start_image is not None:
        known = _check_start_image(request.start_image, geometry)
        start: Start = "image"
    elif request.start_latent is not None:
        tail = tail_latent_frames(request, capabilities, family)
        known = min(_check_start_latent(request, geometry), tail)
        start = "latent"
    else:
        return "text", 0
    limit = capabilities.known_latent_frames
    if limit is not None and known > limit:
        raise ValueError(
            f"start_{start}: {family.name} starts from at most {limit} latent frames "
            f"({geometry.grid.frames(limit)} frames), got {known}"
        )
    return start, known


def _check_start_image(image: torch.Tensor, geometry: LatentGeometry) -> int:
    if image.ndim != 4 or image.shape[-1] < 3:
        raise ValueError(
            f"start_image must be frames, height, width, 3 colours, got {tuple(image.shape)}"
        )
    if not bool(torch.isfinite(image).all()):
        raise ValueError("start_image must be finite, got NaN or infinity")
    return latent_frames_of(geometry.grid, image.shape[0], "start_image")


def _check_start_latent(request: FilmRequest, geometry: LatentGeometry) -> int:
    name, samples = request.latent_input, (request.start_latent or {}).get("samples")
    if not isinstance(samples, torch.Tensor) or getattr(samples, "is_nested", False):
        raise ValueError(
            f"{name} must be one video latent, got {type(samples).__name__}: latents of "
            "video and sound together are not supported"
        )
    latent_frames = samples.shape[2] if samples.ndim == 5 else 1
    expected = geometry.latent_shape(latent_frames, request.height, request.width)
    if tuple(samples.shape) != expected:
        raise ValueError(
            f"{name} must have the shape {expected} for {request.width} x {request.height} "
            f"pixels, got {tuple(samples.shape)}"
        )
    if not bool(torch.isfinite(samples).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return latent_frames


def segment_latent_frames(
    request: FilmRequest, capabilities: Capabilities, geometry: LatentGeometry
) -> int:
    if request.segment_frames == 0:
        return capabilities.segment_latent_frames
    return latent_frames_of(geometry.grid, request.segment_frames, "segment_frames")


def latent_frames_of(grid: FrameGrid, frames: int, name: str) -> int:
    """Latent frames of `frames` frames; a count off the grid is refused by the input's name."""
    try:
        return grid.latent_frames(frames)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def tail_latent_frames(request: FilmRequest, capabilities: Capabilities, family: Family) -> int:
    limit = capabilities.known_latent_frames
    tail = request.tail_latent_frames or capabilities.known_latent_frames_default
    if limit is not None and tail > limit:
        raise ValueError(
            f"{family.name} continues from at most {limit} latent frames, "
            f"got tail_latent_frames {tail}"
        )
    return tail
