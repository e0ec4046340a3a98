"""Two experts (Wan 2.2 14B): the hand-over at the switch changes nothing but the model."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
import torch

SHAPE = (1, 16, 4, 4, 4)


@pytest.mark.parametrize("known_latent_frames", [0, 2])
@pytest.mark.parametrize("sampler_name", ["euler", "euler_ancestral", "uni_pc"])
def test_the_same_model_twice_is_one_model(
    comfy: ModuleType, sampler_name: str, known_latent_frames: int
) -> None:
    import comfy.samplers

    from development.tiny_models import FAMILIES, tiny_wan_vae
    from throughline.adapters.blank import BlankClips
    from throughline.adapters.families import family_of
    from throughline.adapters.sampling import SamplerSettings, sample_segment, schedule_sigmas

    tiny = FAMILIES["wan22_i2v"]
    model = tiny.model()
    known = torch.randn(1, 16, known_latent_frames, 4, 4) if known_latent_frames else None
    one = SamplerSettings(
        sampler=comfy.samplers.sampler_object(sampler_name),
        sigmas=schedule_sigmas(model, sampler_name, "simple", 6),
        cfg=2.0,
    )
    two = replace(one, low_noise_model=model, switch_sigma=0.9)
    steps: list[tuple[int, int]] = []

    def sample(settings: SamplerSettings) -> torch.Tensor:
        steps.clear()
        return sample_segment(
            family_of(model),
            model,
            BlankClips(tiny_wan_vae()),
            tiny.conditioning(1),
            tiny.conditioning(2),
            settings,
            SHAPE,
            known,
            5,
            lambda step, denoised, noisy, total: steps.append((step, total)),
        )

    split, counted = sample(two), list(steps)
    if sampler_name == "euler":
        # one step depends on nothing but the model before it: the switch must not show at all
        assert (split - sample(one)).abs().max() < 1e-4
    assert torch.isfinite(split).all()
    assert [step for step, _ in counted] == list(range(6))
    assert {total for _, total in counted} == {6}
    if known is not None:
        assert torch.equal(split[:, :, :known_latent_frames], known)


def test_steps_belong_to_the_expert_of_their_noise_level(comfy: ModuleType) -> None:
    import comfy.samplers

    from development.tiny_models import FAMILIES
    from throughline.adapters.sampling import SamplerSettings, expert_phases

    high, low = FAMILIES["wan22_i2v"].model(0), FAMILIES["wan22_i2v"].model(1)
    settings = SamplerSettings(
        sampler=comfy.samplers.sampler_object("euler"),
        sigmas=torch.tensor([1.0, 0.95, 0.9, 0.6, 0.0]),
        cfg=1.0,
        low_noise_model=low,
        switch_sigma=0.9,
    )
    phases = expert_phases(high, settings)
    assert [expert for expert, _ in phases] == [high, low]
    # the step that starts at 0.9 is still the high-noise expert's
    assert [sigmas.tolist() for _, sigmas in phases] == [
        pytest.approx([1.0, 0.95, 0.9, 0.6]),
        pytest.approx([0.6, 0.0]),
    ]
    only_low = expert_phases(high, replace(settings, sigmas=torch.tensor([0.8, 0.4, 0.0])))
    assert [expert for expert, _ in only_low] == [low]
