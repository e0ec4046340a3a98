"""Fills a plan into its run folder, wherever the user's executor says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_management
import torch

from ..planning.macro import film_frames
from ..planning.schedule import ORDERS
from ..runs.contact_sheet import contact_sheet
from ..runs.executor import Crew, Executor
from ..runs.fill import fill_run
from ..runs.folder import RunFolder
from ..runs.ray_crew import RayCrew
from ..runs.render import RenderedSegment
from ..runs.run import Run
from .crews import fill_crew
from .film_progress import FilmProgress
from .populating import Population
from .ray_fill import Source
from .rendering import runs_root

HERE = Executor(order="depth first")
"""Where nothing is said: this process, segment by segment."""


def render_population(
    population: Population, node_id: str, executor: Executor, prompt: Mapping[str, Any] | None
) -> tuple[Run, torch.Tensor, str]:
    """Fill what the run folder lacks, where `executor` says; gives the run, its sheet and a
    summary. `prompt` is the graph in API form that the node `node_id` stands in."""
    film, crews = population.film, list[Crew[RenderedSegment]]()
    with RunFolder.open(
        runs_root(), film.request.run_name, film.parameters, film.segments, fps=film.fps
    ) as folder:
        to_make = frozenset(state.index for state in folder.state() if state.needs_render)
        progress = FilmProgress(film, node_id, to_make)

        def crew() -> Crew[RenderedSegment]:
            source = Source(prompt=prompt, node_id=node_id)
            crews.append(fill_crew(executor, population, to_make, progress.step, source))
            return crews[0]

        made = fill_run(
            folder,
            film.segments,
            ORDERS[executor.order],
            crew,
            progress.report,
            comfy.model_management.throw_exception_if_processing_interrupted,
        )
        run = folder.run
    count = len(film.segments)
    frames = film_frames(population.plan.segments, population.plan.grid)
    lines = [
        f"{film.request.run_name}: {count} segments, {len(made)} filled now, "
        f"{count - len(made)} reused from disk",
        f"{frames} frames, {frames / film.fps:.1f} s",
        *(f"Warning, {why}" for one in crews if isinstance(one, RayCrew) for why in one.refused),
        *(f"Warning, {warning}" for warning in film.warnings),
    ]
    return run, contact_sheet(run), "\n".join(lines)


def chosen_executor(given: object) -> Executor:
    """The value of the input `executor`, HERE where there is none.

    Raises ValueError for another value.
    """
    if given is None:
        return HERE
    if not isinstance(given, Executor):
        raise ValueError(f"executor must come from an Executor node, got {type(given).__name__}")
    return given
