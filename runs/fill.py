"""Segments that stand alone, made in the scheduler's order by whoever has a device for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..planning.schedule import Job, JobGraph, Priority, Slot
from ..planning.segments import Segment
from .executor import Crew, run_jobs
from .render import RenderedSegment, Report, SegmentEvent, Status, keep_segment
from .timings import TimingsFile

if TYPE_CHECKING:
    from .folder import RunFolder


def fill_jobs(segments: Sequence[Segment]) -> JobGraph:
    """One job for each segment, which waits for none. A fill takes about as long as its segment
    is, so latent frames stand for its seconds."""
    seconds = {Job(one.index, "fill 1"): float(one.latent_frames) for one in segments}
    return JobGraph(seconds, {})


def fill_run(
    folder: RunFolder,
    segments: Sequence[Segment],
    order: Callable[[JobGraph], Priority],
    crew: Callable[[], Crew[RenderedSegment]],
    report: Report,
    check: Callable[[], None],
) -> tuple[Segment, ...]:
    """Make what is missing, changed or damaged; returns the segments that were made, in order.

    `segments` start from a plan, so that none needs another. `crew` is asked for when there is
    something to make. Each segment is on disk as soon as it is made, whichever comes first, and
    when it was made is kept beside it (runs/timings.py).
    """
    states = folder.state()
    to_make = [one for one in segments if states[one.index].needs_render]
    for segment in segments:
        if segment not in to_make:
            report(SegmentEvent(segment=segment, status="reused"))
    if not to_make:
        return ()
    made: list[int] = []
    workers = crew()
    timings = TimingsFile(folder.path, workers.names())

    def keep(slot: Slot, result: RenderedSegment) -> None:
        segment = segments[slot.job.segment]
        keep_segment(folder, segment, result, slot.end - slot.start)
        timings.add(slot, workers.names())
        made.append(segment.index)

    def tell(job: Job, status: Status, reason: str) -> None:
        why = states[job.segment].reason if status == "running" else reason
        report(SegmentEvent(segment=segments[job.segment], status=status, reason=why))

    run_jobs(fill_jobs(to_make), order, workers, keep, tell, check)
    return tuple(segments[index] for index in sorted(made))
