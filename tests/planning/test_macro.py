"""The chain of plans: hand-off, lengths and cuts."""

from __future__ import annotations

import pytest

from throughline.planning.frames import FrameGrid
from throughline.planning.layout import anchored_layout, mmpl_i2v, mmpl_t2v
from throughline.planning.macro import (
    HandOff,
    film_frames,
    hand_off,
    macro_segments,
    planned_length,
)
from throughline.planning.script import parse_storyboard
from throughline.planning.segments import FilmSettings, Segment, plan_segments

WAN = FrameGrid(4)


def segments_of(script: str, longest: int = 21, seconds: float = 4.75) -> tuple[Segment, ...]:
    settings = FilmSettings(
        fps=16.0,
        grid=WAN,
        segment_latent_frames=longest,
        tail_latent_frames=2,
        seconds_per_shot=seconds,
        unmarked_shots="continue",
        seed=0,
        first_start="text",
        first_known_latent_frames=0,
    )
    return plan_segments(parse_storyboard(script), settings)


def chain(count: int) -> tuple[Segment, ...]:
    return segments_of("[5.25s] one.\n" + "two.\n" * (count - 1))


def test_the_hand_off_is_the_released_one() -> None:
    found = hand_off(mmpl_t2v(), WAN)
    assert found == HandOff(decoded=(0, 19, 19, 20), first=8, frames=5)
    assert hand_off(mmpl_i2v(), WAN, "middle").decoded == (0, 11, 11, 12)
    assert hand_off(mmpl_t2v(31), WAN).decoded == (0, 29, 29, 30)
    with pytest.raises(ValueError, match="two anchors in a row .* terminal ones, got"):
        hand_off(anchored_layout("one", 21, (10, 20)), WAN)


@pytest.mark.parametrize(("count", "frames"), [(1, 81), (4, 309), (6, 461), (12, 917)])
def test_a_film_has_81_frames_and_76_for_each_more(count: int, frames: int) -> None:
    planned = macro_segments(chain(count), mmpl_t2v)
    assert len(planned) == count
    assert {one.layout.latent_frames for one in planned} == {21}
    assert film_frames(planned, WAN) == frames == 81 + 76 * (count - 1)
    assert planned[0].plan_ids == (0, 1, 2, 3, 10, 11, 12, 19, 20)
    assert [one.fill_groups for one in planned] == [2] * count


def test_from_the_middle_a_segment_adds_eleven_latent_frames() -> None:
    segments = segments_of("[3.25s] one.\n[2.75s] two.\n[2.75s] three.", longest=13)
    planned = macro_segments(segments, mmpl_t2v, "middle")
    assert {one.layout.latent_frames for one in planned} == {21}
    assert [one.kept_latent_frames for one in planned] == [13, 13, 13]
    assert [one.fill_groups for one in planned] == [1, 1, 1]
    assert film_frames(planned, WAN) == 49 + 44 + 44


def test_planned_lengths_reach_the_middle() -> None:
    from throughline.planning.layout import middle_anchors

    assert planned_length(13, 21) == 21 and planned_length(18, 31) == 31
    for kept in range(4, 40):
        length = planned_length(kept, 5)
        assert middle_anchors(length)[-1] + 1 >= kept
        assert length == kept or middle_anchors(length - 1)[-1] + 1 < kept


def test_a_cut_begins_another_chain() -> None:
    segments = segments_of("one.\ntwo.\n[cut] three.\nfour.")
    assert [one.start for one in segments] == ["text", "tail", "text", "tail"]
    planned = macro_segments(segments, mmpl_t2v)
    whole = sum(WAN.frames(one.kept_latent_frames) for one in planned)
    assert film_frames(planned, WAN) == whole - 2 * 5  # five shared frames per chain, none at a cut


def test_short_shots_have_short_layouts_and_very_short_ones_are_refused() -> None:
    planned = macro_segments(segments_of("[3s] one.\n[2s] two."), mmpl_t2v)
    assert [one.layout.latent_frames for one in planned] == [12, 10]
    with pytest.raises(ValueError, match=r"segment 1 of 1 latent frames is too short"):
        macro_segments(segments_of("[0.25s] one."), mmpl_t2v)


def test_a_tail_of_another_length_is_refused() -> None:
    from dataclasses import replace

    wrong = [replace(one, known_latent_frames=3) for one in chain(2)]
    with pytest.raises(ValueError, match="segment 2 must be handed 2 latent frames"):
        macro_segments(wrong, mmpl_t2v)
