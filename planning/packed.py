"""What a video model with packed context sees while it makes a few latent frames.

The steps of MilliVid's schedule that make level 0 (arXiv 2606.09056; shared design
`hierarchical-latents.md`, sections 3.3 and 7.4), as ints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

from .rollout import CoarseToFine, RolloutStep, Span

Known = Callable[[Span], Sequence[bool]]
"""Whether each latent frame of a span is known at its level."""


def finest_steps(rollout: CoarseToFine, begins: int, first: int = 0) -> tuple[RolloutStep, ...]:
    """The steps of the chunk from latent frame `begins` on that make level 0, in order; nothing
    before `first` exists. Raises ValueError for a rollout that stops above level 0."""
    if rollout.finest:
        raise ValueError(
            "packed context makes level 0, got a rollout that stops at level "
            f"{rollout.finest}: set finest_level to 0"
        )
    return tuple(step for step in rollout.steps(begins, first) if step.target.level == 0)


def step_at(rollout: CoarseToFine, frame: int, begins: int) -> RolloutStep:
    """The step that makes level 0 from latent frame `frame` on, the first chunk beginning at
    `begins`. Raises ValueError for a frame that no step begins with."""
    window = rollout.windows.frames[0]
    if frame < begins or (frame - begins) % window:
        raise ValueError(
            f"first_frame must be {begins} (known_frames) and a multiple of {window} more, got "
            f"{frame}"
        )
    done = (frame - begins) // rollout.chunk * rollout.chunk
    steps = finest_steps(rollout, begins + done)
    return steps[(frame - begins - done) // window]


def only_known(step: RolloutStep, known: Known) -> RolloutStep:
    """The step without the context that is not known."""
    context = []
    for span in step.context:
        marked = enumerate(known(span), span.start)
        for here, run in groupby(marked, key=lambda pair: bool(pair[1])):
            frames = [frame for frame, _ in run]
            if here:
                context.append(Span(span.level, frames[0], frames[-1] + 1))
    return replace(step, context=tuple(context))
