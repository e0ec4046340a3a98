"""Actions as text and as curves."""

from __future__ import annotations

import pytest

from throughline.planning.actions import (
    ACTION_FRAMES,
    FORWARD,
    LEFT,
    RIGHT,
    actions_text,
    parse_actions,
    repeated,
    steered,
)


def test_text_becomes_an_action_per_frame() -> None:
    read = parse_actions("forward 3, LEFT\n right 1; 2, 0,", "actions")
    assert read == (FORWARD,) * 3 + (LEFT,) * ACTION_FRAMES + (RIGHT, RIGHT, FORWARD)
    assert ACTION_FRAMES == 9
    assert parse_actions(" \n, ", "actions") == ()
    assert actions_text(read) == "forward 3, left 9, right 2, forward 1"
    assert parse_actions(actions_text(read), "actions") == read


@pytest.mark.parametrize(
    "text", ["hop 3", "forward -1", "forward 0", "left 9 9", "3", "left9x", "forward 9999999"]
)
def test_what_is_no_action_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"moves must be actions such as .* got '{text}'"):
        parse_actions(f"forward 2, {text}", "moves")


def test_actions_begin_anew() -> None:
    assert repeated((0, 1, 1), 7) == (0, 1, 1, 0, 1, 1, 0)


def test_a_curve_steers() -> None:
    assert steered(lambda x: x, 7) == (LEFT, LEFT, FORWARD, FORWARD, FORWARD, RIGHT, RIGHT)
    assert steered(lambda x: 0.5, 3) == (FORWARD,) * 3
    assert steered(lambda x: 0.9 - x, 1) == (RIGHT,)  # a single frame is at 0
