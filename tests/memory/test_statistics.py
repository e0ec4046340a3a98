"""Measures of a latent, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from throughline.memory.statistics import hop, latent_statistics


def ramp(values: list[float], height: int = 1, width: int = 2) -> torch.Tensor:
    """A latent 1 1 t h w whose frames are flat, frame i at values[i]."""
    frames = torch.tensor(values).view(1, 1, -1, 1, 1)
    return frames.expand(1, 1, len(values), height, width).clone()


def test_a_flat_latent() -> None:
    assert latent_statistics(torch.full((1, 4, 3, 2, 2), 2.5), 0) == {
        "mean": 2.5,
        "std": 0.0,
        "detail": 0.0,
        "motion": 0.0,
        "seam": 1.0,
    }


def test_mean_and_spread_and_motion_of_the_new_frames_only() -> None:
    measured = latent_statistics(ramp([100.0, 100.0, 1.0, 2.0, 4.0]), 2)
    assert measured["mean"] == pytest.approx(7 / 3)
    assert measured["std"] == pytest.approx((42 / 27) ** 0.5)  # (16 + 1 + 25) / 9 / 3
    assert measured["motion"] == pytest.approx(1.5)  # steps of 1 and 2
    assert measured["detail"] == 0.0
    assert measured["seam"] == pytest.approx(99 / 1.5)


def test_a_seam_that_does_not_show_is_one() -> None:
    assert latent_statistics(ramp([0.0, 1.0, 2.0, 3.0]), 2)["seam"] == pytest.approx(1.0)


def test_detail_is_the_difference_of_neighbouring_cells() -> None:
    picture = torch.tensor([[0.0, 1.0, 3.0], [0.0, 1.0, 3.0]]).view(1, 1, 1, 2, 3)
    # across: 1 and 2 in each of two rows; down: three zeros
    assert latent_statistics(picture, 0)["detail"] == pytest.approx((1 + 2 + 1 + 2) / 7)


@pytest.mark.parametrize("known", [0, 1])
def test_one_new_frame_of_one_cell_has_nothing_to_compare(known: int) -> None:
    measured = latent_statistics(ramp([3.0] * (known + 1), 1, 1), known)
    assert (measured["detail"], measured["motion"], measured["seam"]) == (0.0, 0.0, 1.0)


def test_half_precision_is_measured_in_float32() -> None:
    latent = torch.full((1, 1, 2, 200, 200), 3.0, dtype=torch.float16)
    assert latent_statistics(latent, 0)["mean"] == 3.0


def test_the_latent_stays_as_it_is() -> None:
    latent = torch.randn((1, 4, 5, 3, 3), generator=torch.Generator().manual_seed(0))
    before = latent.clone()
    latent_statistics(latent, 2)
    assert torch.equal(latent, before)


def test_a_hop_is_the_ratio_to_the_segment_before() -> None:
    now = {"std": 2.0, "detail": 3.0, "motion": 0.5, "mean": 9.0}
    before = {"std": 4.0, "detail": 2.0, "motion": 0.5, "mean": 1.0}
    assert hop(now, before) == {"std_ratio": 0.5, "detail_ratio": 1.5, "motion_ratio": 1.0}


def test_nothing_is_divided_by_nothing() -> None:
    now = {"std": 2.0, "detail": 3.0, "motion": 0.5}
    assert hop(now, {"std": 4.0, "detail": 0.0, "motion": 0.0}) == {"std_ratio": 0.5}


def test_drift_shows_in_the_ratio() -> None:
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn((1, 16, 8, 6, 6), generator=generator)
    softer = latent * 0.9
    ratios = hop(latent_statistics(softer, 0), latent_statistics(latent, 0))
    for value in ratios.values():
        assert value == pytest.approx(0.9, rel=1e-5)
