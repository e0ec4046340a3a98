"""A video model draws single pictures beside references that it remembers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

CHANNELS, SIDE = 16, 8


@pytest.fixture(scope="module")
def model(tiny: ModuleType) -> Any:
    return tiny.FAMILIES["wan_t2v"].model()


@pytest.fixture(scope="module")
def new_memory(model: Any, tiny_vae: Any, comfy: ModuleType) -> Callable[..., Any]:
    """`new_memory(form, *encoders)`: an empty memory for the tiny model."""
    from throughline.adapters.cache import LatentCache
    from throughline.adapters.memory_value import Memory, empty_bank
    from throughline.memory.rates import Rate
    from throughline.planning.recall import RecallPolicy

    def make(form: str, *encoders: Any) -> Any:
        return Memory(
            bank=empty_bank(encoders),
            form=form,
            encoders=encoders,
            rate=Rate.parse("2x2x2"),
            window=8,
            vae=tiny_vae,
            vae_digest="tiny",
            latent_format=model.get_model_object("latent_format"),
            patch=(1, 2, 2),
            dtype=torch.float32,
            cache=LatentCache(),
            policy=RecallPolicy(
                recent=False, pin_first_shot=False, latent_frames=0, stream="chain"
            ),
        )

    return make


@pytest.fixture(scope="module")
def encoder(comfy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    from development.tiny_encoders import write_tiny_encoder
    from throughline.adapters.encoders import load_encoder

    folder = tmp_path_factory.mktemp("encoders")

    def make(rate: str) -> Any:
        path: Path = folder / f"{rate}.safetensors"
        write_tiny_encoder(path, rate=rate, inner_dim=48, caption_dim=24, stream="segment")
        return load_encoder(path)

    return make


def clips(count: int) -> list[Any]:
    from throughline.adapters.video_images import PictureClip

    generator = torch.Generator().manual_seed(3)
    return [
        PictureClip(
            latents=torch.randn(1, CHANNELS, 1, SIDE, SIDE, generator=generator),
            title=f"1.{i + 1}",
            shot=i + 1,
            text=f"shot {i + 1}",
            caption=torch.randn(1, 7, 24, generator=generator),
        )
        for i in range(count)
    ]


def memory_on(model: Any) -> Any:
    """What is attached to a model."""
    from throughline.adapters.memory_stream import ATTACHED

    (attached,) = model.model_options["transformer_options"][ATTACHED]
    return attached


def test_references_stand_in_order_right_before_the_picture(
    model: Any, new_memory: Callable[..., Any]
) -> None:
    from throughline.adapters.video_images import remembering_references

    given = clips(3)
    attached = memory_on(remembering_references(model, new_memory("window"), given, None))
    entries = attached.bank.entries
    assert [(e.start, e.latent_frames, e.title, e.shot) for e in entries] == [
        (0, 1, "1.1", 1), (1, 1, "1.2", 2), (2, 1, "1.3", 3)
    ]  # fmt: skip
    assert attached.segment_start == 3
    latent_format = model.get_model_object("latent_format")
    for entry, clip in zip(entries, given, strict=True):
        (piece,) = entry.pieces
        assert torch.equal(piece.low.weight, latent_format.process_in(clip.latents)[0])


def test_what_the_memory_was_given_comes_first(model: Any, new_memory: Callable[..., Any]) -> None:
    from dataclasses import replace

    from throughline.adapters.history import write_clip
    from throughline.adapters.video_images import _clip, remembering_references

    first, second = clips(2)
    memory = new_memory("window")
    entry = write_clip(memory, _clip(first, 0))[0].entry
    memory = replace(memory, bank=memory.bank.with_entries([entry]))
    attached = memory_on(remembering_references(model, memory, [second], None))
    assert [(e.start, e.title) for e in attached.bank.entries] == [(0, "1.1"), (1, "1.2")]
    assert attached.segment_start == 2


def test_nothing_to_remember_is_the_model_itself(
    model: Any, new_memory: Callable[..., Any]
) -> None:
    from throughline.adapters.video_images import remembering_references

    assert remembering_references(model, new_memory("window"), [], None) is model


@pytest.mark.parametrize("form", ["window", "low", "framepack", "encoder 2x2x2", "encoder 1x1x1"])
@pytest.mark.parametrize("count", [1, 3])
def test_tokens_are_counted_before_anything_is_encoded(
    model: Any, new_memory: Callable[..., Any], encoder: Callable[..., Any], form: str, count: int
) -> None:
    from throughline.adapters.video_images import reference_tokens, remembering_references

    kind, _, rate = form.partition(" ")
    memory = new_memory(kind, *([encoder(rate)] if rate else []))
    wanted = torch.randn(1, 7, 24)
    attached = memory_on(remembering_references(model, memory, clips(count), wanted))
    assert reference_tokens(memory, count, (SIDE, SIDE)) == attached.bank.tokens
    assert reference_tokens(memory, 0, (SIDE, SIDE)) == 0


def test_a_reference_changes_the_picture_and_leaves_the_model_alone(
    tiny: ModuleType, model: Any, new_memory: Callable[..., Any], model_state: Callable[[Any], Any]
) -> None:
    from dataclasses import replace

    import comfy.samplers

    from throughline.adapters.image_sampling import sample_keyframes
    from throughline.adapters.sampling import SamplerSettings, schedule_sigmas
    from throughline.adapters.video_images import video_images_of

    family = replace(video_images_of(model), memory=new_memory("window"))
    factory = tiny.FAMILIES["wan_t2v"]
    settings = SamplerSettings(
        sampler=comfy.samplers.sampler_object("euler"),
        sigmas=schedule_sigmas(model, "euler", "simple", 2),
        cfg=2.0,
    )
    shape = family.latent_shape(model, SIDE * 8, SIDE * 8)
    assert shape == (1, CHANNELS, 1, SIDE, SIDE)

    def draw(references: list[Any], strength: float = 1.0) -> torch.Tensor:
        inputs = family.with_clips(
            model, factory.conditioning(1), factory.conditioning(2), references, strength
        )
        return sample_keyframes(inputs, settings, shape, [4])

    before = model_state(model)
    alone, beside, other = draw([]), draw(clips(1)), draw(clips(2)[1:])
    assert not torch.equal(alone, beside) and not torch.equal(beside, other)
    assert torch.equal(draw(clips(1), 0.0), alone)
    assert torch.equal(draw([]), alone)
    after = model_state(model)
    assert {key: before[key] for key in before if key != "callbacks"} == {
        key: after[key] for key in after if key != "callbacks"
    }


def test_a_model_that_cannot_remember_draws_without_references(tiny: ModuleType) -> None:
    from throughline.adapters.video_images import takes_references, video_images_of

    model = tiny.FAMILIES["ltxv"].model()
    family = video_images_of(model)
    assert not takes_references(model)
    assert family.capabilities(model).most_references == 0
    conditioning = tiny.FAMILIES["ltxv"].conditioning()
    assert family.with_references(model, conditioning, conditioning, []).model is model
    with pytest.raises(ValueError, match="LTXV takes no references, got 1"):
        family.with_references(model, conditioning, conditioning, [torch.zeros(1, 128, 1, 2, 2)])


def test_a_model_of_pictures_is_no_video_model(comfy: ModuleType) -> None:
    from development.tiny_images import IMAGE_FAMILIES
    from throughline.adapters.video_images import video_images_of

    with pytest.raises(ValueError, match="model must be able to continue a video, got Flux"):
        video_images_of(IMAGE_FAMILIES["flux"].model())
