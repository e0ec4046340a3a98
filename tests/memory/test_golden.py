"""GoldenMem's levels and packing: the paper's figures, bounds, and what is left out."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from throughline.memory.golden import (
    PHI,
    GoldenLevel,
    LeftOut,
    PackingPolicy,
    golden_levels,
    pack_references,
)

FIGURE_4 = (5512, 7824, 8984, 9696, 10280, 10824)
TEXT_TOKENS = 128


def shorts(levels: tuple[GoldenLevel, ...]) -> list[int]:
    return [level.short for level in levels]


def test_levels_of_the_paper() -> None:
    levels = golden_levels(25, 2, 6)
    assert shorts(levels) == [25, 15, 9, 5, 3, 2]
    assert [level.tokens for level in levels] == [1250, 450, 162, 50, 18, 8]
    assert [level.long for level in levels] == [50, 30, 18, 10, 6, 4]


def test_levels_of_a_megapixel() -> None:
    levels = golden_levels(64, 1)
    assert shorts(levels) == [64, 39, 24, 15, 9, 5, 3, 2, 1]
    total = sum(level.tokens for level in levels)
    assert total == 6538
    assert total < PHI * 4096 < 6628


@pytest.mark.parametrize(
    ("short", "long", "expected"),
    [
        (48, 84, [(48, 84), (29, 51), (18, 32), (11, 19), (7, 12), (4, 7)]),
        (45, 80, [(45, 80), (27, 48), (17, 30), (10, 18), (6, 11), (4, 7)]),
    ],
)
def test_levels_of_wide_pictures(short: int, long: int, expected: list[tuple[int, int]]) -> None:
    """1344 x 768 and 1280 x 720, section 9.3 of the design; 31.5 is rounded up."""
    levels = golden_levels(short, long / short, 6)
    assert [(level.short, level.long) for level in levels] == expected


def test_levels_end_where_nothing_is_left() -> None:
    assert shorts(golden_levels(1, 1)) == [1]
    assert shorts(golden_levels(8, 1, ratio=2.0)) == [8, 4, 2, 1]
    assert shorts(golden_levels(5, 1, 3, ratio=1.0)) == [5, 5, 5]
    with pytest.raises(ValueError, match=r"aspect must be long / short side, .* got 0\.5"):
        golden_levels(5, 0.5)


def test_the_series_of_the_bound() -> None:
    """Partial sums of t_0 phi^(-2i) are phi (1 - phi^(-2(k+1))): 1, 1.382, 1.528 (design, 11)."""
    for k, expected in enumerate((1.0, 1.38197, 1.52786)):
        direct = sum(PHI ** (-2 * i) for i in range(k + 1))
        assert direct == pytest.approx(PHI * (1 - PHI ** (-2 * (k + 1))))
        assert direct == pytest.approx(expected, abs=5e-6)


def test_figure_4_exactly() -> None:
    """24 pairs of 400 x 800 in groups of four with 128 text tokens each, newest first."""
    policy = PackingPolicy(group_size=4, levels=6, least_side=0)
    packing = pack_references([(400, 800)] * 24, (400, 800), policy)
    costs = [reference.tokens + TEXT_TOKENS for reference in packing.references]
    cumulative = list(itertools.accumulate(costs))[3::4]
    assert tuple(cumulative) == FIGURE_4
    naive = packing.naive_tokens + 24 * TEXT_TOKENS
    assert naive == 33072
    assert FIGURE_4[-1] / naive == pytest.approx(0.327, abs=5e-4)
    assert packing.tokens == 7752 < packing.bound == pytest.approx(4 * PHI * 1250)


def test_ten_thousand_random_shapes_stay_below_the_bound() -> None:
    draw = random.Random(4)
    for _ in range(10_000):
        target = (draw.randint(32, 2048), draw.randint(32, 2048))
        policy = PackingPolicy(
            group_size=draw.randint(1, 4),
            levels=draw.randint(1, 12),
            first_level=draw.randint(0, 1),
            least_side=draw.choice((0, 64, 256)),
            pinned=draw.randint(0, 6),
        )
        own = draw.random() < 0.5
        sizes = [
            target if own else (draw.randint(16, 4096), draw.randint(16, 4096))
            for _ in range(draw.randint(1, 30))
        ]
        packing = pack_references(sizes, target, policy)
        case = (sizes, target, policy)
        assert packing.tokens <= packing.bound, case
        assert packing.tokens <= packing.naive_tokens, case
        assert len(packing.references) + len(packing.left_out) == len(sizes), case
        for reference in packing.references:
            height, width = sizes[reference.source]
            assert 16 <= reference.height <= height and 16 <= reference.width <= width, case
            assert reference.height % 16 == 0 == reference.width % 16, case
            assert reference.tokens * 256 == reference.height * reference.width, case


@pytest.mark.parametrize(
    ("target", "policy", "tokens"),
    [
        # ratio 2: 4 x 7, 2 x 4 (3.5 rounded), 1 x 2 (1.75 rounded); the series says 37.3
        ((64, 112), PackingPolicy(ratio=2.0, levels=3, least_side=0), 38),
        # level 1 of 13 x 14 tokens is 8 x 9 = 72, the series says 69.5 for each of the pinned
        ((208, 224), PackingPolicy(first_level=1, levels=9, least_side=0, pinned=10), 747),
    ],
)
def test_the_bound_counts_long_sides_that_were_rounded_up(
    target: tuple[int, int], policy: PackingPolicy, tokens: int
) -> None:
    packing = pack_references([target] * 15, target, policy)
    assert packing.tokens == tokens <= packing.bound


def test_the_bound_is_nearly_reached_without_pinning_or_limits() -> None:
    """So that the bound is not merely large: a big square keeps 99 % of it."""
    policy = PackingPolicy(levels=20, least_side=0)
    packing = pack_references([(16000, 16000)] * 20, (16000, 16000), policy)
    assert 0.99 * packing.bound < packing.tokens < packing.bound


def test_a_ratio_of_one_has_no_bound() -> None:
    policy = PackingPolicy(ratio=1.0, levels=3)
    packing = pack_references([(256, 256)] * 3, (256, 256), policy)
    assert packing.bound == math.inf
    assert packing.tokens == packing.naive_tokens == 3 * 256


def test_groups_and_first_level() -> None:
    policy = PackingPolicy(group_size=2, levels=3, first_level=1, least_side=0)
    packing = pack_references([(1024, 1024)] * 7, (1024, 1024), policy)
    assert [r.level for r in packing.references] == [1, 1, 2, 2, 3, 3]
    assert [r.height for r in packing.references] == [624, 624, 384, 384, 240, 240]
    assert packing.left_out == (LeftOut(6, "beyond the last level"),)
    assert packing.bound == pytest.approx(2 * PHI * 4096 / PHI**2)


def test_the_least_side_ends_the_levels_but_not_the_first() -> None:
    packing = pack_references([(1024, 1024)] * 4, (1024, 1024), PackingPolicy())
    assert [r.height for r in packing.references] == [1024, 624, 384]
    assert packing.left_out == (LeftOut(3, "below the least side"),)
    packing = pack_references([(96, 160)] * 2, (96, 160), PackingPolicy())
    assert [(r.height, r.width) for r in packing.references] == [(96, 160)]


def test_the_cap_leaves_out_the_last_by_rank() -> None:
    policy = PackingPolicy(most_references=2, least_side=0)
    packing = pack_references([(512, 512)] * 4, (512, 512), policy)
    assert [r.source for r in packing.references] == [0, 1]
    assert packing.left_out == (LeftOut(2, "over the cap"), LeftOut(3, "over the cap"))
    assert packing.naive_tokens == 2 * 1024  # of those that are used: left out ones save nothing


def test_pinned_references_keep_the_first_level() -> None:
    policy = PackingPolicy(pinned=3, most_references=5, least_side=0)
    packing = pack_references([(512, 512)] * 6, (512, 512), policy)
    assert [r.level for r in packing.references] == [0, 0, 0, 1, 2]
    assert [r.pinned for r in packing.references] == [True, True, True, False, False]
    assert packing.bound == pytest.approx((PHI + 2) * 1024)
    few = PackingPolicy(pinned=1, group_size=2, least_side=0)
    packing = pack_references([(512, 512)] * 4, (512, 512), few)
    assert [r.level for r in packing.references] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="pinned must be 2 or less, got 3: no more references"):
        PackingPolicy(pinned=3, most_references=2)


def test_a_source_keeps_its_shape_and_is_never_enlarged() -> None:
    """Target 1024 x 1024, 4096 tokens at level 0."""
    sizes = [
        (1000, 2000),  # short side of a shape of the same area: isqrt(4096 / 2) = 45, 4096 // 45
        (1536, 768),  # 45 x 90, as before, upright
        (500, 300),  # 18 x 31 is all that it has
        (15, 900),  # not one token high
    ]
    packing = pack_references(sizes, (1024, 1024), PackingPolicy(ratio=1.0))
    assert [(r.height, r.width) for r in packing.references] == [
        (45 * 16, 90 * 16),
        (90 * 16, 45 * 16),
        (30 * 16, 18 * 16),
    ]
    assert packing.left_out == (LeftOut(3, "smaller than one token"),)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"group_size": 0}, "group_size must be 1 or more, got 0"),
        ({"levels": 0}, "levels must be 1 or more, got 0"),
        ({"first_level": -1}, "first_level must be 0 or more, got -1"),
        ({"least_side": -1}, "least_side must be 0 or more, got -1"),
        ({"unit": 0}, "unit must be 1 or more, got 0"),
        ({"pinned": -1}, "pinned must be 0 or more, got -1"),
        ({"ratio": 0.9}, r"ratio must be 1 or more, got 0\.9"),
        ({"ratio": math.nan}, "ratio must be 1 or more, got nan"),
        ({"most_references": 0}, "most_references must be 1 or more, got 0"),
    ],
)
def test_wrong_policies_are_named(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackingPolicy(**values)  # type: ignore[arg-type]


def test_a_target_smaller_than_a_token_is_named() -> None:
    with pytest.raises(ValueError, match="target must be 16 pixels or more .* got 800 x 8"):
        pack_references([(64, 64)], (8, 800), PackingPolicy())
    with pytest.raises(ValueError, match="first_level must be 3 or less for 100 x 100, got 4"):
        pack_references([(64, 64)], (100, 100), PackingPolicy(first_level=4))
