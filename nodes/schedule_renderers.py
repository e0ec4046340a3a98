"""The renderers of plans and fills as an Adaptive schedule needs them."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..adapters.device_executor import HostLock, on_device
from ..runs.folder import RunFolder
from ..runs.render import RenderedSegment
from .film_progress import FilmProgress
from .macro_plan import MacroFilm, PlanRenderer
from .schedule_crew import PartOfBar
from .scheduling import Task


def beside_others(macro: MacroFilm, lock: HostLock) -> MacroFilm:
    """The film with models that let go of the lock while they sample, so that others may fill."""
    film = macro.film
    request = film.request
    model = on_device(request.model, request.model.load_device, lock, "model", own=False)
    low_noise = request.low_noise_model
    if low_noise is not None:
        device = low_noise.load_device
        low_noise = on_device(low_noise, device, lock, "low_noise_model", own=False)
    request = replace(request, model=model, low_noise_model=low_noise)
    sampler = replace(film.sampler, low_noise_model=low_noise)
    return replace(macro, film=replace(film, request=request, sampler=sampler))


class ScheduledPlans(PlanRenderer):
    """Plans segments when the schedule says so. `ready` are starts that are handed over already."""

    def __init__(
        self,
        macro: MacroFilm,
        task: Task,
        folder: RunFolder,
        to_make: frozenset[int],
        bar: PartOfBar,
    ) -> None:
        node_id = task.population.plan.node_id  # type: ignore[attr-defined]  # it is promised
        super().__init__(macro, node_id, to_make, folder.read_segment)
        self._progress = bar
        self.ready: dict[int, torch.Tensor] = {}

    def plan(self, index: int) -> RenderedSegment:
        """The anchors of a segment of which the one before is planned."""
        segment = self._macro.stored[index]
        known = None
        if segment.start != "tail" and segment.known_latent_frames:
            known = self.first_known(segment)
        return self.render(segment, known)

    def hand_off(self, index: int) -> torch.Tensor:
        """What segment `index` starts from, b c 2 h w."""
        return super()._handed(index)

    def _handed(self, index: int) -> torch.Tensor:
        ready = self.ready.pop(index, None)
        return super()._handed(index) if ready is None else ready


class FillProgress(FilmProgress):
    """The progress of fills as a part of that of a schedule."""

    def __init__(self, task: Task, to_make: frozenset[int], bar: PartOfBar) -> None:
        super().__init__(task.population.film, task.fills.node_id, to_make)
        self._bar = bar
