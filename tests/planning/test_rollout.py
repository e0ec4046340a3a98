"""Coarse-to-fine rollout against the released strategy's selections and by its invariants."""

from __future__ import annotations

import hashlib
import random
import time
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise

import pytest

from throughline.planning.rollout import (
    PRESETS,
    CoarseToFine,
    Rollout,
    RolloutStep,
    Span,
    State,
    Windows,
    chunk_starts,
    states,
    tokens,
)
from throughline.planning.rollout_framepack import FramePack
from throughline.planning.rollout_full import FullResolution
from throughline.planning.rollout_mirrored import Mirrored

AUTHORS = (256, 64, 16, 4)
"""Tokens per frame and level of the authors' autoencoder (paper, page 3)."""

CHUNKS = 3
"""Chunks that the invariants are checked over."""


def spans(text: str) -> tuple[Span, ...]:
    """ "0:-3,0 1:0,12" as spans of level 0 and 1."""
    found = []
    for part in text.split():
        level, interval = part.split(":")
        start, stop = interval.split(",")
        found.append(Span(int(level), int(start), int(stop)))
    return tuple(found)


def test_the_worked_example_of_the_design() -> None:
    """Section 3.4, verbatim."""
    steps = list(CoarseToFine(PRESETS[2]).steps(0, first=-255))
    past = "0:-3,0 1:-15,-3 "
    assert [(step.target, step.context) for step in steps[:5]] == [
        (Span(3, 0, 192), spans(past + "2:-63,-15 3:-255,-63")),
        (Span(2, 0, 48), spans(past + "2:-63,-15 3:0,192")),
        (Span(1, 0, 12), spans(past + "2:0,48 3:-63,-15 3:48,192")),
        (Span(0, 0, 3), spans("0:-3,0 1:0,12 2:-15,-3 2:12,48 3:-63,-15 3:48,192")),
        (Span(0, 3, 6), spans("0:0,3 1:-3,0 1:3,12 2:-15,-3 2:12,48 3:-63,-15 3:48,192")),
    ]


def test_how_far_the_steps_of_the_paper_look() -> None:
    """The ranges below the table of section 3.4."""
    steps = list(CoarseToFine(PRESETS[2]).steps(0, first=-255))
    looks: dict[int, list[int]] = {level: [] for level in range(4)}
    for step in steps:
        looks[step.target.level].append(
            step.target.start - min(span.start for span in step.context)
        )
    assert set(looks[3]) == {255}
    assert (min(looks[2]), max(looks[2])) == (63, 207)
    assert (min(looks[1]), max(looks[1])) == (63, 243)
    assert (min(looks[0]), max(looks[0])) == (63, 252)
    last = max(span.stop for span in (*steps[-1].context, steps[-1].target))
    assert looks[0][0] == 63 and last == 192 == steps[-1].target.stop


@pytest.mark.parametrize(("windows", "count"), [*zip(PRESETS, (21, 85, 85), strict=True)])
def test_steps_and_tokens_of_the_presets(windows: Windows, count: int) -> None:
    rollout = CoarseToFine(windows)
    steps = list(rollout.steps(1000))
    assert len(steps) == count == rollout.steps_per_chunk
    per_level = AUTHORS[: len(windows.frames)]
    budget = (len(windows.frames) + 1) * windows.frames[0] * AUTHORS[0]
    assert {tokens(step, per_level) for step in steps} == {budget}
    assert budget in (1024, 1280, 3840)  # section 3.7
    assert rollout.history == sum(windows.frames) and rollout.chunk == windows.frames[-1]


RELEASED = (
    "78302a5542ff1247f800f4705d293a64be33064e6a0c0e4489938ba6015398b3",
    "269e3aad5f68c66de191c03d3ca24e66bea1ee80d844002617d72967f65fbf22",
    "fb10efb8a6e77407e0a989820d21553a2a020ba222d08e2cf85289f52860ff4a",
)
"""SHA-256 of the selections that the released strategy gives for the presets, as bytes of
[step, level, frame] with history, made by running its rule (dcharatan/millivid @ e50711f,
source/strategy/strategy_millivid.py) with extra_budget = windows[0] * 256 and 256 tokens."""


@pytest.mark.parametrize(("windows", "digest"), [*zip(PRESETS, RELEASED, strict=True)])
def test_the_selections_of_the_released_strategy(windows: Windows, digest: str) -> None:
    rollout, levels = CoarseToFine(windows), len(windows.frames)
    end = rollout.history + rollout.chunk
    found = hashlib.sha256()
    for step in rollout.steps(rollout.history):
        for row in states(step, levels, 0, end):
            found.update(bytes(row))
    assert found.hexdigest() == digest


def cells(found: tuple[Span, ...]) -> set[tuple[int, int]]:
    return {(span.level, frame) for span in found for frame in range(span.start, span.stop)}


def assert_rollout_holds(rollout: Rollout, start: int, budgets: Sequence[int]) -> None:
    """The invariants of sections 3.3 and 7.5 over some chunks with full history; `budgets` are the
    frames of context per level."""
    written = {(level, frame) for level in rollout.levels for frame in range(start)}
    made: list[tuple[int, int]] = []
    finest = rollout.levels[0]
    for begin in chunk_starts(rollout, start, CHUNKS * rollout.chunk):
        for step in rollout.steps(begin):
            context, target = cells(step.context), cells(step.written)
            assert context <= written, "a step reads what is not written"
            frames = sorted(frame for _, frame in context)
            assert len(frames) == len(set(frames)), "a frame is shown at two levels"
            seen = sorted({*frames, *(frame for _, frame in cells(step.noisy))})
            assert seen == list(range(seen[0], seen[-1] + 1)), "a gap in what is visible"
            for level, budget in zip(rollout.levels, budgets, strict=True):
                assert sum(1 for of, _ in context if of == level) == budget
            written |= target
            made += sorted(target)
    assert len(made) == len(set(made)), "a cell is a target twice"
    end = start + CHUNKS * rollout.chunk
    assert set(made) == {(level, f) for level in rollout.levels for f in range(start, end)}
    fine = [frame for level, frame in made if level == finest]
    assert fine == list(range(start, end)), "fine frames out of order"


def random_windows(seed: int) -> Windows:
    chance = random.Random(seed)
    frames = [chance.randint(1, 4)]
    while len(frames) < chance.randint(1, 4):
        frames.append(frames[-1] * chance.randint(2, 5))
    return Windows(tuple(frames))


@pytest.mark.parametrize("windows", PRESETS)
@pytest.mark.parametrize("finest", [0, 1])
def test_the_presets_hold(windows: Windows, finest: int) -> None:
    rollout = CoarseToFine(windows, finest)
    assert_rollout_holds(rollout, rollout.history, windows.frames[finest:])


def test_500_random_layouts_hold() -> None:
    for seed in range(500):
        windows = random_windows(seed)
        rollout = CoarseToFine(windows, seed % len(windows.frames))
        budgets = windows.frames[rollout.finest :]
        assert_rollout_holds(rollout, rollout.history + seed % 7, budgets)
        assert len(list(rollout.steps(rollout.history))) == rollout.steps_per_chunk


def test_a_planner_of_the_coarse_levels_is_the_same_rollout_a_level_up() -> None:
    """Levels 1 to 3 with windows 4, 16, 64 are the 21 steps of windows 4, 16, 64 over three levels
    (section 7.3)."""
    coarse = list(CoarseToFine(PRESETS[1], finest=1).steps(500))
    plain = list(CoarseToFine(Windows(PRESETS[1].frames[1:])).steps(500))
    assert len(coarse) == 21
    for one, other in zip(coarse, plain, strict=True):
        up = [Span(level + 1, *frames) for level, *frames in (other.target, *other.context)]
        assert up == [one.target, *one.context]


@pytest.mark.parametrize("history", [0, 1, 4, 20, 85])
def test_cold_start_cuts_the_past_and_nothing_else(history: int) -> None:
    rollout = CoarseToFine(PRESETS[1])
    for cold, warm in zip(rollout.steps(100, first=100 - history), rollout.steps(100), strict=True):
        kept = {cell for cell in cells(warm.context) if cell[1] >= 100 - history}
        assert cold.target == warm.target and cells(cold.context) == kept
        assert all(span.frames > 0 for span in cold.context)
    if not history:
        first = next(rollout.steps(0))
        assert first == RolloutStep(Span(3, 0, 64), ())


def test_a_step_as_a_picture() -> None:
    """The fourth step of windows 1, 2, 4: the second fine frame, by hand."""
    rollout = CoarseToFine(Windows((1, 2, 4)))
    step = list(rollout.steps(7))[3]
    assert (step.target, step.context) == (
        Span(0, 8, 9),
        spans("0:7,8 1:6,7 1:8,9 2:4,6 2:9,11"),
    )
    drawn = ["".join("-ct"[state] for state in row) for row in states(step, 3, 0, 11)]
    assert drawn == ["-------ct--", "------c-c--", "----cc---cc"]
    assert states(step, 3, 8, 9) == ((State.TARGET,), (State.CONTEXT,), (State.UNSEEN,))


def test_frame_pack_is_the_released_layout() -> None:
    (step,) = FramePack(PRESETS[2]).steps(300)
    assert step.target == Span(0, 300, 303)
    assert step.context == spans("0:297,300 1:285,297 2:237,285 3:45,237")
    assert tokens(step, AUTHORS) == 3840
    assert (FramePack(PRESETS[2]).kind, FramePack(PRESETS[2]).history) == ("patchified", 255)
    (cold,) = FramePack(PRESETS[2]).steps(10)
    assert cold.context == spans("0:7,10 1:0,7")


@pytest.mark.parametrize(("window", "budget"), [(14, 3584), (4, 1024)])
def test_full_resolution_is_the_released_layout(window: int, budget: int) -> None:
    rollout = FullResolution(window)
    assert_rollout_holds(rollout, 100, [window // 2])
    (step,) = rollout.steps(100)
    assert tokens(step, AUTHORS) == budget  # section 3.6 and the table of 4.4


def test_mirrored_is_the_released_layout() -> None:
    rollout = Mirrored()
    (step,) = rollout.steps(43)
    assert step.context == spans("0:42,43 1:40,42 2:32,40 3:0,32")
    assert step.written == spans("0:43,44 1:43,44 2:43,44 3:43,44")
    assert step.ahead == spans("1:44,46 2:46,54 3:54,86")
    assert tokens(step, AUTHORS) == 1364  # 340 + 1024
    assert_rollout_holds(rollout, 43, rollout.windows.frames)


def test_a_film_of_100000_frames_is_planned_in_little_time_and_flat_memory() -> None:
    rollout = CoarseToFine(PRESETS[2])
    starts = chunk_starts(rollout, 0, 100_000)
    assert len(starts) == 521
    peaks = []
    began = time.process_time()
    for start in starts:
        for _ in rollout.steps(start):
            pass
    seconds = (time.process_time() - began) / len(starts)
    for start in (starts[10], starts[-1]):
        tracemalloc.start()
        for _ in rollout.steps(start):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert seconds < 0.01, f"{1000 * seconds:.1f} ms per chunk"
    assert peaks[1] < peaks[0] + 4096


@pytest.mark.parametrize(
    ("frames", "problem"),
    [
        ((1, 4, 10), "windows must nest.*10 after 4"),
        ((4, 4), "windows must nest.*4 after 4"),
        ((16, 4, 1), "windows must nest"),
        ((0, 4), "1 latent frame or more, got 0, 4"),
        ((), "1 latent frame or more, got none"),
    ],
)
def test_windows_that_do_not_nest_are_refused(frames: tuple[int, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Windows(frames)


def test_windows_read_as_they_are_written() -> None:
    for windows in PRESETS:
        assert Windows.from_text(str(windows)) == windows
    for wrong in ("1, 4, x", "", "1,,4", "1, -4", "1.5, 3"):
        with pytest.raises(ValueError, match="whole numbers between commas"):
            Windows.from_text(wrong)


def test_what_cannot_be_rolled_out_is_refused() -> None:
    with pytest.raises(ValueError, match="finest level must be one of the 3 levels.*got 3"):
        CoarseToFine(PRESETS[0], finest=3)
    with pytest.raises(ValueError, match="must be even.*got 3"):
        FullResolution(3)
    for rollout in (CoarseToFine(PRESETS[0]), FullResolution(4), FramePack(PRESETS[0]), Mirrored()):
        with pytest.raises(ValueError, match="before the first latent frame 5, got 4"):
            next(rollout.steps(4, first=5))


def test_chunks_follow_each_other() -> None:
    starts = chunk_starts(CoarseToFine(PRESETS[0]), 5, 40)
    assert list(starts) == [5, 21, 37]
    assert {b - a for a, b in pairwise(starts)} == {16}
