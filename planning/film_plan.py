"""Which coarse plan each segment of a film follows, in latent frames of one timeline.

The timeline is the film's: its chains one after the other, each segment of a chain without the
latent frames that it was handed. Two kinds of plan:

- a *stretch* is one small clip of the video model itself that shows several segments of a chain at
  a low frame rate;
- before each segment a planner over codes plans a chunk of its rollout, which begins where the
  segment begins to be new, so that everything before it has been made. Of that plan the segment
  follows its own part; what lies behind is planned again, seeing what the segment really became.
  (Ours: in the paper a chunk's plan is final, since its levels down to the finest are the plan.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from .frames import FrameGrid
from .rollout import Rollout, RolloutStep, Span
from .segments import Segment

SPARSEST = 4
"""Most frames of the film per picture of a small clip: a level of the paper's hierarchy keeps one
cell in four (arXiv 2606.09056, section 3)."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Segment `segment` covers the latent frames [start, stop) of the film, of which those before
    `new` were handed. `chain_start` is the frame at which its chain begins."""

    segment: int
    chain_start: int
    start: int
    new: int
    stop: int


def windows_of(segments: Sequence[Segment]) -> tuple[Window, ...]:
    """Where each segment stands on the film's timeline."""
    windows: list[Window] = []
    for segment in segments:
        end = windows[-1].stop if windows else 0
        handed = segment.known_latent_frames if segment.start == "tail" else 0
        start = end - handed
        windows.append(
            Window(
                segment=segment.index,
                chain_start=windows[-1].chain_start if segment.start == "tail" else end,
                start=start,
                new=start + segment.known_latent_frames,
                stop=start + segment.latent_frames,
            )
        )
    return tuple(windows)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Segments [first, stop) that follow one small clip of `latent_frames` latent frames.

    The clip shows the frames of the chain from `start` on, one in `every`; `known` says that its
    first picture is known.
    """

    first: int
    stop: int
    start: int
    every: int
    latent_frames: int
    known: bool

    @property
    def segments(self) -> range:
        return range(self.first, self.stop)


def stretches(segments: Sequence[Segment], grid: FrameGrid, longest: int) -> tuple[Stretch, ...]:
    """Which segments follow one small clip of at most `longest` latent frames (2 or more).

    A clip shows as many segments of a chain as it can at SPARSEST; a segment that would be alone in
    its clip follows none.
    """
    windows = windows_of(segments)
    found: list[Stretch] = []
    first = 0
    while first < len(segments):
        stop, best = first + 1, None
        while stop < len(segments) and segments[stop].start == "tail":
            wider = _stretch(windows, first, stop + 1, grid, longest)
            if wider is None:
                break
            stop, best = stop + 1, wider
        if best is not None:
            found.append(best)
        first = stop
    return tuple(found)


def _stretch(
    windows: Sequence[Window], first: int, stop: int, grid: FrameGrid, longest: int
) -> Stretch | None:
    """The clip for segments [first, stop) of a chain, None where it would be too sparse."""
    one = windows[first]
    known = one.new > one.start
    start = grid.frames(one.new - one.chain_start) - 1 if known else 0
    ahead = grid.frames(windows[stop - 1].stop - one.chain_start) - 1 - start
    every = math.ceil(ahead / (grid.frames(longest) - 1))
    if every > SPARSEST:
        return None
    latent_frames = math.ceil(ahead / every / grid.frames_per_latent) + 1
    return Stretch(
        first=first, stop=stop, start=start, every=every, latent_frames=latent_frames, known=known
    )


def clip_places(stretch: Stretch, window: Window, grid: FrameGrid) -> tuple[float, ...]:
    """Where in the stretch's clip each frame of a segment's own clip lies, in pictures.

    A segment that was handed latent frames is, as a clip of its own, the last frame of its first
    latent frame and those behind: 4n + 1 frames again.
    """
    before, latent_frames = window.start - window.chain_start, window.stop - window.start
    first = grid.frames_per_latent * before - stretch.start
    last = grid.frames(stretch.latent_frames) - 1
    frames = range(first, first + grid.frames(latent_frames))
    return tuple(min(max(0.0, frame / stretch.every), float(last)) for frame in frames)


def check_room(segments: Sequence[Segment], rollout: Rollout) -> None:
    """Raises ValueError for a segment that makes more than a rollout plans at once."""
    for segment in segments:
        if segment.new_latent_frames > rollout.chunk:
            raise ValueError(
                f"a segment must fit into a chunk of the planner, {rollout.chunk} latent frames: "
                f"segment {segment.number} makes {segment.new_latent_frames} new ones; lower "
                "segment_frames"
            )


def seen_segments(windows: Sequence[Window], index: int, rollout: Rollout) -> tuple[int, ...]:
    """The earlier segments that the plan of segment `index` looks back at."""
    oldest = windows[index].new - rollout.history
    seen = takewhile(lambda window: window.stop > oldest, reversed(windows[:index]))
    return tuple(window.segment for window in seen)[::-1]


def needed_steps(rollout: Rollout, start: int, wanted: int, end: int) -> Iterator[RolloutStep]:
    """The steps of the chunk that begins at latent frame `start`, until its finest level is planned
    up to `wanted`, each cut at the film's end."""
    for step in rollout.steps(start):
        within = until(step, end)
        if within is None:
            return
        yield within
        if within.target.level == rollout.levels[0] and within.target.stop >= wanted:
            return


def until(step: RolloutStep, end: int) -> RolloutStep | None:
    """The step without the latent frames from `end` on; None where it would make none."""
    if step.target.start >= end:
        return None
    return RolloutStep(
        _until(step.target, end),
        tuple(_until(span, end) for span in step.context if span.start < end),
    )


def _until(span: Span, end: int) -> Span:
    return Span(span.level, span.start, min(span.stop, end))


def shot_places(segments: Sequence[Segment]) -> tuple[tuple[int, int], ...]:
    """For each latent frame of the film the index of the segment that makes it, and how many latent
    frames after its shot's first one it stands (those that the shot was handed counted)."""
    places: list[tuple[int, int]] = []
    begins: dict[int, int] = {}
    for window, segment in zip(windows_of(segments), segments, strict=True):
        begin = begins.setdefault(segment.shot, window.start)
        first = window.stop - (segment.latent_frames - _handed(segment))
        places += [(segment.index, frame - begin) for frame in range(first, window.stop)]
    return tuple(places)


def _handed(segment: Segment) -> int:
    return segment.known_latent_frames if segment.start == "tail" else 0
