"""Which coarse plan a segment follows: hand-computed places on the film's timeline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from throughline.planning.film_plan import (
    SPARSEST,
    check_room,
    clip_places,
    needed_steps,
    seen_segments,
    shot_places,
    stretches,
    windows_of,
)
from throughline.planning.frames import FrameGrid
from throughline.planning.rollout import CoarseToFine, Windows
from throughline.planning.rollout_full import FullResolution
from throughline.planning.segments import Segment

GRID = FrameGrid(4)
COARSE = CoarseToFine(Windows((1, 4, 16)), finest=1)


def film(*starts: str, latent_frames: int = 6, known: int = 2) -> tuple[Segment, ...]:
    """Segments that start like this, each a shot of its own."""
    chain, segments = -1, []
    for index, start in enumerate(starts):
        chain += start != "tail"
        segments.append(
            Segment(
                index=index,
                shot=index,
                shot_id=str(index + 1),
                chain=chain,
                start=start,  # type: ignore[arg-type]
                latent_frames=latent_frames,
                known_latent_frames={"tail": known, "image": 1}.get(start, 0),
                prompt=f"shot {index + 1}",
                negative="",
                seed=index,
            )
        )
    return tuple(segments)


def test_a_segment_stands_on_the_timeline_without_what_it_was_handed() -> None:
    windows = windows_of(film("text", "tail", "image", "tail"))
    assert [(w.chain_start, w.start, w.new, w.stop) for w in windows] == [
        (0, 0, 0, 6),
        (0, 4, 6, 10),
        (10, 10, 11, 16),
        (10, 14, 16, 20),
    ]


def test_a_small_clip_shows_the_segments_of_a_chain() -> None:
    (stretch,) = stretches(film("text", "tail", "tail"), GRID, longest=6)
    # 14 latent frames are 53 frames; 21 frames of the clip reach over them at one in three
    assert (stretch.first, stretch.stop, stretch.start, stretch.known) == (0, 3, 0, False)
    assert (stretch.every, stretch.latent_frames) == (3, 6)


def test_a_clip_begins_at_the_last_known_frame() -> None:
    (stretch,) = stretches(film("image", "tail"), GRID, longest=6)
    assert (stretch.start, stretch.known, stretch.every) == (0, True, 2)
    segments = film("text", *["tail"] * 5)
    first, second = stretches(segments, GRID, longest=6)
    # 22 latent frames are 85 frames: one in four of 81 is the most that 21 pictures show
    assert list(first.segments) == [0, 1, 2, 3]
    assert list(second.segments) == [4, 5]
    windows = windows_of(segments)
    assert second.start == GRID.frames(windows[4].new) - 1 == 68
    assert second.known and second.every <= SPARSEST


def test_a_segment_alone_in_its_chain_follows_no_clip() -> None:
    assert stretches(film("text", "text", "image"), GRID, longest=6) == ()
    (only,) = stretches(film("text", "text", "tail"), GRID, longest=6)
    assert list(only.segments) == [1, 2]


def test_frames_of_a_segment_lie_in_the_clip_by_time() -> None:
    segments = film("text", "tail", "tail")
    (stretch,) = stretches(segments, GRID, longest=6)
    windows = windows_of(segments)
    assert clip_places(stretch, windows[0], GRID)[:4] == (0.0, 1 / 3, 2 / 3, 1.0)
    second = clip_places(stretch, windows[1], GRID)
    # its first latent frame is frame 13 to 16 of the chain, of which a clip begins with the last
    assert len(second) == GRID.frames(6)
    assert second[0] == pytest.approx(16 / 3)
    assert clip_places(stretch, windows[2], GRID)[-1] == pytest.approx(52 / 3)


def test_places_behind_a_known_start_never_lie_before_the_clip() -> None:
    segments = film("text", *["tail"] * 5)
    second = stretches(segments, GRID, longest=6)[1]
    places = clip_places(second, windows_of(segments)[4], GRID)
    assert places[:5] == (0.0, 0.0, 0.0, 0.0, 0.0)
    assert places[5] == pytest.approx(1 / second.every)


def test_a_segment_longer_than_a_chunk_is_refused_by_number() -> None:
    segments = film("text", "tail")
    check_room(segments, COARSE)
    with pytest.raises(ValueError, match=r"16 latent frames: segment 2 makes 18 new ones"):
        check_room((segments[0], replace(segments[1], latent_frames=20)), COARSE)


def test_a_plan_looks_back_over_the_history_of_its_rollout() -> None:
    windows = windows_of(film(*["text"] * 8))
    # windows 4 and 16: 20 latent frames before frame 36, of segment 3 (12 to 18) the last two
    assert seen_segments(windows, 6, COARSE) == (2, 3, 4, 5)
    assert seen_segments(windows, 7, COARSE) == (3, 4, 5, 6)
    assert seen_segments(windows, 0, COARSE) == ()


def test_the_steps_of_a_chunk_are_made_as_far_as_a_segment_needs() -> None:
    steps = list(needed_steps(COARSE, 0, wanted=6, end=14))
    assert [(step.target.level, *step.target[1:]) for step in steps] == [
        (2, 0, 14),
        (1, 0, 4),
        (1, 4, 8),
    ]
    assert all(span.stop <= 14 for step in steps for span in step.context)
    whole = list(needed_steps(COARSE, 0, wanted=14, end=14))
    assert [step.target[1:] for step in whole[3:]] == [(8, 12), (12, 14)]
    full = list(needed_steps(FullResolution(4), 8, wanted=10, end=11))
    assert [step.target[1:] for step in full] == [(8, 10)]


def test_each_frame_says_how_far_into_its_shot_it_stands() -> None:
    segments = list(film("text", "tail", "tail"))
    segments[2] = replace(segments[2], shot=1)
    places = shot_places(segments)
    assert places[:6] == tuple((0, frame) for frame in range(6))
    # the second shot begins with two handed frames, which count
    assert places[6:] == tuple((1 + frame // 4, frame + 2) for frame in range(8))
