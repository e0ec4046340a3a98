"""References on one canvas: all of them, or those that a packing has no place for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from .atlas import Atlas, golden_squares, plan_atlas
from .golden import (
    PHI,
    GoldenLevel,
    LeftOut,
    PackedAtlas,
    Packing,
    PackingPolicy,
    full_tokens,
    policy_levels,
)

TOO_SMALL: Literal["smaller than one token"] = "smaller than one token"


def pack_atlas(
    sizes: Sequence[tuple[int, int]], target_size: tuple[int, int], policy: PackingPolicy
) -> Packing:
    """All sources (height, width in pixels, best first) as one reference.

    The largest tile has the size of the policy's first level; sources whose tiles would be shorter
    than `least_side` are left out by rank, but for the best. The bound is F(n + 1) / F(n) times the
    largest tile: 2 for two pictures, 13/8 for six, phi for many. Ratio, groups and pinning mean
    nothing here. Raises ValueError as `pack_references` does.
    """
    levels = policy_levels(target_size, policy)
    first = levels[policy.first_level]
    tile = _tile_pixels(first, target_size, policy.unit)
    usable, too_small = _split(range(len(sizes)), sizes, policy.unit)
    count = len(usable)
    while count > 1 and not _room(count, tile, policy.unit, policy.least_side):
        count -= 1
    left_out = [LeftOut(source, TOO_SMALL) for source in too_small]
    left_out += [LeftOut(source, "below the least side") for source in usable[count:]]
    packed = None
    if usable:
        atlas = plan_atlas(count, *tile, policy.unit)
        packed = _packed(usable[:count], policy.first_level, atlas, policy.unit)
    squares = golden_squares(max(1, count))
    return Packing(
        references=(),
        base=levels[0],
        tokens=packed.tokens if packed else 0,
        bound=first.tokens * squares.width * squares.height / squares.tiles[0].width ** 2,
        naive_tokens=sum(full_tokens(sizes[k], levels[0], policy.unit) for k in usable[:count]),
        left_out=tuple(sorted(left_out, key=lambda item: item.source)),
        atlas=packed,
    )


def merge_left_over(
    packing: Packing,
    sizes: Sequence[tuple[int, int]],
    target_size: tuple[int, int],
    policy: PackingPolicy,
) -> Packing:
    """A packing whose left out sources share one more reference, an atlas.

    It has the tokens that all further golden levels would have together, phi times the next
    level's, or as many as the bound still has room for. Where the model's cap is reached the last
    reference joins the atlas. Sources stay left out that are smaller than a token, or than a pixel
    of the atlas; all do where there is no room for an atlas. Raises ValueError where every
    reference of a full list is pinned, so that none can join.
    """
    rest = [item.source for item in packing.left_out]
    usable, too_small = _split(rest, sizes, policy.unit)
    references = packing.references
    if not usable:
        return packing
    if policy.most_references is not None and len(references) >= policy.most_references:
        if references[-1].pinned:
            raise ValueError(
                f"nothing can be merged: all {len(references)} references are pinned, pin fewer"
            )
        usable = [references[-1].source, *usable]
        references = references[:-1]
    levels = policy_levels(target_size, replace(policy, levels=policy.levels + 1))
    level = min(policy.level_of(len(references)), len(levels) - 1)
    used = sum(reference.tokens for reference in references)
    budget = min(PHI * levels[level].tokens, packing.bound - used)
    count = len(usable)
    tile = _tile_of_budget(budget, count, target_size, policy.unit)
    while count > 1 and not _room(count, tile, policy.unit):
        count -= 1
        tile = _tile_of_budget(budget, count, target_size, policy.unit)
    packed = _packed(usable[:count], level, plan_atlas(count, *tile, policy.unit), policy.unit)
    if packed.tokens > budget:
        return packing
    left_out = [LeftOut(source, TOO_SMALL) for source in too_small]
    left_out += [LeftOut(source, "beyond the last level") for source in usable[count:]]
    kept = [*(reference.source for reference in references), *packed.sources]
    return replace(
        packing,
        references=references,
        tokens=used + packed.tokens,
        naive_tokens=sum(full_tokens(sizes[k], levels[0], policy.unit) for k in kept),
        left_out=tuple(sorted(left_out, key=lambda item: item.source)),
        atlas=packed,
    )


def _split(
    sources: Iterable[int], sizes: Sequence[tuple[int, int]], unit: int
) -> tuple[list[int], list[int]]:
    """The sources that are a token or more on each side, and the others."""
    usable: list[int] = []
    small: list[int] = []
    for source in sources:
        (usable if min(sizes[source]) >= unit else small).append(source)
    return usable, small


def _room(count: int, tile: tuple[int, int], unit: int, least_side: int = 1) -> bool:
    """Whether the smallest of `count` tiles has `least_side` pixels when rounded to tokens."""
    largest = golden_squares(count).tiles[0].width
    return min(tile) >= max(largest * least_side, largest + unit)


def _tile_pixels(level: GoldenLevel, target_size: tuple[int, int], unit: int) -> tuple[int, int]:
    """Height and width of a level that lies as the target does."""
    short, long = level.short * unit, level.long * unit
    return (short, long) if target_size[0] <= target_size[1] else (long, short)


def _tile_of_budget(
    tokens: float, count: int, target_size: tuple[int, int], unit: int
) -> tuple[int, int]:
    """Height and width of the largest tile of an atlas that has `tokens` at most."""
    squares = golden_squares(count)
    share = squares.tiles[0].width ** 2 / (squares.width * squares.height)
    height, width = target_size
    tile_height = math.sqrt(tokens * share * height / width) * unit
    return max(1, int(tile_height)), max(1, int(tile_height * width / height))


def _packed(sources: Sequence[int], level: int, atlas: Atlas, unit: int) -> PackedAtlas:
    tokens = (atlas.height // unit) * (atlas.width // unit)
    return PackedAtlas(sources=tuple(sources), level=level, atlas=atlas, tokens=tokens)
