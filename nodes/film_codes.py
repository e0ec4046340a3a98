"""A film's coarse plan as codes: before each segment it is planned from all that was really made.

Shared design `hierarchical-latents.md`, section 7.4: the planner makes coarse codes, a level of
them is decoded to the guide of the segment, and the codes of the finished segment take the place of
the planned ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import comfy.model_management
import torch
from torch import Tensor

from ..adapters.family import Conditioning
from ..adapters.hierarchy_value import picture_marks
from ..memory.hierarchy import CellState, Hierarchy, HierarchyGrid
from ..memory.hierarchy_sampling import Denoising, plan_chunk
from ..planning.film_plan import needed_steps, shot_places, windows_of
from ..planning.segments import Segment
from .coarse_plan_value import TEXT, Planner
from .film_memory import ReadLatent

if TYPE_CHECKING:
    from .film import Film

KnownOf = Callable[[Segment], Tensor | None]
"""The latent frames b c k h w that a picture or a latent gives a segment."""


class FilmCodes:
    """Plans the guides of a film's segments; the codes of finished ones are kept while a plan looks
    back at them, and are made from the run folder whenever they are not there.

    `read` gives the latent of a finished segment, `known` what a segment begins with where that is
    no tail, `positive` encodes its prompt.
    """

    def __init__(
        self,
        film: Film,
        planner: Planner,
        read: ReadLatent,
        known: KnownOf,
        positive: Callable[[Segment], Conditioning],
    ) -> None:
        self._film, self._planner = film, planner
        self._read, self._known, self._positive = read, known, positive
        self._format = film.request.model.get_model_object("latent_format")
        self._windows = windows_of(film.segments)
        self._places = shot_places(film.segments)
        self._marks = self._pictures()
        self._finished: dict[int, Hierarchy] = {}

    def guide(self, segment: Segment) -> Tensor:
        """The guide b c t h w of a segment in the VAE's space, zeros where it begins with what it
        was handed or given. All segments that its plan looks back at must be finished."""
        rollout, window = self._planner.rollout, self._windows[segment.index]
        base = max(0, window.new - rollout.history)
        end = min(window.new + rollout.chunk, self._windows[-1].stop)
        codes = self._history(segment, base, end)
        loaded = self._planner.loaded
        told = self._conditions(base, end)
        comfy.model_management.load_models_gpu([loaded.patcher])
        steps = needed_steps(rollout, window.new - base, window.stop - base, end - base)
        with torch.inference_mode():
            planned = plan_chunk(
                loaded.network,
                codes,
                steps,
                told,
                Denoising(loaded.card.steps, seed=self._film.hierarchy.seed),
                base,
                report=comfy.model_management.throw_exception_if_processing_interrupted,
            )
        return self._decoded(planned, segment, base)

    def _history(self, segment: Segment, base: int, end: int) -> Hierarchy:
        """The codes of [base, end): of finished segments and of what the segment begins with."""
        codes = replace(
            Hierarchy.empty(self._planner.head.head, self._grid(), end - base),
            first=self._marks[base:end],
        )
        kept = {}
        for index in segment.guided_by:
            kept[index] = self._finished.get(index) or self._encoded(
                self._read(index), self._windows[index].start
            )
            earlier = self._windows[index]
            handed = self._film.segments[index].start == "tail"
            first = max(base, earlier.new if handed else earlier.start)
            codes = _written(codes, kept[index], earlier.start, base, first)
        self._finished = kept
        window = self._windows[segment.index]
        known = None if segment.start == "tail" else self._known(segment)
        if known is not None:
            given = self._encoded(known, window.start)
            codes = _written(codes, given, window.start, base, max(base, window.start))
        return codes

    def _encoded(self, latent: Tensor, start: int) -> Hierarchy:
        """Codes of raw latents b c t h w that stand at latent frame `start` of the film."""
        marks = self._marks[start : start + latent.shape[2]]
        return self._planner.head.encode(self._format.process_in(latent.float().cpu()), marks)

    def _decoded(self, codes: Hierarchy, segment: Segment, base: int) -> Tensor:
        window, level = self._windows[segment.index], self._planner.rollout.levels[0]
        cut = slice(window.new - base, window.stop - base)
        made = self._planner.head.decode(
            level, codes.codes[level][None, cut], codes.grid, codes.first[cut]
        )
        guide = torch.zeros(self._film.latent_shape(segment))
        guide[:, :, window.new - window.start :] = self._format.process_out(made)
        return guide

    def _grid(self) -> HierarchyGrid:
        size = self._film.latent_shape(self._film.segments[0])[3:]
        return HierarchyGrid(*size, self._planner.head.levels)

    def _pictures(self) -> Tensor:
        """Which of the film's latent frames hold a single picture, bool `t`."""
        ends = [0, *(window.stop for window in self._windows)]
        parts = [
            picture_marks(window.stop - end, self._format, begins=end == window.chain_start)
            for end, window in zip(ends, self._windows, strict=False)
        ]
        return torch.cat(parts)

    def _conditions(self, base: int, end: int) -> Tensor | None:
        """What the planner is told of the latent frames [base, end), `t k`."""
        loaded = self._planner.loaded
        if loaded.card.reads != TEXT:
            return None
        places = self._places[base:end]
        told = torch.zeros(len(places), loaded.card.config.condition)
        for index in dict.fromkeys(index for index, _ in places):
            rows = [row for row, (of, _) in enumerate(places) if of == index]
            frames = torch.tensor([places[row][1] for row in rows])
            states = self._positive(self._film.segments[index])[0][0]
            told[rows] = loaded.read_text(states, frames)
        return told


def _written(codes: Hierarchy, made: Hierarchy, start: int, base: int, first: int) -> Hierarchy:
    """`codes`, which begin at latent frame `base` of the film, with those of `made`, which begins
    at `start`, from frame `first` on."""
    for level, values in enumerate(made.codes):
        if first < start + len(values):
            codes = codes.with_codes(level, first - base, values[first - start :], CellState.FINAL)
    return codes
