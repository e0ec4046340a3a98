"""The sampler that a film is made with: its settings checked, and what of them affects pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import comfy.samplers
import torch
from comfy.model_sampling import CONST

from ..adapters.families import family_of
from ..adapters.family import Capabilities
from ..adapters.fingerprint import fingerprint_model
from ..adapters.sampling import SamplerSettings, check_sigmas, schedule_sigmas

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

SWITCH_SIGMA = 0.9
"""Where Wan 2.2 I2V was trained to change experts (boundary 0.900; T2V 0.875)."""


class Named(Protocol):
    """A family, of video or of images."""

    @property
    def name(self) -> str: ...


class SamplerRequest(Protocol):
    """The inputs that set a sampler, of any node that has them."""

    @property
    def model(self) -> ModelPatcher: ...
    @property
    def low_noise_model(self) -> ModelPatcher | None: ...
    @property
    def switch_sigma(self) -> float | None: ...
    @property
    def sampler_name(self) -> str: ...
    @property
    def scheduler(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def cfg(self) -> float: ...
    @property
    def sigmas(self) -> torch.Tensor | None: ...
    @property
    def sampler(self) -> comfy.samplers.KSAMPLER | None: ...


def check_choice(name: str, value: str, accepted: Sequence[str]) -> None:
    """The host checks a widget's choice, but not one that comes over a wire."""
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {value!r}")


def sampler_settings(
    request: SamplerRequest, capabilities: Capabilities, family: Named
) -> SamplerSettings:
    """What the node's inputs set the sampler to. Raises ValueError naming the input."""
    own, name = capabilities.own_sampler, request.sampler_name
    check_choice("sampler_name", name, (*comfy.samplers.SAMPLER_NAMES, "ar_video"))
    check_choice("scheduler", request.scheduler, comfy.samplers.SCHEDULER_NAMES)
    if request.sampler is None and own is not None and name != own:
        raise ValueError(f"{family.name} needs the sampler '{own}', got sampler_name '{name}'")
    if not capabilities.guidance and request.cfg != 1.0:
        raise ValueError(
            f"{family.name} samples without guidance: cfg must be 1, got {request.cfg:g}"
        )
    if request.sampler is None and own is None and name == "ar_video":
        raise ValueError(f"sampler_name 'ar_video' needs a causal Wan model, got {family.name}")
    if request.sigmas is not None:
        sigmas = check_sigmas(request.sigmas)
    elif request.steps < 1:
        raise ValueError(f"steps must be 1 or more, got {request.steps}")
    else:
        sigmas = schedule_sigmas(request.model, name, request.scheduler, request.steps)
    return SamplerSettings(
        sampler=request.sampler or comfy.samplers.sampler_object(name),
        sigmas=sigmas,
        cfg=request.cfg,
        low_noise_model=request.low_noise_model,
        switch_sigma=_switch_sigma(request, family),
    )


def _switch_sigma(request: SamplerRequest, family: Named) -> float:
    if request.low_noise_model is None:
        return 0.0
    other = family_of(request.low_noise_model)
    if other != family or not isinstance(request.model.model.model_sampling, CONST):
        raise ValueError(
            f"low_noise_model must be the other expert of the same flow model ({family.name}), "
            f"got {other.name}"
        )
    switch = SWITCH_SIGMA if request.switch_sigma is None else request.switch_sigma
    if not 0.0 < switch < 1.0:
        raise ValueError(f"switch_sigma must lie between 0 and 1, got {switch}")
    return switch


def low_noise_parameters(sampler: SamplerSettings) -> dict[str, Any]:
    """What the second expert adds to the run's parameters."""
    if sampler.low_noise_model is None:
        return {}
    return {
        "low_noise_model": fingerprint_model(sampler.low_noise_model),
        "switch_sigma": sampler.switch_sigma,
    }
