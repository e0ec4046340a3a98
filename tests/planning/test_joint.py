"""Which pair reads which, and how many tokens that is: figure 4 of Captain Cinema by hand."""

from __future__ import annotations

from typing import Any

import pytest

from throughline.planning.joint import JointPlan, PairTokens

FULL = PairTokens(text=128, image=25 * 50)


def test_a_pair_is_its_caption_and_its_picture() -> None:
    assert FULL.tokens == 1378


@pytest.mark.parametrize(
    ("mode", "sees"),
    [
        ("separate", [(0,), (1,), (2,)]),
        ("causal", [(0,), (0, 1), (0, 1, 2)]),
        ("full", [(0, 1, 2), (0, 1, 2), (0, 1, 2)]),
    ],
)
def test_who_sees_whom(mode: Any, sees: list[tuple[int, ...]]) -> None:
    plan = JointPlan(mode=mode, pairs=(FULL,) * 3)
    assert [plan.sees(i) for i in range(3)] == sees


def test_tokens_of_figure_4() -> None:
    """Groups of four; the newest is made, the others are its context."""
    sizes = ((15, 30), (9, 18), (5, 10), (3, 6), (2, 4))
    groups = [(PairTokens(text=128, image=short * long),) * 4 for short, long in sizes]
    totals = [5512, 7824, 8984, 9696, 10280, 10824]
    for count, total in enumerate(totals):
        context = tuple(pair for group in reversed(groups[:count]) for pair in group)
        plan = JointPlan(mode="full", pairs=(FULL,) * 4, context=context)
        assert (plan.step_tokens, plan.context_tokens) == (5512, total - 5512)
        assert plan.tokens == total
        naive = JointPlan(mode="full", pairs=(FULL,) * 4, context=(FULL,) * 4 * count)
        assert naive.tokens == 5512 * (count + 1)


def test_a_wrong_plan_is_named() -> None:
    modes: Any = "both"
    with pytest.raises(ValueError, match="mode must be one of separate, causal, full, got 'both'"):
        JointPlan(mode=modes, pairs=(FULL,))
    with pytest.raises(ValueError, match="pairs must hold one pair or more, got none"):
        JointPlan(mode="full", pairs=())
