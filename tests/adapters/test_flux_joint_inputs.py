"""What the joint mode refuses, by name; joined prompts; Flux.1-dev as a family of image models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .joint_pairs import picture, prompt, sample, sharp_flux


@pytest.fixture(scope="session")
def families(comfy: Any) -> Any:
    from development.tiny_images import IMAGE_FAMILIES

    return IMAGE_FAMILIES


@pytest.fixture
def family(families: Any) -> Any:
    return families["flux"]


@pytest.fixture
def model(family: Any) -> Any:
    return sharp_flux(family)


def refused(message: str, *args: Any, **settings: Any) -> None:
    from throughline.adapters.flux_joint import joint_keyframes

    with pytest.raises(ValueError) as error:
        joint_keyframes(*args, **settings)
    assert str(error.value) == message


# Models


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("flux2_dev", "Flux2"),
        ("flux2_klein", "Flux2"),
        ("qwen_edit_2509", "QwenImage"),
        ("omnigen2", "Omnigen2"),
    ],
)
def test_other_image_models_are_refused(name: str, kind: str, families: Any) -> None:
    message = f"model must be Flux.1-dev or a finetune of it, got {kind}"
    refused(message, families[name].model())


def test_other_models_of_the_same_class_are_refused(tiny: Any, family: Any) -> None:
    import comfy.supported_models

    from development.tiny_images import FLUX, TEXT_WIDTH
    from development.tiny_models import TinyFamily

    message = "model must be Flux.1-dev or a finetune of it, got "
    refused(message + "WAN21", tiny.FAMILIES["wan_t2v"].model())
    long_cat = TinyFamily(comfy.supported_models.LongCatImage, FLUX, TEXT_WIDTH, 16)
    refused(message + "LongCatImage", long_cat.model())
    filled = TinyFamily(
        comfy.supported_models.FluxInpaint, {**FLUX, "in_channels": 96}, TEXT_WIDTH, 16
    )
    refused(
        "model must be Flux.1-dev without inputs beside the latent, got Flux with 96 input "
        "channels instead of 16 (Fill, Canny or Depth)",
        filled.model(),
    )


def test_schnell_is_taken(families: Any) -> None:
    """It has the same class and blocks, without embedded guidance."""
    import comfy.supported_models

    from development.tiny_images import FLUX, TEXT_WIDTH
    from development.tiny_models import TinyFamily
    from throughline.adapters.flux_joint import ContextKeyframe, join_prompts, joint_keyframes

    settings = {**FLUX, "guidance_embed": False}
    schnell = TinyFamily(comfy.supported_models.FluxSchnell, settings, TEXT_WIDTH, 16)
    context = [ContextKeyframe(latent=picture(3, 4, 6))]
    joint = joint_keyframes(sharp_flux(schnell), mode="full", context=context)
    texts = join_prompts([prompt(schnell, 1), prompt(schnell, 2)])
    made = sample(joint, picture(1, rows=2), texts, sigmas=(1.0, 0.5, 0.0))
    assert bool(torch.isfinite(made).all())


# Settings and context


def test_wrong_settings_are_named(model: Any) -> None:
    refused("mode must be one of separate, causal, full, got 'both'", model, mode="both")
    refused("positions must be stretched or native, got 'offset'", model, positions="offset")
    refused("context_noise must be 0 to 1, got 250", model, context_noise=250)
    refused("context_noise must be 0 to 1, got -0.1", model, context_noise=-0.1)


def test_wrong_context_is_named(model: Any, family: Any) -> None:
    from throughline.adapters.flux_joint import ContextKeyframe, join_prompts

    def refuse(message: str, latent: torch.Tensor, conditioning: Any = None) -> None:
        good = ContextKeyframe(latent=picture(1))
        bad = ContextKeyframe(latent=latent, conditioning=conditioning)
        refused(message, model, context=[good, bad])

    name = "context keyframe 2"
    refuse(
        f"{name} must be a latent 1 x 16 x height x width, got (1, 4, 8, 8)",
        torch.zeros(1, 4, 8, 8),
    )
    refuse(
        f"{name} must be a latent 1 x 16 x height x width, got (2, 16, 8, 8)",
        torch.zeros(2, 16, 8, 8),
    )
    refuse(
        f"{name} must have sides that are multiples of 16 pixels, got 56 x 64",
        torch.zeros(1, 16, 8, 7),
    )
    broken = torch.zeros(1, 16, 4, 4)
    broken[0, 1, 2, 3] = torch.nan
    refuse(f"{name} must be finite, got NaN or infinity", broken)
    small = torch.zeros(1, 16, 4, 4)
    both = [*prompt(family, 1), *prompt(family, 2)]
    refuse(f"caption of {name} must be one conditioning, got 2 combined ones", small, both)
    wide = [[torch.zeros(1, 7, 32), {}]]
    refuse(
        f"caption of {name} must be one text of width 24 for this model, got (1, 7, 32): choose "
        "the text encoders that belong to it",
        small,
        wide,
    )
    joined = join_prompts([prompt(family, 1, 3), prompt(family, 2, 5)])
    refuse(
        f"caption of {name} must be one text of width 24 for this model, got (2, 5, 24): choose "
        "the text encoders that belong to it",
        small,
        joined,
    )
    first = [[joined[0][0][:1], joined[0][1]]]
    refuse(f"caption of {name} must be one prompt, got several joined ones", small, first)


# Joined prompts


def test_joined_prompts_hold_every_text(family: Any) -> None:
    from throughline.adapters.flux_joint import join_prompts
    from throughline.adapters.flux_joint_calls import TEXT_TOKENS

    short, long = prompt(family, 1, 3), prompt(family, 2, 5)
    [[text, options]] = join_prompts([short, long])
    assert torch.equal(text[0, :3], short[0][0][0]) and torch.equal(text[1], long[0][0][0])
    assert not text[0, 3:].any()
    pooled = [one[0][1]["pooled_output"][0] for one in (short, long)]
    assert torch.equal(options["pooled_output"], torch.stack(pooled))
    assert options["model_conds"][TEXT_TOKENS].cond == (3, 5)
    assert "model_conds" not in short[0][1]
    [[_, options]] = join_prompts([short, prompt(family, 2, 3)])
    assert "model_conds" not in options


def test_a_mask_of_text_tokens_is_nothing_to_flux(model: Any, family: Any) -> None:
    """Some text encoders give one, as long as each text; core's Flux does not read it."""
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    plain = [prompt(family, 1, 3), prompt(family, 2, 5)]
    masked = [
        [[text, {**options, "attention_mask": torch.ones(1, text.shape[1], dtype=torch.int64)}]]
        for [[text, options]] in plain
    ]
    joint, noise = joint_keyframes(model, mode="full"), picture(1, rows=2)
    made = sample(joint, noise, join_prompts(masked))
    assert torch.equal(made, sample(joint, noise, join_prompts(plain)))
    assert "attention_mask" in masked[0][0][1]


def test_prompts_that_cannot_be_joined_are_named(family: Any) -> None:
    from throughline.adapters.flux_joint import join_prompts

    def refuse(message: str, *prompts: Any) -> None:
        with pytest.raises(ValueError) as error:
            join_prompts(prompts)
        assert str(error.value) == message

    one = prompt(family, 1)
    refuse("prompts must be one or more, got none")
    refuse("prompt 2 must be one conditioning, got 2 combined ones", one, [*one, *one])
    guided = [[one[0][0], {**one[0][1], "guidance": 2.0}]]
    refuse(
        "prompt 3 must have the same guidance as the first one to be made with it, got 2.0 and "
        "None",
        one,
        one,
        guided,
    )
    bare = [[one[0][0], {"pooled_output": None}]]
    refuse("prompt 2 must have a pooled output like the first one, or none like it", one, bare)


# The family


def test_flux_joint_is_a_family(model: Any, family: Any, families: Any) -> None:
    from throughline.adapters.flux_joint import FLUX_JOINT

    assert FLUX_JOINT.recognises(model)
    assert not FLUX_JOINT.recognises(families["flux2_dev"].model())
    can = FLUX_JOINT.capabilities(model)
    assert (can.unit, can.most_references, can.template) == (16, None, "plain")
    assert FLUX_JOINT.latent_shape(model, 400, 800) == (1, 16, 50, 100)
    with pytest.raises(ValueError, match="height must be a multiple of 16 for Flux.1-dev .*got 90"):
        FLUX_JOINT.latent_shape(model, 90, 160)
    [[text, _]] = FLUX_JOINT.encode_prompt(family.text_encoder(), "a lamp in a room", ())
    assert text.shape == (1, 16, 24)
    shown = torch.rand(1, 32, 64, 4, generator=torch.Generator().manual_seed(1))
    vae = family.vae()
    latent = FLUX_JOINT.encode_reference(vae, shown)
    assert torch.equal(latent, vae.encode(shown[..., :3])) and latent.shape == (1, 16, 4, 8)


def test_references_are_context_with_the_best_one_nearest(model: Any, family: Any) -> None:
    from throughline.adapters.flux_joint import FLUX_JOINT, ContextKeyframe, joint_keyframes

    text, negative = prompt(family, 1), prompt(family, 2)
    references = [picture(5, 8, 12), picture(6, 4, 6), picture(7, 2, 4)]
    inputs = FLUX_JOINT.with_references(model, text, negative, references)
    assert inputs.positive is text and inputs.negative is negative
    context = [ContextKeyframe(latent=latent) for latent in reversed(references)]
    by_hand = joint_keyframes(model, mode="causal", context=context)
    noise = picture(1)
    made = sample(inputs.model, noise, text)
    assert torch.equal(made, sample(by_hand, noise, text))
    assert not torch.equal(made, sample(model, noise, text))
