"""Which keyframes a step of the interleaved training sees, in ints."""

from __future__ import annotations

import numpy as np
import pytest

from throughline.training.interleaved_plan import (
    CONTEXT_NOISE,
    MOST_OVERLAP,
    STAGE_PAIRS,
    SequencePlanner,
    Stage,
    check_stages,
    epoch_sequences,
    most_stride,
    noise_levels,
    overlap,
)


@pytest.mark.parametrize("length", [1, 8, 9, 40, 120])
@pytest.mark.parametrize("pairs", [1, 2, 8, 16, 32])
def test_sequences_are_ordered_and_differ_enough(length: int, pairs: int) -> None:
    for epoch in range(6):
        generator = np.random.default_rng(epoch)
        if length < pairs:
            with pytest.raises(ValueError, match=f"needs {pairs} keyframes here, got {length}"):
                epoch_sequences(length, pairs, epoch, generator)
            continue
        sequences = epoch_sequences(length, pairs, epoch, generator)
        assert sequences
        for place, sequence in enumerate(sequences):
            assert len(sequence) == pairs and list(sequence) == sorted(set(sequence))
            assert 0 <= sequence[0] and sequence[-1] < length
            for other in sequences[:place]:
                assert overlap(sequence, other) <= MOST_OVERLAP


def test_strides_vary_and_the_first_keyframe_shifts() -> None:
    strides, firsts = set(), set()
    for epoch in range(40):
        sequence = epoch_sequences(120, 8, epoch, np.random.default_rng(epoch))[0]
        strides.add(round(float(np.mean(np.diff(sequence)))))
        firsts.add(sequence[0])
    assert len(strides) > 6 and len(firsts) > 4
    assert max(strides) <= most_stride(120, 8) + 1 == 18


def test_dynamic_strides_give_many_times_more_sequences_than_windows() -> None:
    """The paper: 100 times more for 16 of 32 keyframes; windows of 16 give 17."""
    seen = set()
    for epoch in range(1500):
        seen.update(epoch_sequences(32, 16, epoch, np.random.default_rng([7, epoch])))
    assert len(seen) > 100 * 17


def test_a_step_is_the_same_whenever_it_is_asked_for() -> None:
    lengths, make = (40, 6, 33), lambda: SequencePlanner((40, 6, 33), 8, 2, 5, 0.5)
    planner = make()
    steps = [planner.step(number) for number in range(30)]
    assert make().step(29) == steps[29] and planner.step(0) == steps[0]
    assert {film for step in steps for film in step.films} == {0, 2}
    assert len(set(steps)) == 30
    for step in steps:
        for film, keyframes in zip(step.films, step.keyframes, strict=True):
            assert keyframes[-1] < lengths[film]


def test_processes_share_an_epoch() -> None:
    planner = SequencePlanner((40,), 4, 3, 0, 0.5)
    alone = SequencePlanner((40,), 4, 6, 0, 0.5).step(2)
    both = [planner.step(2, process, 2) for process in range(2)]
    assert both[0].keyframes + both[1].keyframes == alone.keyframes


def test_a_stage_needs_a_film_that_is_long_enough() -> None:
    with pytest.raises(ValueError, match="16 pairs needs a film of 16 keyframes or more, got 9"):
        SequencePlanner((4, 9), 16, 1, 0, 0.5)


def test_stages_grow() -> None:
    check_stages([Stage(pairs=pairs, steps=1) for pairs in STAGE_PAIRS])
    with pytest.raises(ValueError, match=r"must grow .* got \[8, 1\]"):
        check_stages([Stage(pairs=8, steps=1), Stage(pairs=1, steps=1)])
    with pytest.raises(ValueError, match="1 pair and 1 step or more, got 0 and 5"):
        Stage(pairs=0, steps=5)


def test_context_is_a_little_noisy_and_the_rest_is_not() -> None:
    least, most = CONTEXT_NOISE
    lengths = []
    for seed in range(400):
        levels = noise_levels(8, np.random.default_rng(seed), context_share=1.0)
        context = [level <= most for level in levels]
        lengths.append(context.index(False) if False in context else 8)
        assert all(least <= level <= most for level in levels[: max(1, min(lengths[-1], 1))])
    assert set(range(1, 8)) <= set(lengths)
    free = np.array([noise_levels(8, np.random.default_rng(s), 0.0) for s in range(400)])
    assert abs(float(free.mean()) - 0.5) < 0.02 and float(free.std()) == pytest.approx(
        0.208, abs=0.02
    )
    assert len(noise_levels(1, np.random.default_rng(0), 1.0)) == 1
