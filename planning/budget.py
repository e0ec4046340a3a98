"""What fits a card, in bytes, before anything is sampled. Integers only.

A segment needs at once, on the card: what ComfyUI keeps free, the activations of the segment's
tokens and of the memory's, the remembered tokens themselves, and as many of the model's blocks as
the rest has room for; blocks without room are streamed from RAM at every step. Decoding comes after
it and has the card for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GIB = 1 << 30
MIB = 1 << 20

CONTEXT = GIB // 2
"""Bytes of a card that no program gets: CUDA's own context and the desktop (inferred)."""

FINEST_FIRST = ("2x2x2", "2x2x4", "4x4x2", "2x2x8")
"""Rates in the order of the paper's ELO (2512.23851v6, tables C and D: 1332, 1281, 1262, 2x2x8 not
given). 2x2x1 (1342) is left out: twice the tokens of 2x2x2 for 10 points."""

SPARSEST_FIRST = ("4x4x2", "2x2x8")
"""What is tried when blocks are streamed anyway, so that each memory token drives another block off
the card. 4x4x2 first: it is the one that the paper's figures and trained encoders exist for."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A model's weights in one type, in bytes: its blocks in their order, all other modules, and
    the buffer that streaming needs on the card."""

    dtype: str
    blocks: tuple[int, ...]
    other: int
    buffer: int

    @property
    def total(self) -> int:
        return sum(self.blocks) + self.other


@dataclass(frozen=True, kw_only=True)
class Card:
    """A graphics card. `reserve` is kept free by ComfyUI beside the activations, `least` is the
    least that it keeps free for both (`comfy.model_management.minimum_inference_memory`)."""

    total: int
    reserve: int
    least: int

    @property
    def usable(self) -> int:
        return self.total - CONTEXT


@dataclass(frozen=True, kw_only=True)
class TokenCost:
    """Bytes on the card of one token: in activations, and kept in the latent cache."""

    activation: int
    cached: int


@dataclass(frozen=True, kw_only=True)
class SegmentLength:
    """One length that a segment may have."""

    frames: int
    latent_frames: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class MemoryRate:
    """One rate of the encoder and the tokens of the whole history at that rate."""

    name: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How one setting lies on a card, in bytes.

    `for_weights` is what is left for the model, negative when the rest alone is too much.
    `blocks_on_card` is None when not even the streamed model fits.
    """

    weights: Weights
    segment: SegmentLength
    rate: MemoryRate
    activations: int
    memory_activations: int
    kept_free: int
    cache: int
    for_weights: int
    blocks_on_card: int | None

    @property
    def fits(self) -> bool:
        return self.blocks_on_card is not None

    @property
    def streamed(self) -> int:
        """Blocks that are streamed at every step."""
        return len(self.weights.blocks) - (self.blocks_on_card or 0)


def place(
    card: Card, cost: TokenCost, weights: Weights, segment: SegmentLength, rate: MemoryRate
) -> Placement:
    """Lay one setting out on a card.

    ComfyUI keeps `max(least, activations + reserve)` bytes free of weights (`load_models_gpu`), and
    places whole modules, largest first; blocks are counted here, which sums to the same.
    """
    activations = segment.tokens * cost.activation
    memory_activations = rate.tokens * cost.activation
    kept_free = max(card.least, activations + memory_activations + card.reserve)
    cache = rate.tokens * cost.cached
    left = card.usable - kept_free - cache
    return Placement(
        weights=weights,
        segment=segment,
        rate=rate,
        activations=activations,
        memory_activations=memory_activations,
        kept_free=kept_free,
        cache=cache,
        for_weights=left,
        blocks_on_card=_blocks_on_card(weights, left),
    )


def _blocks_on_card(weights: Weights, left: int) -> int | None:
    if weights.total <= left:
        return len(weights.blocks)
    left -= weights.buffer + weights.other
    if left < 0:
        return None
    count = 0
    for block in weights.blocks:
        left -= block
        if left < 0:
            break
        count += 1
    return min(count, len(weights.blocks) - 1)


def recommend(
    card: Card,
    cost: TokenCost,
    weights: Sequence[Weights],
    segments: Sequence[SegmentLength],
    rates: Sequence[MemoryRate],
) -> Placement | None:
    """The setting to use, None when nothing fits.

    For the longest segment: the first type of weights, and the finest rate, with which every block
    stays on the card. Else the smallest weights at the sparsest rate with blocks streamed. Where
    that does not fit either, the next shorter segment. `weights` come in the order of preference,
    `segments` longest first, `rates` in any order.
    """
    named = {rate.name: rate for rate in rates}
    smallest = min(weights, key=lambda one: one.total)
    for segment in segments:
        whole = [(kind, named[name]) for kind in weights for name in FINEST_FIRST if name in named]
        streamed = [(smallest, named[name]) for name in SPARSEST_FIRST if name in named]
        for kind, rate in whole:
            placed = place(card, cost, kind, segment, rate)
            if placed.fits and not placed.streamed:
                return placed
        for kind, rate in streamed:
            placed = place(card, cost, kind, segment, rate)
            if placed.fits:
                return placed
    return None


def gigabytes(count: int) -> str:
    """Bytes as GB of 2^30, two digits; below a tenth as MB of 2^20."""
    if abs(count) < GIB // 10:
        return f"{count / MIB:.1f} MB"
    return f"{count / GIB:.2f} GB"
