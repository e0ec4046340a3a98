"""Fillers: known frames anywhere in a segment stay to the bit, and the others follow them."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

KNOWN = (0, 1, 4, 7, 8)
LATENT_FRAMES = 9
FAMILIES = ("wan_t2v", "wan_ti2v", "wan_i2v", "wan22_i2v", "wan_flf2v", "wan_vace")

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """ComfyUI runs graphs so."""
    with torch.inference_mode():
        yield


def known_frames(channels: int, places: tuple[int, ...] = KNOWN) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {i: torch.randn(1, channels, 1, 4, 4, generator=generator) for i in places}


def fill(name: str, known: dict[int, Tensor], seed: int = 3, shows_anchors: bool = True) -> Tensor:
    import comfy.samplers

    from development.tiny_models import FAMILIES as TINY
    from development.tiny_models import tiny_wan_vae
    from throughline.adapters.families import family_of
    from throughline.adapters.filler import filler_of
    from throughline.adapters.sampling import SamplerSettings, sample_given, schedule_sigmas

    tiny, model = TINY[name], TINY[name].model()
    channels = int(model.get_model_object("latent_format").latent_channels)
    settings = SamplerSettings(
        sampler=comfy.samplers.sampler_object("euler"),
        sigmas=schedule_sigmas(model, "euler", "simple", 2),
        cfg=2.0,
    )
    return sample_given(
        filler_of(family_of(model), tiny_wan_vae(), known, LATENT_FRAMES, shows_anchors),
        model,
        tiny.conditioning(1),
        tiny.conditioning(2),
        settings,
        (1, channels, LATENT_FRAMES, 4, 4),
        [(slice(i, i + 1), latent) for i, latent in known.items()],
        seed,
    )


def channels_of(name: str) -> int:
    return 48 if name == "wan_ti2v" else 16


@pytest.mark.parametrize("name", FAMILIES)
def test_known_frames_stay_and_the_others_follow_each_of_them(comfy: ModuleType, name: str) -> None:
    known = known_frames(channels_of(name))
    filled = fill(name, known)
    assert filled.shape[2] == LATENT_FRAMES and bool(torch.isfinite(filled).all())
    for i, latent in known.items():
        assert torch.equal(filled[:, :, i : i + 1], latent)
    new = [i for i in range(LATENT_FRAMES) if i not in known]
    for i in (1, 4, 8):
        other = fill(name, {**known, i: known[i] + 2.0})
        assert float((other - filled)[:, :, new].abs().max()) > 1e-5, i
    assert not torch.equal(fill(name, known, seed=4)[:, :, new], filled[:, :, new])


def test_a_drafted_segment_is_found_again_behind_its_anchors(comfy: ModuleType) -> None:
    """The demo model only learned to continue a clip. Led to anchors that it drafted, with other
    noise, it finds nearly what lay between; shown them, it smears that."""
    import comfy.samplers

    from throughline.adapters.blank import BlankClips
    from throughline.adapters.demo_models import load_demo_models
    from throughline.adapters.families import family_of
    from throughline.adapters.filler import filler_of
    from throughline.adapters.sampling import (
        SamplerSettings,
        sample_given,
        sample_segment,
        schedule_sigmas,
    )
    from throughline.training.evaluate import frames_to_image
    from throughline.training.world import long_take
    from throughline.training.world_rendering import render_take

    model, clip, vae = load_demo_models()
    family, take = family_of(model), long_take(1, 2, 6, 2)
    text = clip.encode_from_tokens_scheduled(clip.tokenize(take.captions[0]))
    settings = SamplerSettings(
        sampler=comfy.samplers.sampler_object("euler"),
        sigmas=schedule_sigmas(model, "euler", "simple", 4),
        cfg=1.0,
    )
    start = vae.encode(frames_to_image(render_take(take, 0, 5)))
    shape = (1, 16, 6, *start.shape[3:])
    draft = sample_segment(
        family, model, BlankClips(vae), text, text, settings, shape, start, seed=3
    )
    known = {i: draft[:, :, i : i + 1] for i in (0, 1, 4, 5)}

    def error(shows_anchors: bool) -> float:
        filled = sample_given(
            filler_of(family, vae, known, 6, shows_anchors),
            model,
            text,
            text,
            settings,
            shape,
            [(slice(i, i + 1), latent) for i, latent in known.items()],
            seed=8,
        )
        return float((filled - draft)[:, :, 2:4].square().mean() / draft.square().mean())

    assert error(shows_anchors=False) < 0.25 * error(shows_anchors=True)


@pytest.mark.parametrize("name", ["wan_i2v", "wan_vace"])
def test_anchors_that_are_not_shown_are_kept(comfy: ModuleType, name: str) -> None:
    known = known_frames(16)
    filled = fill(name, known, shows_anchors=False)
    for i, latent in known.items():
        assert torch.equal(filled[:, :, i : i + 1], latent)
    assert not torch.equal(filled, fill(name, known))


@pytest.mark.parametrize("name", ["hunyuan_i2v", "wan_causal", "ltxv"])
def test_other_families_are_refused_by_name(comfy: ModuleType, name: str) -> None:
    from development.tiny_models import FAMILIES as TINY
    from development.tiny_models import tiny_wan_vae
    from throughline.adapters.families import family_of
    from throughline.adapters.filler import filler_of

    family = family_of(TINY[name].model())
    with pytest.raises(ValueError, match=f"fill a plan, got {family.name}: use Wan T2V"):
        filler_of(family, tiny_wan_vae(), known_frames(16), LATENT_FRAMES)


def test_pictures_of_anchors_stand_where_their_frames_are(comfy: ModuleType) -> None:
    """Of a real clip: what is pasted is the clip itself at those frames, grey elsewhere."""
    from throughline.adapters.demo_models import load_demo_vae
    from throughline.adapters.filler import encode_known, pasted_clip
    from throughline.training.evaluate import frames_to_image
    from throughline.training.world import long_take
    from throughline.training.world_rendering import render_take

    vae = load_demo_vae()
    frames = frames_to_image(render_take(long_take(1, 3, 6, 2), 0, 33))
    whole = vae.encode(frames)
    known = {i: whole[:, :, i : i + 1] for i in KNOWN}
    clip = pasted_clip(vae, known, LATENT_FRAMES)
    assert clip.shape == frames.shape
    pasted = [0, 1, 2, 3, 4, *range(13, 17), *range(25, 33)]
    grey = [i for i in range(33) if i not in pasted]
    assert bool((clip[grey] == 0.5).all())
    error = (clip[pasted] - frames[pasted]).square().mean(dim=(1, 2, 3))
    assert float(error.max()) < 10**-2
    again = encode_known(vae, frames, KNOWN)
    assert set(again) == set(KNOWN) and torch.allclose(again[7], known[7].float(), atol=1e-5)


def test_only_what_a_segment_begins_with_is_its_start() -> None:
    from throughline.adapters.filler import start_of

    assert start_of([0, 1, 4, 5]) == [0, 1]
    assert start_of([0]) == [0] and start_of([2, 3]) == []


def test_places_in_a_row() -> None:
    from throughline.adapters.filler import consecutive

    assert consecutive([0, 1, 2, 3, 10, 11, 12, 19, 20]) == [
        [0, 1, 2, 3], [10, 11, 12], [19, 20],
    ]  # fmt: skip
    assert consecutive([4]) == [[4]] and consecutive([]) == []


def test_vace_marks_exactly_the_known_latent_frames(comfy: ModuleType) -> None:
    from development.tiny_models import FAMILIES as TINY
    from development.tiny_models import tiny_wan_vae
    from throughline.adapters.families import family_of
    from throughline.adapters.filler import filler_of

    model, known = TINY["wan_vace"].model(), known_frames(16)
    prepare = filler_of(family_of(model), tiny_wan_vae(), known, LATENT_FRAMES)
    latent = torch.zeros(1, 16, LATENT_FRAMES, 4, 4)
    for i, frame in known.items():
        latent[:, :, i : i + 1] = frame
    tiny = TINY["wan_vace"]
    inputs = prepare(model, tiny.conditioning(1), tiny.conditioning(2), latent)
    options = inputs.positive[0][1]
    (mask,), (control,) = options["vace_mask"], options["vace_frames"]
    assert mask.shape[1] == 64 and control.shape[1] == 32
    assert [i for i in range(LATENT_FRAMES) if float(mask[:, :, i].max()) == 0.0] == list(KNOWN)
    assert torch.equal(control[:, :16, list(KNOWN)], latent[:, :, list(KNOWN)])
