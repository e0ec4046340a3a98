"""What the keyframe planner draws with: family, VAE, memory, sampler, and how references enter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..adapters.families import CONTINUING_MODELS, FAMILIES
from ..adapters.family import Capabilities
from ..adapters.geometry import check_vae, read_geometry
from ..adapters.image_families import IMAGE_FAMILIES, image_family_of
from ..adapters.image_family import ImageCapabilities, ImageFamily
from ..adapters.memory_value import Memory
from ..adapters.sampling import SamplerSettings
from ..adapters.video_images import VideoImages, takes_references, video_images_of
from ..memory.golden import PackingPolicy, policy_levels
from .film_memory import check_memory_fits
from .film_sampler import sampler_settings
from .keyframe_ways import (
    ATLAS,
    AUTOMATIC,
    JOINT,
    NONE,
    TOGETHER,
    Listed,
    NoReferences,
    Remembered,
    Tiled,
    Together,
    Way,
)
from .remembering import empty_memory, memory_request

if TYPE_CHECKING:
    from .keyframe_plan import KeyframeRequest

PICTURES = Capabilities(known_latent_frames=None, known_latent_frames_default=0)
"""Of image models: any sampler, with guidance or without."""

MOST_WITHOUT_ADVICE = 6
"""References where a family advises no number: three golden levels of two (design, 9.3)."""


def image_family(request: KeyframeRequest) -> ImageFamily:
    """The model's family: one that makes pictures, else a video model used for pictures."""
    model = request.model
    if request.reference_mode == JOINT:
        return image_family_of(model, joint=True)
    if any(family.recognises(model) for family in IMAGE_FAMILIES):
        return image_family_of(model)
    if any(family.recognises(model) for family in FAMILIES):
        return video_images_of(model)
    names = ", ".join(family.name for family in IMAGE_FAMILIES)
    raise ValueError(
        f"model must draw pictures beside references, got {type(model.model).__name__}: use one of "
        f"{names}, or a video model: {CONTINUING_MODELS}"
    )


def check_image_vae(request: KeyframeRequest, family: ImageFamily, shape: Sequence[int]) -> None:
    """Refuse a VAE whose latents are not the model's."""
    vae = request.vae
    if isinstance(family, VideoImages):
        check_vae(read_geometry(request.model), vae)
        return
    if vae.latent_channels != shape[1]:
        raise ValueError(
            f"vae must make the latents of {family.name} ({shape[1]} channels), got a VAE with "
            f"{vae.latent_channels} channels"
        )
    stride, made = request.height // shape[-2], vae.spacial_compression_encode()
    if made != stride:
        raise ValueError(
            f"vae must shrink pixels {stride} times for {family.name}, got a VAE that shrinks "
            f"{made} times"
        )


def story_memory(
    request: KeyframeRequest, family: ImageFamily, shape: Sequence[int]
) -> Memory | None:
    """How a video model remembers references; without a connected memory as small pictures."""
    given: object = request.memory
    if not isinstance(family, VideoImages):
        if given is not None:
            raise ValueError(
                f"memory is for video models that draw pictures, got {family.name}: it takes "
                "references by itself, disconnect it"
            )
        return None
    if given is None:
        return _small_pictures(request) if takes_references(request.model) else None
    if not isinstance(given, Memory):
        raise ValueError(f"memory must come from a memory encoder node, got {type(given).__name__}")
    for model in request.models:
        check_memory_fits(given, model)
    size = (int(shape[-2]), int(shape[-1]))
    if given.latent_size not in (None, size):
        assert given.latent_size is not None
        scale = given.vae.spacial_compression_encode()
        height, width = given.latent_size
        raise ValueError(
            f"memory must be of the keyframes' size, {request.width} x {request.height} pixels, "
            f"got {width * scale} x {height * scale}: set width and height of the memory encoder"
        )
    return given


def _small_pictures(request: KeyframeRequest) -> Memory:
    """References as small pictures: what needs no training and still lets the words decide.

    On the demo model whole latent frames draw the reference once more, whatever the prompt says and
    however far away in time they stand; small ones do not, but the picture suffers. Neither is
    recall: that takes a trained encoder.
    """
    inputs = {
        "model": request.model,
        "vae": request.vae,
        "form": "small pictures (no training)",
        "rate": "2x2x2",
        "recent_frames": "automatic",
        "window": 0,
        "pin": "references only",
        "captions": "",
        "width": request.width,
        "height": request.height,
    }
    return empty_memory(memory_request(inputs))


def story_sampler(request: KeyframeRequest, family: ImageFamily) -> SamplerSettings:
    """What the node's inputs set the sampler to. Raises ValueError naming the input."""
    if isinstance(family, VideoImages):
        return sampler_settings(request, family.family.capabilities(request.model), family.family)
    if request.low_noise_model is not None:
        raise ValueError(
            f"low_noise_model is the second expert of a video model, got one beside {family.name}: "
            "disconnect it"
        )
    return sampler_settings(request, PICTURES, family)


def way_of(request: KeyframeRequest, family: ImageFamily) -> Way:
    """The way of the widgets `reference_mode`, `references`, `group_size`, `levels`, `first_level`
    and `least_side`. Raises ValueError naming the widget and the family's cap."""
    mode, capabilities = request.reference_mode, family.capabilities(request.model)
    target = (request.height, request.width)
    if mode == NONE or capabilities.most_references == 0:
        if isinstance(family, VideoImages):
            family = family.with_memory(None, 1.0)
        return NoReferences(family)
    most = _most(request, family, capabilities)
    if isinstance(family, VideoImages):
        if mode == ATLAS:
            raise ValueError(
                f"reference_mode '{ATLAS}' is for models that take references as pictures, "
                f"{family.name} remembers them: choose '{AUTOMATIC}'"
            )
        assert family.memory is not None
        return Remembered(family, most, target, _latent_size(family, request))
    policy = _policy(request, capabilities, most, target)
    if mode == JOINT:
        together = request.group_size or TOGETHER
        return Together(family, request.vae, policy, target, together=together)
    if mode == ATLAS:
        return Tiled(family, request.vae, policy, target)
    return Listed(family, request.vae, policy, target)


def _most(request: KeyframeRequest, family: ImageFamily, capabilities: ImageCapabilities) -> int:
    cap = capabilities.most_references
    if request.reference_mode == ATLAS:
        return request.references or MOST_WITHOUT_ADVICE
    if cap is not None and request.references > cap:
        raise ValueError(
            f"references must be at most {cap} for {family.name}, got {request.references}"
        )
    return request.references or capabilities.advised_references or MOST_WITHOUT_ADVICE


def _latent_size(family: VideoImages, request: KeyframeRequest) -> tuple[int, int]:
    shape = family.latent_shape(request.model, request.height, request.width)
    return shape[-2], shape[-1]


def _policy(
    request: KeyframeRequest,
    capabilities: ImageCapabilities,
    most: int,
    target: tuple[int, int],
) -> PackingPolicy:
    """The widgets as a policy; the joint mode's own group is level 0, so its context follows."""
    joint = request.reference_mode == JOINT
    first = request.first_level + (1 if joint else 0)
    least = request.least_side or (0 if joint else capabilities.least_side)
    group = request.group_size or (
        TOGETHER if joint else _group_size(most, target, capabilities.unit, request, least)
    )
    return PackingPolicy(
        group_size=group,
        levels=request.levels,
        first_level=first,
        least_side=least,
        most_references=most,
        unit=capabilities.unit,
    )


def _group_size(
    most: int, target: tuple[int, int], unit: int, request: KeyframeRequest, least: int
) -> int:
    """The smallest group with which `most` references fit into the levels that are large enough.

    At 1024 x 1024 that gives the presets of the design (9.3): 3 levels of 2 for Flux.2 dev, 3 of 1
    for Qwen-Image-Edit.
    """
    policy = PackingPolicy(levels=request.levels, first_level=request.first_level, unit=unit)
    depth = policy_levels(target, policy)[request.first_level :]
    usable = sum(1 for size in depth if size.short * unit >= least)
    return math.ceil(most / max(1, usable))
