"""From shots to segments: tables worked out by hand, and what holds for every film."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.planning.frames import FrameGrid
from throughline.planning.script import parse_storyboard
from throughline.planning.segments import (
    SEED_RANGE,
    TAKE_STRIDE,
    FilmSettings,
    Segment,
    film_frames,
    latent_frames_per_chain,
    parse_takes,
    plan_segments,
    split_evenly,
)
from throughline.planning.storyboard import Shot, Storyboard


def settings(**changes: Any) -> FilmSettings:
    """16 fps, segments of 21 latent frames (81 frames) with a tail of 2, from text."""
    values: dict[str, Any] = {
        "fps": 16.0,
        "grid": FrameGrid(4),
        "segment_latent_frames": 21,
        "tail_latent_frames": 2,
        "seconds_per_shot": 5.0,
        "unmarked_shots": "continue",
        "seed": 100,
        "first_start": "text",
        "first_known_latent_frames": 0,
    }
    return FilmSettings(**{**values, **changes})


def plan(script: str, **changes: Any) -> tuple[Segment, ...]:
    return plan_segments(parse_storyboard(script), settings(**changes))


def lengths(segments: tuple[Segment, ...]) -> list[tuple[str, int, int, int]]:
    """Start, known and new latent frames, and chain of each segment."""
    return [
        (one.start, one.known_latent_frames, one.new_latent_frames, one.chain) for one in segments
    ]


@pytest.mark.parametrize(
    ("total", "longest", "parts"),
    [
        (1, 19, (1,)),
        (19, 19, (19,)),
        (20, 19, (19,)),  # 1 is within 15 % of 19: dropped
        (21, 19, (19,)),  # 2 of 19 are 10.5 %
        (22, 19, (11, 11)),  # 3 of 19 are 15.8 %: another segment
        (38, 19, (19, 19)),
        (41, 19, (13, 14, 14)),
        (57, 19, (19, 19, 19)),
        (7, 2, (1, 2, 2, 2)),
        (100, 1, (1,) * 100),
    ],
)
def test_split_evenly(total: int, longest: int, parts: tuple[int, ...]) -> None:
    assert split_evenly(total, longest) == parts


@given(st.integers(1, 5000), st.integers(1, 60))
def test_a_split_is_even_short_enough_and_loses_little(total: int, longest: int) -> None:
    parts = split_evenly(total, longest)
    assert max(parts) <= longest
    assert max(parts) - min(parts) <= 1
    assert 0 <= total - sum(parts) <= 0.15 * longest
    assert min(parts) >= 1


@pytest.mark.parametrize(
    ("script", "changes", "expected"),
    [
        # 5 s at 16 fps are 20 latent frames: from text they fit, after a tail of 2 only 19 do
        ("a\nb\nc", {}, [("text", 0, 20, 0), ("tail", 2, 19, 0), ("tail", 2, 19, 0)]),
        # unmarked shots may cut; a mark wins over that
        (
            "a\nb\n[continue] c",
            {"unmarked_shots": "cut"},
            [("text", 0, 20, 0), ("text", 0, 20, 1), ("tail", 2, 19, 1)],
        ),
        ("a\n[cut] b\nc", {}, [("text", 0, 20, 0), ("text", 0, 20, 1), ("tail", 2, 19, 1)]),
        # the first shot has nothing to continue, whatever it says
        ("[continue] a\nb", {}, [("text", 0, 20, 0), ("tail", 2, 19, 0)]),
        # 10 s are 40 latent frames: two parts of at most 19 lose 2
        ("[10s] a", {}, [("text", 0, 19, 0), ("tail", 2, 19, 0)]),
        # 11 s are 44: three parts
        ("[11s] a", {}, [("text", 0, 14, 0), ("tail", 2, 15, 0), ("tail", 2, 15, 0)]),
        # an image is one known latent frame, and 20 new ones fit behind it
        (
            "a\n[cut] b",
            {"first_start": "image", "first_known_latent_frames": 1},
            [("image", 1, 20, 0), ("text", 0, 20, 1)],
        ),
        # a latent longer than the tail bounds the parts of its shot
        (
            "[10s] a",
            {"first_start": "latent", "first_known_latent_frames": 8},
            [("latent", 8, 13, 0), ("tail", 2, 13, 0), ("tail", 2, 13, 0)],
        ),
        # a tail is never longer than the segment before it
        (
            "[0.25s] a\n[3s] b",
            {"tail_latent_frames": 6},
            [("text", 0, 1, 0), ("tail", 1, 12, 0)],
        ),
        # 22 latent frames are not worth two segments where a tail of 1 leaves 20: 21 from text
        ("[5.5s] a", {"tail_latent_frames": 1}, [("text", 0, 21, 0)]),
        # shorter than a latent frame is still one
        ("[0.01s] a", {}, [("text", 0, 1, 0)]),
    ],
)
def test_starts_lengths_and_chains(
    script: str, changes: dict[str, Any], expected: list[tuple[str, int, int, int]]
) -> None:
    assert lengths(plan(script, **changes)) == expected


def test_a_segment_says_where_it_stands() -> None:
    segments = plan("[10s] a\n[cut] b {negative: fog}")
    assert [one.index for one in segments] == [0, 1, 2]
    assert [one.number for one in segments] == [1, 2, 3]
    assert [one.shot for one in segments] == [0, 0, 1]
    assert [one.shot_id for one in segments] == ["1.1", "1.1", "1.2"]
    assert [one.prompt for one in segments] == ["a", "a", "b"]
    assert [one.negative for one in segments] == ["", "", "fog"]


def test_every_segment_has_a_seed_of_its_own() -> None:
    assert [one.seed for one in plan("[10s] a\nb\nc")] == [100, 101, 102, 103]


def test_a_shot_with_a_seed_counts_from_there() -> None:
    segments = plan("a\n[10s] b {seed: 7}\nc")
    assert [one.seed for one in segments] == [100, 7, 8, 103]


def test_seeds_stay_in_the_range_of_the_widget() -> None:
    segments = plan("a\nb\nc", seed=SEED_RANGE - 2)
    assert [one.seed for one in segments] == [SEED_RANGE - 2, SEED_RANGE - 1, 0]


def test_a_take_changes_its_segment_only() -> None:
    first = plan("a\nb\nc")
    second = plan("a\nb\nc", takes={1: 2})
    assert second[1].take == 2
    assert second[1].seed == 101 + 2 * TAKE_STRIDE
    assert (second[0], second[2]) == (first[0], first[2])


@pytest.mark.parametrize(("takes", "got"), [({3: 1}, 4), ({1: 1, 9: 1, 5: 1}, 6)])
def test_takes_of_segments_that_do_not_exist(takes: dict[int, int], got: int) -> None:
    with pytest.raises(ValueError, match=f"retakes name segments 1 to 3 only, got {got}"):
        plan("a\nb\nc", takes=takes)


@pytest.mark.parametrize(
    ("text", "takes"),
    [
        ("", {}),
        ("4:1", {3: 1}),
        ("4:1, 7:2", {3: 1, 6: 2}),
        (" 1 : 10 ,,2:0,", {0: 10, 1: 0}),
        ("3:1, 3:2", {2: 2}),
    ],
)
def test_retakes_are_read(text: str, takes: dict[int, int]) -> None:
    assert parse_takes(text) == takes


@pytest.mark.parametrize("text", ["4", "4:", ":1", "0:1", "a:b", "-1:2", "4:1;5:1", "1.5:1"])
def test_retakes_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_takes(text)
    assert str(error.value) == (f"retakes must read like '4:1, 7:2' (segment:take), got '{text}'")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fps": 0.0}, "fps must be above 0 and at most 240, got 0.0"),
        ({"fps": float("nan")}, "fps must be above 0 and at most 240, got nan"),
        ({"fps": float("inf")}, "fps must be above 0 and at most 240, got inf"),
        ({"seconds_per_shot": 0.0}, "seconds per shot must be above 0 and at most 3600, got 0.0"),
        ({"seconds_per_shot": -1.0}, "seconds per shot must be above 0 and at most 3600, got -1.0"),
        ({"tail_latent_frames": 0}, "tail latent frames must be 1 or more, got 0"),
        (
            {"segment_latent_frames": 2},
            "a segment must be longer than the 2 latent frames it is handed, got 2 latent frames "
            "(5 frames)",
        ),
        (
            {"first_known_latent_frames": 30},
            "a segment must be longer than the 30 latent frames it is handed, got 21 latent frames "
            "(81 frames)",
        ),
        ({"seed": -1}, "seed must be 0 to 18446744073709551615, got -1"),
        (
            {"seed": SEED_RANGE},
            "seed must be 0 to 18446744073709551615, got 18446744073709551616",
        ),
    ],
)
def test_settings_that_make_no_film(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        settings(**changes)
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("script", "per_chain", "frames"),
    [
        ("a", (20,), 77),
        ("a\nb\nc", (58,), 229),  # 20 + 19 + 19: the tails do not count twice
        ("a\n[cut] b\nc", (20, 39), 77 + 153),
    ],
)
def test_length_of_the_film(script: str, per_chain: tuple[int, ...], frames: int) -> None:
    segments = plan(script)
    assert latent_frames_per_chain(segments) == per_chain
    assert film_frames(segments, FrameGrid(4)) == frames


def test_a_start_image_is_part_of_the_film() -> None:
    segments = plan("a", first_start="image", first_known_latent_frames=1)
    assert latent_frames_per_chain(segments) == (21,)


SHOTS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(0.05, 40.0)),
        st.sampled_from((None, "cut", "continue")),
        st.one_of(st.none(), st.integers(0, SEED_RANGE - 1)),
    ),
    min_size=1,
    max_size=12,
)


@st.composite
def films(draw: st.DrawFn) -> tuple[tuple[Segment, ...], FilmSettings, Storyboard]:
    longest = draw(st.integers(2, 40))
    start, known = draw(
        st.one_of(
            st.just(("text", 0)),
            st.tuples(st.just("image"), st.integers(1, longest - 1)),
            st.tuples(st.just("latent"), st.integers(1, longest - 1)),
        )
    )
    film = settings(
        fps=draw(st.floats(1.0, 60.0)),
        grid=FrameGrid(draw(st.sampled_from((4, 8)))),
        segment_latent_frames=longest,
        tail_latent_frames=draw(st.integers(1, longest - 1)),
        seconds_per_shot=draw(st.floats(0.05, 30.0)),
        unmarked_shots=draw(st.sampled_from(("cut", "continue"))),
        seed=draw(st.integers(0, SEED_RANGE - 1)),
        first_start=start,
        first_known_latent_frames=known,
    )
    shots = tuple(
        Shot(id=f"1.{i + 1}", caption="a", seconds=seconds, transition=transition, seed=seed)
        for i, (seconds, transition, seed) in enumerate(draw(SHOTS))
    )
    storyboard = Storyboard(shots=shots)
    return plan_segments(storyboard, film), film, storyboard


@given(films())
def test_what_holds_for_every_film(
    case: tuple[tuple[Segment, ...], FilmSettings, Storyboard],
) -> None:
    segments, film, storyboard = case
    assert [one.index for one in segments] == list(range(len(segments)))
    assert {one.shot for one in segments} == set(range(len(storyboard.shots)))
    assert sorted(one.shot for one in segments) == [one.shot for one in segments]
    for one in segments:
        assert one.new_latent_frames >= 1
        assert one.latent_frames <= film.segment_latent_frames
        assert 0 <= one.seed < SEED_RANGE
    assert segments[0].start == film.first_start
    assert segments[0].known_latent_frames == film.first_known_latent_frames
    for before, one in zip(segments, segments[1:], strict=False):
        if one.start == "tail":
            assert one.chain == before.chain
            wanted = min(film.tail_latent_frames, before.latent_frames)
            assert one.known_latent_frames == wanted
        else:
            assert (one.start, one.known_latent_frames) == ("text", 0)
            assert one.chain == before.chain + 1
            assert one.shot == before.shot + 1  # only a shot begins a chain
    first_known = film.first_known_latent_frames
    assert sum(latent_frames_per_chain(segments)) == first_known + sum(
        one.new_latent_frames for one in segments
    )


@given(films())
def test_a_shot_is_as_long_as_was_asked(
    case: tuple[tuple[Segment, ...], FilmSettings, Storyboard],
) -> None:
    """At most 15 % of one segment is lost, and nothing is ever added."""
    segments, film, storyboard = case
    for index, shot in enumerate(storyboard.shots):
        wanted = film.grid.new_latent_frames(shot.seconds or film.seconds_per_shot, film.fps)
        got = sum(one.new_latent_frames for one in segments if one.shot == index)
        assert 0 <= wanted - got <= 0.15 * film.segment_latent_frames


@given(st.integers(2, 40), st.data())
def test_a_longer_shot_is_never_shorter_on_film(longest: int, data: st.DataObject) -> None:
    tail = data.draw(st.integers(1, longest - 1))

    def length(latent_frames: int) -> int:
        shot = Shot(id="1.1", caption="a", seconds=latent_frames / 4.0)
        segments = plan_segments(
            Storyboard(shots=(shot,)),
            settings(segment_latent_frames=longest, tail_latent_frames=tail),
        )
        return sum(one.new_latent_frames for one in segments)

    total = data.draw(st.integers(1, 4 * longest))
    assert length(total) <= length(total + 1)
