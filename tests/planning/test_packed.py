"""What a model with packed context sees."""

from __future__ import annotations

import pytest

from throughline.planning.packed import finest_steps, only_known, step_at
from throughline.planning.rollout import CoarseToFine, RolloutStep, Span, Windows

ROLLOUT = CoarseToFine(Windows((3, 12, 48, 192)))


def test_the_steps_of_level_0_are_those_of_the_worked_example() -> None:
    """Section 3.4 of the shared design, the chunk at 255."""
    steps = finest_steps(ROLLOUT, 255)
    assert len(steps) == 64
    assert [step.target.start for step in steps] == list(range(255, 447, 3))
    relative = [(s.level, s.start - 255, s.stop - 255) for s in steps[1].context]
    assert relative == [
        (0, 0, 3),
        (1, -3, 0),
        (1, 3, 12),
        (2, -15, -3),
        (2, 12, 48),
        (3, -63, -15),
        (3, 48, 192),
    ]


def test_a_frame_has_its_step_in_its_chunk() -> None:
    assert step_at(ROLLOUT, 255, 255) == finest_steps(ROLLOUT, 255)[0]
    assert step_at(ROLLOUT, 258 + 192, 255) == finest_steps(ROLLOUT, 255 + 192)[1]
    with pytest.raises(ValueError, match=r"255 \(known_frames\) and a multiple of 3 more, got 256"):
        step_at(ROLLOUT, 256, 255)
    with pytest.raises(ValueError, match="got 3"):
        step_at(ROLLOUT, 3, 255)
    with pytest.raises(ValueError, match="stops at level 1"):
        step_at(CoarseToFine(Windows((1, 4)), finest=1), 0, 0)


def test_what_is_not_known_is_not_seen() -> None:
    step = RolloutStep(Span(0, 8, 9), (Span(0, 7, 8), Span(1, 2, 7), Span(2, 9, 12)))
    holes = {(1, 4), (2, 9), (2, 10), (2, 11)}
    seen = only_known(step, lambda s: [(s.level, f) not in holes for f in range(s.start, s.stop)])
    assert seen.context == (Span(0, 7, 8), Span(1, 2, 4), Span(1, 5, 7))
    assert seen.target == step.target
