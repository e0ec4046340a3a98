"""What a rollout costs and what one of its steps does, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from ..planning.rollout import Rollout, RolloutStep, Span, chunk_starts, tokens
from ..planning.rollout_choice import rollout_name


@dataclass(frozen=True)
class ShownStep:
    """A step of a video, and the latent frames [start, stop) that it can look at."""

    step: RolloutStep
    start: int
    stop: int


@dataclass(frozen=True)
class RolloutView:
    """A rollout over a video: `latent_frames` are made behind `known_frames` that are there."""

    rollout: Rollout
    tokens_per_level: tuple[int, ...]
    latent_frames: int
    known_frames: int

    def __post_init__(self) -> None:
        if len(self.tokens_per_level) < self.levels:
            raise ValueError(
                f"the rollout needs a hierarchy of {self.levels} levels, got "
                f"{len(self.tokens_per_level)}"
            )

    @property
    def levels(self) -> int:
        return self.rollout.levels[-1] + 1

    @property
    def chunks(self) -> range:
        return chunk_starts(self.rollout, self.known_frames, self.latent_frames)

    @property
    def num_steps(self) -> int:
        return len(self.chunks) * self.rollout.steps_per_chunk

    def step(self, number: int) -> ShownStep:
        """Step `number`, from 1 on through all chunks. Raises ValueError for one that is not."""
        if not 1 <= number <= self.num_steps:
            raise ValueError(
                f"shown_step must be 1 to {self.num_steps}, the steps of this video, got {number}"
            )
        chunk, place = divmod(number - 1, self.rollout.steps_per_chunk)
        start = self.chunks[chunk]
        step = next(islice(self.rollout.steps(start), place, None))
        last = max(span.stop for span in (*step.noisy, *step.context))
        return ShownStep(
            step, max(0, start - self.rollout.history), max(start + self.rollout.chunk, last)
        )

    def cost(self, step: RolloutStep) -> int:
        """Tokens that the network sees in this step."""
        return tokens(step, self.tokens_per_level)


def quartered(tokens_per_frame: int, levels: int) -> tuple[int, ...]:
    """Tokens of a latent frame per level, a quarter from each to the next, rounded up (shared
    design `hierarchical-latents.md`, 1.1)."""
    return tuple(-(-tokens_per_frame // 4**level) for level in range(levels))


def rollout_report(view: RolloutView) -> str:
    """The rollout in lines of text."""
    rollout = view.rollout
    first, later = (_costs(view, start) for start in (view.chunks[0], view.known_frames + FAR))
    frames = f"{view.latent_frames:,} latent frames"
    lines = [
        rollout_name(rollout),
        f"looks back over {rollout.history:,} latent frames, makes {rollout.chunk:,} per chunk in "
        f"{rollout.steps_per_chunk} steps",
        f"{frames}: {len(view.chunks):,} chunks, {view.num_steps:,} steps",
        f"tokens per step: {later}",
    ]
    if view.known_frames < rollout.history:
        lines.append(
            f"cold start: {view.known_frames:,} latent frames are known, the first chunk has "
            f"{first} tokens per step"
        )
    return "\n".join(lines)


FAR = 1 << 30
"""A latent frame that has all the history that any rollout looks back over."""


def _costs(view: RolloutView, start: int) -> str:
    costs = {view.cost(step) for step in view.rollout.steps(start)}
    return f"{min(costs):,}" + (f" to {max(costs):,}" if len(costs) > 1 else "")


def describe_step(view: RolloutView, shown: ShownStep) -> tuple[str, str]:
    """What a step makes and what it sees, one line each."""
    step = shown.step
    made = f"makes level {step.target.level}, latent frames {_frames(step.target)}"
    past = step.target.start - min([*(span.start for span in step.context), step.target.start])
    ahead = max([*(span.stop for span in step.context), step.target.stop]) - step.target.stop
    seen = f"sees {past:,} latent frames back and {ahead:,} ahead, {view.cost(step):,} tokens"
    return made, seen


def _frames(span: Span) -> str:
    """Latent frames as people count them, the last one included."""
    return f"{span.start:,} to {span.stop - 1:,}" if span.frames > 1 else f"{span.start:,}"
