"""GoldenMem: references whose sides shrink by the golden ratio, so that their tokens are bounded.

Captain Cinema (arXiv 2507.18634), section 3.2. Sides count the image model's tokens, 16 pixels for
all of our families. The floor is taken of the power, not from level to level, and the long side
follows the short one: only so do all six points of the paper's figure 4 come out (inferred; shared
design `golden-memory-and-keyframes.md`, section 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from .atlas import Atlas

PHI = (1 + math.sqrt(5)) / 2

MOST_LEVELS = 64
"""Levels of a ratio so near 1 that sides hardly shrink: more than anybody has references."""

LeftOutReason = Literal[
    "smaller than one token", "beyond the last level", "below the least side", "over the cap"
]


@dataclass(frozen=True)
class GoldenLevel:
    """The size of one level in tokens, `short` <= `long`."""

    short: int
    long: int

    @property
    def tokens(self) -> int:
        return self.short * self.long


@dataclass(frozen=True, kw_only=True)
class PackingPolicy:
    """How references are spread over the levels.

    `group_size` references share a level, best first; the first group has `first_level`, at most
    `levels` follow one another. The first `pinned` sources stay at `first_level` and are not left
    out by rank. Levels after the first whose short side has fewer than `least_side` pixels are not
    used. `most_references` is the cap of the model, None for none. `unit` are the pixels along a
    side of a token; `ratio` 1 keeps every level at full size.
    """

    ratio: float = PHI
    group_size: int = 1
    levels: int = 6
    first_level: int = 0
    least_side: int = 256
    most_references: int | None = None
    unit: int = 16
    pinned: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("group_size", 1),
            ("levels", 1),
            ("first_level", 0),
            ("least_side", 0),
            ("unit", 1),
            ("pinned", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if not 1.0 <= self.ratio < math.inf:
            raise ValueError(f"ratio must be 1 or more, got {self.ratio}")
        cap = self.most_references
        if cap is not None and cap < 1:
            raise ValueError(f"most_references must be 1 or more, got {cap}")
        if cap is not None and self.pinned > cap:
            raise ValueError(
                f"pinned must be {cap} or less, got {self.pinned}: no more references can be used"
            )

    def level_of(self, rank: int) -> int:
        """The level of the reference at a place of the ranking, 0-based.

        The pinned ones and as many more as one group has room for stand at the first level.
        """
        first = max(self.pinned, self.group_size)
        if rank < first:
            return self.first_level
        return self.first_level + 1 + (rank - first) // self.group_size


@dataclass(frozen=True, kw_only=True)
class PackedReference:
    """One reference: its place among the sources, its level, its size in pixels and tokens."""

    source: int
    level: int
    height: int
    width: int
    tokens: int
    pinned: bool


@dataclass(frozen=True)
class LeftOut:
    """A source that is not used, and why."""

    source: int
    reason: LeftOutReason


@dataclass(frozen=True, kw_only=True)
class PackedAtlas:
    """Several sources on one canvas, as one reference; `sources` in the order of its tiles."""

    sources: tuple[int, ...]
    level: int
    atlas: Atlas
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Packing:
    """The references in the order of their sources, and an atlas behind them where there is one.

    `base` is the size of level 0. `bound` is what `tokens` cannot exceed however many references
    there are, phi * t_0 * group size for golden levels from 0 on; infinite for a ratio of 1.
    `naive_tokens` is what the same sources cost when each stands at level 0.
    """

    references: tuple[PackedReference, ...]
    base: GoldenLevel
    tokens: int
    bound: float
    naive_tokens: int
    left_out: tuple[LeftOut, ...]
    atlas: PackedAtlas | None = None


def golden_levels(
    short: int, aspect: float | Fraction, levels: int = MOST_LEVELS, ratio: float = PHI
) -> tuple[GoldenLevel, ...]:
    """Sizes in tokens of levels 0 to `levels` - 1, fewer where the short side reaches 0.

    `short` is the short side of level 0 in tokens, `aspect` long / short side, 1 or more. The long
    side is rounded, halves up.
    """
    if aspect < 1:
        raise ValueError(f"aspect must be long / short side, 1 or more, got {aspect}")
    wide, narrow = Fraction(aspect).as_integer_ratio()
    sizes = []
    for level in range(levels):
        side = math.floor(short / ratio**level)
        if side < 1:
            break
        sizes.append(GoldenLevel(side, _long(side, wide, narrow)))
    return tuple(sizes)


def pack_references(
    sizes: Sequence[tuple[int, int]], target_size: tuple[int, int], policy: PackingPolicy
) -> Packing:
    """Give each source (height, width in pixels), best first, its level and size.

    Level 0 has the size of `target_size` (height, width in pixels). A source of another shape keeps
    it and never takes more tokens than its level; none is enlarged. Raises ValueError for a target
    smaller than a token.
    """
    levels = policy_levels(target_size, policy)
    references: list[PackedReference] = []
    left_out: list[LeftOut] = []
    naive = 0
    for source, size in enumerate(sizes):
        placed = _place(source, size, levels, policy, len(references))
        if isinstance(placed, LeftOut):
            left_out.append(placed)
            continue
        references.append(placed)
        naive += full_tokens(size, levels[0], policy.unit)
    return Packing(
        references=tuple(references),
        base=levels[0],
        tokens=sum(reference.tokens for reference in references),
        bound=_bound(levels, policy),
        naive_tokens=naive,
        left_out=tuple(left_out),
    )


def policy_levels(target_size: tuple[int, int], policy: PackingPolicy) -> tuple[GoldenLevel, ...]:
    """Levels 0 to the last one of the policy, level 0 of the size of the target in pixels.

    Raises ValueError for a target smaller than a token, or so small that it has no first level.
    """
    short, long = sorted(side // policy.unit for side in target_size)
    height, width = target_size
    if short < 1:
        raise ValueError(
            f"the target must be {policy.unit} pixels or more on each side, got {width} x {height}"
        )
    depth = policy.first_level + policy.levels
    levels = golden_levels(short, Fraction(long, short), depth, policy.ratio)
    if len(levels) <= policy.first_level:
        raise ValueError(
            f"first_level must be {len(levels) - 1} or less for {width} x {height}, got "
            f"{policy.first_level}: nothing would be left"
        )
    return levels


def full_tokens(size: tuple[int, int], base: GoldenLevel, unit: int) -> int:
    """What a source (pixels) costs at level 0."""
    rows, columns = _fit(size, base, unit)
    return rows * columns


def _place(
    source: int,
    size: tuple[int, int],
    levels: tuple[GoldenLevel, ...],
    policy: PackingPolicy,
    used: int,
) -> PackedReference | LeftOut:
    """The reference for one source, when `used` sources before it have theirs."""
    level = policy.level_of(used)
    pinned = source < policy.pinned
    if min(size) < policy.unit:
        return LeftOut(source, "smaller than one token")
    if policy.most_references is not None and used >= policy.most_references:
        return LeftOut(source, "over the cap")
    if level >= len(levels):
        return LeftOut(source, "beyond the last level")
    small = levels[level].short * policy.unit < policy.least_side
    if small and level > policy.first_level:
        return LeftOut(source, "below the least side")
    rows, columns = _fit(size, levels[level], policy.unit)
    return PackedReference(
        source=source,
        level=level,
        height=rows * policy.unit,
        width=columns * policy.unit,
        tokens=rows * columns,
        pinned=pinned,
    )


def _fit(size: tuple[int, int], level: GoldenLevel, unit: int) -> tuple[int, int]:
    """Rows and columns of tokens of a source (pixels) at a level: its shape kept, not enlarged."""
    narrow, wide = sorted(size)
    short = level.short
    if short * _long(short, wide, narrow) > level.tokens:  # a longer shape: its tokens decide
        short = max(1, math.isqrt(level.tokens * narrow // wide))
    short = min(short, narrow // unit)
    long = min(_long(short, wide, narrow), level.tokens // short, wide // unit)
    return (short, long) if size[0] <= size[1] else (long, short)


def _long(short: int, wide: int, narrow: int) -> int:
    """The long side of a shape `wide` to `narrow`, rounded, halves up."""
    return (2 * short * wide + narrow) // (2 * narrow)


def _bound(levels: tuple[GoldenLevel, ...], policy: PackingPolicy) -> float:
    """The geometric series of the levels' tokens (design, section 2.2), and pinned ones beside it.

    With the golden ratio the factor of a group is phi, since phi^2 / (phi^2 - 1) = phi. Long sides
    that were rounded up can bring more, as ratio 2 does at 4 x 7 tokens: then it is their sum.
    """
    squared = policy.ratio**2
    if squared == 1:
        return math.inf
    beside = max(0, policy.pinned - policy.group_size)
    used = [level.tokens for level in levels[policy.first_level :]]
    first = levels[0].tokens / squared**policy.first_level
    series = squared / (squared - 1)
    return max(
        first * (policy.group_size * series + beside),
        policy.group_size * sum(used) + beside * used[0],
    )
