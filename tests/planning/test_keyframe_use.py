"""Which keyframe starts, ends and accompanies each segment: tables worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.planning.frames import FrameGrid
from throughline.planning.keyframe_use import KeyframePlan, unused_keyframes
from throughline.planning.script import parse_storyboard
from throughline.planning.segments import FilmSettings, Segment, plan_segments

SCRIPT = """@Ana = woman
@Tom = man
#diner = a diner
#road = a road

== Scene 1 #diner ==
[2s, cut] <Ana> sits.
[4s, continue] <Tom> enters.
== Scene 2 #road ==
[2s, cut] A bus.
[2s, cut] <Ana> waits. {recall: 1.1}
"""
"""At 8 fps 4, 8, 4 and 4 new latent frames; segments hold 7 latent frames with a tail of 1."""


def plan(keyframes: KeyframePlan, script: str = SCRIPT, **changes: Any) -> tuple[Segment, ...]:
    values: dict[str, Any] = {
        "fps": 8.0,
        "grid": FrameGrid(4),
        "segment_latent_frames": 7,
        "tail_latent_frames": 1,
        "seconds_per_shot": 5.0,
        "unmarked_shots": "continue",
        "seed": 1,
        "first_start": "text",
        "first_known_latent_frames": 0,
        "keyframes": keyframes,
    }
    return plan_segments(parse_storyboard(script), FilmSettings(**{**values, **changes}))


def uses(segments: tuple[Segment, ...]) -> list[tuple[int, str, int, int | None, int | None]]:
    """Shot, start, known latent frames, start keyframe and end keyframe of each segment."""
    return [
        (one.shot, one.start, one.known_latent_frames, one.start_keyframe, one.end_keyframe)
        for one in segments
    ]


ALL = frozenset(range(4))


def test_a_shot_that_cuts_starts_from_its_keyframe() -> None:
    assert uses(plan(KeyframePlan(shots=ALL))) == [
        (0, "keyframe", 1, 0, None),
        (1, "tail", 1, None, None),
        (1, "tail", 1, None, None),
        (2, "keyframe", 1, 2, None),
        (3, "keyframe", 1, 3, None),
    ]


def test_the_segment_before_a_shot_that_continues_ends_on_its_keyframe() -> None:
    segments = plan(KeyframePlan(shots=ALL, ends=True))
    assert [one.end_keyframe for one in segments] == [1, None, None, None, None]


def test_only_the_last_segment_of_a_long_shot_ends_on_the_next_keyframe() -> None:
    script = "[6s] a\n[2s, continue] b"
    segments = plan(KeyframePlan(shots=frozenset({0, 1}), ends=True), script)
    assert [one.shot for one in segments] == [0, 0, 1]
    assert [one.end_keyframe for one in segments] == [None, 1, None]


def test_a_segment_of_one_new_latent_frame_does_not_end_on_a_keyframe() -> None:
    """It would be the keyframe and nothing else."""
    keyframes = KeyframePlan(shots=frozenset({0, 1}), ends=True)
    short = plan(keyframes, "[0.5s] a\n[2s, continue] b")
    assert [one.new_latent_frames for one in short] == [1, 4]
    assert [one.end_keyframe for one in short] == [None, None]
    assert unused_keyframes(short, keyframes) == (1,)
    longer = plan(keyframes, "[1s] a\n[2s, continue] b")
    assert [one.end_keyframe for one in longer] == [1, None]
    assert unused_keyframes(longer, keyframes) == ()


def test_shots_without_a_keyframe_start_as_before() -> None:
    segments = plan(
        KeyframePlan(shots=frozenset({2}), ends=True),
        first_start="image",
        first_known_latent_frames=2,
    )
    assert [one.start for one in segments] == ["image", "tail", "tail", "keyframe", "text"]
    assert [one.known_latent_frames for one in segments] == [2, 1, 1, 1, 0]


def test_a_keyframe_of_the_first_shot_comes_before_the_first_start() -> None:
    first = plan(KeyframePlan(shots=ALL), first_start="image", first_known_latent_frames=2)[0]
    assert (first.start, first.known_latent_frames) == ("keyframe", 1)


def test_context_is_ordered_by_the_script() -> None:
    """Shot 4 recalls shot 1 and has Ana, too; 1 and 2 are in one place, 3 and 4 in another."""
    segments = plan(KeyframePlan(shots=ALL, ends=True, most_context=2))
    assert [(one.shot, one.context_keyframes) for one in segments] == [
        (0, (3, 2)),  # begins on 0 and ends on 1: Ana is in 3
        (1, (1, 0)),  # its own keyframe is none of its frames, so it is context
        (1, (1, 0)),
        (2, (3, 1)),
        (3, (0, 2)),
    ]


def test_a_shared_context_is_every_keyframe_in_order() -> None:
    segments = plan(KeyframePlan(shots=frozenset({0, 3}), context_is_shared=True))
    assert {one.context_keyframes for one in segments} == {(0, 3)}


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 9)), min_size=1, max_size=9),
    st.booleans(),
    st.integers(0, 4),
)
def test_what_holds_for_every_film(
    shots: list[tuple[bool, bool, int]], ends: bool, most_context: int
) -> None:
    """Each shot: whether it has a keyframe, whether it continues, its seconds."""
    script = "\n".join(
        f"[{seconds}s, {'continue' if continues else 'cut'}] shot {number}"
        for number, (_, continues, seconds) in enumerate(shots)
    )
    have = frozenset(number for number, (has, _, _) in enumerate(shots) if has)
    keyframes = KeyframePlan(shots=have, ends=ends, most_context=most_context)
    segments = plan(keyframes, script)
    without = plan(KeyframePlan(), script)
    assert [one.shot for one in segments] == [one.shot for one in without]
    for number, segment in enumerate(segments):
        after = segments[number + 1 : number + 2]
        begins = not number or segments[number - 1].shot != segment.shot
        cuts = number == 0 or not shots[segment.shot][1]
        starts = begins and cuts and segment.shot in have
        assert (segment.start == "keyframe") == starts == (segment.start_keyframe is not None)
        assert segment.new_latent_frames == without[number].new_latent_frames
        if segment.end_keyframe is not None:
            assert ends and after[0].start == "tail"
            assert segment.end_keyframe == after[0].shot == segment.shot + 1
            assert segment.new_latent_frames >= 2
        shown = {segment.start_keyframe, segment.end_keyframe}
        assert not shown & set(segment.context_keyframes)
        assert len(segment.context_keyframes) == min(most_context, len(have - shown))


@pytest.mark.parametrize("shots", [frozenset(), frozenset({1})])
def test_without_ends_a_continued_shot_uses_no_keyframe(shots: frozenset[int]) -> None:
    keyframes = KeyframePlan(shots=shots)
    assert unused_keyframes(plan(keyframes), keyframes) == tuple(sorted(shots))
