"""What a training step of the history encoder sees and predicts, in ints: no tensors here.

Three tasks. `frames` is Stage I (paper 2512.23851v6, section 3.2): frames of the history at random
positions are asked for at their own time, all others are masked by noise. `repeat` and `shot` are
Stage II: a new shot follows the history. In `repeat` it is a shot that the history holds, which
teaches to look for it by its caption before `shot` asks for new views (ours: without such a bridge
the design measured that the memory is not read).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Task = Literal["frames", "repeat", "shot"]
RUN_LENGTHS = (1, 2, 4)
"""Latent frames of one Stage I query (AlayaWorld, configs/stage2a_histpretrain.yaml)."""

RUN_SHARES = (0.1, 0.3, 0.6)
"""How often each is drawn (the same file)."""

MASK_LEVELS = (0.2, 1.0)
"""Noise levels of masked frames, drawn evenly (paper v6, section 3.2; AlayaWorld)."""


@dataclass(frozen=True)
class HistoryPlan:
    """`segments` of a story in the order they are shown; `slots` their places on the time line.

    A slot is one segment long. Slots may stay empty, so that few segments cover long times.
    """

    story: int
    segments: tuple[int, ...]
    slots: tuple[int, ...]
    total_slots: int

    def start(self, index: int, segment_latent_frames: int) -> int:
        """Time of the first latent frame of the segment at `index`; the history ends at 0."""
        return (self.slots[index] - self.total_slots) * segment_latent_frames


@dataclass(frozen=True)
class Query:
    """Latent frames first .. first + frames of a segment, asked for at time `start`.

    `prefix` latent frames of them are known, as in a shot that continues.
    """

    history: int
    segment: int
    first: int
    frames: int
    start: int
    prefix: int = 0


@dataclass(frozen=True)
class StepPlan:
    """The histories of a step and what is asked of them, `queries` in the order of histories."""

    task: Task
    histories: tuple[HistoryPlan, ...]
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class StepShape:
    """How large a step is.

    `slots` is the longest time line in segments, `prefix_share` how often a shot knows its first
    two latent frames. `ordered` histories are neighbours in the order of their film, and a shot is
    the segment after them: for films, where the demo's stories may be shown in any order.
    """

    histories: int = 4
    queries: int = 6
    segments: tuple[int, int] = (5, 11)
    slots: int = 24
    segment_latent_frames: int = 6
    prefix_share: float = 0.25
    prefix: int = 2
    ordered: bool = False


def draw_step(
    task: Task,
    shape: StepShape,
    stories: int,
    story_segments: int,
    generator: np.random.Generator,
    scenes: Sequence[Sequence[str]] = (),
) -> StepPlan:
    """Draw a step; the same generator gives the same step. Histories of a step are equally long.

    `scenes` names the scene of every segment of every story; with it a `shot` is one of a scene
    that its history shows, where there is one: nothing else can be learned from a history. Raises
    ValueError when the stories are too short for the shape.
    """
    most = story_segments if task == "frames" else story_segments - 1
    if most < shape.segments[0]:
        raise ValueError(
            f"a history of {shape.segments[0]} segments needs stories of more than that, they have "
            f"{story_segments}"
        )
    count = int(generator.integers(shape.segments[0], min(shape.segments[1], most) + 1))
    run = int(generator.choice(RUN_LENGTHS, p=RUN_SHARES))
    run = min(run, shape.segment_latent_frames)
    histories, queries = [], []
    for index in range(shape.histories):
        if shape.ordered:
            first = int(generator.integers(most - count + 1))
            order, total = list(range(first, min(first + count + 1, story_segments))), count
            slots = list(range(count))
        else:
            order = [int(i) for i in generator.permutation(story_segments)]
            total = int(generator.integers(count, max(count, shape.slots) + 1))
            slots = sorted(int(i) for i in generator.permutation(total)[:count])
            slots[-1] = total - 1  # the newest segment is what came right before
        story = int(generator.integers(stories))
        plan = HistoryPlan(story, tuple(order[:count]), tuple(slots), total)
        histories.append(plan)
        rest = order[count:]
        if scenes:
            shown = {scenes[story][segment] for segment in plan.segments}
            rest = [segment for segment in rest if scenes[story][segment] in shown] or rest
        for _ in range(shape.queries):
            queries.append(_query(task, shape, plan, index, rest, run, generator))
    return StepPlan(task, tuple(histories), tuple(queries))


def _query(
    task: Task,
    shape: StepShape,
    plan: HistoryPlan,
    history: int,
    rest: list[int],
    run: int,
    generator: np.random.Generator,
) -> Query:
    length = shape.segment_latent_frames
    if task == "frames":
        index = int(generator.integers(len(plan.segments)))
        first = int(generator.integers(length - run + 1))
        return Query(history, plan.segments[index], first, run, plan.start(index, length) + first)
    segment = int(generator.choice(plan.segments if task == "repeat" else rest))
    known = shape.prefix if generator.uniform() < shape.prefix_share else 0
    return Query(history, segment, 0, length, 0, known)
