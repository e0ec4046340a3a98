"""What is remembered: entries of a history, each kept in one or several forms.

Everything here is an immutable value; a longer history is a new bank that shares its entries. A
piece's tensors are leaf modules that hold one tensor as `weight`, so that whoever manages memory
(ComfyUI, through adapters/cache.py) can move them one by one.

Times count latent frames of the film. Axes: latents `c t h w`, tokens `n d`, positions `n 3` (time,
row, column).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from .positions import RopeMode
from .rates import Rate

Form = str
"""How a piece was made, as artists read it: "encoder 2x2x2", "low 4x4x2", "window"..."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MemoryPiece:
    """One entry in one form.

    A token is the video model's own projection of `low` (latents `c t h w` in the model's input
    space) plus `fine` (`n d`); either may be missing, not both. `low` is projected by the model
    that reads the memory, so that both experts of Wan 2.2 get tokens of their own. `hidden` (n w)
    are the encoder's last states for cross-attention. `positions` (n 3) count from the entry's
    first latent frame. `addresses` (n w) are what the tokens are found by (memory/recall.py), None
    where no caption was known. `key` is a hash of all that the tensors follow from.
    """

    key: str
    form: Form
    rate: Rate
    low: nn.Module | None
    fine: nn.Module | None
    hidden: nn.Module | None
    positions: Tensor
    addresses: Tensor | None = None

    @property
    def tokens(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, eq=False, kw_only=True)
class MemoryEntry:
    """One segment, picture or clip that is remembered.

    `start` its first latent frame's time in the film; `shot` its number there (1-based, 0 for a
    reference from outside); `pinned` entries are never dropped. `picture` is a thumbnail h w 3 in
    0..1. `key` hashes the latents.
    """

    key: str
    title: str
    caption: str
    shot: int
    start: int
    latent_frames: int
    pinned: bool
    picture: Tensor | None
    pieces: tuple[MemoryPiece, ...]

    @property
    def tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces)

    @property
    def stop(self) -> int:
        return self.start + self.latent_frames


@dataclass(frozen=True, eq=False, kw_only=True)
class MemoryBank:
    """Entries in the order of time. `trained` is false for every form that needs no weights."""

    entries: tuple[MemoryEntry, ...]
    rope_mode: RopeMode
    trained: bool

    @property
    def tokens(self) -> int:
        return sum(entry.tokens for entry in self.entries)

    @property
    def latent_frames(self) -> int:
        """Length of the history's time line: the end of its last entry."""
        return max((entry.stop for entry in self.entries), default=0)

    def with_entries(self, entries: Iterable[MemoryEntry]) -> MemoryBank:
        """The bank with more entries; one of the same key and time replaces its older self."""
        kept = {(entry.key, entry.start): entry for entry in (*self.entries, *entries)}
        ordered = sorted(kept.values(), key=lambda entry: (entry.start, entry.key))
        return replace(self, entries=tuple(ordered))
