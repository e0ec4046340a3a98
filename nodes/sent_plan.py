"""A plan on its way to a worker: as JSON, without its latents, which come with the jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from ..planning.frames import FrameGrid
from ..planning.macro import MacroSegment
from ..planning.schedule import SeedFrom
from ..planning.storyboard import Storyboard
from .plan_value import Plan


@dataclass(frozen=True)
class SentRecord:
    """Of a plan's segment on disk: nothing. The driver knows its content, the worker is sent it."""

    content: str = ""


@dataclass(frozen=True)
class SentRun:
    """The run of a plan at a worker: the latents b c n h w that it was sent, by segment."""

    segments: tuple[SentRecord, ...]
    latents: dict[int, torch.Tensor] = field(default_factory=dict)

    def require_finished(self) -> None:
        """The driver sends a job when its plan is there."""

    def latent(self, index: int) -> torch.Tensor:
        return self.latents[index]


@dataclass(frozen=True, kw_only=True)
class SentPlan:
    """The fields of a Plan but its run."""

    storyboard: Storyboard
    segments: tuple[MacroSegment, ...]
    seed_from: SeedFrom
    grid: FrameGrid
    fps: float
    width: int
    height: int
    vae: str
    channels: int


def plan_to_json(plan: Plan) -> bytes:
    """Everything of a plan that fillers read, but its run."""
    sent = SentPlan(**{name: getattr(plan, name) for name in SentPlan.__dataclass_fields__})
    data: bytes = _form().dump_json(sent)
    return data


def plan_from_json(data: bytes) -> tuple[Plan, SentRun]:
    """The plan, and its run, which waits for latents. Raises ValueError for anything else."""
    sent = _form().validate_json(data)
    run = SentRun(tuple(SentRecord() for _ in sent.segments))
    fields = {name: getattr(sent, name) for name in SentPlan.__dataclass_fields__}
    return Plan(run=run, **fields), run  # type: ignore[arg-type]


@cache
def _form() -> Any:
    """Reads and checks dataclasses by their annotations. ComfyUI brings pydantic."""
    from pydantic import TypeAdapter

    return TypeAdapter(SentPlan)
