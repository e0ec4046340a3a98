"""Which segments are remembered, and where they stand in time: by hand."""

from __future__ import annotations

import pytest

from throughline.planning.recall import (
    RecallPolicy,
    parse_shots,
    recalled_segments,
    segment_starts,
    with_recall,
)
from throughline.planning.segments import Segment


def segments() -> tuple[Segment, ...]:
    """Shot 1 is two segments of 2 and 1 + 2 latent frames; then 1, 1 + 1 and, after a cut, 1."""
    film = ((0, "text", 2), (0, "tail", 3), (1, "text", 1), (2, "tail", 2), (3, "text", 1))
    return tuple(
        Segment(
            index=index,
            shot=shot,
            shot_id=str(shot + 1),
            chain=0,
            start=start,
            latent_frames=latent_frames,
            known_latent_frames=1 if start == "tail" else 0,
            prompt="",
            negative="",
            seed=index,
        )
        for index, (shot, start, latent_frames) in enumerate(film)
    )


def policy(**changes: object) -> RecallPolicy:
    base = {"recent": True, "pin_first_shot": True, "latent_frames": 0, "stream": "chain"}
    return RecallPolicy(**{**base, **changes})


def recalls(**changes: object) -> list[tuple[int, ...]]:
    film = segments()
    return [recalled_segments(film, i, policy(**changes)) for i in range(len(film))]


def test_times_in_a_chain_and_one_after_the_other() -> None:
    assert segment_starts(segments(), "chain") == (0, 1, 4, 4, 6)
    assert segment_starts(segments(), "segment") == (0, 2, 5, 6, 8)


def test_everything_before_is_remembered() -> None:
    assert recalls() == [(), (0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)]


def test_anchors_only() -> None:
    assert recalls(recent=False) == [(), (0,), (0, 1), (0, 1), (0, 1)]
    assert recalls(recent=False, pin_first_shot=False) == [(), (), (), (), ()]


def test_a_limit_keeps_the_newest_and_the_anchors() -> None:
    assert recalls(latent_frames=2, pin_first_shot=False) == [(), (0,), (1,), (1, 2), (2, 3)]
    assert recalls(latent_frames=1)[-1] == (0, 1, 3)


def test_a_cut_that_remembers_starts_from_memory() -> None:
    film = with_recall(segments(), policy(), anything_given=False)
    assert [s.start for s in film] == ["text", "tail", "memory", "tail", "memory"]
    assert [s.recalls for s in film] == [None, (0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)]


def test_what_is_given_is_remembered_from_the_first_segment_on() -> None:
    film = with_recall(segments(), policy(recent=False, pin_first_shot=False), anything_given=True)
    assert [s.start for s in film] == ["memory", "tail", "memory", "tail", "memory"]
    assert {s.recalls for s in film} == {()}


def test_shots_are_read() -> None:
    assert parse_shots("1-3, 5") == {1, 2, 3, 5}
    assert parse_shots(" ") is None


@pytest.mark.parametrize("text", ["0", "3-1", "one", "1-", "-2", "1..3"])
def test_shots_that_do_not_read_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"shots must read like '1-3, 5', got"):
        parse_shots(text)
