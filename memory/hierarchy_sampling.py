"""Planning with a hierarchy planner: the steps of a rollout, denoised and written back.

The sampler is deterministic DDIM (arXiv 2606.09056; shared design `hierarchical-latents.md`, 2.4).
The noise of a target follows from the seed, its level and its first latent frame alone, so that a
plan made in two calls equals one made at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from .hierarchy import CellState, Hierarchy
from .hierarchy_planner import HierarchyPlanner, TokenSpan, mixed, signal_and_noise, without_text

SEED_SPAN = 1 << 63
"""Seeds of torch's generators lie below twice this."""


class Span(Protocol):
    """Latent frames [start, stop) at one level, as planning.rollout.Span."""

    @property
    def level(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


class Step(Protocol):
    """One denoising, as planning.rollout.RolloutStep."""

    @property
    def target(self) -> Span: ...
    @property
    def context(self) -> Sequence[Span]: ...
    @property
    def noisy(self) -> Sequence[Span]: ...
    @property
    def written(self) -> Sequence[Span]: ...


@dataclass(frozen=True)
class Denoising:
    """How a step is denoised: network evaluations, guidance (1 is none, and half as long) and the
    seed of its noise."""

    steps: int = 12
    guidance: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"planning takes 2 denoising steps or more, got {self.steps}")


Report = Callable[[], None]
"""Called after every evaluation of the network; may raise to stop."""


def step_noise(seed: int, span: Span, shape: Sequence[int], origin: int = 0) -> Tensor:
    """The noise that a target begins with, the same wherever it is made."""
    place = f"{seed} {span.level} {origin + span.start}".encode()
    own = int.from_bytes(hashlib.blake2b(place, digest_size=8).digest(), "little") % SEED_SPAN
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(own))


def denoised(
    planner: HierarchyPlanner,
    codes: Sequence[Tensor],
    centres: Sequence[Tensor],
    step: Step,
    condition: Tensor | None,
    noise: Sequence[Tensor],
    denoising: Denoising,
    report: Report | None = None,
) -> list[Tensor]:
    """Codes `b f n c` of the noisy spans of a step, made from noise of the same shapes.

    `codes` are those of the timeline per level, `b t n c`, of which only the context is read;
    `condition` is `b t k`.
    """
    device = planner.gain.device
    start = step.target.start
    batch = len(noise[0])

    def span(of: Span, values: Tensor, level: float) -> TokenSpan:
        told = None if condition is None else condition[:, of.start : of.stop].to(device)
        frames = torch.arange(of.start - start, of.stop - start, device=device)[None]
        return TokenSpan(of.level, values, frames, torch.full((batch,), level, device=device), told)

    clean = [
        span(of, planner.scaled(of.level, codes[of.level][:, of.start : of.stop].to(device)), 0.0)
        for of in step.context
    ]
    unknown = _unknown(clean, denoising) if denoising.guidance != 1.0 else []
    places = [each.to(device) for each in centres]
    x = [each.to(device) for each in noise]
    levels = torch.linspace(1, 0, denoising.steps).tolist()
    for level, after in zip(levels, [*levels[1:], None], strict=True):
        targets = [span(of, each, level) for of, each in zip(step.noisy, x, strict=True)]
        velocity = planner(targets, clean, places)
        if unknown:
            blind = planner(without_text(targets), unknown, places)
            velocity = [
                torch.lerp(b, v, denoising.guidance) for b, v in zip(blind, velocity, strict=True)
            ]
        x = [_next(each, v, level, after) for each, v in zip(x, velocity, strict=True)]
        if report is not None:
            report()
    return [planner.unscaled(of.level, each) for of, each in zip(step.noisy, x, strict=True)]


def _unknown(clean: Sequence[TokenSpan], denoising: Denoising) -> list[TokenSpan]:
    """The context as guidance hides it: nothing but noise, no condition (design, 2.2)."""
    generator = torch.Generator().manual_seed(denoising.seed % SEED_SPAN)
    return without_text(
        [
            replace(
                span,
                codes=mixed(
                    span.codes,
                    torch.randn(span.codes.shape, generator=generator).to(span.codes),
                    torch.ones_like(span.noise),
                ),
                noise=torch.ones_like(span.noise),
            )
            for span in clean
        ]
    )


def _next(x: Tensor, velocity: Tensor, level: float, after: float | None) -> Tensor:
    """The codes at the noise level `after`; None: the clean ones."""
    alpha, sigma = (each.item() for each in signal_and_noise(torch.tensor(level)))
    clean = alpha * x - sigma * velocity
    if after is None:
        return clean
    noise = alpha * velocity + sigma * x
    alpha, sigma = (each.item() for each in signal_and_noise(torch.tensor(after)))
    return alpha * clean + sigma * noise


@torch.no_grad()
def denoise_step(
    planner: HierarchyPlanner,
    hierarchy: Hierarchy,
    step: Step,
    condition: Tensor | None,
    denoising: Denoising,
    origin: int = 0,
    report: Report | None = None,
) -> list[Tensor]:
    """Codes `f n c` of the noisy spans of a step on a hierarchy.

    `condition` is `t k` for the hierarchy's frames; `origin` is the film's latent frame that its
    frame 0 is. Raises ValueError when the step reads what is not known.
    """
    for of in step.context:
        if not hierarchy.known(of.level, of.start, of.stop):
            raise ValueError(
                f"this step reads latent frames {origin + of.start} to {origin + of.stop} at level "
                f"{of.level}, which are neither made nor planned yet"
            )
    noise = [
        step_noise(
            denoising.seed,
            of,
            (1, of.stop - of.start, *hierarchy.codes[of.level].shape[1:]),
            origin,
        )
        for of in step.noisy
    ]
    centres = [hierarchy.grid.centres(level) for level in range(hierarchy.grid.levels)]
    told = None if condition is None else condition[None]
    codes = [each[None] for each in hierarchy.codes]
    made = denoised(planner, codes, centres, step, told, noise, denoising, report)
    return [each[0].to(hierarchy.codes[0].device) for each in made]


def plan_chunk(
    planner: HierarchyPlanner,
    hierarchy: Hierarchy,
    steps: Iterable[Step],
    condition: Tensor | None,
    denoising: Denoising,
    origin: int = 0,
    report: Report | None = None,
) -> Hierarchy:
    """A hierarchy with the targets of these steps written, one after the other.

    Raises ValueError as `denoise_step` does.
    """
    for step in steps:
        made = denoise_step(planner, hierarchy, step, condition, denoising, origin, report)
        for of, codes in zip(step.noisy, made, strict=True):
            if of in step.written:
                hierarchy = hierarchy.with_codes(of.level, of.start, codes, CellState.PLANNED)
    return hierarchy
