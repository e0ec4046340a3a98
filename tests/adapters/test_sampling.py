"""One segment equals what core's own sampler makes; what cannot be sampled is refused."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

SHAPE = (1, 16, 3, 4, 4)
STEPS = 4
# Discarding the penultimate sigma (dpm_2, uni_pc), with noise per step (euler_ancestral, dpmpp_sde
# with its Brownian tree, lcm), with a history, with steps of its own choice (dpm_fast).
SAMPLERS = (
    "euler",
    "euler_ancestral",
    "dpm_2",
    "dpm_2_ancestral",
    "uni_pc",
    "uni_pc_bh2",
    "dpmpp_sde",
    "dpmpp_3m_sde",
    "lcm",
    "res_multistep",
    "sa_solver",
    "seeds_3",
    "er_sde",
    "ddpm",
    "dpm_fast",
    "ddim",
)


@pytest.fixture(scope="module")
def factory(tiny: ModuleType) -> Any:
    return tiny.FAMILIES["wan_t2v"]


@pytest.fixture(scope="module")
def model(factory: Any) -> Any:
    return factory.model()


@pytest.fixture
def sample(factory: Any, model: Any, tiny_vae: Any) -> Callable[..., torch.Tensor]:
    """`sample(settings, known=None, seed=0, ...)`: one segment of SHAPE."""
    from throughline.adapters.blank import BlankClips
    from throughline.adapters.families import family_of
    from throughline.adapters.sampling import sample_segment

    def run(
        settings: Any,
        known: torch.Tensor | None = None,
        seed: int = 0,
        callback: Any = None,
        with_model: Any = None,
    ) -> torch.Tensor:
        used = with_model or model
        return sample_segment(
            family_of(used),
            used,
            BlankClips(tiny_vae),
            factory.conditioning(1),
            factory.conditioning(2),
            settings,
            SHAPE,
            known,
            seed,
            callback,
        )

    return run


def settings_for(model: Any, name: str = "euler", steps: int = STEPS, **more: Any) -> Any:
    import comfy.samplers

    from throughline.adapters.sampling import SamplerSettings, schedule_sigmas

    scheduler = more.pop("scheduler", "simple")
    return SamplerSettings(
        sampler=comfy.samplers.sampler_object(name),
        sigmas=schedule_sigmas(model, name, scheduler, steps),
        cfg=more.pop("cfg", 3.0),
        **more,
    )


def core_samples(
    factory: Any, model: Any, seed: int, steps: int, cfg: float, name: str, scheduler: str
) -> torch.Tensor:
    import nodes

    (result,) = nodes.common_ksampler(
        model,
        seed,
        steps,
        cfg,
        name,
        scheduler,
        factory.conditioning(1),
        factory.conditioning(2),
        {"samples": torch.zeros(SHAPE)},
    )
    return result["samples"]


@pytest.mark.filterwarnings("ignore:Should have ta", "ignore:To copy construct")  # of samplers
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_segment_from_text_is_what_ksampler_makes(
    name: str, sample: Callable[..., torch.Tensor], factory: Any, model: Any
) -> None:
    torch.manual_seed(1)  # nothing may come from the global generator
    ours = sample(settings_for(model, name), seed=12)
    core = core_samples(factory, model, 12, STEPS, 3.0, name, "simple")
    assert torch.equal(ours, core)


@pytest.mark.parametrize("scheduler", ["simple", "normal", "karras", "beta", "sgm_uniform"])
@pytest.mark.parametrize(("name", "steps"), [("euler", 1), ("dpm_2", 6), ("uni_pc", 3)])
def test_schedules_and_steps_are_those_of_ksampler(
    name: str,
    steps: int,
    scheduler: str,
    sample: Callable[..., torch.Tensor],
    factory: Any,
    model: Any,
) -> None:
    import comfy.samplers

    settings = settings_for(model, name, steps, scheduler=scheduler, cfg=1.0)
    core = comfy.samplers.KSampler(model, steps, model.load_device, name, scheduler, 1.0)
    assert torch.equal(settings.sigmas, core.sigmas.cpu())
    assert settings.steps == steps
    made = core_samples(factory, model, 7, steps, 1.0, name, scheduler)
    assert torch.equal(sample(settings, seed=7), made)


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 2])
def test_noise_is_that_of_core_for_a_seed(seed: int) -> None:
    import comfy.sample

    from throughline.adapters.sampling import segment_noise

    latent = torch.zeros(SHAPE)
    ours = segment_noise(latent, seed)
    state = torch.random.get_rng_state()
    assert torch.equal(ours, comfy.sample.prepare_noise(latent, seed))
    torch.random.set_rng_state(state)
    again = segment_noise(latent, seed)
    assert torch.equal(ours, again) and torch.equal(torch.random.get_rng_state(), state)


def test_steps_are_told_in_order(sample: Callable[..., torch.Tensor], model: Any) -> None:
    steps: list[tuple[int, int]] = []
    sample(
        settings_for(model), callback=lambda step, denoised, noisy, all: steps.append((step, all))
    )
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_an_interrupt_is_seen_at_the_next_step(
    sample: Callable[..., torch.Tensor], model: Any
) -> None:
    import comfy.model_management as management

    steps: list[int] = []

    def press(step: int, denoised: torch.Tensor, noisy: torch.Tensor, total: int) -> None:
        steps.append(step)
        if step == 1:
            management.interrupt_current_processing()

    with pytest.raises(management.InterruptProcessingException):
        sample(settings_for(model, steps=10), callback=press)
    assert steps == [0, 1]
    assert not management.processing_interrupted()


def test_an_interrupt_before_the_first_step(
    sample: Callable[..., torch.Tensor], model: Any
) -> None:
    import comfy.model_management as management

    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        sample(settings_for(model))


def test_nan_is_refused(sample: Callable[..., torch.Tensor], factory: Any) -> None:
    broken = factory.model()
    with torch.no_grad():
        broken.model.diffusion_model.head.head.bias.fill_(float("nan"))
    with pytest.raises(ValueError) as error:
        sample(settings_for(broken), with_model=broken, seed=31)
    assert str(error.value) == (
        "sampling must give finite latents, got NaN or infinity at seed 31: try another sampler, "
        "a lower cfg or a wider type for the weights"
    )


@pytest.mark.parametrize(
    ("sigmas", "words"),
    [
        (torch.tensor([1.0]), "sigmas need 2 values or more, got (1,)"),
        (torch.tensor([]), "sigmas need 2 values or more, got (0,)"),
        (torch.ones(2, 2), "sigmas need 2 values or more, got (2, 2)"),
        (torch.tensor([1.0, float("nan")]), "sigmas must be finite, got [1.0, nan]"),
        (torch.tensor([float("inf"), 0.0]), "sigmas must be finite, got [inf, 0.0]"),
        (torch.tensor([0.5, 1.0]), "sigmas must fall, got [0.5, 1.0]"),
        (torch.tensor([0.5, -0.5]), "sigmas must be 0 or more, got [0.5, -0.5]"),
    ],
)
def test_sigmas_that_no_sampler_can_follow(
    comfy: ModuleType, sigmas: torch.Tensor, words: str
) -> None:
    from throughline.adapters.sampling import check_sigmas

    with pytest.raises(ValueError) as error:
        check_sigmas(sigmas)
    assert str(error.value) == words


def test_sigmas_are_read_in_any_type(comfy: ModuleType) -> None:
    from throughline.adapters.sampling import check_sigmas

    given = torch.tensor([1.0, 0.5, 0.5, 0.0], dtype=torch.float64)
    checked = check_sigmas(given)
    assert checked.dtype == torch.float32 and checked.tolist() == [1.0, 0.5, 0.5, 0.0]
    assert given.dtype == torch.float64


def test_two_experts_are_two_samplers_of_core_in_a_row(
    sample: Callable[..., torch.Tensor], factory: Any, model: Any
) -> None:
    import nodes

    other = factory.model(1)
    settings = settings_for(model, steps=6, low_noise_model=other, switch_sigma=0.9)
    switch = int((settings.sigmas[:-1] >= 0.9).sum())
    assert 0 < switch < 6
    latent: dict[str, Any] = {"samples": torch.zeros(SHAPE)}
    for expert, start, end in ((model, 0, switch), (other, switch, 6)):
        (latent,) = nodes.common_ksampler(
            expert,
            5,
            6,
            3.0,
            "euler",
            "simple",
            factory.conditioning(1),
            factory.conditioning(2),
            latent,
            disable_noise=start > 0,
            start_step=start,
            last_step=end,
            force_full_denoise=end == 6,
        )
    made = sample(settings, seed=5)
    scale = float(2e-4 * latent["samples"].std())
    torch.testing.assert_close(made, latent["samples"], rtol=1e-3, atol=scale)
    assert not torch.allclose(made, sample(settings_for(model, steps=6), seed=5))
