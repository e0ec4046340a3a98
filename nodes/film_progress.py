"""How far the segments of a film are, told to the page while several of them are made at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

import comfy.utils
from PIL import Image

from ..planning.segments import Segment
from ..runs.render import SegmentEvent
from .film import Film
from .rendering import announce

Picture = tuple[str, Image.Image, int | None]
"""A preview as core's previewers give it: format, picture, its longest side at most."""

TellStep = Callable[[Segment, int, Picture | None], None]
"""Told that a segment has made this many steps, with a preview where there is one."""


class FilmProgress:
    """One bar over all segments that are to be made, from whichever thread their steps come."""

    def __init__(self, film: Film, node_id: str, to_make: Collection[int]) -> None:
        self._film, self._node_id = film, node_id
        self._steps = dict.fromkeys(to_make, 0)
        self._lock = threading.Lock()
        self._bar = comfy.utils.ProgressBar(max(1, len(to_make) * film.sampler.steps))

    def step(self, segment: Segment, step: int, picture: Picture | None) -> None:
        """Raises core's interruption where one is asked for, as every bar does."""
        with self._lock:
            self._steps[segment.index] = step
            self._bar.update_absolute(sum(self._steps.values()), self._bar.total, picture)
        announce(self._film, self._node_id, segment, "running", "", step)

    def report(self, event: SegmentEvent) -> None:
        if event.status == "done":
            with self._lock:
                self._steps[event.segment.index] = self._film.sampler.steps
                self._bar.update_absolute(sum(self._steps.values()))
        announce(self._film, self._node_id, event.segment, event.status, event.reason)
