"""Keyframes made together: which (caption, picture) pair reads which, and how many tokens that is.

Pairs of one batch are made together; context is made already and only read. A token of a pair sees
the whole of every pair that its own one sees: Captain Cinema (arXiv 2507.18634) masks at the
granularity of pairs, full in training and upper-triangular for one keyframe after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

JointMode = Literal["separate", "causal", "full"]
"""What the pairs of a batch see of one another: nothing, the earlier ones, or all of them."""

JOINT_MODES: tuple[JointMode, ...] = ("separate", "causal", "full")


@dataclass(frozen=True, kw_only=True)
class PairTokens:
    """Tokens of one pair: of its caption (without padding) and of its picture."""

    text: int
    image: int

    @property
    def tokens(self) -> int:
        return self.text + self.image


@dataclass(frozen=True, kw_only=True)
class JointPlan:
    """The `pairs` that are made together and the `context` that they read, oldest first.

    The context sees nothing of what is being made, whatever the mode: so it is the same in every
    step, and its keys and values can be kept.
    """

    mode: JointMode
    pairs: tuple[PairTokens, ...]
    context: tuple[PairTokens, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in JOINT_MODES:
            raise ValueError(f"mode must be one of {', '.join(JOINT_MODES)}, got {self.mode!r}")
        if not self.pairs:
            raise ValueError("pairs must hold one pair or more, got none")

    def sees(self, pair: int) -> tuple[int, ...]:
        """The pairs of the batch that one of them sees, by number; all see all of the context."""
        if self.mode == "separate":
            return (pair,)
        return tuple(range(pair + 1 if self.mode == "causal" else len(self.pairs)))

    @property
    def step_tokens(self) -> int:
        """Tokens that go through the model in every step, for one cfg pass."""
        return sum(pair.tokens for pair in self.pairs)

    @property
    def context_tokens(self) -> int:
        """Tokens that go through the model once per sampling, and are read in every step."""
        return sum(pair.tokens for pair in self.context)

    @property
    def tokens(self) -> int:
        """Length of the one sequence [context, pairs] that this stands for."""
        return self.context_tokens + self.step_tokens
