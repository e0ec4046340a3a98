"""Tensors of a training step: what is masked, what stays clean, what belongs to whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from throughline.memory.rates import Rate
from throughline.training.memory_data import StoryFolder, mask_levels, step_tensors
from throughline.training.memory_plan import StepPlan, StepShape, Task, draw_step

RATES = (Rate(2, 2, 2), Rate(4, 4, 4), Rate(2, 2, 1))
SEGMENTS, CHANNELS, FRAMES, SIDE = 7, 3, 6, 8
SHAPE = StepShape(histories=2, queries=3, segments=(3, 5))


@pytest.fixture
def stories(tmp_path: Path) -> StoryFolder:
    """Three stories whose values tell where they come from: story, segment, latent frame."""
    for number in range(3):
        shape = (SEGMENTS, CHANNELS, FRAMES, SIDE, SIDE)
        frame = torch.arange(FRAMES).view(1, 1, -1, 1, 1)
        segment = torch.arange(SEGMENTS).view(-1, 1, 1, 1, 1)
        latents = (100 * number + 10 * segment + frame).expand(shape).half()
        tensors = {"latents": latents.contiguous()}
        for rate in RATES:
            middle = torch.arange(0, FRAMES, rate.time) + (rate.time - 1) // 2
            side = SIDE // rate.height
            low = latents[:, :, middle.clamp(max=FRAMES - 1), :side, :side]
            tensors[f"low.{rate}"] = low.contiguous()
        text = (100 * number + 10 * torch.arange(SEGMENTS)).view(-1, 1, 1).expand(-1, 4, 5)
        tensors["text"] = text.half().contiguous()
        save_file(tensors, tmp_path / f"story_{number:06d}.safetensors", {"text_tokens": "6"})
    return StoryFolder(tmp_path)


def _plan(task: Task, seed: int) -> StepPlan:
    return draw_step(task, SHAPE, 3, SEGMENTS, np.random.default_rng(seed))


def test_a_folder_says_what_it_holds(stories: StoryFolder, tmp_path: Path) -> None:
    assert len(stories) == 3 and stories.segments == SEGMENTS
    assert stories.latent_shape == (CHANNELS, FRAMES, SIDE, SIDE) and stories.text_dim == 5
    assert len(StoryFolder(tmp_path, limit=2)) == 2
    with pytest.raises(ValueError, match="holds no encoded stories"):
        StoryFolder(tmp_path / "empty")


@pytest.mark.parametrize("seed", range(8))
def test_masked_frames_are_noisy_and_queried_ones_exactly_clean(
    stories: StoryFolder, seed: int
) -> None:
    plan = _plan("frames", seed)
    levels = mask_levels(plan, FRAMES, np.random.default_rng(seed))
    asked = torch.zeros_like(levels, dtype=torch.bool)
    for query in plan.queries:
        index = plan.histories[query.history].segments.index(query.segment)
        asked[query.history, index, query.first : query.first + query.frames] = True
    assert (levels[asked] == 0).all() and asked.any() and not asked.all()
    assert (levels[~asked] >= 0.2).all() and (levels[~asked] <= 1.0).all()

    step = step_tensors(stories, plan, RATES, np.random.default_rng(seed))
    for history, (planned, latents) in enumerate(zip(plan.histories, step.latents, strict=True)):
        true = stories.stories[planned.story]["latents"][list(planned.segments)].float()
        changed = (latents != true).flatten(3).any(dim=3).any(dim=1)  # s t
        assert torch.equal(changed, ~asked[history])


def test_levels_are_even_over_their_range() -> None:
    levels = torch.cat(
        [
            mask_levels(_plan("frames", s), FRAMES, np.random.default_rng(s))
            for s in range(40)
            if len(_plan("frames", s).histories[0].segments) == 4
        ]
    )
    noisy = levels[levels > 0]
    assert noisy.mean().item() == pytest.approx(0.6, abs=0.03)
    assert noisy.std().item() == pytest.approx(0.8 / 12**0.5, abs=0.03)


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_the_small_pictures_of_masked_frames_are_masked_too(
    stories: StoryFolder, seed: int, rate: Rate
) -> None:
    """Else the low-resolution branch would give the masked frames away."""
    plan = _plan("frames", seed)
    step = step_tensors(stories, plan, RATES, np.random.default_rng(seed))
    levels = mask_levels(plan, FRAMES, np.random.default_rng(seed))
    for history, planned in enumerate(plan.histories):
        true = stories.stories[planned.story][f"low.{rate}"][list(planned.segments)].float()
        given = step.low[str(rate)][history]
        middle = torch.arange(0, FRAMES, rate.time) + (rate.time - 1) // 2
        level = levels[history][:, middle.clamp(max=FRAMES - 1)]
        assert torch.equal((given != true).flatten(3).any(3).any(1), level > 0)


def test_a_masked_frame_is_a_mix_of_itself_and_noise(stories: StoryFolder) -> None:
    plan = _plan("frames", 1)
    step = step_tensors(stories, plan, RATES, np.random.default_rng(1))
    levels = mask_levels(plan, FRAMES, np.random.default_rng(1))
    planned = plan.histories[0]
    true = stories.stories[planned.story]["latents"][list(planned.segments)].float()
    level = levels[0][:, None, :, None, None]
    noise = (step.latents[0] - (1 - level) * true)[(level > 0.2).expand_as(true)]
    noise = noise / level.expand_as(true)[(level > 0.2).expand_as(true)]
    assert noise.mean().abs() < 0.05 and noise.std().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("task", ["repeat", "shot"])
def test_stage_two_sees_a_clean_history(stories: StoryFolder, task: Task) -> None:
    plan = _plan(task, 2)
    step = step_tensors(stories, plan, RATES, np.random.default_rng(2))
    for planned, latents in zip(plan.histories, step.latents, strict=True):
        true = stories.stories[planned.story]["latents"][list(planned.segments)].float()
        assert torch.equal(latents, true)


@pytest.mark.parametrize("task", ["frames", "repeat", "shot"])
def test_targets_are_the_queried_frames(stories: StoryFolder, task: Task) -> None:
    plan = _plan(task, 3)
    step = step_tensors(stories, plan, RATES, np.random.default_rng(3))
    assert step.history.tolist() == [0, 0, 0, 1, 1, 1]
    for index, query in enumerate(plan.queries):
        story = plan.histories[query.history].story
        frames = torch.arange(query.first, query.first + query.frames)
        value = (100 * story + 10 * query.segment + frames).half().float()
        assert torch.equal(step.targets[index][0, :, 0, 0], value)
        assert step.start[index] == query.start
        assert step.known[index].tolist() == [i < query.prefix for i in range(query.frames)]
        assert step.text[index, 0, 0] == 100 * story + 10 * query.segment
    captions = step.captions[:, :, 0, 0]
    for planned, given in zip(plan.histories, captions, strict=True):
        assert given.tolist() == [100 * planned.story + 10 * s for s in planned.segments]


def test_text_is_as_long_as_the_model_reads_it(stories: StoryFolder) -> None:
    step = step_tensors(stories, _plan("shot", 0), RATES, np.random.default_rng(0))
    assert step.text.shape[1] == 6 == step.captions.shape[2]
    assert (step.text[:, 4:] == 0).all() and (step.captions[:, :, 4:] == 0).all()


def test_some_captions_are_left_empty(stories: StoryFolder) -> None:
    empty, count = torch.full((6, 5), -1.0), 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        step = step_tensors(stories, _plan("shot", seed), RATES, generator, empty, 0.25)
        count += int((step.text == -1).all(dim=(1, 2)).sum())
    assert count / 360 == pytest.approx(0.25, abs=0.07)


def test_the_same_seed_gives_the_same_tensors(stories: StoryFolder) -> None:
    plan = _plan("frames", 5)
    one, two = (step_tensors(stories, plan, RATES, np.random.default_rng(9)) for _ in range(2))
    assert torch.equal(one.latents, two.latents)
    assert all(torch.equal(one.low[str(rate)], two.low[str(rate)]) for rate in RATES)
    other = step_tensors(stories, plan, RATES, np.random.default_rng(10))
    assert not torch.equal(one.latents, other.latents)
    moved = one.to(torch.device("cpu"))
    assert torch.equal(moved.latents, one.latents) and moved.low.keys() == one.low.keys()
