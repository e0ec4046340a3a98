"""The film of a run as a stream: latents from disk, frames to whoever looks at them next.

A chain is decoded as one clip: its segments' latents one after the other, each later one without
the latent frames it was handed. Nothing here holds more than a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .heap import give_back_freed_memory

if TYPE_CHECKING:
    from ..planning.frames import FrameGrid
    from .manifest import SegmentRecord
    from .run import Run

Decode = Callable[[Iterable[Tensor]], Iterator[Tensor]]
"""Consecutive latent pieces [1, c, t, h, w] of one chain to frames [n, h, w, 3] in 0..1."""

FRAMES_AT_ONCE = 8
"""Frames handed on at once; a decoder may give many more (a window of LTXV is 96)."""


@dataclass(frozen=True)
class FilmPart:
    """Consecutive frames [n, h, w, 3] of one segment; `offset` is the place of the first of them
    among the frames that the segment adds to the film."""

    record: SegmentRecord
    offset: int
    frames: Tensor


def segment_frames(run: Run, grid: FrameGrid) -> tuple[int, ...]:
    """Frames that each segment adds to the film."""
    counts = []
    for record in run.segments:
        new = record.film_latent_frames
        counts.append(new * grid.frames_per_latent if record.start == "tail" else grid.frames(new))
    return tuple(counts)


def film_parts(
    run: Run, chain: tuple[SegmentRecord, ...], decode: Decode, grid: FrameGrid, overlap_blend: int
) -> Iterator[FilmPart]:
    """Decode one chain of the run and say which segment each frame belongs to.

    Raises ValueError when the decoder gives another number of frames than the grid says.
    """
    counts = segment_frames(run, grid)
    position, offset = 0, 0
    for decoded in decode(chain_latents(run, chain, overlap_blend)):
        for frames in torch.split(decoded, FRAMES_AT_ONCE):
            while frames.shape[0]:
                if position == len(chain):
                    raise _wrong_count(run, "more")
                record = chain[position]
                share = frames[: counts[record.index] - offset]
                yield FilmPart(record, offset, share)
                frames = frames[share.shape[0] :]
                offset += share.shape[0]
                if offset == counts[record.index]:
                    position, offset = position + 1, 0
    if position < len(chain):
        raise _wrong_count(run, "fewer")


def chain_latents(
    run: Run, chain: tuple[SegmentRecord, ...], overlap_blend: int
) -> Iterator[Tensor]:
    """The latent of a chain in pieces: each segment without the latent frames it was handed.

    With `overlap_blend` above 0 the last that many of them, as the earlier segment has them, pass
    linearly into the later segment's version; this matters for models that change what they are
    handed.
    """
    held: Tensor | None = None
    for record in chain:
        give_back_freed_memory()
        latent = run.latent(record.index)
        known = record.latent_frames - record.film_latent_frames
        if held is not None:
            blended = min(overlap_blend, known, held.shape[2])
            kept = held.shape[2] - blended
            if kept:
                yield held[:, :, :kept]
            if blended:
                yield crossfade(held[:, :, kept:], latent[:, :, known - blended : known])
        held = latent[:, :, known:]
    if held is not None:
        yield held


def crossfade(earlier: Tensor, later: Tensor) -> Tensor:
    """Linear ramp from `earlier` to `later`, both b c t h w: with t = 1 half of each."""
    count = earlier.shape[2]
    weight = torch.arange(1, count + 1, dtype=earlier.dtype) / (count + 1)
    return torch.lerp(earlier, later, weight.view(1, 1, -1, 1, 1))


def _wrong_count(run: Run, which: str) -> ValueError:
    return ValueError(
        f"the VAE makes {which} frames than run {run.name!r} has: its frame grid is not that of "
        "the model that the run was made with"
    )
