"""Measures by hand, identities, and what is not a hop."""

import json
import math

import pytest
import torch

from throughline.memory.colour import (
    IDENTITY,
    ColourCorrection,
    ColourStatistics,
    apply_corrections,
    correction_to,
    rgb_to_ycbcr,
    ycbcr_to_rgb,
)
from throughline.memory.drift import (
    APPEARANCE,
    SegmentMeter,
    drift_report,
    laplacian,
    measure_segments,
)


def clip(seed: int = 0, frames: int = 6, low: float = 0.2, high: float = 0.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(frames, 9, 8, 3, generator=generator) * (high - low) + low


def loop(frames: int = 8) -> torch.Tensor:
    """A picture that turns round once in `frames` steps, so that every step is equally large."""
    picture = clip(frames=1)[0, :, :frames]
    return torch.stack([torch.roll(picture, i, 1) for i in range(frames)])


def test_measures_of_a_grey_step_by_hand() -> None:
    """Two frames, left half 0.2 and right half 0.6, then 0.1 brighter; no colour."""
    frame = torch.full((4, 4, 3), 0.2)
    frame[:, 2:] = 0.6
    meter = SegmentMeter()
    meter.add(torch.stack([frame, frame + 0.1]))
    measures = meter.measures()
    assert measures.frames == 2
    assert measures.luma == pytest.approx((0.4 + 0.5) / 2)
    assert measures.chroma == pytest.approx(0.0, abs=1e-6)
    assert measures.contrast == pytest.approx(0.2)
    # inside: columns 1 and 2 see +0.4 and -0.4, mean 0, so the deviation is 0.4
    assert measures.texture == pytest.approx(0.4)
    assert measures.motion == pytest.approx(0.1)
    assert measures.median_step == pytest.approx(0.1)
    assert measures.entry_step is None
    assert measures.colour.mean == pytest.approx((0.45, 0.0, 0.0), abs=1e-6)
    assert measures.colour.std[0] == pytest.approx(math.sqrt(0.2**2 + 0.05**2))


def test_chroma_of_pure_red_by_hand() -> None:
    """Red 1: Y' 0.2126, Cb -0.2126/1.8556, Cr 0.5."""
    meter = SegmentMeter()
    meter.add(torch.tensor([1.0, 0.0, 0.0]).expand(1, 3, 3, 3))
    measures = meter.measures()
    assert measures.luma == pytest.approx(0.2126)
    assert measures.chroma == pytest.approx(math.hypot(0.2126 / 1.8556, 0.5), rel=1e-4)
    assert measures.motion is None and measures.median_step is None


def test_laplacian_by_hand() -> None:
    luma = torch.zeros(1, 3, 3)
    luma[0, 1, 1] = 1.0
    assert laplacian(luma).tolist() == [[[-4.0]]]
    assert laplacian(torch.ones(2, 2, 5)).tolist() == [[[0.0]], [[0.0]]]


@pytest.mark.parametrize("sizes", [[6], [1, 5], [2, 3, 1], [1] * 6])
def test_measures_do_not_depend_on_the_pieces(sizes: list[int]) -> None:
    frames, before = clip(), clip(1, 1)[0]
    whole, pieces = SegmentMeter(before), SegmentMeter(before)
    whole.add(frames)
    for piece in torch.split(frames, sizes):
        pieces.add(piece)
    one, other = whole.measures(), pieces.measures()
    for name in (*APPEARANCE, "motion", "median_step", "entry_step"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-5)
    assert one.colour.std == pytest.approx(other.colour.std, rel=1e-4)


def test_equal_segments_do_not_drift() -> None:
    report = drift_report(measure_segments([loop()] * 5))
    assert report.drift_percent == 0.0
    assert set(report.by_measure.values()) == set(report.trend.values()) == {0.0}
    assert all(set(ratios.values()) == {1.0} for ratios in report.against_first)
    assert [hop.seam for hop in report.hops] == pytest.approx([1.0] * 4)


def test_a_gain_of_5_percent_per_hop_is_a_drift_of_5_percent() -> None:
    segments = [clip() * 1.05**hop for hop in range(8)]
    report = drift_report(measure_segments(segments))
    assert report.drift_percent == pytest.approx(5.0, abs=1e-3)
    assert report.by_measure == pytest.approx(dict.fromkeys(APPEARANCE, 5.0), abs=1e-3)
    assert report.trend == pytest.approx(dict.fromkeys(APPEARANCE, 5.0), abs=1e-3)
    assert report.against_first[-1]["contrast"] == pytest.approx(1.05**7, rel=1e-4)


def test_contrast_alone() -> None:
    """Around grey: contrast and texture move, luma and chroma of a grey picture do not."""
    grey = clip().mean(-1, keepdim=True).expand(-1, -1, -1, 3)
    mean = grey.mean((1, 2, 3), keepdim=True)
    report = drift_report(measure_segments([mean + (grey - mean) * 1.05**hop for hop in range(4)]))
    assert report.by_measure["contrast"] == pytest.approx(5.0, abs=1e-3)
    assert report.by_measure["texture"] == pytest.approx(5.0, abs=1e-3)
    assert report.by_measure["luma"] == pytest.approx(0.0, abs=1e-3)
    assert report.by_measure["chroma"] == pytest.approx(0.0, abs=1e-3)
    expected = 100 * math.expm1(math.log(1.05) / 2)
    assert report.drift_percent == pytest.approx(expected, abs=1e-3)


def test_up_and_down_drifts_without_a_trend() -> None:
    report = drift_report(measure_segments([clip() * gain for gain in (1.0, 1.1, 1.0, 1.1, 1.0)]))
    assert report.drift_percent == pytest.approx(10.0, abs=1e-3)
    assert report.trend["luma"] == pytest.approx(0.0, abs=1e-4)


def test_softening_shows_in_texture_only() -> None:
    sharp = clip()
    soft = (sharp + torch.roll(sharp, 1, 1) + torch.roll(sharp, 1, 2)) / 3
    report = drift_report(measure_segments([sharp, soft]))
    assert report.hops[0].ratios["texture"] < 0.7
    assert report.hops[0].ratios["luma"] == pytest.approx(1.0, abs=1e-3)


def test_a_flash_at_the_join_is_a_seam() -> None:
    turning = loop()
    report = drift_report(measure_segments([turning, turning + 0.3]))
    steps = (turning[1:] - turning[:-1]).abs().mean((1, 2, 3))
    across = (turning[0] + 0.3 - turning[-1]).abs().mean()
    assert report.hops[0].seam == pytest.approx(float(across / steps.median()), rel=1e-4)
    assert report.worst_seam == report.hops[0].seam and report.worst_seam_index == 1


def test_a_seam_is_compared_with_steps_between_latent_frames() -> None:
    """A picture that moves by 0.1 every fourth frame and by 0.01 otherwise, as VAEs make it."""

    def stepped(frames: int, lone: int, start: float) -> torch.Tensor:
        steps = [0.1 if (i - lone) % 4 == 0 else 0.01 for i in range(1, frames)]
        levels = start + torch.tensor([0.0, *steps]).cumsum(0)
        return levels[:, None, None, None].expand(-1, 4, 4, 3)

    first = stepped(9, 1, 0.0)
    second = stepped(8, 0, float(first[-1, 0, 0, 0]) + 0.1)
    blind = drift_report(measure_segments([first, second]))
    aware = drift_report(measure_segments([first, second], (), 4, 1))
    assert blind.hops[0].seam == pytest.approx(10.0, rel=1e-3)
    assert aware.hops[0].seam == pytest.approx(1.0, rel=1e-3)
    assert aware.by_measure == blind.by_measure
    pieces = SegmentMeter(None, 4, 1)
    for piece in torch.split(first, [2, 3, 4]):
        pieces.add(piece)
    assert pieces.measures().median_step == pytest.approx(0.1, rel=1e-3)


def test_a_cut_is_neither_a_hop_nor_a_seam() -> None:
    dark, bright = loop() * 0.5, loop()
    report = drift_report(measure_segments([dark, dark, bright, bright], cuts=[2]))
    assert [hop.cut for hop in report.hops] == [False, True, False]
    assert report.hops[1].seam is None and report.hops[1].drift_percent is None
    assert report.hops[1].ratios["luma"] == pytest.approx(2.0)
    assert report.drift_percent == 0.0 and report.worst_seam == pytest.approx(1.0)
    assert report.against_first[3]["luma"] == pytest.approx(2.0)


def test_a_still_black_film_has_ratios_of_one() -> None:
    report = drift_report(measure_segments([torch.zeros(3, 4, 4, 3)] * 2))
    assert report.drift_percent == 0.0 and report.hops[0].seam == 1.0


def test_a_single_segment_has_no_drift_to_report() -> None:
    report = drift_report(measure_segments([clip()]))
    assert report.drift_percent is None and report.by_measure == {} and report.worst_seam is None
    json.dumps(report.to_json(), allow_nan=False)
    with pytest.raises(ValueError, match="at least one segment, got none"):
        drift_report([])
    with pytest.raises(ValueError, match="at least one frame to be measured, got none"):
        SegmentMeter().measures()


def test_ycbcr_is_a_round_trip_and_grey_has_no_colour() -> None:
    frames = clip(low=0.0, high=1.0)
    assert torch.allclose(ycbcr_to_rgb(rgb_to_ycbcr(frames)), frames, atol=1e-6)
    assert torch.allclose(rgb_to_ycbcr(torch.full((1, 3), 0.4)), torch.tensor([[0.4, 0.0, 0.0]]))
    red = rgb_to_ycbcr(torch.tensor([1.0, 0.0, 0.0]))
    assert red.tolist() == pytest.approx([0.2126, -0.2126 / 1.8556, 0.5], abs=1e-6)


def test_matching_brings_back_what_an_affine_drift_took() -> None:
    anchor = clip(low=0.3, high=0.6)
    drifted = anchor * 1.2 + 0.05
    before, after = measure_segments([anchor, drifted])
    correction = correction_to(after.colour, before.colour, 1.0, True)
    restored = apply_corrections(drifted, [correction], torch.zeros(6))
    assert torch.allclose(restored, anchor, atol=1e-4)
    half = correction_to(after.colour, before.colour, 0.5, False)
    assert half.gain == (1.0, 1.0, 1.0)
    assert half.offset[0] == pytest.approx((before.luma - after.luma) / 2, abs=1e-5)
    assert correction_to(after.colour, before.colour, 0.0, True) == ColourCorrection(
        IDENTITY.gain, pytest.approx(IDENTITY.offset, abs=1e-12)
    )


def test_the_gain_is_bounded_and_flat_pictures_have_none() -> None:
    flat = ColourStatistics((0.5, 0.0, 0.0), (0.0, 0.0, 0.0))
    rich = ColourStatistics((0.5, 0.0, 0.0), (0.3, 0.2, 0.2))
    poor = ColourStatistics((0.5, 0.0, 0.0), (0.03, 0.02, 0.02))
    assert correction_to(flat, rich, 1.0, True).gain == (1.0, 1.0, 1.0)
    assert correction_to(poor, rich, 1.0, True).gain == (2.0, 2.0, 2.0)
    assert correction_to(rich, poor, 1.0, True).gain == (0.5, 0.5, 0.5)


def test_corrections_are_mixed_by_position() -> None:
    frames = torch.full((4, 2, 2, 3), 0.4)
    brighter = ColourCorrection((1.0, 1.0, 1.0), (0.2, 0.0, 0.0))
    positions = torch.tensor([-1.0, 0.0, 0.25, 9.0])
    mixed = apply_corrections(frames, [IDENTITY, brighter], positions)
    assert mixed[:, 0, 0, 0].tolist() == pytest.approx([0.4, 0.4, 0.45, 0.6], abs=1e-6)
