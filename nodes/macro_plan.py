"""From the macro plan node's inputs to the anchors of a film: decided first, then sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image

from ..adapters.families import family_of
from ..adapters.geometry import read_geometry
from ..adapters.hand_off import hand_over
from ..adapters.keyframe_latents import end_latent
from ..adapters.sampling import StepCallback
from ..adapters.sparse_sampling import sample_groups
from ..adapters.sparse_wan import check_sparse_model
from ..planning.anchor_pictures import place_id, with_pictures
from ..planning.layout import (
    HANDED,
    Layout,
    middle_anchors,
    preset_layouts,
    split_start,
)
from ..planning.macro import (
    MacroSegment,
    film_frames,
    hand_off,
    latent_hand_off,
    macro_segments,
)
from ..planning.schedule import SeedFrom
from ..planning.segments import Segment
from ..runs.contact_sheet import contact_sheet
from ..runs.folder import RunFolder
from ..runs.keys import KIND, PLAN, PLANNED
from ..runs.render import RenderedSegment, render_run
from ..runs.run import Run
from .anchor_pictures import AnchorPictures, given_anchors
from .film import Film, film_request, plan_film
from .film_keyframes import START, START_AND_END
from .film_memory import ReadLatent
from .film_sampler import check_choice
from .plan_value import Plan, PromisedPlan, by_id
from .rendering import FilmRenderer, describe_film, frame_picture, jpeg_bytes, runs_root

if TYPE_CHECKING:
    from comfy.sd import VAE

Planner = Literal["draft", "sparse", "pictures"]
PLANNERS: dict[str, Planner] = {
    "draft, then keep the anchors": "draft",
    "sparse (MMPL weights)": "sparse",
    "pictures alone": "pictures",
}
ENDS = (START, START_AND_END)
"""What a plan does with keyframes: the last ones are anchors of the segments that end on them."""

LAYOUTS = tuple(preset_layouts())
SEEDS_FROM: dict[str, SeedFrom] = {"the end": "terminal", "the middle": "middle"}

SHOWN = 3
"""Frames of a segment on its thumbnail: near the start, in the middle, at the end."""


@dataclass(frozen=True, kw_only=True)
class MacroFilm:
    """A film that will be planned: `film.segments` are what a sampler would make in their place."""

    film: Film
    segments: tuple[MacroSegment, ...]
    planner: Planner
    seed_from: SeedFrom
    pictures: AnchorPictures = AnchorPictures()

    @property
    def stored(self) -> tuple[Segment, ...]:
        """The segments of the run folder: as long as what a plan keeps."""
        return tuple(replace(one.segment, latent_frames=len(one.plan_ids)) for one in self.segments)

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that affects the anchors beside the segments' own fields."""
        return {
            **self.film.parameters,
            KIND: PLAN,
            "planner": self.planner,
            "seed_from": self.seed_from,
            PLANNED: {str(place): self._planned(place) for place in range(len(self.segments))},
        }

    def _planned(self, place: int) -> list[Any]:
        layout, digests = self.segments[place].layout, self.pictures.digests(place)
        return [layout.name, layout.latent_frames, *([digests] if digests else [])]


def plan_macro(inputs: Mapping[str, Any], pictures: AnchorPictures | None = None) -> MacroFilm:
    """Check every input and decide the plan. Raises ValueError naming input, rule and value.

    `pictures` stand instead of the inputs `anchor_images` and `anchor_places`.
    """
    uses = inputs.get("keyframe_use") or START
    check_choice("planner", inputs["planner"], tuple(PLANNERS))
    check_choice("layout", inputs["layout"], LAYOUTS)
    check_choice("seed_from", inputs["seed_from"], tuple(SEEDS_FROM))
    check_choice("keyframe_use", uses, ENDS)
    planner, seed_from = PLANNERS[inputs["planner"]], SEEDS_FROM[inputs["seed_from"]]
    given = given_anchors(inputs) if pictures is None else pictures
    request = film_request(
        {**inputs, "tail_latent_frames": HANDED, "keyframe_use": uses, "plan": None}
    )
    if planner == "sparse":
        check_sparse_model(request.model)
        if request.low_noise_model is not None:
            raise ValueError(
                "planner 'sparse' takes one model, got a low_noise_model as well: disconnect it"
            )
    trained = family_of(request.model).capabilities(request.model).segment_latent_frames
    kept = _with_kept_length(request, seed_from, trained)
    film = plan_film(kept, any_sampler=planner == "sparse", any_end=True)
    given = given.with_keyframes(film)
    segments = macro_segments(
        film.segments, lambda length: _layout(inputs["layout"], length), seed_from, trained
    )
    segments = tuple(_for_start(one) for one in segments)
    segments = with_pictures(segments, given.places, alone=planner == "pictures")
    for one, after in zip(segments, film.segments[1:], strict=False):
        if after.start == "tail" and not one.places:
            hand_off(one.layout, film.geometry.grid, seed_from)
    return MacroFilm(
        film=film,
        segments=segments,
        planner=planner,
        seed_from=seed_from,
        pictures=given,
    )


def _with_kept_length(request: Any, seed_from: SeedFrom, trained: int) -> Any:
    """From the middle on, a segment adds what lies before its middle anchors' end."""
    if seed_from == "terminal" or request.segment_frames:
        return request
    kept = middle_anchors(trained)[-1] + 1
    return replace(request, segment_frames=read_geometry(request.model).grid.frames(kept))


def _layout(name: str, latent_frames: int) -> Layout:
    layouts = preset_layouts(latent_frames)
    if name not in layouts:
        raise ValueError(
            f"layout {name!r} needs longer segments, got {latent_frames} latent frames"
        )
    return layouts[name]


def _for_start(segment: MacroSegment) -> MacroSegment:
    """Where one frame is given, the other that a segment starts from is made behind it."""
    if segment.segment.known_latent_frames != 1:
        return segment
    return replace(segment, layout=split_start(segment.layout))


def describe_macro(macro: MacroFilm, node_id: str) -> str:
    """What queueing the plan would make and why, without making or writing anything."""
    shown = replace(macro.film, segments=macro.stored, parameters=macro.parameters)
    return describe_film(shown, node_id)


def render_macro(macro: MacroFilm, node_id: str) -> tuple[Plan, torch.Tensor, str]:
    """Make the anchors that the run folder lacks; gives the plan, its sheet and a summary."""
    film, request = macro.film, macro.film.request
    stored = macro.stored
    with RunFolder.open(
        runs_root(), request.run_name, macro.parameters, stored, fps=film.fps
    ) as folder:
        to_render = frozenset(state.index for state in folder.state() if state.needs_render)
        renderer = PlanRenderer(macro, node_id, to_render, folder.read_segment)
        rendered = render_run(
            folder, stored, renderer.render, renderer.first_known, renderer.report
        )
        run = folder.run
    return plan_value(macro, run), contact_sheet(run), _summary(macro, len(rendered))


def leave_plan(macro: MacroFilm, inputs: Mapping[str, Any], node_id: str) -> PromisedPlan:
    """The plan with what its run folder has of it; a schedule makes the rest from these inputs."""
    with RunFolder.open(
        runs_root(),
        macro.film.request.run_name,
        macro.parameters,
        macro.stored,
        fps=macro.film.fps,
    ) as folder:
        plan = plan_value(macro, folder.run)
    return PromisedPlan(**vars(plan), inputs=inputs, node_id=node_id)


def plan_value(macro: MacroFilm, run: Run) -> Plan:
    """The plan of a film whose run folder this is."""
    film, request = macro.film, macro.film.request
    return Plan(
        run=run,
        storyboard=film.storyboard,
        segments=macro.segments,
        seed_from=macro.seed_from,
        grid=film.geometry.grid,
        fps=film.fps,
        width=request.width,
        height=request.height,
        vae=film.parameters["vae"],
        channels=film.latent_shape(film.segments[0])[1],
    )


def _summary(macro: MacroFilm, rendered: int) -> str:
    film, count = macro.film, len(macro.segments)
    frames = film_frames(macro.segments, film.geometry.grid)
    lines = [
        f"{film.request.run_name}: {count} segments planned, {rendered} made now, "
        f"{count - rendered} reused from disk",
        f"{frames} frames, {frames / film.fps:.1f} s when they are filled",
        *film.notes,
        *(f"Warning, {warning}" for warning in film.warnings),
    ]
    return "\n".join(lines)


class PlanRenderer(FilmRenderer):
    """Makes the anchors of one segment after the other."""

    def __init__(
        self, macro: MacroFilm, node_id: str, to_render: frozenset[int], read: ReadLatent
    ) -> None:
        super().__init__(macro.film, node_id, to_render, read)
        self._macro, self._read = macro, read

    def render(self, segment: Segment, known: torch.Tensor | None) -> RenderedSegment:
        """`segment` is the stored one; `known` is what a picture gives, a tail is made here."""
        planned = self._macro.segments[segment.index]
        if segment.start == "tail":
            known = self._handed(segment.index)
        if planned.places:
            latents = self._from_pictures(planned, known)
            latent = torch.cat([latents[i] for i in planned.plan_ids], dim=2)
            return RenderedSegment(latent=latent, preview=self._thumbnail(planned, latents))
        sampled = replace(planned.segment, latent_frames=planned.layout.latent_frames)
        if self._macro.planner == "sparse":
            latents = self._sparse(planned, sampled, known)
        else:
            whole = self.sample(sampled, known)
            latents = {i: whole[:, :, i : i + 1] for i in planned.plan_ids}
        latent = torch.cat([latents[i] for i in planned.plan_ids], dim=2)
        return RenderedSegment(latent=latent, preview=self._thumbnail(planned, latents))

    def first_known(self, segment: Segment) -> torch.Tensor | None:
        """As in a film; the end of a latent is encoded anew, its beginning is taken as it is."""
        film = self._macro.film
        if segment.start != "latent":
            return super().first_known(segment)
        assert film.request.start_latent is not None
        samples = film.request.start_latent["samples"].float()
        if samples.shape[2] <= HANDED:
            return samples
        step = latent_hand_off(samples.shape[2], film.geometry.grid)
        frames = dict(enumerate(samples.split(1, dim=2)))
        return hand_over(film.request.vae, frames, step)

    def _handed(self, index: int) -> torch.Tensor:
        """The start of a segment from the anchors of the one before. Where that ends on a picture,
        it is that picture, standing still as long as the two share frames."""
        film, before = self._macro.film, self._macro.segments[index - 1]
        if before.places:
            frames = film.geometry.grid.frames(HANDED)
            still = self._film_pixels(self._macro.pictures.of(index - 1)["end"])
            return film.request.vae.encode(still.expand(frames, -1, -1, -1)).float().cpu()
        anchors = by_id(before, self._read(index - 1))
        step = hand_off(before.layout, film.geometry.grid, self._macro.seed_from)
        return hand_over(film.request.vae, anchors, step)

    def _from_pictures(
        self, planned: MacroSegment, known: torch.Tensor | None
    ) -> dict[int, torch.Tensor]:
        """What a segment starts from, and its pictures where they stand."""
        assert known is not None
        latents = {i: known[:, :, i : i + 1] for i in planned.layout.initial}
        for place, picture in self._macro.pictures.of(planned.segment.index).items():
            pixels = self._film_pixels(picture)
            latents[place_id(place, planned.layout.latent_frames)] = end_latent(
                self._macro.film.request.vae, pixels
            )
        self._progress.update(self._macro.film.sampler.steps)
        return latents

    def _sparse(
        self, planned: MacroSegment, sampled: Segment, known: torch.Tensor | None
    ) -> dict[int, torch.Tensor]:
        film, done = self._macro.film, self._progress.current
        frames = () if known is None else known.split(1, dim=2)
        model, positive, negative = self.dressed(sampled)
        latents = sample_groups(
            model,
            planned.layout,
            dict(enumerate(frames)),
            positive,
            negative,
            film.sampler,
            film.latent_shape(sampled),
            sampled.seed,
            kinds=("initial", "plan"),
            callback=as_one(self._step_callback(sampled, done), film.sampler.steps),
        )
        self._progress.update_absolute(done + film.sampler.steps)
        return latents

    def _thumbnail(self, planned: MacroSegment, latents: Mapping[int, torch.Tensor]) -> bytes:
        """Anchors near the start, in the middle and at the end, side by side; of a segment that is
        planned from pictures what it starts from, too."""
        anchors = planned.plan_ids if planned.places else planned.layout.anchors
        shown = [anchors[round(i * (len(anchors) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
        return jpeg_bytes(side_by_side(self._macro.film.request.vae, [latents[i] for i in shown]))


def as_one(callback: StepCallback, steps: int) -> StepCallback:
    """The steps of several groups told as those of one sampling."""

    def told(step: int, denoised: torch.Tensor, noisy: torch.Tensor, total: int) -> None:
        callback(step * steps // total, denoised, noisy, steps)

    return told


def side_by_side(vae: VAE, latents: Sequence[torch.Tensor]) -> Image.Image:
    """Small pictures of latent frames b c 1 h w in one row."""
    pictures = [frame_picture(vae, latent[:, :, 0]) for latent in latents]
    row = Image.new("RGB", (sum(one.width for one in pictures), pictures[0].height))
    left = 0
    for one in pictures:
        row.paste(one, (left, 0))
        left += one.width
    return row
