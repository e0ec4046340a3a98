"""The planned segments of a run, and what of them is on disk. Reads only.

Most runs are planned whole before anything is made. Where a segment's own plan depends on how
earlier ones came out (a keyframe recalls pictures that it is compared with), it is planned again
when its turn comes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .keys import PLANNED, canonical, segment_key, segment_keys, shared_key
from .manifest import Manifest
from .run import SEGMENTS
from .segment_file import StoredSegment, read_segment_file
from .states import Found, SegmentState, find_stored, segment_states

if TYPE_CHECKING:
    from ..planning.segments import Segment


class RunPlan:
    """Segments, their keys, and the verified file of each that has one.

    `path` is the run folder, which need not be there yet; `parameters` are canonical; `before` is
    the manifest of the last time, for the reasons.
    """

    def __init__(
        self,
        path: Path,
        parameters: Mapping[str, Any],
        segments: Sequence["Segment"],
        before: Manifest | None,
    ) -> None:
        """Raises ValueError for a first segment that starts from a tail."""
        assert all(segment.index == position for position, segment in enumerate(segments))
        self._folder = path / SEGMENTS
        self.parameters, self._before = parameters, before
        self._base = shared_key(parameters)
        self._segments = list(segments)
        self.keys = list(segment_keys(parameters, segments))
        self.found: list[Found] = find_stored(
            self._folder, dict(enumerate(self.keys)), self._lengths()
        )

    @property
    def segments(self) -> tuple["Segment", ...]:
        return tuple(self._segments)

    def replan(self, segment: "Segment") -> tuple[int, ...]:
        """Another plan for the segment at its index. Later ones that continue or remember it get
        other keys with it, and what lies on disk under those is found.

        Returns the indices of the segments whose keys changed.
        """
        self._segments[segment.index] = segment
        changed = {}
        for later in self._segments[segment.index :]:
            key = segment_key(self._base, self.parameters, later, self.keys[: later.index])
            if key != self.keys[later.index]:
                changed[later.index] = self.keys[later.index] = key
        found = find_stored(self._folder, changed, self._lengths())
        for index, one in zip(changed, found, strict=True):
            self.found[index] = one
        return tuple(changed)

    def follow(self, index: int, planned: Sequence[Any]) -> tuple[int, ...]:
        """What of a plan the segment at `index` follows (keys.PLANNED), known now that it is made.

        Returns the indices of the segments whose keys changed.
        """
        entries = {**self.parameters.get(PLANNED, {}), str(index): canonical(planned, PLANNED)}
        self.parameters = {**self.parameters, PLANNED: entries}
        return self.replan(self._segments[index])

    def states(self) -> tuple[SegmentState, ...]:
        """What is reused and what is to be made, and why."""
        return segment_states(self._segments, self.keys, self.found, self.parameters, self._before)

    def stored(self, index: int) -> StoredSegment | None:
        """What the file of a segment says, None where there is none, or none that is whole."""
        found = self.found[index]
        return found if isinstance(found, StoredSegment) else None

    def latent(self, index: int) -> Tensor:
        """The latent of a segment that is on disk, [1, c, t, h, w] float32, verified.

        Raises ValueError where it is not there, or no longer whole.
        """
        stored = self.stored(index)
        if stored is None:
            raise ValueError(f"segment {index + 1} is not on disk")
        return read_segment_file(self._folder / stored.file)[1]

    def _lengths(self) -> list[int]:
        return [segment.latent_frames for segment in self._segments]
