"""A keyframe equals what core's own KSampler makes, alone and in a batch."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

STEPS = 3


@pytest.fixture(scope="module")
def images(comfy: ModuleType) -> ModuleType:
    from development import tiny_images

    return tiny_images


def settings_of(model: Any, sampler: str = "euler", cfg: float = 1.0) -> Any:
    import comfy.samplers

    from throughline.adapters.sampling import SamplerSettings, schedule_sigmas

    return SamplerSettings(
        sampler=comfy.samplers.sampler_object(sampler),
        sigmas=schedule_sigmas(model, sampler, "simple", STEPS),
        cfg=cfg,
    )


def draw(family: Any, model: Any, shape: tuple[int, ...], seeds: list[int], **changes: Any) -> Any:
    from throughline.adapters.image_family import ImageInputs
    from throughline.adapters.image_sampling import sample_keyframes

    inputs = ImageInputs(
        model=model, positive=family.conditioning(1), negative=family.conditioning(2)
    )
    callback = changes.pop("callback", None)
    return sample_keyframes(inputs, settings_of(model, **changes), shape, seeds, callback)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("flux", (1, 16, 4, 6)),
        ("flux2_dev", (1, 128, 2, 3)),
        ("qwen_edit_2509", (1, 16, 1, 4, 6)),
        ("omnigen2", (1, 16, 4, 6)),
    ],
)
def test_a_keyframe_equals_the_ksampler(
    images: ModuleType, name: str, shape: tuple[int, ...]
) -> None:
    import nodes

    family = images.IMAGE_FAMILIES[name]
    model = family.model()
    for sampler, cfg in (("euler", 1.0), ("euler_ancestral", 2.5)):
        (expected,) = nodes.common_ksampler(
            model,
            11,
            STEPS,
            cfg,
            sampler,
            "simple",
            family.conditioning(1),
            family.conditioning(2),
            {"samples": torch.zeros(shape)},
        )
        made = draw(family, model, shape, [11], sampler=sampler, cfg=cfg)
        assert torch.equal(made, expected["samples"])
        assert not torch.equal(made, draw(family, model, shape, [12], sampler=sampler, cfg=cfg))


def test_every_picture_of_a_batch_has_the_noise_of_its_own_seed(images: ModuleType) -> None:
    family, shape = images.IMAGE_FAMILIES["flux"], (1, 16, 4, 4)
    model = family.model()
    alone = torch.cat([draw(family, model, shape, [seed]) for seed in (5, 90)])
    batch = draw(family, model, shape, [5, 90])
    assert batch.shape == (2, 16, 4, 4)
    assert torch.allclose(batch, alone, atol=1e-5)
    assert not torch.allclose(batch[0], batch[1], atol=0.1)


def test_a_picture_is_kept_with_a_time_axis_and_decoded_without(images: ModuleType) -> None:
    from throughline.adapters.image_sampling import as_frames, as_model_latents

    for shape in ((1, 16, 4, 6), (1, 16, 1, 4, 6)):
        latent = torch.randn(shape)
        kept = as_frames(latent)
        assert kept.shape == (1, 16, 1, 4, 6)
        assert torch.equal(as_model_latents(kept, shape), latent)


def test_interruption_ends_within_a_step(images: ModuleType) -> None:
    import comfy.model_management as management

    family, steps = images.IMAGE_FAMILIES["flux"], []

    def stop(step: int, *_: Any) -> None:
        steps.append(step)
        management.interrupt_current_processing()

    with pytest.raises(management.InterruptProcessingException):
        draw(family, family.model(), (1, 16, 4, 4), [1], callback=stop)
    assert steps == [0]


def test_a_latent_that_is_not_finite_is_refused(images: ModuleType) -> None:
    family = images.IMAGE_FAMILIES["flux"]
    model = family.model()
    with torch.no_grad():
        model.model.diffusion_model.img_in.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="must give finite latents, got NaN or infinity at seed 7"):
        draw(family, model, (1, 16, 4, 4), [7])
