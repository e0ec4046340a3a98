"""Conditions of latent frames as people write them."""

from __future__ import annotations

import pytest

from throughline.planning.frame_conditions import parse_conditions


def test_numbers_things_and_repeats() -> None:
    assert parse_conditions("3+17, 4 + 17*2,\n0", 18) == ((3, 17), (4, 17), (4, 17), (0,))
    assert parse_conditions("", 5) == ()
    assert parse_conditions("2*0, 1", 5) == ((1,),)


@pytest.mark.parametrize("text", ["a", "1;2", "1+", "-1", "1.5", "*3", "1**2"])
def test_what_does_not_read_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="conditions must read like"):
        parse_conditions(text, 9)


def test_numbers_that_the_planner_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="numbers from 0 to 8, got 9"):
        parse_conditions("1, 9+2", 9)
    with pytest.raises(ValueError, match="1,000,000 latent frames or fewer"):
        parse_conditions("1*9999999", 9)
