"""From the populate node's inputs to filled segments: decided first, then sampled one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..adapters.families import family_of
from ..adapters.family import Family
from ..adapters.filler import check_filler, encode_known, filler_of, pasted_clip
from ..adapters.fingerprint import (
    fingerprint_model,
    fingerprint_text_encoder,
    fingerprint_vae,
    fingerprint_value,
)
from ..adapters.geometry import check_vae, read_geometry
from ..adapters.sampling import sample_given
from ..adapters.sparse_sampling import sample_groups
from ..adapters.sparse_wan import check_sparse_model
from ..adapters.wan_causal import WanCausal
from ..planning.layout import HANDED, block_by_block
from ..planning.macro import MacroSegment
from ..planning.segments import SEED_RANGE, TAKE_STRIDE, Segment, parse_takes
from ..runs.keys import FILL, KIND, PLANNED
from ..runs.render import RenderedSegment
from .film import Film, check_texts, film_request
from .film_loras import film_warnings, plan_loras
from .film_progress import TellStep
from .film_sampler import check_choice, low_noise_parameters, sampler_settings
from .macro_plan import as_one
from .plan_value import Plan, PromisedPlan
from .rendering import FilmRenderer, describe_film, preview_jpeg
from .widgets import LEAVE

BETWEEN, SPARSE = "between the anchors", "sparse (MMPL weights)"
CONTINUING = "continue to the anchors"
CAUSAL = "block by block (causal weights)"
FILLERS = (BETWEEN, SPARSE, CONTINUING, CAUSAL)
IN_GROUPS = (SPARSE, CAUSAL)
"""Fillers that make one group of latent frames after another, reading what is finished."""


@dataclass(frozen=True, kw_only=True)
class Population:
    """A plan that will be filled; `film.segments` are the filled ones."""

    film: Film
    plan: Plan
    filler: str
    plan_vae: Any

    @property
    def exchanges_pixels(self) -> bool:
        """Whether the plan's latents are another VAE's than the filler's."""
        return self.film.parameters["vae"] != self.plan.vae


def plan_population(inputs: Mapping[str, Any], scheduled: bool = False) -> Population:
    """Check every input and decide the fills. Raises ValueError naming input, rule and value.

    `scheduled`: a schedule runs them, which can make a promised plan, too.
    """
    plan: object = inputs["plan"]
    if not isinstance(plan, Plan):
        raise ValueError(f"plan must come from a Plan film node, got {type(plan).__name__}")
    if not isinstance(plan, PromisedPlan):
        plan.run.require_finished()
    elif not scheduled:
        raise ValueError(
            f"plan is left to a schedule: choose {LEAVE!r} here, too, and connect fills to an "
            "Adaptive schedule node"
        )
    check_choice("filler", inputs["filler"], FILLERS)
    request = film_request(
        {
            **{name: value for name, value in inputs.items() if name != "plan"},
            "storyboard": plan.storyboard,
            "script": "",
            "width": plan.width,
            "height": plan.height,
            "fps": plan.fps,
            "seconds_per_shot": 1.0,
            "unmarked_shots": "continue",
            "segment_frames": 0,
            "tail_latent_frames": HANDED,
        }
    )
    family = family_of(request.model)
    geometry = read_geometry(request.model)
    check_vae(geometry, request.vae)
    if inputs["filler"] in IN_GROUPS:
        _check_groups(inputs["filler"], family, request.model, request.low_noise_model)
    else:
        check_filler(family)
    check_texts(request)
    capabilities = family.capabilities(request.model)
    if inputs["filler"] in IN_GROUPS:
        capabilities = replace(capabilities, own_sampler=None, guidance=True)
    sampler = sampler_settings(request, capabilities, family)
    if geometry.grid != plan.grid:
        raise ValueError(
            f"model must have the plan's frame grid ({plan.grid.frames_per_latent} frames to a "
            f"latent frame), got {geometry.grid.frames_per_latent}"
        )
    segments = _segments(plan, request.seed, parse_takes(request.retakes))
    vae, plan_vae = fingerprint_vae(request.vae), inputs.get("plan_vae")
    _check_exchange(plan, vae, plan_vae, inputs["filler"])
    loras = plan_loras(request.loras, plan.storyboard, request.model, request.low_noise_model)
    models = [one for one in (request.model, request.low_noise_model) if one is not None]
    film = Film(
        request=request,
        storyboard=plan.storyboard,
        family=family,
        geometry=geometry,
        sampler=sampler,
        segments=segments,
        fps=plan.fps,
        parameters={
            KIND: FILL,
            "filler": inputs["filler"],
            "model": fingerprint_model(request.model),
            **low_noise_parameters(sampler),
            "vae": vae,
            "text_encoder": fingerprint_text_encoder(request.clip) if request.clip else None,
            "positive": fingerprint_value(request.positive),
            "negative": fingerprint_value(request.negative or request.negative_prompt),
            "clip_vision_output": fingerprint_value(request.clip_vision_output),
            "sampler": fingerprint_value(sampler.sampler),
            "sigmas": [float(sigma) for sigma in sampler.sigmas],
            "cfg": request.cfg,
            "width": plan.width,
            "height": plan.height,
            **loras.parameters(segments),
            PLANNED: _planned(plan),
        },
        warnings=film_warnings(plan.storyboard, loras, None, models, ()),
        loras=loras,
    )
    return Population(film=film, plan=plan, filler=inputs["filler"], plan_vae=plan_vae)


def _check_groups(filler: str, family: Family, model: Any, low_noise_model: Any) -> None:
    """Raises ValueError for models that cannot fill in groups, or not in such ones."""
    check_sparse_model(model)
    if filler == CAUSAL and not isinstance(family, WanCausal):
        raise ValueError(
            f"model must be causal Wan (Self-Forcing, Causal-Forcing) for filler {CAUSAL!r}, got "
            f"{family.name}: choose {BETWEEN!r}"
        )
    if low_noise_model is not None:
        raise ValueError(
            f"filler {filler!r} takes one model, got a low_noise_model as well: disconnect it"
        )


def _planned(plan: Plan) -> dict[str, list[Any]]:
    """What each fill follows: the plan's anchors, by content, and their places."""
    return {
        str(place): followed(one, record.content)
        for place, (one, record) in enumerate(zip(plan.segments, plan.run.segments, strict=True))
    }


def followed(one: MacroSegment, content: str | None) -> list[Any]:
    """What the fill of a segment follows; `content` is its plan's, None while that is not made."""
    return [content, one.layout.name, one.layout.latent_frames]


def _segments(plan: Plan, seed: int, takes: Mapping[int, int]) -> tuple[Segment, ...]:
    """The filled segments: each stands alone, and shares its first frames with the one before
    where the plan handed them on."""
    surplus = sorted(index + 1 for index in takes if index >= len(plan.segments))
    if surplus:
        raise ValueError(f"retakes name segments 1 to {len(plan.segments)} only, got {surplus[0]}")
    segments = []
    for one in plan.segments:
        planned, take = one.segment, takes.get(one.segment.index, 0)
        segments.append(
            replace(
                planned,
                start="plan",
                latent_frames=one.kept_latent_frames,
                known_latent_frames=HANDED if planned.start == "tail" else 0,
                seed=(seed + planned.index + take * TAKE_STRIDE) % SEED_RANGE,
                take=take,
                recalls=None,
                start_keyframe=None,
                end_keyframe=None,
                context_keyframes=(),
            )
        )
    return tuple(segments)


def _check_exchange(plan: Plan, vae: str, plan_vae: Any, filler: str) -> None:
    """The plan's latents fit the filler, or the VAE is there that turns them into pictures."""
    if vae == plan.vae:
        return
    if filler in IN_GROUPS:
        raise ValueError(f"filler {filler!r} needs the VAE that the plan was made with")
    if plan_vae is None:
        raise ValueError(
            "vae is another one than the plan's: connect the plan's VAE to plan_vae, so that its "
            "anchors can be shown to this model as pictures"
        )
    if fingerprint_vae(plan_vae) != plan.vae:
        raise ValueError("plan_vae must be the VAE that the plan was made with, got another one")


def describe_population(population: Population, node_id: str) -> str:
    """What queueing would fill and why, without filling or writing anything."""
    return describe_film(population.film, node_id)


def _no_latent(index: int) -> torch.Tensor:
    raise AssertionError(f"a filled segment reads no other one, and asked for {index + 1}")


class FillRenderer(FilmRenderer):
    """Fills segments, in any order: none depends on another. `tell` is told of each step, and may
    raise to break off."""

    def __init__(self, population: Population, to_make: frozenset[int], tell: TellStep) -> None:
        super().__init__(population.film, "", to_make, _no_latent)
        self._population, self._tell_step = population, tell

    def fill(self, index: int) -> RenderedSegment:
        """The filled segment of this index."""
        population, segment = self._population, self._film.segments[index]
        one = population.plan.segments[index]
        anchors = self._anchors(segment)
        if population.filler in IN_GROUPS:
            latent = self._in_groups(segment, anchors)
        else:
            latent = self._between(segment, anchors)
        kept = latent[:, :, : one.kept_latent_frames]
        return RenderedSegment(
            latent=kept, preview=preview_jpeg(self._film.request.vae, kept, segment)
        )

    def _anchors(self, segment: Segment) -> dict[int, torch.Tensor]:
        """Known latent frames by place, in the filler's own latents."""
        population = self._population
        anchors = population.plan.anchors(segment.index)
        if not population.exchanges_pixels:
            return anchors
        length = population.plan.segments[segment.index].layout.latent_frames
        clip = pasted_clip(population.plan_vae, anchors, length)
        return encode_known(self._film.request.vae, clip, sorted(anchors))

    def _tell(self, segment: Segment, step: int, done: int, picture: Any) -> None:
        self._tell_step(segment, step, picture)

    def _between(self, segment: Segment, anchors: dict[int, torch.Tensor]) -> torch.Tensor:
        """One call over what is kept of the segment, the known frames in their places."""
        film, length = self._film, segment.latent_frames
        known = {place: latent for place, latent in anchors.items() if place < length}
        return sample_given(
            filler_of(
                film.family,
                film.request.vae,
                known,
                length,
                shows_anchors=self._population.filler != CONTINUING,
            ),
            self._loras.model,
            self._positive(segment),
            self._negative(segment),
            replace(film.sampler, low_noise_model=self._loras.low_noise_model),
            film.latent_shape(segment),
            [(slice(place, place + 1), latent) for place, latent in known.items()],
            segment.seed,
            self._step_callback(segment, 0),
            self._loras.dress(film.loras.of(segment)),
        )

    def _in_groups(self, segment: Segment, anchors: dict[int, torch.Tensor]) -> torch.Tensor:
        """The fills of the layout, or a causal model's blocks, in turn, as far as they are kept."""
        film = self._film
        one = self._population.plan.segments[segment.index]
        layout = one.layout
        if self._population.filler == CAUSAL:
            layout = block_by_block(layout)
        model, positive, negative = self.dressed(segment)
        whole = replace(segment, latent_frames=layout.latent_frames)
        latents = sample_groups(
            model,
            layout,
            anchors,
            positive,
            negative,
            film.sampler,
            film.latent_shape(whole),
            segment.seed,
            callback=as_one(self._step_callback(segment, 0), film.sampler.steps),
            until=one.kept_latent_frames,
        )
        return torch.cat([latents[i] for i in range(one.kept_latent_frames)], dim=2)
