"""The value of TL_PLAN: a film as anchors on disk, ready to be filled; or that will be there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..planning.frames import FrameGrid
from ..planning.macro import MacroSegment
from ..planning.schedule import SeedFrom
from ..planning.storyboard import Storyboard
from ..runs.run import Run, open_run


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a plan hands on. It holds no latents: each is read from its run folder when asked for.

    `segments` belong to the run's, one for one. `width` and `height` are the film's in pixels,
    `vae` the fingerprint of the VAE whose latents the anchors are, `channels` theirs.
    """

    run: Run
    storyboard: Storyboard
    segments: tuple[MacroSegment, ...]
    seed_from: SeedFrom
    grid: FrameGrid
    fps: float
    width: int
    height: int
    vae: str
    channels: int

    def anchors(self, index: int) -> dict[int, Tensor]:
        """The known latent frames b c 1 h w of a segment by id. Raises ValueError like Run."""
        return by_id(self.segments[index], self.run.latent(index))


@dataclass(frozen=True, kw_only=True)
class PromisedPlan(Plan):
    """A plan that a schedule makes. `run` is its folder as it was when promised, `inputs` are
    those of the plan node `node_id`, from which it is decided again."""

    inputs: Mapping[str, Any]
    node_id: str

    def anchors(self, index: int) -> dict[int, Tensor]:
        """As they lie on disk now. Raises ValueError like Run, while they are not made too."""
        return by_id(self.segments[index], open_run(self.run.path).latent(index))


@dataclass(frozen=True, kw_only=True)
class Fills:
    """The value of TL_FILLS: the inputs of the populate node `node_id`, which left its work to a
    schedule. `prompt` is the graph in API form that it stands in."""

    inputs: Mapping[str, Any]
    node_id: str
    prompt: Mapping[str, Any] | None = None


def by_id(segment: MacroSegment, latent: Tensor) -> dict[int, Tensor]:
    """The frames b c 1 h w of a stored plan b c n h w by their place in the segment."""
    if latent.shape[2] != len(segment.plan_ids):
        raise ValueError(
            f"the plan of segment {segment.segment.number} must hold {len(segment.plan_ids)} "
            f"latent frames, got {latent.shape[2]}: it was planned with another layout"
        )
    frames = latent.split(1, dim=2)
    return dict(zip(segment.plan_ids, frames, strict=True))
