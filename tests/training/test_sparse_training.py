"""The training of the sparse planner computes what sampling computes, on paths told in full."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from throughline.planning.layout import mmpl_t2v
from throughline.training.world import Split, signed_turn


def test_a_caption_names_every_turning_point() -> None:
    from throughline.training.sparse_data import Retold, draw_path, path_caption

    assert path_caption("harbour", "Mara", "left", (3, 7, 4)) == (
        "harbour, Mara left, camera 3 to 7 to 4"
    )
    path = next(p for p in map(draw_path, range(20)) if p.take.character is not None)
    told = Retold(shift=5, name="Wren").caption(path)
    numbers = [(pose + 5) % 16 for pose in path.stations]
    assert told.endswith("camera " + " to ".join(map(str, numbers))) and ", Wren " in told
    one = Retold(shift=0, name="Wren").caption(path, 1)
    assert one.endswith(f"camera {path.stations[0]} to {path.stations[1]}")


def test_paths_move_as_a_long_take_does() -> None:
    from throughline.training.sparse_data import draw_path, path_poses, stations_of

    assert stations_of(14, (4, -3)) == (14, 2, 15)
    assert path_poses(13, (14, 2, 15)) == (13, 14, 15, 0, 1, 2, 1, 0, 15, 15)
    for index in range(30):
        path = draw_path(index)
        poses = path.take.poses
        assert len(poses) == 18 and poses[1::4] == path.stations
        assert all(abs(signed_turn(a, b)) <= 1 for a, b in zip(poses, poses[1:], strict=False))


def test_swaying_paths_stay_near_their_start() -> None:
    from throughline.training.sparse_data import MOST_SWAY, draw_path

    reached = set()
    for index in range(40):
        path = draw_path(index, kind="swaying")
        away = [signed_turn(path.stations[0], pose) for pose in path.stations]
        assert len(path.stations) == 5 and path.take.poses[1::4] == path.stations
        assert min(away) >= 0 or max(away) <= 0  # to one side only
        reached |= set(away)
    assert reached == set(range(-MOST_SWAY, MOST_SWAY + 1))
    assert draw_path(3, kind="swaying").take.place != draw_path(3).take.place


def test_a_share_of_a_batch_sways(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from throughline.training.sparse_data import PathData

    files = {}
    for kind, count in (("panning", 5), ("swaying", 3)):
        files[kind] = [tmp_path / f"{kind}.safetensors"]
        save_file({"latents": torch.zeros(count, 16, 18, 8, 8)}, files[kind][0])
    both = PathData(files["panning"], files["swaying"])
    assert len(both.paths) == 8 and both.latents.shape[0] == 8
    drawn = both.draw(np.random.default_rng(0), 4000, 0.4)
    assert set(drawn.tolist()) == set(range(8))
    assert 0.36 < (drawn >= both.panning).mean() < 0.44
    alone = PathData(files["panning"]).draw(np.random.default_rng(0), 100, 0.4)
    assert set(alone.tolist()) == set(range(5))


def test_held_out_paths_are_refused() -> None:
    from throughline.training.sparse_data import draw_path

    with pytest.raises(ValueError, match="'training' only"):
        draw_path(0, Split.HELD_OUT)


@pytest.fixture(scope="module")
def models(comfy: ModuleType) -> Any:
    from throughline.training.sparse_training import SparseTrainingConfig, begin_models

    return begin_models(SparseTrainingConfig()).requires_grad_(False)


@pytest.mark.parametrize("name", ["plan", "first fill", "second fill", "chain"])
def test_a_group_sees_what_it_sees_at_sampling(models: Any, name: str) -> None:
    from tests.adapters.slow_sparse import velocity as slow_velocity
    from throughline.training.sparse_calls import make_call, velocity
    from throughline.training.sparse_training import tasks

    task = tasks()[name]
    call = make_call(task.layout, task.layout.groups[task.group])
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(1, 16, 18, 4, 4, generator=generator)
    noisy = torch.randn(1, 16, len(call.noisy), 4, 4, generator=generator)
    context = torch.randn(1, 16, 128, generator=generator)
    found = velocity(models["video"], call, latents, noisy, torch.tensor([0.7]), context)
    frames = {i: latents[:, :, i : i + 1] for i in call.clean}
    frames |= dict(zip(call.noisy, noisy.split(1, dim=2), strict=True))
    levels = {**dict.fromkeys(call.clean, 0.0), **dict.fromkeys(call.noisy, 0.7)}
    with torch.no_grad():
        wanted = slow_velocity(models["video"], task.layout, frames, levels, context)
    for place, i in enumerate(call.noisy):
        assert torch.allclose(found[:, :, place : place + 1], wanted[i], atol=1e-4)


def test_the_first_fill_does_not_see_the_end() -> None:
    from throughline.training.sparse_calls import make_call

    layout = mmpl_t2v(18)
    call = make_call(layout, layout.groups[2])
    assert call.ids == (0, 1, 2, 3, 8, 9, 10, 16, 17, 4, 5, 6, 7)
    noisy = call.sees[call.ids.index(4)].tolist()
    assert [i for i, sees in zip(call.ids, noisy, strict=True) if not sees] == [16, 17]
    start = call.sees[0].tolist()
    assert [i for i, sees in zip(call.ids, start, strict=True) if sees] == [0, 1]


def test_the_model_begins_as_the_demo_model_that_knows_nothing(models: Any) -> None:
    """Without its concat channels it gives what the demo model gives where they are zero."""
    from safetensors.torch import load_file

    from throughline.adapters.demo_models import VIDEO_FILE
    from throughline.training.video_network import VideoSizes, build_models

    whole = build_models(0, VideoSizes())["video"]
    whole.load_state_dict(load_file(VIDEO_FILE))
    generator = torch.Generator().manual_seed(3)
    x, text = (torch.randn(s, generator=generator) for s in ((1, 16, 6, 4, 4), (1, 16, 128)))
    times = torch.tensor([400.0])
    with torch.no_grad():
        wanted = whole(torch.cat([x, torch.zeros(1, 20, 6, 4, 4)], dim=1), times, text)
        assert torch.allclose(models["video"](x, times, text), wanted, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # under autocast
def test_a_training_resumes_where_it_stood(
    comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management

    from throughline.training import sparse_training
    from throughline.training.checkpoints import write_tensors
    from throughline.training.sparse_data import PathData

    monkeypatch.setattr(comfy.model_management, "in_training", False)
    latents = torch.randn(3, 16, 18, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    write_tensors(tmp_path / "paths.safetensors", {"latents": latents}, {})
    data = PathData([tmp_path / "paths.safetensors"])
    config = sparse_training.SparseTrainingConfig(
        num_paths=3, text_steps=1, camera_steps=1, steps=2, batch=2, warm_up=1
    )
    half = dataclasses.replace(config, steps=1)
    monkeypatch.setattr(sparse_training, "learning_rate", lambda *_: 1e-4)
    whole = sparse_training.train_sparse(data, tmp_path / "b", config)
    sparse_training.train_sparse(data, tmp_path / "c", half)
    resumed = sparse_training.train_sparse(data, tmp_path / "c", config)
    for name, value in whole.values.items():
        assert torch.equal(resumed.values[name], value), name
    assert (tmp_path / "c" / "video.safetensors").exists()


def test_teaching_the_captions_is_measured_and_keeps_short_ones(comfy: ModuleType) -> None:
    from safetensors.torch import load_file

    from throughline.adapters.demo_models import TEXT_FILE
    from throughline.training.sparse_captions import path_captions, teach_paths
    from throughline.training.video_network import VideoSizes, build_models

    text = build_models(0, VideoSizes())["text"]
    text.load_state_dict(load_file(TEXT_FILE))
    ids, places, distances = path_captions(np.random.default_rng(0), 4, 5)
    assert ids.shape == (5, 16) and places.shape == (5, 4) and distances.shape == (5, 4, 4)
    right = teach_paths(text, 12, 0)
    assert len(right) == 12 and np.mean(right[-3:]) > np.mean(right[:3])
