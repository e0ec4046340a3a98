"""Every family takes over a tail natively, in the real host, and leaves everything as it was.

Two segments with a tiny random model of ComfyUI's own class for each family.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

NAMES = {
    "wan_t2v": "Wan T2V",
    "wan_i2v": "Wan I2V",
    "wan22_i2v": "Wan I2V",
    "wan_flf2v": "Wan I2V",
    "wan_ti2v": "Wan 2.2 TI2V",
    "wan_vace": "Wan VACE",
    "wan_causal": "causal Wan",
    "hunyuan_replace": "HunyuanVideo 1.0",
    "hunyuan_i2v": "HunyuanVideo 1.0 I2V",
    "hunyuan_skyreels": "SkyReels I2V",
    "hunyuan_15": "HunyuanVideo 1.5",
    "ltxv": "LTXV",
}
LATENT_FRAMES, CELLS, STEPS = 4, 4, 3


class Case:
    """One family with its tiny model, ready to sample."""

    def __init__(self, tiny: ModuleType, vae: Any, name: str) -> None:
        import comfy.samplers

        from throughline.adapters.blank import BlankClips
        from throughline.adapters.families import family_of
        from throughline.adapters.geometry import read_geometry
        from throughline.adapters.sampling import SamplerSettings, schedule_sigmas

        factory = tiny.FAMILIES[name]
        self.model = factory.model()
        self.family = family_of(self.model)
        self.capabilities = self.family.capabilities(self.model)
        self.blanks = BlankClips(vae)
        self.positive, self.negative = factory.conditioning(1), factory.conditioning(2)
        self.sampler_name = self.capabilities.own_sampler or "euler"
        self.cfg = 3.0 if self.capabilities.guidance else 1.0
        self.settings = SamplerSettings(
            sampler=comfy.samplers.sampler_object(self.sampler_name),
            sigmas=schedule_sigmas(self.model, self.sampler_name, "simple", STEPS),
            cfg=self.cfg,
        )
        geometry = read_geometry(self.model)
        side = CELLS * geometry.pixels_per_latent
        self.shape = geometry.latent_shape(LATENT_FRAMES, side, side)
        self.known = self.capabilities.known_latent_frames_default
        assert 1 <= self.known < LATENT_FRAMES

    def segment(
        self, known: torch.Tensor | None, seed: int, guide: torch.Tensor | None = None
    ) -> torch.Tensor:
        from throughline.adapters.guide import Guide
        from throughline.adapters.sampling import sample_segment

        return sample_segment(
            self.family,
            self.model,
            self.blanks,
            self.positive,
            self.negative,
            self.settings,
            self.shape,
            known,
            seed,
            guide=None if guide is None else Guide(latent=guide, start_noise=0.5),
        )

    def prepare(self, known: int) -> tuple[Any, torch.Tensor]:
        """What the sampler is called with after `known` random latent frames, and those frames."""
        latent = torch.zeros(self.shape)
        generator = torch.Generator().manual_seed(9)
        tail = torch.randn((*self.shape[:2], known, *self.shape[3:]), generator=generator)
        latent[:, :, :known] = tail
        inputs = self.family.prepare(
            self.model, self.blanks, self.positive, self.negative, latent, known
        )
        return inputs, tail

    def core_samples(self, seed: int = 3) -> torch.Tensor:
        """What core's own KSampler makes with this model."""
        import nodes

        (result,) = nodes.common_ksampler(
            self.model,
            seed,
            STEPS,
            self.cfg,
            self.sampler_name,
            "simple",
            self.positive,
            self.negative,
            {"samples": torch.zeros(self.shape)},
        )
        return result["samples"]


@pytest.fixture(params=sorted(NAMES))
def case(request: pytest.FixtureRequest, tiny: ModuleType, tiny_vae: Any) -> Case:
    return Case(tiny, tiny_vae, request.param)


@pytest.fixture
def make_case(tiny: ModuleType, tiny_vae: Any) -> Callable[[str], Case]:
    return lambda name: Case(tiny, tiny_vae, name)


def conds(case: Case, inputs: Any) -> dict[str, Any]:
    """What core makes of the positive conditioning for the network, by core's own extra_conds.

    The arguments are those of `comfy.samplers.encode_model_conds`.
    """
    (embedding, options), *_ = inputs.positive
    noise = torch.zeros(case.shape)
    arguments = {**options, "cross_attn": embedding, "noise": noise, "device": torch.device("cpu")}
    arguments |= {"prompt_type": "positive", "width": 8 * CELLS, "height": 8 * CELLS}
    if inputs.noise_mask is not None:
        arguments["denoise_mask"] = inputs.noise_mask.expand(case.shape)
    return case.model.model.extra_conds(**arguments)


def test_there_is_a_tiny_model_of_every_family(tiny: ModuleType) -> None:
    from throughline.adapters.families import FAMILIES

    assert set(NAMES) == set(tiny.FAMILIES)
    assert set(NAMES.values()) == {family.name for family in FAMILIES}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_exactly_one_family_recognises_a_model(name: str, tiny: ModuleType) -> None:
    from throughline.adapters.families import FAMILIES

    model = tiny.FAMILIES[name].model()
    assert [family.name for family in FAMILIES if family.recognises(model)] == [NAMES[name]]


def test_the_second_segment_begins_with_the_tail(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Core's sampler keeps the tail by itself, to float rounding; the segment has it to the bit."""
    import comfy.sample

    first = case.segment(None, 5)
    tail = first[:, :, -case.known :]
    from_core: list[torch.Tensor] = []
    original = comfy.sample.sample_custom

    def record(*arguments: Any, **keywords: Any) -> torch.Tensor:
        from_core.append(original(*arguments, **keywords))
        return from_core[-1].clone()

    monkeypatch.setattr(comfy.sample, "sample_custom", record)
    second = case.segment(tail, 6)
    assert (from_core[0][:, :, : case.known] - tail).abs().max() <= 1e-5 * first.std()
    assert torch.equal(second[:, :, : case.known], tail)
    assert torch.equal(second[:, :, case.known :], from_core[0][:, :, case.known :])
    assert second.shape == first.shape and second.dtype == torch.float32
    assert torch.isfinite(second).all() and second[:, :, case.known :].std() > 0


def test_the_new_frames_follow_the_tail(case: Case) -> None:
    """Another tail gives other new frames: the network sees it, it is not just pasted in."""
    first, other = case.segment(None, 5), case.segment(None, 7)
    new = case.segment(first[:, :, -case.known :], 6)[:, :, case.known :]
    again = case.segment(first[:, :, -case.known :], 6)[:, :, case.known :]
    changed = case.segment(other[:, :, -case.known :], 6)[:, :, case.known :]
    assert torch.equal(new, again)
    assert (new - changed).abs().mean() > 1e-5 * new.std()


def test_the_new_frames_follow_a_guide(case: Case) -> None:
    from throughline.adapters.guide import check_guide

    if case.capabilities.own_sampler is not None:
        with pytest.raises(ValueError, match=f"got {case.family.name}, whose sampler 'ar_video'"):
            check_guide(case.family, case.capabilities, as_control=False)
        return
    check_guide(case.family, case.capabilities, as_control=False)
    known = torch.zeros(case.shape)[:, :, : case.known]
    low, high = (case.segment(known, 3, torch.full(case.shape, value)) for value in (0.0, 1.0))
    assert torch.equal(low[:, :, : case.known], high[:, :, : case.known])
    assert float((high - low)[:, :, case.known :].mean()) > 0.1


def test_everything_is_left_as_it_was(
    case: Case, model_state: Callable[[Any], Any], state_of: Callable[[Any], Any]
) -> None:
    core_before = case.core_samples()
    tail = core_before[:, :, -case.known :].clone()
    given = [case.positive, case.negative, tail, case.settings.sigmas]
    model_before, given_before = model_state(case.model), state_of(given)
    case.segment(tail, 6)
    assert model_state(case.model) == model_before
    assert state_of(given) == given_before
    assert torch.equal(case.core_samples(), core_before)


def test_more_known_frames_than_default(case: Case) -> None:
    """Every number up to the family's limit is kept, not only the default."""
    limit = min(case.capabilities.known_latent_frames or LATENT_FRAMES, LATENT_FRAMES - 1)
    generator = torch.Generator().manual_seed(4)
    for known in range(1, limit + 1):
        tail = torch.randn((*case.shape[:2], known, *case.shape[3:]), generator=generator)
        sampled = case.segment(tail, 8)
        assert torch.equal(sampled[:, :, :known], tail)


# What each family tells its network, read through core's own code.


@pytest.mark.parametrize("name", ["wan_i2v", "wan22_i2v", "wan_flf2v"])
@pytest.mark.parametrize("known", [1, 2, 3])
def test_wan_concat_channels(name: str, known: int, make_case: Callable[[str], Case]) -> None:
    case = make_case(name)
    inputs, tail = case.prepare(known)
    (_, options), *_ = inputs.positive
    channels = case.model.model.concat_cond(
        noise=torch.zeros(case.shape), device=torch.device("cpu"), **options
    )
    mask, image = channels[:, :4], channels[:, 4:]
    assert mask[:, :, :known].eq(1.0).all() and mask[:, :, known:].eq(0.0).all()
    torch.testing.assert_close(image[:, :, :known], case.model.model.process_latent_in(tail))
    grey = case.model.model.process_latent_in(case.blanks.grey(torch.zeros(case.shape)))
    torch.testing.assert_close(image[:, :, known:], grey[:, :, known:])


@pytest.mark.parametrize("known", [1, 2, 3])
def test_vace_flags_exactly_the_known_latent_frames(
    known: int, make_case: Callable[[str], Case]
) -> None:
    case = make_case("wan_vace")
    inputs, tail = case.prepare(known)
    context = conds(case, inputs)["vace_context"].cond  # b n 96 t h w
    assert context.shape == (1, 1, 96, *case.shape[2:])
    inactive, reactive, mask = context[0, 0].split((16, 16, 64))
    assert mask[:, :known].eq(0.0).all() and mask[:, known:].eq(1.0).all()
    torch.testing.assert_close(inactive[:, :known], case.model.model.process_latent_in(tail)[0])
    torch.testing.assert_close(inactive[:, known:], reactive[:, known:])


def test_vace_keeps_the_control_that_the_artist_attached(make_case: Callable[[str], Case]) -> None:
    case = make_case("wan_vace")
    control = torch.ones((1, 32, *case.shape[2:]))
    mask = torch.ones((1, 64, *case.shape[2:]))
    (embedding, options), *_ = case.positive
    attached = {"vace_frames": [control], "vace_mask": [mask], "vace_strength": [0.5]}
    case.positive = [[embedding, {**options, **attached}]]
    inputs, _ = case.prepare(2)
    values = conds(case, inputs)
    assert values["vace_context"].cond.shape[1] == 2
    assert values["vace_strength"].cond == [0.5, 1.0]
    assert len(attached["vace_frames"]) == 1


@pytest.mark.parametrize("name", ["wan_ti2v", "ltxv"])
def test_known_frames_have_timestep_zero(name: str, make_case: Callable[[str], Case]) -> None:
    case = make_case(name)
    inputs, _ = case.prepare(2)
    mask = conds(case, inputs)["denoise_mask"].cond
    timestep = case.model.model.process_timestep(
        torch.full((1,), 700.0), torch.zeros(case.shape), denoise_mask=mask
    )
    per_frame = timestep.reshape(LATENT_FRAMES, -1)
    assert per_frame[:2].eq(0.0).all() and per_frame[2:].eq(700.0).all()


def test_hunyuan_replace_guides_the_first_frame(make_case: Callable[[str], Case]) -> None:
    case = make_case("hunyuan_replace")
    inputs, _ = case.prepare(1)
    assert conds(case, inputs)["guiding_frame_index"].cond.tolist() == [0]


@pytest.mark.parametrize(
    ("name", "known"),
    [("hunyuan_i2v", 2), ("hunyuan_15", 3), ("hunyuan_skyreels", 1)],
)
def test_hunyuan_concat_channels(name: str, known: int, make_case: Callable[[str], Case]) -> None:
    case = make_case(name)
    inputs, tail = case.prepare(known)
    (_, options), *_ = inputs.positive
    arguments = {"noise": torch.zeros(case.shape), "device": torch.device("cpu"), **options}
    arguments["denoise_mask"] = inputs.noise_mask.expand(case.shape)
    channels = case.model.model.concat_cond(**arguments)
    assert channels.shape[1] + case.shape[1] == case.model.model.diffusion_model.in_channels
    image = channels[:, : case.shape[1]]
    torch.testing.assert_close(image[:, :, :known], case.model.model.process_latent_in(tail))
    if channels.shape[1] > case.shape[1]:
        mask = channels[:, case.shape[1] :]
        assert mask[:, :, :known].eq(1.0).all() and mask[:, :, known:].eq(0.0).all()


def test_causal_wan_is_seeded_with_the_tail(make_case: Callable[[str], Case]) -> None:
    case = make_case("wan_causal")
    inputs, tail = case.prepare(3)
    options = inputs.model.model_options["transformer_options"]
    assert torch.equal(options["ar_config"]["initial_latent"], tail)
    assert inputs.model is not case.model
    assert "ar_config" not in case.model.model_options.get("transformer_options", {})


def test_causal_wan_keeps_the_artists_settings(make_case: Callable[[str], Case]) -> None:
    case = make_case("wan_causal")
    case.model.model_options["transformer_options"] = {"ar_config": {"other": 1}, "mine": 2}
    inputs, _ = case.prepare(1)
    options = inputs.model.model_options["transformer_options"]
    assert (options["mine"], options["ar_config"]["other"]) == (2, 1)
    assert case.model.model_options["transformer_options"] == {"ar_config": {"other": 1}, "mine": 2}


# Models that cannot continue a video.


def refusal(model: Any) -> str:
    from throughline.adapters.families import family_of

    with pytest.raises(ValueError) as error:
        family_of(model)
    return str(error.value)


INSTEAD = (
    "use Wan 2.1 or 2.2 (T2V, I2V, FLF2V, VACE, TI2V-5B, causal), HunyuanVideo 1.0 or 1.5, or LTXV"
)


def test_wan_fun_control_is_refused_by_name(tiny: ModuleType) -> None:
    import comfy.supported_models

    control = tiny.TinyFamily(
        comfy.supported_models.WAN21_FunControl2V, {**tiny.WAN, "in_dim": 48}, 24
    )
    assert refusal(control.model()) == (
        "model must be able to continue a video, got WAN21 with 32 input channels beside the "
        f"latent (a control model?): {INSTEAD}"
    )


def test_wan_camera_is_refused_by_name(tiny: ModuleType) -> None:
    import comfy.supported_models

    camera = tiny.TinyFamily(
        comfy.supported_models.WAN21_Camera,
        {**tiny.WAN, "model_type": "camera", "in_dim": 32},
        24,
    )
    assert refusal(camera.model()) == (
        f"model must be able to continue a video, got WAN21_Camera: {INSTEAD}"
    )


def test_an_image_model_is_refused_by_name(tiny: ModuleType) -> None:
    import comfy.supported_models

    sizes = {
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "vec_in_dim": 8,
        "context_in_dim": 8,
        "hidden_size": 128,
        "mlp_ratio": 2.0,
        "num_heads": 1,
        "depth": 1,
        "depth_single_blocks": 1,
        "axes_dim": [16, 56, 56],
        "theta": 10_000,
        "qkv_bias": True,
        "guidance_embed": False,
        "txt_ids_dims": [],
    }
    flux = tiny.TinyFamily(comfy.supported_models.Flux, sizes, 8, 8)
    assert refusal(flux.model()) == f"model must be able to continue a video, got Flux: {INSTEAD}"


# What a film of such a model may ask for.


def plan(case: Case, vae: Any, **changes: Any) -> Any:
    from throughline.nodes.film import film_request, plan_film

    inputs: dict[str, Any] = {
        "model": case.model,
        "vae": vae,
        "positive": case.positive,
        "negative": case.negative,
        "script": "a\nb",
        "negative_prompt": "",
        "width": 32,
        "height": 32,
        "seconds_per_shot": 1.0,
        "fps": 8.0,
        "unmarked_shots": "continue",
        "segment_frames": 13,
        "tail_latent_frames": 0,
        "seed": 3,
        "steps": 2,
        "cfg": case.cfg,
        "sampler_name": case.sampler_name,
        "scheduler": "simple",
        "run_name": "r",
        "retakes": "",
    }
    return plan_film(film_request({**inputs, **changes}))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("wan_causal", {"cfg": 3.0}, "causal Wan samples without guidance: cfg must be 1, got 3"),
        (
            "wan_causal",
            {"sampler_name": "euler"},
            "causal Wan needs the sampler 'ar_video', got sampler_name 'euler'",
        ),
        (
            "wan_t2v",
            {"sampler_name": "ar_video"},
            "sampler_name 'ar_video' needs a causal Wan model, got Wan T2V",
        ),
        (
            "hunyuan_replace",
            {"tail_latent_frames": 2},
            "HunyuanVideo 1.0 continues from at most 1 latent frames, got tail_latent_frames 2",
        ),
        (
            "hunyuan_skyreels",
            {"tail_latent_frames": 3},
            "SkyReels I2V continues from at most 1 latent frames, got tail_latent_frames 3",
        ),
        (
            "hunyuan_replace",
            {"start_image": torch.zeros(5, 32, 32, 3)},
            "HunyuanVideo 1.0 starts from at most 1 latent frames (1 frames), got 2",
        ),
    ],
)
def test_what_a_family_cannot_do_is_refused(
    name: str, changes: dict[str, Any], words: str, make_case: Callable[[str], Case], tiny_vae: Any
) -> None:
    with pytest.raises(ValueError) as error:
        plan(make_case(name), tiny_vae, **changes)
    assert str(error.value).endswith(words)


@pytest.mark.parametrize("name", ["wan_t2v", "hunyuan_replace", "wan_causal"])
def test_a_film_takes_the_tail_of_its_family(
    name: str, make_case: Callable[[str], Case], tiny_vae: Any
) -> None:
    case = make_case(name)
    second = plan(case, tiny_vae, segment_frames=17).segments[1]
    assert second.start == "tail"
    assert second.known_latent_frames == min(case.known, 2)  # the first segment has 2
