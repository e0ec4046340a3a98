"""The picture and the report of a packing: golden rectangles, and numbers that add up."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from throughline.memory.golden import PHI, PackingPolicy, pack_references
from throughline.memory.golden_atlas import merge_left_over, pack_atlas

MEGAPIXEL = (1024, 1024)


@pytest.fixture(scope="module")
def dev(comfy: ModuleType) -> Any:
    """What Flux.2 dev can do."""
    from development.tiny_images import IMAGE_FAMILIES
    from throughline.adapters.flux_images import Flux2Dev

    return Flux2Dev().capabilities(IMAGE_FAMILIES["flux2_dev"].model())


def names(count: int) -> list[str]:
    return [f"image {number + 1}" for number in range(count)]


@pytest.mark.parametrize("aspect", [1.0, 16 / 9, 9 / 16, 2.0])
@pytest.mark.parametrize("count", [2, 5, 9])
def test_the_spiral_is_golden(count: int, aspect: float, comfy: ModuleType) -> None:
    """Each rectangle is 1/phi as long as the one before, and no two share a place."""
    from throughline.nodes.golden_picture import HEADING, MARGIN, SPIRAL_HEIGHT, WIDTH, spiral

    slots = spiral(count, aspect)
    for slot, following in zip(slots, slots[1:], strict=False):
        assert following.width == pytest.approx(slot.width / PHI)
    for place, slot in enumerate(slots):
        assert slot.width == pytest.approx(slot.height * aspect)
        assert slot.left >= MARGIN - 1e-6
        assert slot.left + slot.width <= WIDTH - MARGIN + 1e-6
        assert slot.top >= HEADING - 1e-6
        assert slot.top + slot.height <= HEADING + SPIRAL_HEIGHT + 1e-6
        for other in slots[:place]:
            across = min(slot.left + slot.width, other.left + other.width) - max(
                slot.left, other.left
            )
            down = min(slot.top + slot.height, other.top + other.height) - max(slot.top, other.top)
            assert min(across, down) < 1e-6


def test_a_single_rectangle_has_the_frame(comfy: ModuleType) -> None:
    from throughline.nodes.golden_picture import SPIRAL_HEIGHT, WIDTH, spiral

    (slot,) = spiral(1, 1.0)
    assert slot.height == SPIRAL_HEIGHT
    assert slot.left + slot.width / 2 == WIDTH / 2


def test_the_picture_shows_each_level_in_its_rectangle(comfy: ModuleType) -> None:
    from throughline.nodes.golden_picture import LEVEL_COLOURS, WIDTH, packing_picture, spiral

    values = (0.2, 0.5, 0.8)
    pictures = [torch.full((1, *MEGAPIXEL, 3), value) for value in values]
    packing = pack_references([MEGAPIXEL] * 3, MEGAPIXEL, PackingPolicy())
    drawn = packing_picture(packing, pictures, names(3))
    assert drawn.shape[0] == 1 and drawn.shape[2:] == (WIDTH, 3)
    assert 0.0 <= float(drawn.min()) and float(drawn.max()) <= 1.0
    for slot, value, colour in zip(spiral(3, 1.0), values, LEVEL_COLOURS, strict=False):
        middle = drawn[0, round(slot.top + slot.height / 2), round(slot.left + slot.width / 2)]
        assert middle.tolist() == pytest.approx([value] * 3, abs=0.01)
        left, top, _, _ = slot.box
        assert (drawn[0, top, left] * 255).round().int().tolist() == list(colour)


@pytest.mark.parametrize("count", range(1, 10))
def test_any_packing_can_be_drawn(count: int, comfy: ModuleType) -> None:
    from throughline.nodes.golden_picture import packing_picture

    pictures = [torch.rand(1, 96 - 8 * k, 24 + 16 * k, 3) for k in range(count)]
    sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
    policy = PackingPolicy(group_size=1 + count % 3, least_side=0, pinned=count // 4, levels=2)
    rest = merge_left_over(pack_references(sizes, (96, 64), policy), sizes, (96, 64), policy)
    for packing in (rest, pack_atlas(sizes, (96, 64), policy)):
        drawn = packing_picture(packing, pictures, names(count))
        assert torch.isfinite(drawn).all()


@pytest.mark.parametrize("merged", [False, True])
def test_levels_too_deep_to_be_seen_are_not_drawn(merged: bool, comfy: ModuleType) -> None:
    """The twentieth rectangle of the spiral is less than a pixel wide."""
    from throughline.nodes.golden_picture import packing_picture

    policy = PackingPolicy(ratio=1.0, levels=20, least_side=0)
    sizes = [(64, 64)] * (24 if merged else 20)
    packing = pack_references(sizes, (64, 64), policy)
    if merged:
        packing = merge_left_over(packing, sizes, (64, 64), policy)
    assert len(packing.references) == 20 and (packing.atlas is not None) == merged
    picture = packing_picture(packing, [torch.ones(1, 64, 64, 3)] * len(sizes), names(len(sizes)))
    assert torch.isfinite(picture).all()


def test_the_report_by_hand(dev: Any) -> None:
    from throughline.nodes.golden_report import packing_report

    policy = PackingPolicy(pinned=1, most_references=4, least_side=200)
    packing = pack_references([MEGAPIXEL] * 6, MEGAPIXEL, policy)
    assert packing_report(packing, names(6), "Flux.2 dev", dev).splitlines() == [
        "Flux.2 dev: 4 pictures in 4 references, 6,418 tokens, 39.2 % of 16,384 at full size",
        "- level 0, 1024 x 1024: 4,096 tokens, image 1 (pinned)",
        "- level 1, 624 x 624: 1,521 tokens, image 2",
        "- level 2, 384 x 384: 576 tokens, image 3",
        "- level 3, 240 x 240: 225 tokens, image 4",
        "- Bound however many there are: 6,627 tokens, 1.618 x t_0 (t_0 = 64 x 64 = 4,096)",
        "- Left out, more than the model or max_references allows: image 5, image 6",
        "- Places: each at its own index (index)",
        "- Warning, below 256 pixels a reference of Flux.2 dev says little more than colour and "
        "layout: image 4",
    ]


def test_the_report_says_where_there_is_no_bound(dev: Any) -> None:
    from throughline.nodes.golden_report import packing_report

    packing = pack_references([MEGAPIXEL] * 7, MEGAPIXEL, PackingPolicy(ratio=1.0, levels=7))
    report = packing_report(packing, names(7), "Flux.2 dev", dev)
    assert "7 pictures in 7 references, 28,672 tokens, 100.0 % of 28,672" in report
    assert "No bound: with ratio 1 every level is as large as the first (t_0 = 64 x 64" in report
    assert "Warning, Flux.2 dev is advised 6 references at most, got 7" in report


def test_more_pixels_than_the_makers_give_are_named(dev: Any) -> None:
    from throughline.nodes.golden_report import packing_report

    large = (1152, 1152)  # level 1 is 704 x 704
    packing = pack_references([large] * 2, large, PackingPolicy())
    warning = (
        "give one of several references 1,048,576 pixels at most: lower base_short for image 1"
    )
    assert packing_report(packing, names(2), "Flux.2 dev", dev).endswith(warning)
    alone = pack_references([large], large, PackingPolicy())
    assert "Warning" not in packing_report(alone, names(1), "Flux.2 dev", dev)


def test_the_report_of_an_atlas(dev: Any) -> None:
    from throughline.nodes.golden_report import packing_report

    packing = pack_atlas([MEGAPIXEL] * 6, MEGAPIXEL, PackingPolicy(least_side=100))
    lines = packing_report(packing, names(6), "Flux.2 dev", dev).splitlines()
    assert lines[0].endswith(
        "6 pictures in 1 reference, 6,656 tokens, 27.1 % of 24,576 at full size"
    )
    assert lines[1].startswith("- atlas at level 0, 1664 x 1024: 6,656 tokens, image 1, image 2")
    assert lines[2].startswith("- Bound however many there are: 6,656 tokens, 1.625 x t_0")
