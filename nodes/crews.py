"""Who fills: the devices that the user's executor names, each with a renderer of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch

from ..adapters.device_executor import (
    HostLock,
    check_conditioning,
    device_names,
    devices_here,
    on_device,
)
from ..planning.schedule import Job
from ..planning.segments import Segment
from ..runs.executor import Crew, Executor, Here
from ..runs.render import RenderedSegment
from ..runs.threads import Threads
from .film_progress import TellStep
from .populating import FillRenderer, Population
from .ray_fill import Source, ray_crew


def fill_crew(
    executor: Executor,
    population: Population,
    to_make: frozenset[int],
    tell: TellStep,
    source: Source,
    lock: HostLock | None = None,
) -> Crew[RenderedSegment]:
    """The devices that fill segments; jobs are `Job(index, "fill 1")`, in any order.

    `to_make` are the indices that are expected, `tell` hears of every step. The plan of a segment
    is read when its job starts. Whoever uses ComfyUI beside the crew holds `lock`. Raises
    ValueError for what the executor cannot do.
    """
    if executor.kind == "Ray cluster":
        return ray_crew(executor, population, to_make, tell, source)
    if executor.kind == "devices of this machine":
        return device_crew(executor, population, to_make, tell, lock or HostLock())
    renderer = FillRenderer(population, to_make, tell)
    return Here(lambda job: renderer.fill(job.segment))


def device_crew(
    executor: Executor,
    population: Population,
    to_make: frozenset[int],
    tell: TellStep,
    lock: HostLock,
) -> Threads[RenderedSegment]:
    """A thread and a renderer for each device."""
    request = population.film.request
    check_conditioning("positive", request.positive)
    check_conditioning("negative", request.negative)
    devices = devices_here(executor.devices)
    stopping = threading.Event()
    told = _until(stopping, tell)
    work = []
    for place, device in enumerate(devices):
        own = device in devices[:place]
        moved = _on_device(population, device, lock, own)
        work.append(_locked(FillRenderer(moved, to_make, told), lock))
    return Threads(work, device_names(devices), stopping, torch.inference_mode)


def _on_device(
    population: Population, device: torch.device, lock: HostLock, own: bool
) -> Population:
    """The population with models of its own on a device."""
    film = population.film
    model = on_device(film.request.model, device, lock, "model", own)
    low_noise = film.request.low_noise_model
    if low_noise is not None:
        low_noise = on_device(low_noise, device, lock, "low_noise_model", own)
    request = replace(film.request, model=model, low_noise_model=low_noise)
    sampler = replace(film.sampler, low_noise_model=low_noise)
    return replace(population, film=replace(film, request=request, sampler=sampler))


def _locked(renderer: FillRenderer, lock: HostLock) -> Callable[[Job], RenderedSegment]:
    def work(job: Job) -> RenderedSegment:
        with lock.held():
            return renderer.fill(job.segment)

    return work


def _until(stopping: threading.Event, tell: TellStep) -> TellStep:
    """`tell`, which breaks off when the crew stops: the host's own flag is taken back by the first
    thread that sees it."""

    def told(segment: Segment, step: int, picture: Any) -> None:
        if stopping.is_set():
            raise comfy.model_management.InterruptProcessingException()
        tell(segment, step, picture)

    return told
