"""A video's codes on one timeline: the value of TL_HIERARCHY, its tensors in the latent cache.

A `Timeline` is cut into blocks of consecutive latent frames, each level of a block a leaf of the
cache, so that ComfyUI counts and moves the codes of a long film and the oldest go to files. Who
works on it asks for a window, a `Hierarchy` of plain tensors, and writes a window back, which gives
a new timeline that shares every other block with the old one.

Latents are normalised as the video model sees them (`process_in` of its latent format) before they
become codes, and go back the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..memory.hierarchy import CellState, Hierarchy, HierarchyGrid
from .cache import CachedTensor, LatentCache, read_cached
from .fingerprint import fingerprint_value

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat

    from .hierarchy_weights import LoadedHead

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Block:
    """The latent frames from `start` on; `leaves` hold `t n c` per level by their keys in the
    cache, None where nothing of a level is known. `state` is uint8 `levels t`, `first` bool `t`."""

    start: int
    keys: tuple[str | None, ...]
    leaves: tuple[CachedTensor | None, ...]
    state: Tensor
    first: Tensor

    @property
    def stop(self) -> int:
        return self.start + len(self.first)


@dataclass(frozen=True, eq=False)
class Timeline:
    """The codes of a film from its first latent frame on; immutable.

    `latent_format` is the video model's, `head` made the codes. The value owns the cache, since
    ComfyUI holds weak references only.
    """

    blocks: tuple[Block, ...]
    grid: HierarchyGrid
    head: LoadedHead
    latent_format: LatentFormat
    cache: LatentCache

    @property
    def frames(self) -> int:
        """Latent frames of the film, known or not."""
        return self.blocks[-1].stop if self.blocks else 0

    @property
    def levels(self) -> int:
        return self.grid.levels

    @property
    def state(self) -> Tensor:
        """What is known of every cell, uint8 `levels t`."""
        empty = torch.zeros(self.levels, 0, dtype=torch.uint8)
        return torch.cat([empty, *(block.state for block in self.blocks)], dim=1)

    def known(self, level: int, start: int, stop: int) -> bool:
        """Whether all of [start, stop) is planned or final at this level."""
        states = self.state[level, start:stop]
        return stop <= self.frames and bool((states != CellState.UNKNOWN).all())

    def window(self, start: int, stop: int) -> Hierarchy:
        """The codes of [start, stop) as plain tensors on the CPU; frames beyond the end are
        unknown, as is what is unknown here. Raises ValueError for a window outside the film."""
        if not 0 <= start <= stop:
            raise ValueError(f"a window must lie in the film, got latent frames {start} to {stop}")
        result = Hierarchy.empty(self.head.head, self.grid, 0)
        at = start
        for part, frames in self._parts(start, stop):
            result = _joined(result, self._plain(part, frames))
            at = frames.stop
        return result.extended(stop - at) if stop > at else result

    def written(self, start: int, window: Hierarchy) -> Timeline:
        """A new timeline with the cells of `window` from latent frame `start` on, known or not.

        Raises ValueError for codes of another head or grid, and for a gap behind the film's end.
        """
        if (window.head, window.grid) != (self.head.name, self.grid):
            raise ValueError(
                f"codes of head {window.head} on {window.grid} do not belong to a hierarchy of "
                f"head {self.head.name} on {self.grid}"
            )
        if not 0 <= start <= self.frames:
            raise ValueError(
                f"the film has {self.frames} latent frames: codes must begin at 0 to "
                f"{self.frames}, got {start}"
            )
        stop = start + window.frames
        before = tuple(self._cut(0, start))
        after = tuple(self._cut(stop, self.frames))
        block = self._block(start, window)
        # what was replaced now lives as long as an older value holds it
        self.cache.view(key for key in block.keys if key is not None)
        return replace(self, blocks=(*before, block, *after))

    def content(self, start: int, stop: int) -> str:
        """A hash of the codes of [start, stop) and of what is known there."""
        window = self.window(start, stop)
        return fingerprint_value([window.codes, window.state, window.first, self.head.name])

    def encoded(self, latents: Tensor, first: Tensor) -> Hierarchy:
        """Codes of raw latents `1 c t h w`, all final; `first` bool `t` marks single pictures."""
        return self.head.encode(self.latent_format.process_in(latents.float().cpu()), first)

    def latents(self, level: int, start: int, stop: int) -> Tensor:
        """Raw latents `1 c t h w` of [start, stop) as one level knows them.

        Raises ValueError naming the level and the first latent frame that it does not know.
        """
        if not 0 <= level < self.levels:
            raise ValueError(
                f"level must be 0 to {self.levels - 1}, the levels of this hierarchy, got {level}"
            )
        if not 0 <= start < stop <= self.frames:
            raise ValueError(
                f"the film has latent frames 0 to {self.frames}, got {start} to {stop}"
            )
        unknown = (self.state[level, start:stop] == CellState.UNKNOWN).nonzero()
        if len(unknown):
            raise ValueError(
                f"level {level} does not know latent frame {start + int(unknown[0])}: plan it, or "
                "take a coarser level"
            )
        window = self.window(start, stop)
        made = self.head.decode(level, window.codes[level][None], self.grid, window.first)
        return self.latent_format.process_out(made)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[Block, range]]:
        """The blocks that meet [start, stop), and which of the film's frames of each do."""
        for block in self.blocks:
            frames = range(max(start, block.start), min(stop, block.stop))
            if frames:
                yield block, frames

    def _plain(self, block: Block, frames: range) -> Hierarchy:
        cut = slice(frames.start - block.start, frames.stop - block.start)
        empty = Hierarchy.empty(self.head.head, self.grid, len(frames))
        for key in filter(None, block.keys):
            self.cache.get(key)  # used now: the longest unused go to files first
        codes = tuple(
            zeros if leaf is None else read_cached(leaf, CPU, torch.float32)[cut]
            for leaf, zeros in zip(block.leaves, empty.codes, strict=True)
        )
        state, first = block.state[:, cut], block.first[cut]
        return Hierarchy(codes, state, first, self.grid, self.head.name)

    def _cut(self, start: int, stop: int) -> Iterator[Block]:
        """The blocks of [start, stop); one that is whole is shared, not copied."""
        for block, frames in self._parts(start, stop):
            if len(frames) == len(block.first):
                yield block
            else:
                yield self._block(frames.start, self._plain(block, frames))

    def _block(self, start: int, window: Hierarchy) -> Block:
        keys = tuple(
            fingerprint_value(codes) if bool(known.any()) else None
            for codes, known in zip(window.codes, window.state, strict=True)
        )
        leaves = tuple(
            None if key is None else self.cache.add(key, codes.clone())
            for key, codes in zip(keys, window.codes, strict=True)
        )
        return Block(start, keys, leaves, window.state.clone(), window.first.clone())


def _joined(left: Hierarchy, right: Hierarchy) -> Hierarchy:
    return replace(
        left,
        codes=tuple(torch.cat(pair) for pair in zip(left.codes, right.codes, strict=True)),
        state=torch.cat([left.state, right.state], dim=1),
        first=torch.cat([left.first, right.first]),
    )


def picture_marks(frames: int, latent_format: LatentFormat, begins: bool) -> Tensor:
    """Which of so many latent frames hold a single picture, bool `t`: the first one of a clip
    (`begins`) where the VAE groups pictures, since it looks back only."""
    marks = torch.zeros(frames, dtype=torch.bool)
    if begins and frames and latent_format.temporal_downscale_ratio > 1:
        marks[0] = True
    return marks
