"""The dull loop: every planned segment that is not on disk yet is sampled, and is on disk
before the next one starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from ..memory.statistics import hop, latent_statistics
from ..planning.schedule import Job, Slot
from ..planning.segments import Segment
from .keys import KIND, PLAN
from .timings import TimingsFile

if TYPE_CHECKING:
    from .folder import RunFolder

THIS_PROCESS = "this process"
"""Name of the one device of a loop that samples itself."""

Status = Literal["waiting", "running", "done", "reused", "failed"]


@dataclass(frozen=True, kw_only=True)
class SegmentEvent:
    """What happens to one segment, for the page and the log."""

    segment: Segment
    status: Status
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class RenderedSegment:
    """A sampled segment: latent b c t h w on the CPU and a small JPEG picture of it."""

    latent: torch.Tensor
    preview: bytes | None


RenderSegment = Callable[[Segment, torch.Tensor | None], RenderedSegment]
"""Samples a segment from the latent frames it is handed (None where it is handed none)."""

FirstKnown = Callable[[Segment], torch.Tensor | None]
"""The latent frames (b c k h w) that a picture or a latent gives a segment, None for none."""

Report = Callable[[SegmentEvent], None]


def render_run(
    folder: RunFolder,
    segments: Sequence[Segment],
    render: RenderSegment,
    first_known: FirstKnown,
    report: Report,
) -> tuple[Segment, ...]:
    """Render what is missing, changed or damaged; returns the segments that were rendered.

    `first_known` is asked when a segment is rendered that starts from latent frames which are not
    the tail of the one before. The folder is written to after every segment; whatever interrupts
    the loop, even the process being killed, loses at most the segment in flight.
    """
    rendered: list[Segment] = []
    timings = _plan_timings(folder)
    began = time.monotonic()
    for segment in segments:
        state = folder.state()[segment.index]
        if state.status == "reused":
            report(SegmentEvent(segment=segment, status="reused"))
            continue
        report(SegmentEvent(segment=segment, status="running", reason=state.reason))
        start = time.monotonic() - began
        try:
            _render_one(folder, segment, render, first_known)
        except BaseException as error:
            report(SegmentEvent(segment=segment, status="failed", reason=reason_of(error)))
            raise
        if timings is not None:
            job = Job(segment.index, "plan")
            timings.add(Slot(start, time.monotonic() - began, 0, job), (THIS_PROCESS,))
        rendered.append(segment)
        report(SegmentEvent(segment=segment, status="done"))
    return tuple(rendered)


def _plan_timings(folder: RunFolder) -> TimingsFile | None:
    """Where the jobs of a plan are noted, which the schedule of its film is calibrated by; other
    runs that are made in this loop have no jobs."""
    planned = folder.run.manifest.parameters.get(KIND) == PLAN
    return TimingsFile(folder.path, (THIS_PROCESS,)) if planned else None


def _render_one(
    folder: RunFolder,
    segment: Segment,
    render: RenderSegment,
    first_known: FirstKnown,
) -> None:
    started = time.monotonic()
    known = None
    if segment.start == "tail":
        known = folder.read_segment(segment.index - 1)[:, :, -segment.known_latent_frames :]
    elif segment.known_latent_frames:
        known = first_known(segment)
    result = render(segment, known)
    keep_segment(folder, segment, result, time.monotonic() - started)


def keep_segment(
    folder: RunFolder, segment: Segment, result: RenderedSegment, seconds: float
) -> None:
    """Put a sampled segment on disk with what is measured of it. Raises like write_segment."""
    statistics = latent_statistics(result.latent, segment.known_latent_frames)
    if segment.start == "tail":
        before = folder.run.segments[segment.index - 1].statistics
        statistics |= hop(statistics, before)
    folder.write_segment(segment.index, result.latent, statistics, seconds, result.preview)


def reason_of(error: BaseException) -> str:
    """Why a segment did not come out; ComfyUI's interruption has no text and is no Exception."""
    return str(error) or type(error).__name__ if isinstance(error, Exception) else "interrupted"
