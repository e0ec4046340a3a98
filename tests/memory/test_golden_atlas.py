"""Atlases as references: all pictures on one canvas, and those a packing has no place for."""

from __future__ import annotations

import random

import pytest

from throughline.memory.golden import PHI, LeftOut, PackingPolicy, pack_references
from throughline.memory.golden_atlas import merge_left_over, pack_atlas

MEGAPIXEL = (1024, 1024)


def test_an_atlas_of_six_by_hand() -> None:
    packing = pack_atlas([MEGAPIXEL] * 6, MEGAPIXEL, PackingPolicy(least_side=128))
    assert packing.atlas is not None
    assert packing.atlas.sources == (0, 1, 2, 3, 4, 5)
    assert packing.tokens == packing.atlas.tokens == 6656 == packing.bound  # 13/8 of 4096
    assert packing.naive_tokens == 6 * 4096
    assert packing.references == () == packing.left_out


def test_tiles_below_the_least_side_are_left_out() -> None:
    packing = pack_atlas([MEGAPIXEL] * 6, MEGAPIXEL, PackingPolicy(least_side=200))
    assert packing.atlas is not None
    assert packing.atlas.sources == (0, 1, 2, 3, 4)  # 1024 / 5 = 204, made whole tokens: 192
    assert packing.left_out == (LeftOut(5, "below the least side"),)
    one = pack_atlas([MEGAPIXEL] * 2, (96, 160), PackingPolicy())
    assert one.atlas is not None
    assert one.atlas.sources == (0,)
    assert (one.atlas.atlas.height, one.atlas.atlas.width) == (96, 160)


def test_a_picture_smaller_than_a_token_has_no_tile() -> None:
    packing = pack_atlas([(8, 400), MEGAPIXEL], MEGAPIXEL, PackingPolicy())
    assert packing.atlas is not None
    assert packing.atlas.sources == (1,)
    assert packing.left_out == (LeftOut(0, "smaller than one token"),)
    none = pack_atlas([(8, 8)], MEGAPIXEL, PackingPolicy())
    assert none.atlas is None
    assert none.tokens == 0 == none.naive_tokens


def merged(count: int, policy: PackingPolicy) -> tuple[list[int], list[int], int]:
    """Sources of the references, of the atlas, and all tokens, for megapixel pictures."""
    sizes = [MEGAPIXEL] * count
    packing = merge_left_over(pack_references(sizes, MEGAPIXEL, policy), sizes, MEGAPIXEL, policy)
    assert packing.tokens <= packing.bound
    assert packing.left_out == ()
    assert packing.naive_tokens == 4096 * count
    atlas = packing.atlas.sources if packing.atlas else ()
    return [one.source for one in packing.references], list(atlas), packing.tokens


def test_what_lies_below_the_least_side_shares_an_atlas() -> None:
    """Three levels of 256 pixels or more; level 3 has 225 tokens, its atlas phi times as many.

    Five squares of sides 5 3 2 1 1 fill 8 x 5, so the largest tile is sqrt(364 x 25 / 40) = 15.1
    tokens, 241 pixels, a fifth of it 3 tokens: 24 x 15.
    """
    references, atlas, tokens = merged(8, PackingPolicy())
    assert references == [0, 1, 2]
    assert atlas == [3, 4, 5, 6, 7]
    assert tokens == 4096 + 1521 + 576 + 24 * 15


def test_at_the_cap_the_last_reference_joins_the_atlas() -> None:
    """Level 1 has 1521 tokens; of phi times as many two squares take half each: 35 x 35."""
    references, atlas, tokens = merged(3, PackingPolicy(most_references=2))
    assert references == [0]
    assert atlas == [1, 2]
    assert tokens == 4096 + 70 * 35


def test_a_packing_without_rest_stays_as_it_is() -> None:
    policy = PackingPolicy()
    packing = pack_references([MEGAPIXEL] * 3, MEGAPIXEL, policy)
    assert merge_left_over(packing, [MEGAPIXEL] * 3, MEGAPIXEL, policy) is packing


def test_pinned_references_do_not_join() -> None:
    policy = PackingPolicy(pinned=2, most_references=2)
    packing = pack_references([MEGAPIXEL] * 3, MEGAPIXEL, policy)
    with pytest.raises(ValueError, match="all 2 references are pinned, pin fewer"):
        merge_left_over(packing, [MEGAPIXEL] * 3, MEGAPIXEL, policy)


def test_merging_keeps_the_bound_of_every_ratio() -> None:
    for ratio in (2.0, 3.0, 8.0):
        policy = PackingPolicy(ratio=ratio, levels=1)
        packing = pack_references([MEGAPIXEL] * 9, MEGAPIXEL, policy)
        merged = merge_left_over(packing, [MEGAPIXEL] * 9, MEGAPIXEL, policy)
        assert merged.atlas is not None
        assert packing.tokens < merged.tokens <= merged.bound, ratio


def test_nothing_is_merged_where_the_bound_leaves_no_room() -> None:
    token = (16, 16)
    policy = PackingPolicy(least_side=0)
    packing = pack_references([token] * 2, token, policy)
    assert merge_left_over(packing, [token] * 2, token, policy) == packing
    assert packing.tokens == 1 and [item.source for item in packing.left_out] == [1]


def test_a_thousand_random_shapes_stay_below_the_bound() -> None:
    draw = random.Random(5)
    for _ in range(1_000):
        target = (draw.randint(64, 2048), draw.randint(64, 2048))
        sizes = [(draw.randint(8, 3000), draw.randint(8, 3000)) for _ in range(draw.randint(1, 20))]
        policy = PackingPolicy(
            group_size=draw.randint(1, 3),
            levels=draw.randint(1, 5),
            least_side=draw.choice((0, 64, 256)),
            most_references=draw.choice((None, 1, 3, 6)),
        )
        case = (target, sizes, policy)
        packing = merge_left_over(pack_references(sizes, target, policy), sizes, target, policy)
        alone = pack_atlas(sizes, target, policy)
        for one in (packing, alone):
            assert one.tokens <= one.bound, case
            used = [reference.source for reference in one.references]
            used += one.atlas.sources if one.atlas else ()
            left_out = [item.source for item in one.left_out]
            assert sorted([*used, *left_out]) == list(range(len(sizes))), case
            if one.atlas:
                canvas = one.atlas.atlas
                assert canvas.height % 16 == 0 == canvas.width % 16, case
                assert one.atlas.tokens * 256 == canvas.height * canvas.width, case
        cap = policy.most_references
        slots = len(packing.references) + (packing.atlas is not None)
        assert cap is None or slots <= cap, case
        assert alone.bound <= 2 * alone.base.tokens and PHI < 2
