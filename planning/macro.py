"""A film as a chain of planned segments: how long they are, and what each hands to the next.

MMPL (arXiv 2508.03334): the plan of a segment needs only the last anchors of the segment before,
never its filled frames; so the plans are a short serial spine, and the fills hang from it one by
one (shared design `macro-micro-planning.md`, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .frames import FrameGrid
from .layout import HANDED, MMPL_LATENT_FRAMES, Layout, middle_anchors
from .schedule import SeedFrom
from .segments import Segment


@dataclass(frozen=True, kw_only=True)
class HandOff:
    """How a segment's last two anchors become the first two latent frames of the next (3.2).

    `decoded` are latent frames of the earlier segment, decoded as one clip: its first one, which
    gives the causal decoder a legal beginning, the last anchor but one twice, the first time to
    warm up, and the last. Of the clip's frames `first` to `first + frames` are encoded anew.
    """

    decoded: tuple[int, int, int, int]
    first: int
    frames: int


def hand_off(layout: Layout, grid: FrameGrid, seed_from: SeedFrom = "terminal") -> HandOff:
    """The hand-off of a layout. Raises ValueError where its anchors give no two frames in a row."""
    anchors = layout.anchors
    if seed_from == "middle":
        end = middle_anchors(layout.latent_frames)[-1]
        anchors = tuple(i for i in anchors if i <= end)
    if len(anchors) < HANDED or anchors[-1] != anchors[-2] + 1:
        raise ValueError(
            f"layout {layout.name!r} must end on two anchors in a row to be continued from its "
            f"{seed_from} ones, got {anchors}"
        )
    before, last = anchors[-2:]
    return _of_frames(layout.initial[0], before, last, grid)


def latent_hand_off(latent_frames: int, grid: FrameGrid) -> HandOff:
    """The hand-off of a latent of `latent_frames` (more than `HANDED`) that ends where the next
    segment begins: its first frame and its last two."""
    if latent_frames <= HANDED:
        raise ValueError(
            f"a latent to be handed on needs more than {HANDED} latent frames, got {latent_frames}"
        )
    last = latent_frames - 1
    return _of_frames(0, last - 1, last, grid)


def _of_frames(first: int, before: int, last: int, grid: FrameGrid) -> HandOff:
    stride = grid.frames_per_latent
    frames = grid.frames(HANDED)
    return HandOff(
        decoded=(first, before, before, last),
        first=grid.frames(4) - frames if stride > 1 else 4 - HANDED,
        frames=frames,
    )


@dataclass(frozen=True, kw_only=True)
class MacroSegment:
    """One planned segment: the sampler call that it would have been, and how it is made instead.

    `kept_latent_frames` of the layout's are part of the film: all, or up to the middle anchors.
    `places`: where pictures that somebody brought are its anchors ("middle", "end"), none where a
    model plans it.
    """

    segment: Segment
    layout: Layout
    kept_latent_frames: int
    places: tuple[str, ...] = ()

    @property
    def plan_ids(self) -> tuple[int, ...]:
        """The latent frames that a finished plan holds, in the order of time."""
        return self.layout.known_to_fillers

    @property
    def fill_groups(self) -> int:
        """How many fills there are: those before the kept latent frames end."""
        fills = self.layout.groups_of("fill")
        return sum(group.ids[0] < self.kept_latent_frames for group in fills)


def macro_segments(
    segments: Sequence[Segment],
    layout_of: Callable[[int], Layout],
    seed_from: SeedFrom = "terminal",
    trained_latent_frames: int = MMPL_LATENT_FRAMES,
) -> tuple[MacroSegment, ...]:
    """Give each segment of a film its layout.

    Segments that continue must be handed `HANDED` latent frames. From the terminal anchors a
    segment is made as long as it is; from the middle ones a longer segment is planned, of
    `trained_latent_frames` where its middle fits, and its second half dropped. Raises ValueError
    for segments that are too short to be planned.
    """
    planned = []
    for segment in segments:
        if segment.start == "tail" and segment.known_latent_frames != HANDED:
            raise ValueError(
                f"segment {segment.number} must be handed {HANDED} latent frames by a plan, got "
                f"{segment.known_latent_frames}"
            )
        kept = segment.latent_frames
        made = kept if seed_from == "terminal" else planned_length(kept, trained_latent_frames)
        try:
            layout = layout_of(made)
        except ValueError as error:
            raise ValueError(
                f"segment {segment.number} of {made} latent frames is too short for this layout "
                f"({error})"
            ) from None
        planned.append(MacroSegment(segment=segment, layout=layout, kept_latent_frames=kept))
    return tuple(planned)


def planned_length(kept_latent_frames: int, trained_latent_frames: int) -> int:
    """Latent frames of the segment whose middle anchors end after `kept_latent_frames`: 21 for 13.

    The trained length where that is one, else the shortest, whose middle may end a little later.
    """
    if middle_anchors(trained_latent_frames)[-1] + 1 == kept_latent_frames:
        return trained_latent_frames
    length = kept_latent_frames
    while middle_anchors(length)[-1] + 1 < kept_latent_frames:
        length += 1
    return length


def film_frames(segments: Sequence[MacroSegment], grid: FrameGrid) -> int:
    """Frames of the film: each segment whole but for the five it shares with the one before,
    81 + 76 (S - 1) for S segments of 21."""
    total = 0
    for one in segments:
        shared = grid.frames(HANDED) if one.segment.start == "tail" else 0
        total += grid.frames(one.kept_latent_frames) - shared
    return total
