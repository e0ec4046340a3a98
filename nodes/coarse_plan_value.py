"""What the socket TL_COARSE_PLAN carries: how a film is to be planned coarsely."""

from __future__ import annotations

from dataclasses import dataclass

from ..adapters.hierarchy_weights import LoadedHead, LoadedPlanner, pooled_head
from ..memory.hierarchy import PATCH
from ..planning.rollout import Rollout
from ..planning.rollout_choice import rollout_name

NOISY_START, CONTROL_VIDEO = "noisy start", "control video (VACE)"
GUIDE_WAYS = (NOISY_START, CONTROL_VIDEO)
"""What the widget `guide_as` offers."""

TEXT = "text"
FILM_READS = (TEXT, "nothing")
"""What a film can tell a planner of a latent frame (`PlannerCard.reads`)."""

POOLED = "pooled"
"""The name of the head that needs no weights."""


@dataclass(frozen=True, kw_only=True)
class Planner:
    """A planner over codes, and the head that makes the codes."""

    loaded: LoadedPlanner
    head: LoadedHead

    @property
    def rollout(self) -> Rollout:
        """The one that it was trained with."""
        return self.loaded.rollout


@dataclass(frozen=True, kw_only=True)
class CoarsePlan:
    """`planner` is None where the video model makes its own plan, a small clip of several segments.

    `start_noise` is the share of the first noise level at which a segment begins from its guide.
    """

    start_noise: float
    guide_as: str
    planner: Planner | None = None

    @property
    def as_control(self) -> bool:
        """Whether the guide is shown as a control video."""
        return self.guide_as == CONTROL_VIDEO


def read_coarse_plan(
    planner: object, head: object, start_noise: float, guide_as: str
) -> CoarsePlan:
    """The value of a node's inputs. Raises ValueError naming the input that does not fit."""
    if not 0.0 < start_noise <= 1.0:
        raise ValueError(f"start_noise must be above 0 and at most 1, got {start_noise}")
    if guide_as not in GUIDE_WAYS:
        raise ValueError(f"guide_as must be one of {', '.join(GUIDE_WAYS)}, got {guide_as!r}")
    if planner is None and head is not None:
        raise ValueError(
            "hierarchy_head goes with hierarchy_planner: connect both, or neither for the video "
            "model's own plan"
        )
    chosen = None if planner is None else _planner(planner, head)
    return CoarsePlan(start_noise=start_noise, guide_as=guide_as, planner=chosen)


def _planner(planner: object, head: object) -> Planner:
    if not isinstance(planner, LoadedPlanner):
        raise ValueError(
            "hierarchy_planner must come from a Load hierarchy planner node, got "
            f"{type(planner).__name__}"
        )
    card = planner.card
    if planner.rollout.kind != "hierarchy":
        raise ValueError(
            f"hierarchy_planner must plan codes, got one of {rollout_name(planner.rollout)}"
        )
    if card.reads not in FILM_READS:
        raise ValueError(
            "hierarchy_planner must read the prompt or nothing in a film, got one that reads "
            f"{card.reads}"
        )
    if head is None and card.head == POOLED:
        channels = card.config.code_channels
        head = pooled_head(channels[0] // PATCH**2, len(channels))
    if not isinstance(head, LoadedHead):
        raise ValueError(
            f"hierarchy_head must be connected for this planner, got {type(head).__name__}"
        )
    if head.name != card.head:
        raise ValueError(f"hierarchy_head must be the planner's ({card.head}), got {head.name}")
    return Planner(loaded=planner, head=head)
