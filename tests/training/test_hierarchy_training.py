"""Training of hierarchy head and planners: tables of the ring, batches, resume, what ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from throughline.memory.hierarchy import HierarchyGrid, HierarchyHead, PooledHead, as_latents
from throughline.memory.hierarchy_heads import HeadConfig, psnr_of_latents
from throughline.memory.hierarchy_planner import PlannerConfig
from throughline.planning.rollout import CoarseToFine, Windows
from throughline.planning.rollout_framepack import FramePack
from throughline.planning.rollout_full import FullResolution

PLACES, LEVELS = 4, 3
GAIN_DB = 2.0  # what learned codes must give more than pooled ones (shared design, 7.2)
WIDTH = 128  # of planners with random weights


@pytest.fixture
def ring(comfy: ModuleType) -> ModuleType:
    from throughline.training import hierarchy_ring

    return hierarchy_ring


@pytest.fixture
def latents() -> Tensor:
    """A table of four places `places poses moves c h w`; every number tells where it stands."""
    table = torch.randn(PLACES, 16, 3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    return table.half()


# --- the table


@pytest.mark.host
def test_the_table_holds_every_pose_after_every_move(comfy: ModuleType) -> None:
    from throughline.training.hierarchy_data import table_path

    path = table_path()
    moves = {(b, (b - a + 1) % 16 - 1) for a, b in zip(path, path[1:], strict=False)}
    assert moves == {(pose, move) for pose in range(16) for move in (-1, 0, 1)}


@pytest.mark.host
def test_any_camera_path_can_be_read_from_the_table(comfy: ModuleType) -> None:
    """The demo VAE sees two latent frames back; the table knows one move."""
    import comfy.latent_formats as formats

    from throughline.adapters.demo_models import VAE_FILE
    from throughline.training.hierarchy_data import encode_table, ring_place
    from throughline.training.vae_export import load_vae
    from throughline.training.vae_network import encode_clip
    from throughline.training.vae_training import clip_tensor
    from throughline.training.world import Split, Take
    from throughline.training.world_rendering import render_take

    vae, place = load_vae(VAE_FILE), ring_place(0, Split.HELD_OUT)
    table = encode_table(vae, [place])[0].float()
    poses = (3, 4, 5, 5, 4, 3, 2, 1, 1, 2)
    with torch.no_grad():
        raw = encode_clip(vae, clip_tensor(render_take(Take(place, None, None, poses, ())))[None])
    true = formats.Wan21().process_in(raw)[0].transpose(0, 1)
    for before, after, latent in zip(poses, poses[1:], true[1:], strict=False):
        error = (table[after, after - before + 1] - latent).square().mean().sqrt()
        assert error < 0.04 * latent.std()  # 0.5 to 2.5 %


# --- batches


@pytest.mark.host
@pytest.mark.parametrize("name", ["full-resolution", "framepack", "pooled"])
def test_a_batch_is_steps_of_the_rollout(ring: ModuleType, latents: Tensor, name: str) -> None:
    method = ring.methods(PooledHead(16, LEVELS))[name]
    data = ring.RingSteps(method, latents, (0.0, 0.0))
    history = method.rollout.history
    steps = [
        (step.target, {level: ring._context(step, level) for level in method.rollout.levels})
        for step in method.rollout.steps(history)
    ]
    made = {level: 0 for level in method.rollout.levels}
    for number in range(6):
        (target,), context = data.draw(np.random.default_rng(number), number, 5)
        made[target.level] += 1
        tokens = sum(span.codes.shape[1] * span.codes.shape[2] for span in (target, *context))
        assert tokens == 64
        for sample in range(5):
            frames = {span.level: span.frames[sample] for span in context}
            starts = [
                span.start
                for span, seen in steps
                if span.level == target.level
                and all(
                    np.array_equal(seen[level] - span.start, frames[level].numpy())
                    for level in frames
                )
            ]
            assert starts
    if name == "pooled":
        assert set(made.values()) == {2}


@pytest.mark.host
def test_codes_and_conditions_of_a_frame_belong_together(ring: ModuleType, latents: Tensor) -> None:
    method = ring.methods(PooledHead(16, LEVELS))["pooled"]
    data = ring.RingSteps(method, latents, (0.0, 0.0))
    rows = data.tables[2].flatten(0, 2)[:, 0]  # level 2 has one token
    for number in range(3):
        (target,), context = data.draw(np.random.default_rng(number), number, 8)
        for span in (target, *context):
            assert torch.equal(span.condition.sum(-1), torch.full(span.codes.shape[:2], 3.0))
        coarse = next(span for span in context if span.level == 2)
        for sample in range(8):
            seen = [int((rows - codes[0]).abs().sum(1).argmin()) for codes in coarse.codes[sample]]
            place, pose, move = np.unravel_index(seen, (PLACES, 16, 3))
            condition = coarse.condition[sample]
            assert len(set(place)) == 1
            word = int(condition[0, 19:].argmax())
            assert ring.PLACE_WORDS[word] == data.words[place[0]]
            assert (condition[:, 16:19].argmax(-1).numpy() == move).all()
            shift = (condition[:, :16].argmax(-1).numpy() - pose) % 16
            assert len(set(shift)) == 1 and shift[0] % 2 == 0


@pytest.mark.host
def test_history_is_truncated_in_the_shares_that_are_asked_for(
    ring: ModuleType, latents: Tensor
) -> None:
    method = ring.methods(PooledHead(16, LEVELS))["full-resolution"]
    none = ring.RingSteps(method, latents, (1.0, 0.0))
    whole = ring.RingSteps(method, latents, (0.0, 0.0))
    for data, expected in ((none, False), (whole, True)):
        _, context = data.draw(np.random.default_rng(0), 0, 4)
        assert all((span.valid == expected).all() for span in context)


def test_every_level_reads_equally_many_frames_at_every_step(ring: ModuleType) -> None:
    rollouts = (CoarseToFine(Windows((1, 4, 16))), FullResolution(4), FramePack(Windows((1, 4))))
    for rollout in rollouts:
        for frames in ring.step_frames(rollout):
            assert {len(each) for each in frames.context.values()} == {len(frames.target)}


# --- the loss and the loop


@pytest.mark.host
def test_the_loss_is_that_of_the_velocity(ring: ModuleType, latents: Tensor) -> None:
    from throughline.training.hierarchy_planner_training import (
        PlannerTrainingConfig,
        planner_loss,
        ring_planner,
    )

    method = ring.methods(PooledHead(16, LEVELS))["pooled"]
    data = ring.RingSteps(method, latents, (0.0, 0.0))
    planner = ring_planner(method, data, WIDTH, 0)
    losses = [
        planner_loss(
            planner,
            *data.draw(np.random.default_rng(step), step, 16),
            data.centres,
            PlannerTrainingConfig(),
            torch.Generator().manual_seed(step),
        ).item()
        for step in range(3)
    ]
    assert losses == pytest.approx([1.0] * 3, abs=0.15)  # codes and noise of unit deviation


@pytest.mark.host
def test_a_resumed_training_ends_where_an_unbroken_one_does(
    ring: ModuleType, latents: Tensor, tmp_path: Path
) -> None:
    from throughline.training.hierarchy_planner_training import (
        PlannerTrainingConfig,
        ring_planner,
        train_planner,
    )

    method = ring.methods(PooledHead(16, LEVELS))["full-resolution"]
    data = ring.RingSteps(method, latents, (0.1, 0.2))
    config = PlannerTrainingConfig(steps=4, batch=2)

    def train(folder: Path, steps: int) -> dict[str, Tensor]:
        planner = ring_planner(method, data, WIDTH, 0)
        # the learning rate follows from the planned steps: only the loop ends earlier
        short = replace(config, steps=steps) if steps < config.steps else config
        return train_planner(planner, data.draw, data.centres, folder, short).values

    whole = train(tmp_path / "whole", 4)
    train(tmp_path / "broken", 2)
    broken = train(tmp_path / "broken", 4)
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())


@pytest.mark.host
def test_a_checkpoint_holds_what_both_optimisers_remember(
    ring: ModuleType, latents: Tensor, tmp_path: Path
) -> None:
    from safetensors import safe_open

    from throughline.training.hierarchy_planner_training import (
        PlannerTrainingConfig,
        ring_planner,
        train_planner,
    )

    method = ring.methods(PooledHead(16, LEVELS))["pooled"]
    data = ring.RingSteps(method, latents, (0.1, 0.2))
    planner = ring_planner(method, data, WIDTH, 0)
    config = PlannerTrainingConfig(steps=3, batch=2)
    train_planner(planner, data.draw, data.centres, tmp_path, config)
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        names = set(file.keys())
    matrix, vector = "blocks.0.qkv.weight", "blocks.0.qkv.bias"
    assert f"momentum_buffer.{matrix}" in names and f"exp_avg.{matrix}" not in names
    assert f"exp_avg.{vector}" in names and f"momentum_buffer.{vector}" not in names
    assert "exp_avg.modulation.weight" in names  # a matrix, but of no block


@pytest.mark.host
def test_high_noise_is_drawn_more_often_where_noise_is_shifted(
    ring: ModuleType, latents: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from throughline.training import hierarchy_planner_training as training

    method = ring.methods(PooledHead(16, LEVELS))["pooled"]
    data = ring.RingSteps(method, latents, (0.0, 0.0))
    planner, drawn = training.ring_planner(method, data, WIDTH, 0), []
    seen = training.signal_and_noise
    monkeypatch.setattr(training, "signal_and_noise", lambda t: (drawn.append(t), seen(t))[1])
    means = {}
    for shift in (1.0, 3.0):
        drawn.clear()
        training.planner_loss(
            planner,
            *data.draw(np.random.default_rng(0), 0, 256),
            data.centres,
            training.PlannerTrainingConfig(noise_shift=shift),
            torch.Generator().manual_seed(0),
        )
        means[shift] = drawn[0].mean().item()
    assert means[1.0] == pytest.approx(0.5, abs=0.05)
    # the mean of 3 u / (1 + 2 u) over u in 0..1 is 3/2 - 3/4 ln 3
    assert means[3.0] == pytest.approx(1.5 - 0.75 * np.log(3.0), abs=0.05)


@pytest.mark.host
def test_the_head_trains_and_resumes(comfy: ModuleType, tmp_path: Path) -> None:
    from throughline.training.hierarchy_training import (
        HeadTrainingConfig,
        LatentFrames,
        single_pictures,
        train_head,
    )

    frames = torch.randn(24, 16, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    data = LatentFrames(frames, frames, single_pictures(4, 6))
    assert data.single.nonzero().flatten().tolist() == [0, 6, 12, 18]
    config = HeadTrainingConfig(steps=4, batch=4, head=HeadConfig(width=32, blocks=1))
    _, whole = train_head(data, tmp_path / "whole", config)
    train_head(data, tmp_path / "broken", replace(config, steps=2))
    _, broken = train_head(data, tmp_path / "broken", config)
    assert all(torch.equal(value, broken.values[name]) for name, value in whole.values.items())


# --- what ships


def _held_out_frames(stories: bool) -> tuple[Tensor, Tensor]:
    """Latent frames `1 c t h w` of two ring places, with `stories` also of one of those, and marks
    of single pictures."""
    import comfy.latent_formats as formats

    from throughline.adapters.demo_models import VAE_FILE
    from throughline.training.hierarchy_data import encode_table, ring_place
    from throughline.training.memory_story import memory_story
    from throughline.training.vae_export import load_vae
    from throughline.training.vae_network import encode_clip
    from throughline.training.vae_training import clip_tensor
    from throughline.training.world import Split
    from throughline.training.world_rendering import render

    vae, story = load_vae(VAE_FILE), memory_story(0, Split.HELD_OUT)
    table = encode_table(vae, [ring_place(seed, Split.HELD_OUT) for seed in range(2)])
    rings = as_latents(table.float().flatten(0, 2), 1)
    unmarked = torch.zeros(rings.shape[2], dtype=torch.bool)
    if not stories:
        return rings, unmarked
    with torch.no_grad():
        shots = [
            encode_clip(vae, clip_tensor(render(story, shot))[None]) for shot in story.shots[:6]
        ]
    told = formats.Wan21().process_in(torch.cat(shots, dim=2))
    marks = torch.arange(told.shape[2]) % 6 == 0
    return torch.cat([rings, told], dim=2), torch.cat([unmarked, marks])


@pytest.mark.host
@torch.no_grad()
@pytest.mark.parametrize("ring_alone", [False, True])
def test_a_shipped_head_is_ahead_of_pooling_on_held_out_worlds(
    comfy: ModuleType, ring_alone: bool
) -> None:
    from throughline.memory.hierarchy_format import read_head_file
    from throughline.training.hierarchy_training import HEAD_FILE, RING_HEAD_FILE

    latents, first = _held_out_frames(stories=not ring_alone)
    grid = HierarchyGrid(8, 8, LEVELS)
    learned, card = read_head_file(RING_HEAD_FILE if ring_alone else HEAD_FILE)
    assert card.latent_format == "Wan21"

    def quality(head: HierarchyHead) -> list[float]:
        codes = head.encode(latents, first)
        assert all(each.abs().max() <= 1 for each in codes[1:]) or head.name == "pooled"
        return [
            psnr_of_latents(head.decode(level, codes[level], grid, first), latents)
            for level in range(LEVELS)
        ]

    own, pooled = quality(learned), quality(PooledHead(16, LEVELS))
    assert own[0] > own[1] > own[2]
    assert all(a > b + GAIN_DB for a, b in zip(own[1:], pooled[1:], strict=True))
    nothing = torch.zeros(1, latents.shape[2], 1, card.config.code)
    assert psnr_of_latents(learned.decode(2, nothing, grid, first), latents) < own[2] - GAIN_DB


@pytest.mark.host
def test_a_planner_is_shipped_with_its_schedule(
    ring: ModuleType, latents: Tensor, tmp_path: Path
) -> None:
    from throughline.memory.hierarchy_format import read_planner_file
    from throughline.planning.rollout import Windows
    from throughline.planning.rollout_choice import choose_rollout
    from throughline.training.checkpoints import MovingAverage
    from throughline.training.hierarchy_planner_training import (
        export_planner,
        planner_file,
        ring_planner,
    )

    for name, method in ring.methods(PooledHead(16, LEVELS)).items():
        planner = ring_planner(method, ring.RingSteps(method, latents, (0.0, 0.0)), WIDTH, 0)
        path = tmp_path / planner_file(name)
        export_planner(planner, MovingAverage(planner, 0.9), method, path)
        read, card = read_planner_file(path)
        assert choose_rollout(card.rollout, Windows(card.windows), card.finest) == method.rollout
        assert card.head == method.head.name
        assert torch.equal(read.gain, planner.gain)
        assert read.config == PlannerConfig(method.head.code_channels, condition=ring.CONDITION)
