"""From the sampler node's inputs to a film: every check and decision first, then the rendering.

This is the one place where adapters (models) and runs (the folder on disk) meet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

import comfy.samplers
import torch

from ..adapters.families import family_of
from ..adapters.family import Conditioning, Family
from ..adapters.fingerprint import (
    fingerprint_model,
    fingerprint_text_encoder,
    fingerprint_vae,
    fingerprint_value,
)
from ..adapters.geometry import LatentGeometry, check_vae, read_geometry
from ..adapters.sampling import SamplerSettings
from ..adapters.text import check_text
from ..planning.formats import read_storyboard
from ..planning.segments import (
    FilmSettings,
    PromptOf,
    Segment,
    Start,
    parse_takes,
    plan_segments,
)
from ..planning.storyboard import Shot, Storyboard, Transition, video_prompt
from ..planning.storyboard_tiled import tiled_prompt
from .film_hierarchy import FilmHierarchy, plan_hierarchy
from .film_keyframes import FilmKeyframes, describe_keyframes, plan_keyframes
from .film_loras import FilmLoras, film_warnings, plan_loras
from .film_memory import FilmMemory, plan_memory
from .film_sampler import check_choice, low_noise_parameters, sampler_settings
from .film_start import check_start, latent_frames_of, segment_latent_frames, tail_latent_frames
from .keyframe_value import Keyframes

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

SHOT_PROMPTS = ("each shot alone", "scene caption in front")
"""What the widget `shot_prompts` offers; the second are Captain Cinema's tiled captions."""

CFG_LIMIT = 100.0
"""The range of ComfyUI's own cfg widgets."""


@dataclass(frozen=True, kw_only=True)
class FilmRequest:
    """The inputs of ThroughlineARSegmentSampler, as they come from the graph.

    `start_image` is [frames, height, width, 3] in 0..1; `start_latent` ComfyUI's LATENT.
    `segment_frames` and `tail_latent_frames` of 0 leave the choice to the model's family.
    """

    model: ModelPatcher
    vae: VAE
    clip: CLIP | None
    positive: Conditioning | None
    negative: Conditioning | None
    clip_vision_output: Any | None
    start_image: torch.Tensor | None
    start_latent: dict[str, Any] | None
    storyboard: Storyboard | None
    script: str
    negative_prompt: str
    width: int
    height: int
    seconds_per_shot: float
    fps: float
    unmarked_shots: str
    segment_frames: int
    tail_latent_frames: int
    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    sigmas: torch.Tensor | None
    sampler: comfy.samplers.KSAMPLER | None
    run_name: str
    retakes: str
    memory: Any | None
    plan: Any | None
    low_noise_model: ModelPatcher | None
    switch_sigma: float | None
    start_latent_input: str | None
    loras: Any | None
    memory_strength: float | None
    keyframes: Keyframes | None
    keyframe_use: str | None
    shot_prompts: str | None
    coarse_plan: Any | None

    @property
    def latent_input(self) -> str:
        """What the node calls the input `start_latent`."""
        return self.start_latent_input or "start_latent"


def film_request(inputs: Mapping[str, Any]) -> FilmRequest:
    """The request of a node's `execute`; optional inputs that are not connected become None."""
    values: dict[str, Any] = {field.name: inputs.get(field.name) for field in fields(FilmRequest)}
    return FilmRequest(**values)


@dataclass(frozen=True, kw_only=True)
class Film:
    """A planned film: nothing is sampled yet, and nothing can be refused any more.

    `fps` is the storyboard's where it says one, else the node's. `notes` and `warnings` are
    sentences.
    """

    request: FilmRequest
    storyboard: Storyboard
    family: Family
    geometry: LatentGeometry
    sampler: SamplerSettings
    segments: tuple[Segment, ...]
    fps: float
    parameters: dict[str, Any]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    loras: FilmLoras = FilmLoras()
    memory: FilmMemory = FilmMemory()
    keyframes: FilmKeyframes = FilmKeyframes()
    hierarchy: FilmHierarchy = FilmHierarchy()

    def latent_shape(self, segment: Segment) -> tuple[int, int, int, int, int]:
        return self.geometry.latent_shape(
            segment.latent_frames, self.request.height, self.request.width
        )


def plan_film(request: FilmRequest, any_sampler: bool = False, any_end: bool = False) -> Film:
    """Check every input and plan the segments. Raises ValueError naming input, rule and value.

    `any_sampler`: who asks samples in a way of its own, so that a family's own sampler is no rule.
    `any_end`: who asks puts the pictures that segments end on in place, so that models which do not
    end on one are none either.
    """
    if request.plan is not None:
        raise ValueError(
            "plan is filled by Populate segments: connect it there, got "
            f"{type(request.plan).__name__}"
        )
    family = family_of(request.model)
    capabilities = family.capabilities(request.model)
    if any_sampler:
        capabilities = replace(capabilities, own_sampler=None, guidance=True)
    if any_end:
        capabilities = replace(capabilities, end_frame=True)
    geometry = read_geometry(request.model)
    check_vae(geometry, request.vae)
    latent_size = geometry.latent_shape(1, request.height, request.width)[-2:]
    check_texts(request)
    start, first_known = check_start(request, capabilities, geometry, family)
    sampler = sampler_settings(request, capabilities, family)
    storyboard = _storyboard(request)
    keyframes = plan_keyframes(request, storyboard, family, capabilities)
    fps = storyboard.fps or request.fps
    longest = segment_latent_frames(request, capabilities, geometry)
    segments = plan_segments(
        storyboard,
        FilmSettings(
            fps=fps,
            grid=geometry.grid,
            segment_latent_frames=longest,
            tail_latent_frames=tail_latent_frames(request, capabilities, family),
            seconds_per_shot=request.seconds_per_shot,
            unmarked_shots=cast(Transition, request.unmarked_shots),
            seed=request.seed,
            first_start=start,
            first_known_latent_frames=first_known,
            takes=parse_takes(request.retakes),
            keyframes=keyframes.plan,
            prompt_of=_prompt_of(request),
        ),
    )
    loras = plan_loras(request.loras, storyboard, request.model, request.low_noise_model)
    models = [one for one in (request.model, request.low_noise_model) if one is not None]
    memory, segments = plan_memory(
        request.memory, request.memory_strength, segments, models, latent_size, keyframes
    )
    hierarchy, segments = plan_hierarchy(
        request.coarse_plan,
        request.seed,
        segments,
        request.model,
        family,
        capabilities,
        geometry,
        (longest, request.height, request.width),
    )
    notes, warnings = describe_keyframes(
        keyframes, storyboard, segments, family, capabilities.end_frame
    )
    with_loras = loras.parameters(segments)
    return Film(
        request=request,
        storyboard=storyboard,
        family=family,
        geometry=geometry,
        sampler=sampler,
        segments=segments,
        fps=fps,
        parameters={
            **_parameters(request, family, sampler, start),
            **with_loras,
            **memory.parameters(),
            **keyframes.parameters(segments),
            **hierarchy.parameters(segments, geometry, with_loras),
        },
        notes=(*notes, *hierarchy.describe()),
        warnings=(
            *film_warnings(storyboard, loras, memory.memory, models, keyframes.follows),
            *warnings,
        ),
        loras=loras,
        memory=memory,
        keyframes=keyframes,
        hierarchy=hierarchy,
    )


def plan_segment(inputs: Mapping[str, Any]) -> Film:
    """ThroughlineSegment's inputs as a film of one shot of exactly one segment."""
    model, previous = inputs["model"], inputs.get("previous")
    grid = read_geometry(model).grid
    family = family_of(model)
    request = film_request(
        {
            **inputs,
            "start_latent": previous,
            "start_latent_input": "previous",
            "script": "",
            "negative_prompt": "",
            "fps": float(grid.frames_per_latent),
            "seconds_per_shot": 1.0,
            "unmarked_shots": "continue",
            "run_name": "",
            "retakes": "",
        }
    )
    new = new_latent_frames(request, family.capabilities(model).segment_latent_frames)
    shot = Shot(id="1", caption="one segment", seconds=float(new))
    return plan_film(replace(request, storyboard=Storyboard(shots=(shot,))))


def new_latent_frames(request: FilmRequest, trained: int) -> int:
    """Latent frames that a film of exactly one segment makes behind those it starts from; `trained`
    are those of a segment whose length is not given. Raises ValueError where none are left."""
    family = family_of(request.model)
    geometry = read_geometry(request.model)
    capabilities = family.capabilities(request.model)
    _, known = check_start(request, capabilities, geometry, family)
    whole = trained
    if request.segment_frames:
        whole = latent_frames_of(geometry.grid, request.segment_frames, "segment_frames")
    if whole <= known:
        raise ValueError(
            f"segment_frames must be more than the {geometry.grid.frames(known)} frames it starts "
            f"from, got {request.segment_frames}"
        )
    return whole - known


def _storyboard(request: FilmRequest) -> Storyboard:
    check_choice("unmarked_shots", request.unmarked_shots, ("continue", "cut"))
    given: object = request.storyboard
    if given is None and isinstance(request.keyframes, Keyframes):
        return request.keyframes.storyboard
    if given is None:
        return read_storyboard(request.script, request.fps)
    if not isinstance(given, Storyboard):
        raise ValueError(f"storyboard must come from a Storyboard node, got {type(given).__name__}")
    return given


def _prompt_of(request: FilmRequest) -> PromptOf:
    """How a shot's prompt is made from the storyboard."""
    chosen = request.shot_prompts or SHOT_PROMPTS[0]
    check_choice("shot_prompts", chosen, SHOT_PROMPTS)
    return video_prompt if chosen == SHOT_PROMPTS[0] else tiled_prompt


def check_texts(request: FilmRequest) -> None:
    """Raises ValueError where prompts, conditionings and cfg do not fit together."""
    if request.clip is None and request.positive is None:
        raise ValueError("clip or positive must be connected, got neither")
    if request.clip is not None and request.positive is not None:
        raise ValueError(
            "clip or positive must be connected, got both: clip encodes a prompt per shot, "
            "positive is one conditioning for all of them"
        )
    if not (math.isfinite(request.cfg) and 0.0 <= request.cfg <= CFG_LIMIT):
        raise ValueError(f"cfg must be 0 to {CFG_LIMIT:g}, got {request.cfg}")
    if request.clip is None and request.negative is None and request.cfg != 1.0:
        raise ValueError(
            f"negative must be connected when positive is and cfg is not 1, got cfg {request.cfg:g}"
        )
    for name, conditioning in (("positive", request.positive), ("negative", request.negative)):
        if conditioning is not None:
            check_text(request.model, conditioning, name)


def _parameters(
    request: FilmRequest, family: Family, sampler: SamplerSettings, start: Start
) -> dict[str, Any]:
    """Everything that affects pixels beside the segments' own fields, as JSON data."""
    starts = {
        "image": request.start_image,
        "latent": (request.start_latent or {}).get("samples"),
    }
    return {
        "model": fingerprint_model(request.model),
        **low_noise_parameters(sampler),
        "vae": fingerprint_vae(request.vae),
        "text_encoder": fingerprint_text_encoder(request.clip) if request.clip else None,
        "positive": fingerprint_value(request.positive),
        "negative": fingerprint_value(request.negative or request.negative_prompt),
        "clip_vision_output": fingerprint_value(request.clip_vision_output),
        "family": family.name,
        "sampler": fingerprint_value(sampler.sampler),
        "sigmas": [float(sigma) for sigma in sampler.sigmas],
        "cfg": request.cfg,
        "width": request.width,
        "height": request.height,
        "starts": {start: fingerprint_value(starts[start])} if start in starts else {},
    }
