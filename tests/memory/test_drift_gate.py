"""The drift gate's measure of one picture against its anchor."""

from __future__ import annotations

import math

import pytest
import torch

from throughline.memory.drift_gate import (
    Drift,
    colour_shift,
    drift_from,
    picture_measures,
    reduced,
    short_side,
)


def picture(size: tuple[int, int] = (48, 64), seed: int = 0) -> torch.Tensor:
    """Colours from 0.1 to 0.5, so that a gain up to 2 does not clip."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, *size, 3, generator=generator) * 0.4 + 0.1


def drift(anchor: torch.Tensor, other: torch.Tensor, side: int = 48) -> Drift:
    return drift_from(picture_measures(anchor, side), picture_measures(other, side))


def test_a_picture_has_not_drifted_from_itself() -> None:
    same = drift(picture(), picture())
    assert same.percent == 0.0
    assert set(same.measures.values()) == {0.0}
    assert list(same.measures) == ["luma", "chroma", "contrast", "texture", "colour"]


@pytest.mark.parametrize("gain", [0.5, 1.05, 1.5])
def test_a_gain_by_hand(gain: float) -> None:
    """All four measures scale with the values; the mean colour moves by gain - 1 of its length."""
    anchor = picture()
    found = drift(anchor, anchor * gain)
    for name in ("luma", "chroma", "contrast", "texture"):
        assert found.measures[name] == pytest.approx(100 * (gain - 1), abs=0.01)
    shift = math.log1p(found.measures["colour"] / 100)
    expected = (4 * abs(math.log(gain)) + shift) / 5
    assert found.percent == pytest.approx(100 * math.expm1(expected), abs=0.01)
    assert 0.0 < shift < abs(math.log(gain))


def test_the_way_there_and_back_is_the_same() -> None:
    anchor, other = picture(), picture(seed=1) * 0.7
    assert drift(anchor, other).percent == pytest.approx(drift(other, anchor).percent)


def test_a_turned_hue_is_seen_by_colour_alone() -> None:
    """Red and blue change places about grey: the same saturation, another tint."""
    warm = torch.tensor([0.6, 0.5, 0.5]).expand(1, 20, 20, 3)
    cold = torch.tensor([0.4, 0.5, 0.5]).expand(1, 20, 20, 3)
    anchor, other = picture_measures(warm, 20), picture_measures(cold, 20)
    assert colour_shift(anchor, other) == pytest.approx(2.0, abs=0.01)
    assert drift_from(anchor, other).worst == "colour"
    assert drift_from(anchor, other).measures["chroma"] == pytest.approx(0.0, abs=0.5)


def test_blur_is_texture() -> None:
    anchor = picture()
    soft = torch.nn.functional.avg_pool2d(anchor.movedim(-1, 1), 5, 1, 2).movedim(1, -1)
    assert drift(anchor, soft).worst == "texture"
    assert drift(anchor, soft).measures["texture"] < -70


def test_grey_pictures_have_no_colour_to_shift() -> None:
    grey = torch.full((1, 20, 20, 3), 0.5)
    assert drift(grey, grey * 0.999, 20).percent < 1.0


def test_pictures_are_compared_at_one_size() -> None:
    """A picture and its double, every pixel four times, are one picture at the smaller size."""
    small = picture((32, 40))
    double = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert short_side(double) == 64
    torch.testing.assert_close(reduced(double, 32), small)
    assert drift(small, double, 32).percent == pytest.approx(0.0, abs=1e-3)
    assert reduced(small, 256) is small, "never enlarged"
    assert reduced(torch.zeros(1, 1000, 300, 3), 256).shape == (1, 853, 256, 3)
