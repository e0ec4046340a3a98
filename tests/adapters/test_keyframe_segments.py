"""Every family begins a segment with a picture and ends it on one as well as it can."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

LATENT_FRAMES, CELLS, STEPS = 4, 4, 2
KEEPS_ITS_END = ("wan_t2v", "wan_ti2v", "wan_vace", "ltxv")
IS_SHOWN_ITS_END = ("wan_i2v", "wan22_i2v", "wan_flf2v")
NO_END = ("wan_causal", "hunyuan_replace", "hunyuan_i2v", "hunyuan_skyreels", "hunyuan_15")


class Case:
    """One family with its tiny model and random latents of pictures."""

    def __init__(self, tiny: ModuleType, vae: Any, name: str) -> None:
        import comfy.samplers

        from throughline.adapters.families import family_of
        from throughline.adapters.geometry import read_geometry
        from throughline.adapters.sampling import SamplerSettings, schedule_sigmas

        factory = tiny.FAMILIES[name]
        self.vae, self.model = vae, factory.model()
        self.family = family_of(self.model)
        self.capabilities = self.family.capabilities(self.model)
        self.positive, self.negative = factory.conditioning(1), factory.conditioning(2)
        sampler = self.capabilities.own_sampler or "euler"
        self.settings = SamplerSettings(
            sampler=comfy.samplers.sampler_object(sampler),
            sigmas=schedule_sigmas(self.model, sampler, "simple", STEPS),
            cfg=2.0 if self.capabilities.guidance else 1.0,
        )
        geometry = read_geometry(self.model)
        side = CELLS * geometry.pixels_per_latent
        self.shape = geometry.latent_shape(LATENT_FRAMES, side, side)

    def latent(self, seed: int) -> torch.Tensor:
        """A random latent of one picture."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn((*self.shape[:2], 1, *self.shape[3:]), generator=generator)

    def picture(self, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand((1, 8 * CELLS, 8 * CELLS, 3), generator=generator)

    def segment(self, start: int | None, end: int | None) -> torch.Tensor:
        """Sampled between the pictures of two seeds; a family that is shown its end sees pixels."""
        from throughline.adapters.blank import BlankClips
        from throughline.adapters.sampling import sample_segment

        shown = end is not None and not self.capabilities.end_known_latent_frames
        return sample_segment(
            self.family,
            self.model,
            BlankClips(self.vae, end=self.picture(end) if end is not None and shown else None),
            self.positive,
            self.negative,
            self.settings,
            self.shape,
            None if start is None else self.latent(start),
            7,
            end=None if end is None else self.latent(end),
        )


@pytest.fixture
def make_case(tiny: ModuleType, tiny_vae: Any) -> Callable[[str], Case]:
    return lambda name: Case(tiny, tiny_vae, name)


def test_every_family_is_in_one_of_the_lists(tiny: ModuleType) -> None:
    assert sorted((*KEEPS_ITS_END, *IS_SHOWN_ITS_END, *NO_END)) == sorted(tiny.FAMILIES)


@pytest.mark.parametrize("name", KEEPS_ITS_END)
def test_a_segment_begins_and_ends_with_its_pictures(
    name: str, make_case: Callable[[str], Case]
) -> None:
    """To the bit; what lies between follows from both."""
    case = make_case(name)
    assert case.capabilities.end_known_latent_frames == 1
    sampled = case.segment(1, 2)
    assert torch.equal(sampled[:, :, :1], case.latent(1))
    assert torch.equal(sampled[:, :, -1:], case.latent(2))
    between = sampled[:, :, 1:-1]
    assert torch.equal(case.segment(1, 2)[:, :, 1:-1], between)
    for start, end in ((3, 2), (1, 3), (1, None)):
        other = case.segment(start, end)[:, :, 1:-1]
        assert (other - between).abs().mean() > 1e-5 * between.std()


@pytest.mark.parametrize("name", ["wan_t2v", "wan_vace", "ltxv"])
def test_an_end_needs_no_start(name: str, make_case: Callable[[str], Case]) -> None:
    case = make_case(name)
    sampled = case.segment(None, 2)
    assert torch.equal(sampled[:, :, -1:], case.latent(2))
    assert not torch.equal(sampled[:, :, :-1], case.segment(None, 3)[:, :, :-1])


@pytest.mark.parametrize("name", KEEPS_ITS_END)
def test_core_keeps_the_end_while_it_samples(
    name: str, make_case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To float rounding: it is not just put there afterwards."""
    import comfy.sample

    case, from_core = make_case(name), []
    original = comfy.sample.sample_custom

    def record(*arguments: Any, **keywords: Any) -> torch.Tensor:
        from_core.append(original(*arguments, **keywords))
        return from_core[-1].clone()

    monkeypatch.setattr(comfy.sample, "sample_custom", record)
    sampled = case.segment(1, 2)
    assert (from_core[0][:, :, -1:] - case.latent(2)).abs().max() <= 1e-5 * sampled.std()


@pytest.mark.parametrize("name", IS_SHOWN_ITS_END)
def test_wan_image_models_draw_their_end(name: str, make_case: Callable[[str], Case]) -> None:
    """As core's node for first and last frame does it: shown to the model, free in the latent."""
    case = make_case(name)
    assert case.capabilities.end_frame and case.capabilities.end_known_latent_frames == 0
    sampled = case.segment(1, 2)
    assert torch.equal(sampled[:, :, :1], case.latent(1))
    for start, end in ((3, 2), (1, 3), (1, None)):
        other = case.segment(start, end)
        assert (other - sampled)[:, :, 1:].abs().mean() > 1e-5 * sampled.std()


@pytest.mark.parametrize("with_start", [True, False])
def test_wan_sees_both_ends_as_in_cores_own_node(tiny: ModuleType, with_start: bool) -> None:
    """Concat image and mask of WanFirstLastFrameToVideo, after core's own `concat_cond`."""
    from comfy_extras.nodes_wan import WanFirstLastFrameToVideo

    from throughline.adapters.blank import BlankClips
    from throughline.adapters.keyframe_latents import start_latent
    from throughline.adapters.wan import WanImage

    vae, factory = tiny.tiny_wan_vae(), tiny.FAMILIES["wan_flf2v"]
    model, positive = factory.model(), factory.conditioning(1)
    generator = torch.Generator().manual_seed(1)
    start, end = torch.rand((2, 1, 32, 32, 3), generator=generator)
    first = start if with_start else None
    core, _, _ = WanFirstLastFrameToVideo.execute(
        positive, positive, vae, 32, 32, 29, 1, first, end
    ).args
    latent = torch.zeros(1, 16, 8, 4, 4)
    if with_start:
        latent[:, :, :1] = start_latent(vae, start)
    ours = WanImage().prepare(
        model, BlankClips(vae, first, end=end), positive, positive, latent, int(with_start), 1
    )
    arguments = {"noise": latent, "device": torch.device("cpu")}
    seen, wanted = (
        model.model.concat_cond(**arguments, **conditioning[0][1])
        for conditioning in (ours.positive, core)
    )
    assert torch.equal(seen[:, :4], wanted[:, :4])
    torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=0)
    assert ours.noise_mask is not None
    assert ours.noise_mask[:, :, -1].eq(1.0).all()


def test_vace_flags_the_end(make_case: Callable[[str], Case]) -> None:
    from throughline.adapters.blank import BlankClips

    case = make_case("wan_vace")
    latent = torch.zeros(case.shape)
    latent[:, :, -1:] = case.latent(2)
    inputs = case.family.prepare(
        case.model, BlankClips(case.vae), case.positive, case.negative, latent, 0, 1
    )
    options = inputs.positive[0][1]
    (mask,), (frames,) = options["vace_mask"], options["vace_frames"]
    assert mask[:, :, :-1].eq(1.0).all() and mask[:, :, -1].eq(0.0).all()
    assert torch.equal(frames[:, :16, -1:], case.latent(2))
    assert torch.equal(frames[:, :16, :-1], frames[:, 16:, :-1])


@pytest.mark.parametrize("name", ["wan_ti2v", "ltxv"])
def test_the_end_has_timestep_zero(name: str, make_case: Callable[[str], Case]) -> None:
    from throughline.adapters.blank import BlankClips

    case = make_case(name)
    inputs = case.family.prepare(
        case.model,
        BlankClips(case.vae),
        case.positive,
        case.negative,
        torch.zeros(case.shape),
        1,
        1,
    )
    assert inputs.noise_mask is not None
    mask = case.model.model.extra_conds(
        noise=torch.zeros(case.shape),
        device=torch.device("cpu"),
        cross_attn=case.positive[0][0],
        denoise_mask=inputs.noise_mask.expand(case.shape),
    )["denoise_mask"].cond
    timestep = case.model.model.process_timestep(
        torch.full((1,), 700.0), torch.zeros(case.shape), denoise_mask=mask
    )
    per_frame = timestep.reshape(LATENT_FRAMES, -1)
    assert per_frame[[0, -1]].eq(0.0).all() and per_frame[1:-1].eq(700.0).all()


@pytest.mark.parametrize("name", NO_END)
def test_the_others_begin_with_a_picture(name: str, make_case: Callable[[str], Case]) -> None:
    case = make_case(name)
    assert not case.capabilities.end_frame
    sampled, other = case.segment(1, None), case.segment(3, None)
    assert torch.equal(sampled[:, :, :1], case.latent(1))
    assert (other - sampled)[:, :, 1:].abs().mean() > 1e-5 * sampled.std()


def test_two_experts_keep_the_end(make_case: Callable[[str], Case], tiny: ModuleType) -> None:
    from dataclasses import replace

    case = make_case("wan_t2v")
    other = tiny.FAMILIES["wan_t2v"].model(5)
    case.settings = replace(case.settings, low_noise_model=other, switch_sigma=0.9)
    sampled = case.segment(1, 2)
    assert torch.equal(sampled[:, :, -1:], case.latent(2))
    assert torch.equal(sampled[:, :, :1], case.latent(1))


def test_an_end_is_a_still_picture(tiny_vae: Any) -> None:
    """The last latent frame of the picture standing still, not the latent of a first frame."""
    from throughline.adapters.keyframe_latents import end_latent, start_latent

    picture = torch.rand((1, 16, 32, 3), generator=torch.Generator().manual_seed(1))
    end = end_latent(tiny_vae, picture)
    assert torch.equal(end, tiny_vae.encode(picture.repeat(9, 1, 1, 1))[:, :, 2:])
    assert end.shape == start_latent(tiny_vae, picture).shape == (1, 16, 1, 2, 4)
    assert not torch.allclose(end, start_latent(tiny_vae, picture), atol=1e-3)


# Weights that see further pictures.


def context_case(make_case: Callable[[str], Case], name: str) -> tuple[Case, Any, Any]:
    """A Wan T2V case, the way in which `name` sees pictures, and its conditionings with three."""
    from throughline.adapters.wan_context import CONTEXT_WEIGHTS

    case, weights = make_case("wan_t2v"), CONTEXT_WEIGHTS[name]
    pictures = [
        torch.rand(1, 96, 192, 3, generator=torch.Generator().manual_seed(i)) for i in (1, 2, 3)
    ]
    latents = weights.encode(case.vae, pictures, 64, 128)
    return case, weights, latents


def test_bernini_sees_streams_of_golden_sizes(make_case: Callable[[str], Case]) -> None:
    """Two of the film's 64 x 128 pixels, the third at level 1: floor(4 / phi) = 2 tokens high."""
    case, weights, latents = context_case(make_case, "Bernini")
    assert [tuple(one.shape) for one in latents] == [
        (1, 16, 1, 8, 16),
        (1, 16, 1, 8, 16),
        (1, 16, 1, 4, 8),
    ]
    given = [[*case.positive[0]]]
    positive, negative = weights.attach(case.positive, case.negative, latents)
    assert case.positive == given
    for conditioning in (positive, negative):
        seen = case.model.model.extra_conds(
            noise=torch.zeros(case.shape),
            device=torch.device("cpu"),
            cross_attn=conditioning[0][0],
            **conditioning[0][1],
        )["context_latents"].cond
        for one, latent in zip(seen, latents, strict=True):
            torch.testing.assert_close(one, case.model.model.process_latent_in(latent))


def test_phantom_sees_frames_of_the_films_size(make_case: Callable[[str], Case]) -> None:
    """As core's node: the positive with the pictures, the negative with none in their place."""
    from comfy_extras.nodes_wan import WanPhantomSubjectToVideo

    case, weights, latents = context_case(make_case, "Phantom")
    pictures = torch.cat(
        [torch.rand(1, 96, 192, 3, generator=torch.Generator().manual_seed(i)) for i in (1, 2, 3)]
    )
    core = WanPhantomSubjectToVideo.execute(
        case.positive, case.negative, case.vae, 128, 64, 13, 1, pictures
    ).args
    ours = weights.attach(case.positive, case.negative, latents)
    for mine, theirs in zip(ours, (core[0], core[2]), strict=True):
        torch.testing.assert_close(mine[0][1]["time_dim_concat"], theirs[0][1]["time_dim_concat"])


@pytest.mark.parametrize("name", ["Bernini", "Phantom"])
def test_the_new_frames_follow_the_context(name: str, make_case: Callable[[str], Case]) -> None:
    """A tiny random model hardly attends, so the pictures are loud."""
    case, weights, _ = context_case(make_case, name)
    small = [50.0 * case.latent(seed) for seed in (11, 12, 13)]
    plain = case.segment(1, None)
    conditionings = case.positive, case.negative
    made = []
    for context in (small, [small[1], small[0], small[2]], small):
        case.positive, case.negative = weights.attach(*conditionings, context)
        made.append(case.segment(1, None))
    assert torch.equal(made[0], made[2])
    for other in (plain, made[1]):
        assert (made[0] - other)[:, :, 1:].abs().mean() > 1e-5 * plain.std()
        assert torch.equal(made[0][:, :, :1], other[:, :, :1])
