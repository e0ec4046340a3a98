"""Image model families: what each can do, where the real classes put its references, its caps."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

NAMES = {
    "flux": "Flux.1 Kontext",
    "flux2_dev": "Flux.2 dev",
    "flux2_klein": "Flux.2 klein",
    "qwen_edit_2509": "Qwen-Image-Edit 2509",
    "qwen_edit_2511": "Qwen-Image-Edit 2511",
    "omnigen2": "OmniGen2",
}
CAPS = {"flux": None, "flux2_dev": 6, "flux2_klein": 4, "omnigen2": 5}
METHODS = {"flux": "offset", "omnigen2": "", "qwen_edit_2511": "index_timestep_zero"}
NEGATIVE = {"flux2_klein", "qwen_edit_2509", "qwen_edit_2511", "omnigen2"}


@pytest.fixture(scope="module")
def images(comfy: ModuleType) -> ModuleType:
    from development import tiny_images

    return tiny_images


@pytest.fixture(scope="module")
def models(images: ModuleType) -> dict[str, Any]:
    """One model of each family; nothing mutates them."""
    return {name: tiny.model() for name, tiny in images.IMAGE_FAMILIES.items()}


def family_of(model: Any) -> Any:
    from throughline.adapters.image_families import image_family_of

    return image_family_of(model)


def latents(family: Any, model: Any, *sides: int) -> list[torch.Tensor]:
    """Random reference latents of square pictures, sides in tokens."""
    generator = torch.Generator().manual_seed(7)
    shapes = [family.latent_shape(model, 16 * side, 16 * side) for side in sides]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def sample(model: Any, positive: Any, negative: Any, latent: torch.Tensor) -> torch.Tensor:
    import comfy.sample

    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(latent.shape, generator=generator)
    return comfy.sample.sample(
        model, noise, 2, 2.0, "euler", "simple", positive, negative, latent, disable_pbar=True
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_family_knows_its_model(name: str, models: dict[str, Any]) -> None:
    model = models[name]
    family = family_of(model)
    assert family.name == NAMES[name]
    capabilities = family.capabilities(model)
    assert capabilities.unit == 16
    assert capabilities.most_references == CAPS.get(name, 3)
    assert capabilities.advised_references == (CAPS.get(name, 3) or 4)
    assert capabilities.method == METHODS.get(name, "index")
    assert capabilities.negative_references == (name in NEGATIVE)


def test_each_model_has_exactly_one_family(models: dict[str, Any]) -> None:
    from throughline.adapters.image_families import IMAGE_FAMILIES

    for name, model in models.items():
        found = [family.name for family in IMAGE_FAMILIES if family.recognises(model)]
        assert found == [NAMES[name]]


def test_other_models_are_refused_by_name(images: ModuleType) -> None:
    import comfy.supported_models

    from development.tiny_models import FAMILIES
    from throughline.adapters.image_families import image_family_of

    with pytest.raises(
        ValueError, match=r"must read reference pictures, got LTXV: use Flux\.1 Kon"
    ):
        image_family_of(FAMILIES["ltxv"].model())
    tiny = images.TinyImageFamily
    schnell = tiny(comfy.supported_models.FluxSchnell, {**images.FLUX, "guidance_embed": False}, 24)
    with pytest.raises(ValueError, match=r"got Flux without guidance \(schnell\)"):
        image_family_of(schnell.model())
    fill = tiny(comfy.supported_models.FluxInpaint, {**images.FLUX, "in_channels": 96}, 24)
    with pytest.raises(ValueError, match=r"got Flux with 96 input channels \(Fill, Canny or"):
        image_family_of(fill.model())
    layered = {**images.QWEN, "default_ref_method": "negative_index"}
    with pytest.raises(ValueError, match="got QwenImage that makes layers"):
        image_family_of(tiny(comfy.supported_models.QwenImage, layered, 24).model())
    with pytest.raises(ValueError, match=r"must make pictures jointly, got LTXV: use Flux\.1-dev"):
        image_family_of(FAMILIES["ltxv"].model(), joint=True)


def test_the_joint_mode_is_asked_for(models: dict[str, Any]) -> None:
    from throughline.adapters.image_families import image_family_of

    assert image_family_of(models["flux"], joint=True).name == "Flux.1-dev (joint)"


@pytest.mark.parametrize("name", NAMES)
def test_latents_are_those_of_the_vae(
    name: str, images: ModuleType, models: dict[str, Any]
) -> None:
    family = family_of(models[name])
    vae = images.IMAGE_FAMILIES[name].vae()
    encoded = family.encode_reference(vae, torch.rand(1, 48, 64, 4))
    assert tuple(encoded.shape) == family.latent_shape(models[name], 48, 64)
    with pytest.raises(
        ValueError, match=f"width must be a multiple of 16 for {NAMES[name]}, got 72"
    ):
        family.latent_shape(models[name], 48, 72)
    with pytest.raises(ValueError, match=r"height must be a multiple of 16 for .*, got 8"):
        family.latent_shape(models[name], 8, 64)


@pytest.mark.parametrize("name", NAMES)
def test_references_change_the_picture_and_nothing_else(
    name: str,
    images: ModuleType,
    models: dict[str, Any],
    model_state: Callable[[Any], Any],
    state_of: Callable[[Any], Any],
) -> None:
    """Without them the picture is what it was, to the bit; the caller's values stay."""
    model, tiny = models[name], images.IMAGE_FAMILIES[name]
    family = family_of(model)
    positive, negative = tiny.conditioning(1), tiny.conditioning(2)
    before = model_state(model), state_of([positive, negative])
    empty = torch.zeros(family.latent_shape(model, 64, 64))
    plain = sample(model, positive, negative, empty)
    three = latents(family, model, 4, 2, 1)
    inputs = family.with_references(model, positive, negative, three)
    referred = sample(inputs.model, inputs.positive, inputs.negative, empty)
    assert torch.isfinite(referred).all()
    assert not torch.equal(referred, plain)
    assert torch.equal(sample(model, positive, negative, empty), plain)
    assert (model_state(model), state_of([positive, negative])) == before
    held = [len(options.get("reference_latents", ())) for _, options in inputs.negative]
    assert held == [3 if name in NEGATIVE else 0]


@pytest.mark.parametrize("name", NAMES)
def test_no_references_leave_no_key(name: str, images: ModuleType, models: dict[str, Any]) -> None:
    """OmniGen2 fails on an empty list."""
    model, tiny = models[name], images.IMAGE_FAMILIES[name]
    family = family_of(model)
    inputs = family.with_references(model, tiny.conditioning(1), tiny.conditioning(2), [])
    empty = torch.zeros(family.latent_shape(model, 32, 32))
    assert torch.isfinite(sample(inputs.model, inputs.positive, inputs.negative, empty)).all()
    for _, options in (*inputs.positive, *inputs.negative):
        assert "reference_latents" not in options


@pytest.mark.parametrize("name", [name for name in NAMES if name != "flux"])
def test_more_than_the_cap_is_refused_by_name(name: str, models: dict[str, Any]) -> None:
    model = models[name]
    family = family_of(model)
    most = CAPS.get(name, 3)
    references = latents(family, model, *[1] * (most + 1))
    text = [[torch.zeros(1, 7, 24), {}]]
    message = f"{NAMES[name]} takes {most} references at most, got {most + 1}: use fewer"
    with pytest.raises(ValueError, match=message):
        family.with_references(model, text, text, references)
    full = family.with_references(model, text, text, references[:most]).positive
    with pytest.raises(ValueError, match=f"got 1 beside {most} that positive already holds"):
        family.with_references(model, full, text, references[:1])


def test_omnigen_has_no_place_for_a_sixth(images: ModuleType, models: dict[str, Any]) -> None:
    """The cap is the class's own: with six references it fails in the middle of sampling."""
    model = models["omnigen2"]
    family = family_of(model)
    six = latents(family, model, *[1] * 6)
    text = images.IMAGE_FAMILIES["omnigen2"].conditioning(1)
    text = [[text[0][0], {**text[0][1], "reference_latents": six}]]
    with pytest.raises(IndexError):
        sample(model, text, text, torch.zeros(family.latent_shape(model, 32, 32)))


def test_references_of_another_vae_are_refused(models: dict[str, Any]) -> None:
    flux, flux2 = models["flux"], models["flux2_dev"]
    text = [[torch.zeros(1, 7, 24), {}]]
    foreign = latents(family_of(flux), flux, 2)
    with pytest.raises(ValueError, match=r"Flux\.2 dev must be latents of 128 channels and 4 axes"):
        family_of(flux2).with_references(flux2, text, text, foreign)
    with pytest.raises(ValueError, match="sides of 2 latent cells or a multiple, got 5 x 4"):
        family_of(flux).with_references(flux, text, text, [torch.zeros(1, 16, 4, 5)])


class Seen(Exception):
    """Ends a forward whose positions are known: its blocks would only take time."""


def positions(model: Any, family: Any, sides: list[int], target: int = 4) -> list[torch.Tensor]:
    """The ids (t, h, w) of the picture's tokens and of each reference's, from a real forward."""
    seen: list[torch.Tensor] = []

    def note(values: dict[str, Any]) -> dict[str, Any]:
        counts = values["transformer_options"]["reference_image_num_tokens"]
        seen[:] = torch.split(values["img_ids"][0, :, :3], [target * target, *counts])
        raise Seen

    watched = model.clone()
    watched.set_model_post_input_patch(note)
    text = [[torch.zeros(1, 7, 24), {"reference_latents": latents(family, model, *sides)}]]
    with pytest.raises(Seen):
        side = 16 * target
        sample(watched, text, text, torch.zeros(family.latent_shape(model, side, side)))
    return seen


def corners(ids: list[torch.Tensor]) -> list[tuple[float, ...]]:
    return [tuple(one[0].tolist()) for one in ids]


def test_kontext_lays_golden_squares_side_by_side(models: dict[str, Any]) -> None:
    """The design's layout of 64, 39, 24 (section 11): (0, 0), (64, 0), (0, 64) as (h, w)."""
    model = models["flux"]
    picture, *ids = positions(model, family_of(model), [64, 39, 24])
    assert corners([picture]) == [(0, 0, 0)]
    assert corners(ids) == [(1, 0, 0), (1, 64, 0), (1, 0, 64)]
    assert [len(one) for one in ids] == [64 * 64, 39 * 39, 24 * 24]
    cells = {tuple(place.tolist()) for one in ids for place in one}
    assert len(cells) == 64 * 64 + 39 * 39 + 24 * 24  # no two tokens at one place


def test_kontext_lays_six_levels_without_overlap(models: dict[str, Any]) -> None:
    """64, 39, 24, 15, 9, 5 (section 9.1): 103 + 9 rows and 103 + 5 columns."""
    model = models["flux"]
    ids = positions(model, family_of(model), [64, 39, 24, 15, 9, 5])[1:]
    expected = [(0, 0), (64, 0), (0, 64), (0, 88), (103, 0), (0, 103)]
    assert [corner[1:] for corner in corners(ids)] == expected
    every = torch.cat(ids)
    assert len(torch.unique(every, dim=0)) == len(every)
    assert (every[:, 1:].amax(dim=0) + 1).tolist() == [112, 108]


def test_flux2_puts_each_reference_at_its_own_index(models: dict[str, Any]) -> None:
    model = models["flux2_dev"]
    ids = positions(model, family_of(model), [4, 2, 1])[1:]
    assert corners(ids) == [(10, 0, 0), (20, 0, 0), (30, 0, 0)]


def test_qwen_centres_every_reference(models: dict[str, Any]) -> None:
    model = models["qwen_edit_2509"]
    picture, *ids = positions(model, family_of(model), [6, 3])
    assert corners([picture]) == [(0, -2, -2)]
    assert corners(ids) == [(1, -3, -3), (2, -1, -1)]


def test_the_method_is_the_models_or_cores_node(models: dict[str, Any]) -> None:
    """Core's node for the key-value cache of klein changes what the model does by itself."""
    from comfy_extras.nodes_flux import FluxKVCache

    model = models["flux2_klein"]
    cached = FluxKVCache.execute(model).args[0]
    assert family_of(cached).capabilities(cached).method == "index_timestep_zero"
    text = [[torch.zeros(1, 7, 24), {"reference_latents_method": "offset"}]]
    inputs = family_of(model).with_references(
        model, text, text, latents(family_of(model), model, 1)
    )
    assert inputs.positive[0][1]["reference_latents_method"] == "offset"


def test_a_prompt_without_pictures_is_cores_own(images: ModuleType, models: dict[str, Any]) -> None:
    for name, tiny in images.IMAGE_FAMILIES.items():
        clip = tiny.text_encoder()
        made = family_of(models[name]).encode_prompt(clip, "a {red} room", [])
        core = clip.encode_from_tokens_scheduled(clip.tokenize("a {red} room"))
        assert torch.equal(made[0][0], core[0][0])


def test_qwen_reads_pictures_as_cores_node_does(images: ModuleType, models: dict[str, Any]) -> None:
    from comfy_extras.nodes_qwen import TextEncodeQwenImageEditPlus

    clip = images.IMAGE_FAMILIES["qwen_edit_2509"].text_encoder()
    family = family_of(models["qwen_edit_2509"])
    pictures = [torch.rand(1, 512, 640, 3), torch.rand(1, 400, 400, 3), torch.rand(1, 900, 500, 3)]
    made = family.encode_prompt(clip, "put {them} in a room", pictures)
    core = TextEncodeQwenImageEditPlus.execute(clip, "put {them} in a room", None, *pictures).args[
        0
    ]
    assert made[0][0].shape == core[0][0].shape
    assert torch.allclose(made[0][0], core[0][0], atol=1e-6)
    assert "reference_latents" not in made[0][1]
    more = family.encode_prompt(clip, "x", [torch.rand(1, 32, 32, 3)] * 5)
    assert more[0][0].shape[1] > core[0][0].shape[1]


def test_qwen_needs_its_own_text_encoder(images: ModuleType, models: dict[str, Any]) -> None:
    clip = images.tiny_language_model()
    with pytest.raises(ValueError, match="clip must be Qwen-Image's text encoder, got TinyPicture"):
        family_of(models["qwen_edit_2511"]).encode_prompt(clip, "x", [torch.rand(1, 32, 32, 3)])
