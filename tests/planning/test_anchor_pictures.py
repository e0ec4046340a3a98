"""Pictures as anchors: where they stand, and which segments can have them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from throughline.planning.anchor_pictures import (
    Places,
    parse_places,
    picture_layout,
    place_id,
    with_pictures,
)
from throughline.planning.frames import FrameGrid
from throughline.planning.layout import mmpl_t2v
from throughline.planning.macro import MacroSegment, hand_off, latent_hand_off, macro_segments
from throughline.planning.segments import FilmSettings, plan_segments
from throughline.planning.storyboard import Shot, Storyboard

SHOTS = ("continue", "continue", "cut", "continue")


def planned(first_known: int = 1) -> tuple[MacroSegment, ...]:
    """Four segments of 21 latent frames; the third one cuts."""
    shots = tuple(
        Shot(id=str(place + 1), caption=f"shot {place}", seconds=76 / 16, transition=transition)
        for place, transition in enumerate(SHOTS)
    )
    settings = FilmSettings(
        fps=16.0,
        grid=FrameGrid(4),
        segment_latent_frames=21,
        tail_latent_frames=2,
        seconds_per_shot=5.0,
        unmarked_shots="continue",
        seed=0,
        first_start="image" if first_known else "text",
        first_known_latent_frames=first_known,
    )
    segments = plan_segments(Storyboard(shots=shots), settings)
    return macro_segments(segments, mmpl_t2v)


def test_places_are_read_in_the_pictures_order() -> None:
    assert parse_places("2:end, 1 : middle,3:end") == ((1, "end"), (0, "middle"), (2, "end"))
    assert parse_places(" ") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0:end", "must read like '2:end, 3:middle'"),
        ("2:start", "start_image or a keyframe"),
        ("end", "must read like"),
        ("2:end, 2:end", "each place once, got '2:end' twice"),
    ],
)
def test_places_that_are_none_are_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_places(text)


def test_pictures_stand_in_the_middle_and_at_the_end_of_a_layout() -> None:
    assert (place_id("middle", 21), place_id("end", 21)) == (11, 20)
    both = picture_layout(21, 2, ("middle", "end"))
    assert both.initial == (0, 1) and both.anchors == (11, 20)
    fills = [group.ids for group in both.groups_of("fill")]
    assert fills == [tuple(range(2, 11)), tuple(range(12, 20))]
    assert both.groups_of("fill")[0].visible == (0, 1, 11, 20)
    from_image = picture_layout(21, 1, ("end",))
    assert from_image.initial == (0,) and from_image.known_to_fillers == (0, 20)
    assert picture_layout(21, 5, ("end",)).initial == (0, 1)  # a long start hands on two


@pytest.mark.parametrize("known", [1, 2])
def test_a_segment_without_room_for_its_pictures_is_refused(known: int) -> None:
    with pytest.raises(ValueError, match="has no room for pictures at its middle and end"):
        picture_layout(known + 1, known, ("middle", "end"))


def test_segments_with_pictures_are_planned_from_them_alone() -> None:
    before = planned()
    after = with_pictures(before, {0: ("end",), 1: ("end", "middle")})
    assert [one.places for one in after] == [("end",), ("middle", "end"), (), ()]
    assert after[0].plan_ids == (0, after[0].kept_latent_frames - 1)
    assert after[2:] == before[2:]
    assert with_pictures(before, {}) == before


@pytest.mark.parametrize(
    ("places", "first_known", "said"),
    [
        ({4: ("end",)}, 1, "anchor_places name segments 1 to 4 only, got 5"),
        ({0: ("end",)}, 0, r"segment 1 \(1\) has pictures and nothing to start from"),
        ({2: ("end",)}, 1, r"segment 3 \(3\) has pictures and nothing to start from"),
        ({0: ("middle",)}, 1, "because segment 2 continues it, got one at its middle only"),
    ],
)
def test_pictures_in_the_wrong_place_are_named(places: Places, first_known: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        with_pictures(planned(first_known), places)


def test_a_picture_in_the_middle_is_enough_where_nothing_follows() -> None:
    assert with_pictures(planned(), {1: ("middle",)})[1].places == ("middle",)  # a cut follows
    assert with_pictures(planned(), {3: ("middle",)})[3].places == ("middle",)  # the film ends


def test_pictures_alone_names_the_segment_that_has_none() -> None:
    one = planned()
    with pytest.raises(ValueError, match=r"needs pictures of every segment, segment 2 \(2\) has"):
        with_pictures(one, {0: ("end",)}, alone=True)
    every: Places = {0: ("end",), 1: ("end",)}
    assert all(segment.places for segment in with_pictures(one[:2], every, alone=True))


def test_a_segment_that_is_too_short_is_named() -> None:
    short = [replace(one, kept_latent_frames=2) for one in planned()[:1]]
    with pytest.raises(ValueError, match=r"segment 1 \(1\) is too short: a segment of 2 latent"):
        with_pictures(short, {0: ("middle", "end")})


def test_a_latent_is_handed_on_like_the_anchors_at_its_end() -> None:
    """Frames 8 to 12 of [first, last but one, the same, last]: five frames (section 3.2)."""
    grid = FrameGrid(4)
    given = latent_hand_off(21, grid)
    assert given.decoded == (0, 19, 19, 20) and (given.first, given.frames) == (8, 5)
    assert given == hand_off(mmpl_t2v(21), grid)
    assert latent_hand_off(3, grid).decoded == (0, 1, 1, 2)
    with pytest.raises(ValueError, match="more than 2 latent frames, got 2"):
        latent_hand_off(2, grid)
