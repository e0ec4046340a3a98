"""A history is written: each clip becomes an entry once, and a bank is made for each segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..memory.bank import MemoryBank, MemoryEntry, MemoryPiece
from .memory_value import HistoryClip, Memory
from .pieces import (
    NEW_TAKE,
    TakeState,
    digest,
    encoded_pieces,
    low_piece,
    packed_pieces,
    tensor_bytes,
    whole_piece,
)

if TYPE_CHECKING:
    from comfy.sd import VAE

ANCHOR_LATENT_FRAMES = 1
"""Whole latent frames kept of a pinned entry by `window` and `framepack`: the first, which drifted
least. FramePack keeps its start latent the same way (demo_gradio_f1.py)."""

THUMBNAIL_SIDE = 128
"""Longest side of an entry's picture in pixels (our choice)."""


@dataclass(frozen=True, eq=False)
class Written:
    """An entry; `open` are keys of pieces that hold until the take goes on."""

    entry: MemoryEntry
    open: frozenset[str]


class HistoryWriter:
    """Encodes the clips of one history, each once. Lives as long as the run that it serves.

    `clip_of(index)` gives the clip at a place of the history; it is asked for only when needed.
    """

    def __init__(self, memory: Memory, clip_of: Callable[[int], HistoryClip]) -> None:
        self._memory, self._clip_of = memory, clip_of
        self._written: dict[int, Written] = {}
        self._states: tuple[int, tuple[TakeState, ...]] = (-1, ())

    def bank(self, indices: Sequence[int]) -> MemoryBank:
        """What the memory was given and the clips at these places, in order of time."""
        memory = self._memory
        if memory.recent_latent_frames == 0:
            entries = [self._settled(index, indices) for index in indices]
        else:
            clips = {index: self._clip_of(index) for index in indices}
            pinned = [index for index, clip in clips.items() if clip.pinned]
            entries = [self._entry(index).entry for index in pinned]
            newest = [clip for clip in clips.values() if not clip.pinned]
            entries += [recent_entry(memory, newest)] if newest else []
        return memory.bank.with_entries(entries)

    def _settled(self, index: int, indices: Sequence[int]) -> MemoryEntry:
        """An entry without the cell that the next clip of its take completes."""
        written = self._entry(index)
        if not written.open or index + 1 not in indices:
            return written.entry
        if not self._clip_of(index + 1).continues:
            return written.entry
        kept = (piece for piece in written.entry.pieces if piece.key not in written.open)
        return replace(written.entry, pieces=tuple(kept))

    def _entry(self, index: int) -> Written:
        if index not in self._written:
            clip = self._clip_of(index)
            written, states = write_clip(self._memory, clip, self._states_before(index, clip))
            self._written[index] = written
            self._states = (index, states)
        return self._written[index]

    def _states_before(self, index: int, clip: HistoryClip) -> tuple[TakeState, ...]:
        """The encoders' states at the end of the clip before; a take is walked from its start
        where they are not at hand."""
        new = tuple(NEW_TAKE for _ in self._memory.encoders)
        if not clip.continues or self._memory.policy.stream == "segment" or not index:
            return new
        if self._states[0] != index - 1:
            before = self._clip_of(index - 1)
            states = self._states_before(index - 1, before)
            _, states = write_clip(self._memory, before, states)
            self._states = (index - 1, states)
        return self._states[1]


def write_clip(
    memory: Memory, clip: HistoryClip, states: tuple[TakeState, ...] | None = None
) -> tuple[Written, tuple[TakeState, ...]]:
    """Remember one clip as an entry; `states` are the encoders' at the end of the clip before."""
    if memory.policy.stream == "segment":
        clip = replace(clip, handed=0)
    new = clip.latents.shape[2] - clip.handed
    if new < 1:
        raise ValueError(f"history must be 1 latent frame or longer, {clip.title} has {new} new")
    content = content_key(clip)
    pieces: list[MemoryPiece] = []
    opened: list[str] = []
    after = []
    if memory.form == "encoder":
        states = states or tuple(NEW_TAKE for _ in memory.encoders)
        for encoder, state in zip(memory.encoders, states, strict=True):
            made, is_open, state = encoded_pieces(memory, encoder, clip, content, state)
            pieces += made
            opened += is_open
            after.append(state)
    elif memory.form == "low":
        pieces.append(low_piece(memory, clip, content))
    else:
        kept = clip.latents[:, :, clip.handed :][:, :, :ANCHOR_LATENT_FRAMES]
        pieces.append(whole_piece(memory, kept, content))
    entry = MemoryEntry(
        key=content,
        title=clip.title,
        caption=clip.text,
        shot=clip.shot,
        start=clip.start + clip.handed,
        latent_frames=new,
        pinned=clip.pinned,
        picture=None,
        pieces=tuple(pieces),
    )
    return Written(entry, frozenset(opened)), tuple(after)


def recent_entry(memory: Memory, clips: Sequence[HistoryClip]) -> MemoryEntry:
    """The newest latent frames of neighbouring clips as one entry: packed, or whole."""
    film = torch.cat([clip.latents[:, :, clip.handed :] for clip in clips], dim=2)
    end = clips[-1].start + clips[-1].latents.shape[2]
    film = film[:, :, -memory.recent_latent_frames :]
    content = digest(tensor_bytes(film))
    if memory.form == "window":
        pieces = [whole_piece(memory, film, content)]
    else:
        pieces = packed_pieces(memory, film, content)
    return MemoryEntry(
        key=content,
        title="recent frames",
        caption="",
        shot=clips[-1].shot,
        start=end - film.shape[2],
        latent_frames=film.shape[2],
        pinned=False,
        picture=None,
        pieces=tuple(pieces),
    )


def content_key(clip: HistoryClip) -> str:
    """A hash of what of a clip is remembered."""
    return digest(tensor_bytes(clip.latents), str(clip.handed))


def remember(memory: Memory, clips: Sequence[HistoryClip]) -> Memory:
    """The memory with these clips in its bank, each with a thumbnail; the given one stays as it is.

    Raises ValueError for clips of another size than what is remembered.
    """
    size = memory.latent_size
    for clip in clips:
        own = (clip.latents.shape[3], clip.latents.shape[4])
        size = size or own
        if own != size:
            scale = memory.vae.spacial_compression_encode()
            raise ValueError(
                f"history must be of one size, {clip.title} has {own[1] * scale} x "
                f"{own[0] * scale} pixels and the others have {size[1] * scale} x {size[0] * scale}"
            )
    writer = HistoryWriter(memory, clips.__getitem__)
    bank = writer.bank(range(len(clips)))
    pictures = {clip.start + clip.latents.shape[2]: clip for clip in clips}
    entries = [
        replace(entry, picture=thumbnail(memory.vae, pictures[entry.stop]))
        if entry.picture is None and entry.stop in pictures
        else entry
        for entry in bank.entries
    ]
    return replace(memory, bank=replace(bank, entries=tuple(entries)), latent_size=size)


def thumbnail(vae: VAE, clip: HistoryClip) -> Tensor:
    """A small picture h w 3 in 0..1 of the middle of a clip, decoded alone."""
    if clip.frames is not None:
        frame = clip.frames[len(clip.frames) // 2, ..., :3]
    else:
        middle = clip.latents.shape[2] // 2
        frames = vae.decode(clip.latents[:, :, middle : middle + 1])
        frame = frames.reshape(-1, *frames.shape[-3:])[-1, ..., :3].clamp(0.0, 1.0).float().cpu()
    scale = min(1.0, THUMBNAIL_SIDE / max(frame.shape[:2]))
    size = [max(1, round(side * scale)) for side in frame.shape[:2]]
    small = torch.nn.functional.interpolate(frame.movedim(-1, 0)[None], size=size, mode="area")
    return small[0].movedim(0, -1)  # c h w -> h w c
