"""From the keyframe planner's inputs to a planned story: every check before anything is sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import comfy.samplers
import torch

from ..adapters.fingerprint import (
    fingerprint_model,
    fingerprint_text_encoder,
    fingerprint_vae,
    fingerprint_value,
)
from ..adapters.image_family import ImageFamily
from ..adapters.memory_value import Memory
from ..adapters.sampling import SamplerSettings
from ..adapters.video_images import VideoImages
from ..memory.retrieval import Weights
from ..planning.keyframes import KEYFRAMES, KeyframeSegment, keyframe_steps, plan_keyframes
from ..planning.segments import parse_takes
from ..planning.storyboard import Storyboard
from ..planning.storyboard_summary import ignored_settings
from ..runs.keys import KIND, MEMORY
from ..runs.paths import run_path
from .film import CFG_LIMIT
from .film_loras import FilmLoras, missing_loras, plan_loras
from .film_sampler import check_choice, low_noise_parameters
from .keyframe_model import check_image_vae, image_family, story_memory, story_sampler, way_of
from .keyframe_ways import MODES, NONE, REMEMBERED, Way
from .recalling import DRIFT_THRESHOLD, Recaller, RecallSettings
from .reference_files import References, read_references
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

NO_REFERENCES = "this model takes no references: each keyframe is drawn from its words alone"

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
    low_noise_model: ModelPatcher | None
    switch_sigma: float | None

    @property
    def models(self) -> tuple[ModelPatcher, ...]:
        """The model and its second expert, where it has one."""
        return (self.model,) if self.low_noise_model is None else (self.model, self.low_noise_model)


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
    family = image_family(request)
    shape = family.latent_shape(request.model, request.height, request.width)
    check_image_vae(request, family, shape)
    memory = story_memory(request, family, shape)
    if isinstance(family, VideoImages):
        family = family.with_memory(memory, request.memory_strength)
    sampler = story_sampler(request, family)
    way = way_of(request, family)
    segments = plan_keyframes(storyboard, request.seed, parse_takes(request.retakes))
    references = read_references(storyboard)
    loras = plan_loras(request.loras, storyboard, request.model, request.low_noise_model)
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
        warnings=_warnings(request, way, loras, memory, references),
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
    check_choice("reference_mode", request.reference_mode, MODES)


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
        **low_noise_parameters(sampler),
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
    way: Way,
    loras: FilmLoras,
    memory: Memory | None,
    references: References,
) -> tuple[str, ...]:
    remembers = way.name == REMEMBERED
    follows = (*FOLLOWED, *loras.follows, *(("strength",) if remembers else ()))
    said = []
    if remembers and memory is not None and not memory.trained:
        said.append(UNTRAINED)
    if not way.most and request.reference_mode != NONE:
        said.append(NO_REFERENCES)
    return (
        *said,
        *request.storyboard.warnings,
        *references.notes,
        *ignored_settings(request.storyboard, follows),
        *(missing_loras(memory, request.models) if remembers else ()),
    )
