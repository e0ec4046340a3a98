"""What a keyframe is made from, in ints and words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from throughline.planning.keyframes import (
    ShownReference,
    decide,
    keyframe_steps,
    plan_keyframes,
    together,
)
from throughline.planning.script import parse_storyboard
from throughline.planning.segments import SEED_RANGE, TAKE_STRIDE
from throughline.runs.keys import segment_keys

BOARD = parse_storyboard("A door.\nA street. {seed: 40; negative: rain}\nA room.\nA garden.")
PARAMETERS = {"model": "m", "kind": "keyframes"}


def test_every_shot_is_one_latent_frame_with_a_seed_of_its_own() -> None:
    segments = plan_keyframes(BOARD, 7, {2: 1})
    assert [s.index for s in segments] == [0, 1, 2, 3]
    assert [s.shot_id for s in segments] == [shot.id for shot in BOARD.shots]
    assert [s.seed for s in segments] == [7, 40, 9 + TAKE_STRIDE, 10]
    assert [s.take for s in segments] == [0, 0, 1, 0]
    assert segments[1].negative == "rain" and segments[0].prompt == "A door."
    assert {(s.latent_frames, s.known_latent_frames, s.start) for s in segments} == {(1, 0, "text")}
    assert not any(s.decided for s in segments)


def test_seeds_stay_in_their_range() -> None:
    assert plan_keyframes(BOARD, SEED_RANGE - 1, {})[2].seed == 1
    for seed in (-1, SEED_RANGE):
        with pytest.raises(ValueError, match=f"seed must be 0 to .*, got {seed}"):
            plan_keyframes(BOARD, seed, {})


def test_takes_of_shots_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="retakes name shots 1 to 4 only, got 5"):
        plan_keyframes(BOARD, 0, {4: 1})


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (3, 1, ((0,), (1,), (2,))),
        (4, 4, ((0, 1, 2, 3),)),
        (5, 2, ((0, 1), (2, 3), (4,))),
    ],
)
def test_steps(count: int, size: int, expected: tuple[tuple[int, ...], ...]) -> None:
    assert keyframe_steps(count, size) == expected


def test_a_group_has_a_shot() -> None:
    with pytest.raises(ValueError, match="a group must have 1 shot or more, got 0"):
        keyframe_steps(3, 0)


KEYFRAME = ShownReference(0, "", 64, 48)
PICTURE = ShownReference(None, "d1", 32, 32)


def keys(*segments) -> tuple[str, ...]:
    return segment_keys(PARAMETERS, segments)


def test_all_that_a_keyframe_sees_is_in_its_key() -> None:
    first, second, *_ = plan_keyframes(BOARD, 0, {})
    first = decide(first, "A door.", (), "list")
    assert (first.start, first.recalls, first.shown) == ("text", None, ())
    base = decide(second, "A street.", (KEYFRAME, PICTURE), "list")
    assert (base.start, base.recalls) == ("memory", (0,))
    assert base.shown == ("list", "keyframe 48x64", "picture d1 32x32")
    others = [
        decide(second, "A road.", (KEYFRAME, PICTURE), "list"),
        decide(second, "A street.", (KEYFRAME, PICTURE), "atlas"),
        decide(second, "A street.", (PICTURE, KEYFRAME), "list"),
        decide(second, "A street.", (KEYFRAME,), "list"),
        decide(second, "A street.", (), "list"),
        decide(second, "A street.", (replace(KEYFRAME, width=32), PICTURE), "list"),
        decide(second, "A street.", (KEYFRAME, replace(PICTURE, digest="d2")), "list"),
        second,
    ]
    every = {keys(first, one)[1] for one in (base, *others)}
    assert len(every) == len(others) + 1


def test_what_a_memory_holds_by_itself_is_in_the_key_of_every_keyframe() -> None:
    first = plan_keyframes(BOARD, 0, {})[0]
    seeing = decide(first, "A door.", (), "memory", remembers=True)
    assert (seeing.start, seeing.recalls) == ("memory", ())
    alone = decide(first, "A door.", (), "memory")
    parameters = [{**PARAMETERS, "memory": name} for name in ("a", "b")]
    keys_of = [segment_keys(one, [seeing]) for one in parameters]
    assert keys_of[0] != keys_of[1]
    assert segment_keys(parameters[0], [alone]) == segment_keys(parameters[1], [alone])


def test_what_a_recalled_keyframe_was_made_from_is_in_the_key_too() -> None:
    first, second, *_ = plan_keyframes(BOARD, 0, {})
    seen = decide(second, "A street.", (KEYFRAME,), "list")
    redone = replace(first, seed=1)
    assert keys(first, seen)[1] != keys(redone, seen)[1]
    alone = decide(second, "A street.", (), "list")
    assert keys(first, alone)[1] == keys(redone, alone)[1]


def test_shots_that_are_made_together_depend_on_all_of_them() -> None:
    segments = [decide(s, s.prompt, (), "joint") for s in plan_keyframes(BOARD, 0, {})[:3]]
    assert together(segments[:1]) == tuple(segments[:1])
    before = keys(*together(segments))
    assert len(set(before)) == 3
    for index in range(3):
        for change in ({"seed": 99}, {"prompt": "else"}, {"negative": "fog"}):
            changed = list(segments)
            changed[index] = replace(changed[index], **change)
            after = keys(*together(changed))
            assert all(a != b for a, b in zip(before, after, strict=True))


def test_two_equal_shots_of_a_group_are_two_pictures() -> None:
    first, second = (replace(s, seed=1, prompt="same") for s in plan_keyframes(BOARD, 0, {})[:2])
    second = replace(second, negative=first.negative)
    one, other = together([decide(s, "same", (), "joint") for s in (first, second)])
    assert keys(one, other)[0] != keys(one, other)[1]
