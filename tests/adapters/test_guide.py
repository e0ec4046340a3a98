"""A coarse plan as guide: noise levels, sizes, and what reaches the sampler."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def guide(comfy: ModuleType) -> ModuleType:
    from throughline.adapters import guide

    return guide


SIGMAS = torch.tensor([1.0, 0.8, 0.4, 0.0])


def test_as_many_levels_from_the_guides_noise_on(guide: ModuleType) -> None:
    # 0.6 lies at 1.5 steps of the curve; the rest of it in three parts: 1.5, 2, 2.5, 3
    assert guide.lower_start(SIGMAS, 0.6).tolist() == pytest.approx([0.6, 0.4, 0.2, 0.0])
    assert torch.equal(guide.lower_start(SIGMAS, 1.0), SIGMAS)
    assert guide.lower_start(SIGMAS * 14.6, 0.4)[0] == pytest.approx(0.4 * 14.6)


def test_a_guide_without_room_for_noise_is_refused(guide: ModuleType) -> None:
    for share in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="start_noise must be above 0 and at most 1"):
            guide.lower_start(SIGMAS, share)
    with pytest.raises(ValueError, match="start_noise 0.3 must lie above the last noise level"):
        guide.lower_start(torch.tensor([1.0, 0.8, 0.3]), 0.3)


def test_a_small_clip_has_half_the_sides_in_whole_tokens(guide: ModuleType) -> None:
    assert guide.small_size(480, 832, 8) == (240, 416)
    assert guide.small_size(704, 1280, 16) == (352, 640)
    assert guide.small_size(64, 64, 8) == (32, 32)
    assert guide.small_size(16, 720, 8) == (16, 352)  # one token at least; 22.5 tokens are 22


def test_pictures_of_a_clip_are_mixed_by_time(guide: ModuleType) -> None:
    class Kept:
        """The VAE's encode, which keeps what it is given."""

        def encode(self, frames: torch.Tensor) -> torch.Tensor:
            return frames

    pictures = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None].expand(3, 2, 2, 3)
    frames = guide.guide_latent(Kept(), pictures, (0.0, 0.5, 1.0, 1.8, 2.0), 4, 6)
    assert frames.shape == (5, 4, 6, 3)
    assert frames[:, 0, 0, 0].tolist() == pytest.approx([0.0, 0.25, 0.5, 0.9, 1.0])


@pytest.mark.parametrize("as_control", [False, True])
def test_a_guide_reaches_the_model_and_the_known_frames_stay(
    guide: ModuleType, tiny: ModuleType, tiny_vae: Any, as_control: bool
) -> None:
    import comfy.samplers

    from throughline.adapters.blank import BlankClips
    from throughline.adapters.families import family_of
    from throughline.adapters.sampling import SamplerSettings, sample_segment, schedule_sigmas

    family = tiny.FAMILIES["wan_vace"]
    model = family.model()
    settings = SamplerSettings(
        sampler=comfy.samplers.sampler_object("euler"),
        sigmas=schedule_sigmas(model, "euler", "simple", 2),
        cfg=1.0,
    )
    shape = (1, 16, 3, 4, 4)
    known = torch.randn((1, 16, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    text, seen = family.conditioning(), []

    def sample(latent: torch.Tensor | None, share: float) -> torch.Tensor:
        chosen = None
        if latent is not None:
            chosen = guide.Guide(latent=latent, start_noise=share, as_control=as_control)
        seen.clear()
        return sample_segment(
            family_of(model),
            model,
            BlankClips(tiny_vae),
            text,
            text,
            settings,
            shape,
            known,
            7,
            lambda step, denoised, noisy, steps: seen.append(steps),
            guide=chosen,
        )

    one, other = torch.zeros(shape), torch.ones(shape)
    plain, first, second = sample(None, 1.0), sample(one, 0.5), sample(other, 0.5)
    assert len(seen) == 2  # as many steps as without a guide
    for made in (plain, first, second):
        assert torch.equal(made[:, :, :1], known)
    assert not torch.equal(first, second) and not torch.equal(first, plain)
    assert torch.equal(other, torch.ones(shape))
    follows = float((second - first)[:, :, 1:].mean())
    assert as_control or follows > 0.2  # half of the guide's difference, less what two steps take
