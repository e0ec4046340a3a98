"""The procedural world: same seed same world, splits apart, the camera's rule, nothing told."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest

from throughline.training.video_data import window_caption, window_starts
from throughline.training.world import (
    CHARACTER_NAMES,
    MAX_TURN,
    NUM_POSES,
    PLACE_WORDS,
    Split,
    frames_of_latents,
    long_take,
    poses_by_rule,
    random_take,
    refuse_held_out,
    shot_take,
    story,
)
from throughline.training.world_rendering import camera_offsets, render, render_take

CAPTION = re.compile(
    rf"({'|'.join(PLACE_WORDS)}), (empty|({'|'.join(CHARACTER_NAMES)}) (left|centre|right)),"
    r" camera \d+ to \d+"
)


def test_same_seed_same_world() -> None:
    assert story(3) == story(3)
    assert story(3) != story(4)
    take = long_take(5, 3)
    assert take == long_take(5, 3)
    assert np.array_equal(render_take(take), render_take(long_take(5, 3)))


def test_splits_never_meet() -> None:
    looks = {
        split: {random_take(seed, 2, split).place.panels for seed in range(40)} for split in Split
    }
    assert not looks[Split.TRAINING] & looks[Split.HELD_OUT]
    assert {len(found) for found in looks.values()} == {40}


def test_training_refuses_held_out_seeds() -> None:
    assert refuse_held_out(Split.TRAINING) is Split.TRAINING
    with pytest.raises(ValueError, match="split 'training' only, got .*held-out"):
        refuse_held_out(Split.HELD_OUT)


@pytest.mark.parametrize(
    ("from_pose", "to_pose", "expected"),
    [
        (3, 7, (3, 3, 4, 5, 6, 7, 7, 7)),
        (1, 15, (1, 1, 0, 15, 15, 15, 15, 15)),
        (7, 7, (7, 7, 7, 7, 7, 7, 7, 7)),
    ],
)
def test_timing_rule(from_pose: int, to_pose: int, expected: tuple[int, ...]) -> None:
    assert poses_by_rule(from_pose, to_pose, 8) == expected


def test_a_turn_of_more_than_four_poses_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 4 poses, got 0 to 5"):
        poses_by_rule(0, 5, 6)


def test_one_latent_frame_is_no_move_or_one_latent_cell() -> None:
    take = long_take(2, 4)
    offsets, moving = camera_offsets(take)
    assert len(offsets) == take.num_frames == frames_of_latents(len(take.poses))
    steps = (np.diff(offsets) + 64) % 128 - 64
    groups = steps.reshape(-1, 4)
    assert set(groups.flatten().tolist()) <= {-2, 0, 2}
    assert (groups == groups[:, :1]).all()
    assert ((groups[:, 0] != 0) == moving[1::4]).all()
    assert (offsets[::4] % 8 == 0).all()


def test_a_place_seen_again_is_equal_in_every_pixel() -> None:
    for seed in range(8):
        take = long_take(seed, 2)
        frames = render_take(take)
        offsets, _ = camera_offsets(take)
        assert take.poses[-1] == take.poses[0]
        assert np.array_equal(frames[0], frames[-1]) or take.character is not None
        # at rest the figure stands on its row, so the whole picture is the same
        first, last = frames[0], render_take(take, len(offsets) - 1)[0]
        rows = slice(0, 26)  # above every figure
        assert np.array_equal(first[rows], last[rows])


def test_shots_of_one_story_share_their_looks() -> None:
    tale = story(11)
    lead = [shot for shot in tale.shots if shot.character == 0]
    absent = [shot for shot in tale.shots if shot.character is None]
    assert len(lead) >= 2 and absent
    assert {shot_take(tale, shot).character for shot in lead} == {tale.characters[0]}
    first, back = tale.shots[0], tale.shots[3]
    assert (first.place, first.from_pose) == (back.place, back.from_pose)
    assert np.array_equal(render(tale, first)[0][:26], render(tale, back)[0][:26])


def test_captions_name_no_look() -> None:
    captions = [
        c for seed in range(20) for c in (*story(seed).captions, *long_take(seed, 3).captions)
    ]
    assert all(CAPTION.fullmatch(caption) for caption in captions)


def test_segments_of_a_long_take_continue_each_other() -> None:
    take = long_take(9, 4)
    assert [segment.start for segment in take.segments] == [0, 4, 8, 12]
    assert len(take.poses) == 18
    for segment in take.segments:
        rule = poses_by_rule(segment.from_pose, segment.to_pose, segment.latent_frames)
        seen = take.poses[segment.start : segment.start + segment.latent_frames]
        assert seen[1:] == rule[1:]


def test_a_part_of_a_take_is_rendered_alike() -> None:
    take = long_take(1, 2)
    assert np.array_equal(render_take(take, 7, 21), render_take(take)[7:21])


def test_windows_are_explained_by_their_captions() -> None:
    take = long_take(6, 2)
    for length in range(4, 10):
        for window in window_starts(take.poses, length):
            seen = take.poses[window.start + 1 : window.start + length]
            for turn in window.turns:
                rule = poses_by_rule(seen[0], (seen[0] + turn) % NUM_POSES, length)
                assert rule[1:] == seen
                assert f"camera {seen[0]} to" in window_caption(take, window.start, turn)


def test_a_window_that_is_cut_short_allows_every_longer_turn() -> None:
    poses = poses_by_rule(0, MAX_TURN, 4)
    assert window_starts(poses, 4)[0].turns == (2, 3, 4)


def test_every_turn_fits_some_window() -> None:
    for start, turn in product((0, 15), range(-MAX_TURN, MAX_TURN + 1)):
        poses = poses_by_rule(start, (start + turn) % NUM_POSES, 9)
        assert window_starts(poses, 9)[0].turns == (turn,)
