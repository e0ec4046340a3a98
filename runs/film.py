"""The film of a run as a stream: latents from disk, frames to whoever looks at them next.

A chain is decoded as one clip: its segments' latents one after the other, each later one without
the latent frames it was handed. Segments that fill a plan are clips of their own, each with the
frames that it shares with the one before at its beginning; those are dropped, or cross-faded.
Nothing here holds more than a segment.
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
        if record.is_planned:
            counts.append(grid.frames(new) - shared_frames(record, grid))
        else:
            whole = record.start == "tail"
            counts.append(new * grid.frames_per_latent if whole else grid.frames(new))
    return tuple(counts)


def shared_frames(record: SegmentRecord, grid: FrameGrid) -> int:
    """Frames at the beginning of a filled segment that the one before ends with (5 for Wan)."""
    return grid.frames(record.known_latent_frames) if record.known_latent_frames else 0


def film_parts(
    run: Run, chain: tuple[SegmentRecord, ...], decode: Decode, grid: FrameGrid, overlap_blend: int
) -> Iterator[FilmPart]:
    """Decode one chain of the run and say which segment each frame belongs to.

    `overlap_blend` counts latent frames, in a plan frames. Raises ValueError when the decoder gives
    another number of frames than the grid says.
    """
    if chain[0].is_planned:
        yield from _joined_parts(run, chain, decode, grid, overlap_blend)
        return
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


def _joined_parts(
    run: Run, chain: tuple[SegmentRecord, ...], decode: Decode, grid: FrameGrid, blend: int
) -> Iterator[FilmPart]:
    """Filled segments one after the other. The last `blend` frames of each wait for the next one,
    which begins with its own version of them."""
    waiting: FilmPart | None = None
    for record in chain:
        shared = shared_frames(record, grid)
        kept = min(blend, _shared_frames_after(run, record, grid))
        lead: list[Tensor] = []
        own = FilmPart(record, 0, torch.empty(0))
        for start, frames in _clip_frames(run, record, decode, grid):
            cut = max(0, min(shared - start, len(frames)))
            lead.append(frames[:cut])
            if waiting is not None and start + len(frames) >= shared:
                yield _faded(waiting, torch.cat(lead))
                waiting = None
            fresh = frames[cut:]
            held = torch.cat((own.frames, fresh)) if len(own.frames) else fresh
            ready = max(0, len(held) - kept)
            if ready:
                yield FilmPart(record, own.offset, held[:ready])
            own = FilmPart(record, own.offset + ready, held[ready:])
        waiting = own if len(own.frames) else None


def _clip_frames(
    run: Run, record: SegmentRecord, decode: Decode, grid: FrameGrid
) -> Iterator[tuple[int, Tensor]]:
    """The frames of one segment decoded alone, each piece with the place of its first."""
    give_back_freed_memory()
    start, wanted = 0, grid.frames(record.latent_frames)
    for decoded in decode(iter([run.latent(record.index)])):
        for frames in torch.split(decoded, FRAMES_AT_ONCE):
            if start + len(frames) > wanted:
                raise _wrong_count(run, "more")
            yield start, frames
            start += len(frames)
    if start < wanted:
        raise _wrong_count(run, "fewer")


def _shared_frames_after(run: Run, record: SegmentRecord, grid: FrameGrid) -> int:
    """Frames at the end of a filled segment that the next one begins with."""
    after = record.index + 1
    if after == len(run.segments) or not run.segments[after].continues:
        return 0
    return shared_frames(run.segments[after], grid)


def _faded(held: FilmPart, lead: Tensor) -> FilmPart:
    """Held frames passing into the next segment's version of them, which are the last of `lead`."""
    count = len(held.frames)
    weight = (torch.arange(1, count + 1) / (count + 1)).view(-1, 1, 1, 1).to(held.frames)
    return FilmPart(held.record, held.offset, torch.lerp(held.frames, lead[-count:], weight))


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
