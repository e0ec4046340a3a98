"""What a step of the encoder's training sees and asks for, in ints."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from throughline.training.memory_plan import (
    RUN_LENGTHS,
    RUN_SHARES,
    HistoryPlan,
    Query,
    StepPlan,
    StepShape,
    Task,
    draw_step,
)

TASKS: tuple[Task, ...] = ("frames", "repeat", "shot")
SHAPE = StepShape(histories=3, queries=4, segments=(2, 5), slots=9)


def _draw(task: Task, seed: int, shape: StepShape = SHAPE, segments: int = 8) -> StepPlan:
    return draw_step(task, shape, 50, segments, np.random.default_rng(seed))


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_step(task: Task) -> None:
    assert _draw(task, 3) == _draw(task, 3)
    assert len({_draw(task, seed) for seed in range(10)}) == 10


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("ordered", [False, True])
def test_a_step_is_what_its_shape_says(task: Task, ordered: bool) -> None:
    shape = StepShape(histories=3, queries=4, segments=(2, 5), slots=9, ordered=ordered)
    counts = Counter()
    for seed in range(60):
        plan = _draw(task, seed, shape)
        assert len(plan.histories) == 3 and len(plan.queries) == 12
        assert [query.history for query in plan.queries] == [0] * 4 + [1] * 4 + [2] * 4
        lengths = {len(history.segments) for history in plan.histories}
        assert len(lengths) == 1
        counts.update(lengths)
        for history in plan.histories:
            assert 0 <= history.story < 50
            assert len(set(history.segments)) == len(history.segments)
            assert list(history.slots) == sorted(set(history.slots))
            assert history.slots[-1] == history.total_slots - 1 < 9  # the newest is right before
    assert set(counts) == {2, 3, 4, 5}


def test_a_history_stands_before_time_zero() -> None:
    history = HistoryPlan(story=0, segments=(4, 2, 7), slots=(0, 3, 4), total_slots=5)
    assert [history.start(index, 6) for index in range(3)] == [-30, -12, -6]


def test_queries_of_frames_ask_at_the_frames_own_time() -> None:
    for seed in range(60):
        plan = _draw("frames", seed)
        for query in plan.queries:
            history = plan.histories[query.history]
            index = history.segments.index(query.segment)
            assert 0 <= query.first and query.first + query.frames <= SHAPE.segment_latent_frames
            assert query.start == history.start(index, SHAPE.segment_latent_frames) + query.first
            assert query.start + query.frames <= 0 and query.prefix == 0


def test_every_position_of_the_history_is_asked_for() -> None:
    """A fixed target would let the encoder spend all it has there (paper v6, section 3.2)."""
    shape = StepShape(histories=1, queries=8, segments=(5, 5), slots=5)
    asked = Counter()
    for seed in range(200):
        for query in _draw("frames", seed, shape).queries:
            asked.update(range(query.start, query.start + query.frames))
    assert set(asked) == set(range(-30, 0))
    assert min(asked.values()) > 0.2 * max(asked.values())  # runs reach the ends more seldom


def test_runs_are_as_long_as_often_as_they_should_be() -> None:
    runs = Counter(_draw("frames", seed).queries[0].frames for seed in range(2000))
    for length, share in zip(RUN_LENGTHS, RUN_SHARES, strict=True):
        assert runs[length] / 2000 == pytest.approx(share, abs=0.04)
    short = StepShape(histories=1, queries=1, segments=(2, 3), segment_latent_frames=3)
    assert max(_draw("frames", seed, short).queries[0].frames for seed in range(40)) == 3


def test_a_repeat_is_in_the_history_and_a_shot_is_not() -> None:
    known = Counter()
    for seed in range(60):
        for task in ("repeat", "shot"):
            plan = _draw(task, seed)
            for query in plan.queries:
                inside = query.segment in plan.histories[query.history].segments
                assert inside == (task == "repeat")
                assert (query.first, query.frames, query.start) == (0, 6, 0)
                known[query.prefix] += 1
    assert set(known) == {0, SHAPE.prefix}
    assert known[SHAPE.prefix] / known.total() == pytest.approx(SHAPE.prefix_share, abs=0.05)


def test_an_ordered_history_is_a_piece_of_the_film_and_a_shot_is_what_comes_next() -> None:
    shape = StepShape(histories=2, queries=2, segments=(2, 100), ordered=True)
    firsts, lasts = set(), set()
    for seed in range(200):
        for task in TASKS:
            plan = _draw(task, seed, shape)
            for history in plan.histories:
                first, count = history.segments[0], len(history.segments)
                assert history.segments == tuple(range(first, first + count))
                assert history.slots == tuple(range(count)) and history.total_slots == count
                firsts.add(first)
            for query in plan.queries:
                history = plan.histories[query.history]
                if task == "shot":
                    assert query.segment == history.segments[-1] + 1
                    lasts.add(query.segment)
                else:
                    assert query.segment in history.segments
    assert 0 in firsts and 6 in firsts and lasts == set(range(2, 8))


def test_stories_too_short_for_a_history_are_named() -> None:
    shape = StepShape(histories=1, queries=1, segments=(5, 9))
    assert _draw("frames", 0, shape, segments=5).histories[0].segments
    with pytest.raises(ValueError, match="history of 5 segments .* they have 5"):
        _draw("shot", 0, shape, segments=5)


def test_plans_are_values() -> None:
    query = Query(history=0, segment=1, first=0, frames=2, start=-4)
    assert query == Query(0, 1, 0, 2, -4) and hash(query) == hash(Query(0, 1, 0, 2, -4))


def test_a_shot_is_of_a_scene_that_its_history_shows() -> None:
    """Where there is one; nothing else could be learned from the history."""
    scenes = [[("harbour", "garden", "station")[i % 3] for i in range(8)] for _ in range(50)]
    free = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        plan = draw_step("shot", SHAPE, 50, 8, generator, scenes)
        for query in plan.queries:
            history = plan.histories[query.history]
            shown = {scenes[history.story][segment] for segment in history.segments}
            left = {scenes[history.story][s] for s in range(8) if s not in history.segments}
            assert query.segment not in history.segments
            if shown & left:
                assert scenes[history.story][query.segment] in shown
            free += len(shown) < 3
    assert free > 0  # some histories lack a scene: the rule had something to do
    alone = [[str(i) for i in range(8)]] * 50  # no scene comes back: any shot will do
    asked = {
        query.segment
        for seed in range(60)
        for query in draw_step("shot", SHAPE, 50, 8, np.random.default_rng(seed), alone).queries
    }
    assert asked == set(range(8))
