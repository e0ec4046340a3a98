"""From the keyframe planner's inputs to a planned story: every check before anything is sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import comfy.samplers
import torch

from ..adapters.families import CONTINUING_MODELS, FAMILIES
from ..adapters.fingerprint import (
    fingerprint_model,
    fingerprint_text_encoder,
    fingerprint_vae,
    fingerprint_value,
)
from ..adapters.geometry import check_vae, read_geometry
from ..adapters.image_families import IMAGE_FAMILIES, image_family_of
from ..adapters.image_family import ImageFamily
from ..adapters.memory_value import Memory
from ..adapters.sampling import SamplerSettings, check_sigmas, schedule_sigmas
from ..adapters.video_images import VideoImages, takes_references, video_images_of
from ..memory.retrieval import Weights
from ..planning.keyframes import KEYFRAMES, KeyframeSegment, keyframe_steps, plan_keyframes
from ..planning.segments import parse_takes
from ..planning.storyboard import Storyboard
from ..planning.storyboard_summary import ignored_settings
from ..runs.keys import KIND, MEMORY
from ..runs.paths import run_path
from .film import CFG_LIMIT
from .film_loras import FilmLoras, missing_loras, plan_loras
from .film_memory import check_memory_fits
from .keyframe_ways import JOINT, MODES, NONE, Way, way_of
from .recalling import DRIFT_THRESHOLD, Recaller, RecallSettings
from .reference_files import References, read_references
from .remembering import empty_memory, memory_request
from .rendering import runs_root

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

MOST_GUIDANCE = 100.0
"""The range of core's FluxGuidance."""

UNTRAINED = (
    "references enter this video model as a memory that nothing was trained for, and the pictures "
    "suffer: connect a memory encoder that has a trained encoder, or set reference_mode to none"
)

FOLLOWED = ("recall", "refs", "audio")
"""Settings of a shot that the planner follows, and sound, which no picture has."""


@dataclass(frozen=True, kw_only=True)
class KeyframeRequest:
    """The inputs of ThroughlineKeyframePlanner, as they come from the graph.

    `references` and `group_size` of 0 leave the choice to the model's family; `guidance` of 0
    leaves it to the model.
    """

    model: ModelPatcher
    vae: VAE
    clip: CLIP
    storyboard: Storyboard
    clip_vision: Any | None
    memory: Any | None
    loras: Any | None
    sigmas: torch.Tensor | None
    sampler: comfy.samplers.KSAMPLER | None
    negative_prompt: str
    width: int
    height: int
    references: int
    reference_mode: str
    group_size: int
    levels: int
    first_level: int
    least_side: int
    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    guidance: float
    drift_gate: bool
    drift_threshold: float
    run_name: str
    retakes: str
    memory_strength: float
    weight_picture: float
    weight_text: float
    weight_characters: float
    weight_location: float
    weight_recency: float


def keyframe_request(inputs: Mapping[str, Any]) -> KeyframeRequest:
    """The request of a node's `execute`; optional inputs that are not connected become None, and
    optional widgets that a graph leaves out their defaults."""
    given = {**_DEFAULTS, **inputs}
    values: dict[str, Any] = {
        field.name: given.get(field.name) for field in fields(KeyframeRequest)
    }
    return KeyframeRequest(**values)


_DEFAULTS: dict[str, Any] = {
    "first_level": 0,
    "least_side": 0,
    "memory_strength": 1.0,
    "drift_gate": True,
    "drift_threshold": DRIFT_THRESHOLD,
    **{f"weight_{name}": value for name, value in vars(Weights()).items()},
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Story:
    """A planned story: nothing is sampled yet, and nothing can be refused any more.

    `segments` are undecided: what each recalls is decided in its turn, in the order of `steps`,
    the shots of each sampler call.
    """

    request: KeyframeRequest
    family: ImageFamily
    way: Way
    shape: tuple[int, ...]
    sampler: SamplerSettings
    segments: tuple[KeyframeSegment, ...]
    steps: tuple[tuple[int, ...], ...]
    parameters: dict[str, Any]
    references: References
    recaller: Recaller
    loras: FilmLoras
    warnings: tuple[str, ...]

    @property
    def storyboard(self) -> Storyboard:
        return self.request.storyboard


def plan_story(request: KeyframeRequest) -> Story:
    """Check every input and plan the story. Raises ValueError naming input, rule and value."""
    storyboard = _storyboard(request)
    run_path(runs_root(), request.run_name)
    _check_numbers(request)
    family = _family(request)
    shape = family.latent_shape(request.model, request.height, request.width)
    _check_vae(request, family, shape)
    memory = _memory(request, family, shape)
    if isinstance(family, VideoImages):
        family = family.with_memory(memory, request.memory_strength)
    sampler = _sampler_settings(request, family)
    way = way_of(request, family)
    segments = plan_keyframes(storyboard, request.seed, parse_takes(request.retakes))
    references = read_references(storyboard)
    loras = plan_loras(request.loras, storyboard, request.model, None)
    steps = keyframe_steps(len(segments), way.together)
    _check_groups(steps, loras, storyboard)
    return Story(
        request=request,
        family=family,
        way=way,
        shape=tuple(shape),
        sampler=sampler,
        segments=segments,
        steps=steps,
        parameters={
            **_parameters(request, family, sampler),
            **_memory_parameters(request, memory),
            **loras.parameters(segments),
        },
        references=references,
        recaller=Recaller(
            storyboard,
            references.pictures,
            clip=request.clip,
            clip_vision=request.clip_vision,
            settings=_recall_settings(request),
        ),
        loras=loras,
        warnings=_warnings(request, storyboard, loras, memory, references),
    )


def _storyboard(request: KeyframeRequest) -> Storyboard:
    given: object = request.storyboard
    if not isinstance(given, Storyboard):
        raise ValueError(f"storyboard must come from a Storyboard node, got {type(given).__name__}")
    return given


def _check_numbers(request: KeyframeRequest) -> None:
    if not (math.isfinite(request.cfg) and 0.0 <= request.cfg <= CFG_LIMIT):
        raise ValueError(f"cfg must be 0 to {CFG_LIMIT:g}, got {request.cfg}")
    if not (math.isfinite(request.guidance) and 0.0 <= request.guidance <= MOST_GUIDANCE):
        raise ValueError(f"guidance must be 0 to {MOST_GUIDANCE:g}, got {request.guidance}")
    if not 0.0 <= request.memory_strength <= 1.0:
        raise ValueError(f"memory_strength must be 0 to 1, got {request.memory_strength}")
    if request.references < 0:
        raise ValueError(f"references must be 0 or more, got {request.references}")
    _check_choice("reference_mode", request.reference_mode, MODES)
    _check_choice("scheduler", request.scheduler, comfy.samplers.SCHEDULER_NAMES)
    _check_choice("sampler_name", request.sampler_name, (*comfy.samplers.SAMPLER_NAMES, "ar_video"))


def _check_choice(name: str, value: str, accepted: Sequence[str]) -> None:
    """The host checks a widget's choice, but not one that comes over a wire."""
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}, got {value!r}")


def _family(request: KeyframeRequest) -> ImageFamily:
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


def _check_vae(request: KeyframeRequest, family: ImageFamily, shape: Sequence[int]) -> None:
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


def _memory(request: KeyframeRequest, family: ImageFamily, shape: Sequence[int]) -> Memory | None:
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
    check_memory_fits(given, request.model)
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


def _sampler_settings(request: KeyframeRequest, family: ImageFamily) -> SamplerSettings:
    name = request.sampler_name
    own = None
    if isinstance(family, VideoImages):
        capabilities = family.family.capabilities(request.model)
        own = capabilities.own_sampler
        if not capabilities.guidance and request.cfg != 1.0:
            raise ValueError(
                f"{family.name} samples without guidance: cfg must be 1, got {request.cfg:g}"
            )
    if request.sampler is None and own is not None and name != own:
        raise ValueError(f"{family.name} needs the sampler '{own}', got sampler_name '{name}'")
    if request.sampler is None and own is None and name == "ar_video":
        raise ValueError(f"sampler_name 'ar_video' needs a causal Wan model, got {family.name}")
    if request.sigmas is not None:
        sigmas = check_sigmas(request.sigmas)
    elif request.steps < 1:
        raise ValueError(f"steps must be 1 or more, got {request.steps}")
    else:
        sigmas = schedule_sigmas(request.model, name, request.scheduler, request.steps)
    sampler = request.sampler or comfy.samplers.sampler_object(name)
    return SamplerSettings(sampler=sampler, sigmas=sigmas, cfg=request.cfg)


def _check_groups(steps: Sequence[Sequence[int]], loras: FilmLoras, storyboard: Storyboard) -> None:
    """One sampler call has one set of weights."""
    for step in steps:
        worn = {loras.of_shots[index] if loras.of_shots else () for index in step}
        if len(worn) > 1:
            first, last = storyboard.shots[step[0]].id, storyboard.shots[step[-1]].id
            raise ValueError(
                f"loras must be the same for shots that are drawn together, got different ones in "
                f"shots {first} to {last}: set group_size to 1, or give them the same LoRAs"
            )


def _recall_settings(request: KeyframeRequest) -> RecallSettings:
    return RecallSettings(
        weights=Weights(
            picture=request.weight_picture,
            text=request.weight_text,
            characters=request.weight_characters,
            location=request.weight_location,
            recency=request.weight_recency,
        ),
        gate=request.drift_gate,
        threshold=request.drift_threshold,
    )


def _parameters(
    request: KeyframeRequest, family: ImageFamily, sampler: SamplerSettings
) -> dict[str, Any]:
    """Everything that affects pixels beside the segments' own fields, as JSON data. What is
    recalled is in those: other weights that choose the same pictures change nothing."""
    return {
        KIND: KEYFRAMES,
        "model": fingerprint_model(request.model),
        "vae": fingerprint_vae(request.vae),
        "text_encoder": fingerprint_text_encoder(request.clip),
        "negative": request.negative_prompt,
        "family": family.name,
        "sampler": fingerprint_value(sampler.sampler),
        "sigmas": [float(sigma) for sigma in sampler.sigmas],
        "cfg": request.cfg,
        "guidance": request.guidance,
        "width": request.width,
        "height": request.height,
    }


def _memory_parameters(request: KeyframeRequest, memory: Memory | None) -> dict[str, Any]:
    if memory is None:
        return {}
    said = {"strength": request.memory_strength, "vae": memory.vae_digest}
    return {MEMORY: {**memory.describe(), **said}}


def _warnings(
    request: KeyframeRequest,
    storyboard: Storyboard,
    loras: FilmLoras,
    memory: Memory | None,
    references: References,
) -> tuple[str, ...]:
    follows = (*FOLLOWED, *loras.follows, *(("strength",) if memory is not None else ()))
    untrained = memory is not None and not memory.trained and request.reference_mode != NONE
    return (
        *((UNTRAINED,) if untrained else ()),
        *storyboard.warnings,
        *references.notes,
        *ignored_settings(storyboard, follows),
        *missing_loras(memory, [request.model]),
    )
