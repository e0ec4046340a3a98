"""The coarse plan of a film: decided before anything is sampled, made while the film is.

Mode M1 of the shared design `hierarchical-latents.md`, section 7.4: a plan, then the unmodified
video model refines segments by it, and what was really made is what the next plan sees. Without a
planner the plan is a small clip of the video model itself (film_small_clip), with one it is codes
(film_codes).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..adapters.family import Capabilities, Family
from ..adapters.fingerprint import fingerprint_value
from ..adapters.geometry import LatentGeometry
from ..adapters.guide import check_guide, small_size
from ..adapters.hierarchy_weights import check_latent_format
from ..memory.hierarchy import HierarchyGrid
from ..planning.film_plan import (
    Stretch,
    check_room,
    clip_places,
    seen_segments,
    shot_places,
    stretches,
    windows_of,
)
from ..planning.segments import SEED_RANGE, Segment
from ..runs.keys import GUIDE, LORAS
from .coarse_plan_value import CoarsePlan, Planner

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


@dataclass(frozen=True, kw_only=True)
class FilmHierarchy:
    """Which segments follow which coarse plan; `plan` is None for a film without.

    `seed` is the film's; a plan's own follows from it and from where the plan begins.
    """

    plan: CoarsePlan | None = None
    seed: int = 0
    stretches: tuple[Stretch, ...] = ()
    small: tuple[int, int] = (0, 0)

    def stretch_of(self, index: int) -> Stretch | None:
        return next((one for one in self.stretches if index in one.segments), None)

    def sampler_calls(self, segments: Collection[int]) -> int:
        """Times that the video model samples to make these segments and the plans they follow."""
        plans = {one for i in segments if (one := self.stretch_of(i)) is not None}
        return len(segments) + len(plans)

    def seed_of(self, first: int) -> int:
        """The seed of the plan that begins with segment `first`; no retake changes it."""
        return (self.seed + first) % SEED_RANGE

    def parameters(
        self, segments: Sequence[Segment], geometry: LatentGeometry, loras: dict[str, Any]
    ) -> dict[str, Any]:
        """The entry of the run's parameters: by segment, what its guide follows from.

        `loras` is the film's own entry. What a plan sees of earlier segments is in their keys.
        """
        if self.plan is None:
            return {}
        said = {"start_noise": self.plan.start_noise, "guide_as": self.plan.guide_as}
        if self.plan.planner is not None:
            entries = self._codes(self.plan.planner, segments)
        else:
            entries = self._small_clips(segments, geometry, loras.get(LORAS, {}))
        told = {str(index): {**said, **entry} for index, entry in entries.items()}
        return {GUIDE: told} if told else {}

    def describe(self) -> tuple[str, ...]:
        """What an artist is told of it, in sentences."""
        if self.plan is None:
            return ()
        if self.plan.planner is not None:
            ahead = self.plan.planner.rollout.chunk
            return (f"each segment is planned with up to {ahead} latent frames ahead",)
        if not self.stretches:
            return ("no segment follows a coarse plan: no chain has two segments",)
        return tuple(
            f"{_numbers(one.segments)} follow one clip of {one.latent_frames} latent frames at "
            f"{self.small[1]} x {self.small[0]} pixels, one frame in {one.every}"
            for one in self.stretches
        )

    def _small_clips(
        self, segments: Sequence[Segment], geometry: LatentGeometry, loras: dict[str, Any]
    ) -> dict[int, dict[str, Any]]:
        windows, entries = windows_of(segments), {}
        for stretch in self.stretches:
            shared = {
                "clip": [*self.small, stretch.latent_frames, stretch.every],
                "texts": [[segments[i].prompt, segments[i].negative] for i in stretch.segments],
                "start": segments[stretch.first].start,
                "loras": loras.get(str(stretch.first), []),
                "seed": self.seed_of(stretch.first),
            }
            for index in stretch.segments:
                place = clip_places(stretch, windows[index], geometry.grid)[0]
                entries[index] = {**shared, "from": place}
        return entries

    def _codes(self, planner: Planner, segments: Sequence[Segment]) -> dict[int, dict[str, Any]]:
        windows, places, entries = windows_of(segments), shot_places(segments), {}
        shared = {"planner": planner.loaded.digest, "head": planner.head.name, "seed": self.seed}
        for window in windows:
            first = max(0, window.new - planner.rollout.history)
            told = places[first : window.new + planner.rollout.chunk]
            texts = fingerprint_value([[segments[i].prompt, place] for i, place in told])
            entries[window.segment] = {**shared, "told": texts}
        return entries


def plan_hierarchy(
    given: object,
    seed: int,
    segments: Sequence[Segment],
    model: ModelPatcher,
    family: Family,
    capabilities: Capabilities,
    geometry: LatentGeometry,
    size: tuple[int, int, int],
) -> tuple[FilmHierarchy, tuple[Segment, ...]]:
    """Read the input `coarse_plan` and decide which segments follow what.

    `size` is the latent frames of the film's longest segment, then height and width in pixels.
    Raises ValueError for another value, a model that no guide can enter, a planner of another
    model's codes, and segments that no plan can hold.
    """
    if given is None:
        return FilmHierarchy(), tuple(segments)
    if not isinstance(given, CoarsePlan):
        raise ValueError(
            f"coarse_plan must come from a Coarse plan node, got {type(given).__name__}"
        )
    check_guide(family, capabilities, given.as_control)
    if given.planner is None:
        longest, height, width = size
        hierarchy = FilmHierarchy(
            plan=given,
            seed=seed,
            stretches=stretches(segments, geometry.grid, longest),
            small=small_size(height, width, geometry.pixels_per_latent),
        )
        return hierarchy, tuple(segments)
    _check_planner(given.planner, model, geometry.latent_shape(*size)[3:])
    rollout, needed = given.planner.rollout, given.planner.loaded.card.least_history
    check_room(segments, rollout)
    windows = windows_of(segments)
    if windows[0].new < needed:
        raise ValueError(
            f"hierarchy_planner needs {needed} latent frames before what it plans, the film begins "
            f"with {windows[0].new}: choose one that was trained to begin a film"
        )
    guided = tuple(
        replace(one, guided_by=seen_segments(windows, one.index, rollout)) for one in segments
    )
    return FilmHierarchy(plan=given, seed=seed), guided


def _check_planner(planner: Planner, model: ModelPatcher, cells: tuple[int, int]) -> None:
    """Raises ValueError for a planner of another VAE's latents and for a film too small for it."""
    latent_format = model.get_model_object("latent_format")
    check_latent_format(planner.loaded.card.latent_format, latent_format, "hierarchy_planner")
    HierarchyGrid(*cells, planner.head.levels)


def _numbers(segments: range) -> str:
    """Segments as an artist counts them."""
    return f"segments {segments[0] + 1} to {segments[-1] + 1}"
