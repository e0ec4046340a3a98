"""Training packed context on a toy: what learns, and that it goes on equally.

The toy's stories have one colour each, which no caption tells: only the context can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from throughline.memory.hierarchy import PooledHead
from throughline.planning.rollout import CoarseToFine, Windows
from throughline.training.checkpoints import trained_parameters
from throughline.training.memory_data import StoryFolder
from throughline.training.memory_model import WanMemoryModel
from throughline.training.memory_subject import Subject
from throughline.training.packed_data import (
    PackedStep,
    PackedTrainingConfig,
    draw_rollout_step,
    draw_step,
    step_tensors,
)
from throughline.training.packed_training import PackedTrainer, begin, parse, train

CHANNELS, SEGMENTS, FRAMES, SIDE, TEXT = 2, 4, 2, 8, 8
HEAD = PooledHead(CHANNELS, 3)
CONFIG = PackedTrainingConfig(
    steps=6,
    batch=4,
    windows=(1, 2, 4),
    lora_rank=8,
    peak_learning_rate=5e-3,
    warm_up=5,
    average_decay=0.9,
)


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> StoryFolder:
    """Twelve stories of one colour each."""
    folder, generator = tmp_path_factory.mktemp("toy"), torch.Generator().manual_seed(0)
    for number in range(12):
        colour = torch.randn(1, CHANNELS, 1, 1, 1, generator=generator)
        tensors = {
            "latents": colour.expand(SEGMENTS, -1, FRAMES, SIDE, SIDE).contiguous(),
            "text": torch.randn(SEGMENTS, 3, TEXT, generator=generator),
        }
        save_file(tensors, folder / f"story_{number:06d}.safetensors")
    return StoryFolder(folder)


def _model() -> WanMemoryModel:
    pytest.importorskip("diffusers")
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT,
        freq_dim=32,
        ffn_dim=96,
        num_layers=2,
        rope_max_seq_len=32,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 1.0 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return WanMemoryModel(model)


def _trainer(stories: StoryFolder, config: PackedTrainingConfig = CONFIG) -> PackedTrainer:
    return begin(Subject(_model(), stories, None, None), HEAD, config)


def _accelerator() -> Any:
    return pytest.importorskip("accelerate").Accelerator(cpu=True)


def test_a_short_training_falls_and_reads_the_context(stories: StoryFolder, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=150)
    trainer = _trainer(stories, config)
    held = [draw_step(config, len(stories), 8, step) for step in range(1000, 1030)]
    held = [one for one in held if one.step.context][:10]

    @torch.no_grad()
    def losses(change: Callable[[PackedStep], PackedStep]) -> float:
        """Of the held steps, the context of other stories where `change` takes others."""
        found = []
        for drawn in held:
            own, other = (step_tensors(stories, one, HEAD) for one in (drawn, change(drawn)))
            given = replace(own, context=other.context)
            found.append(trainer(drawn.step, given, drawn.noise_seed).item())
        return float(np.mean(found))

    def swapped(drawn: PackedStep) -> PackedStep:
        return replace(drawn, stories=(*drawn.stories[1:], drawn.stories[0]))

    before = losses(lambda drawn: drawn)
    train(trainer, stories, HEAD, tmp_path, config, _accelerator(), checkpoint_seconds=1e9)
    after = losses(lambda drawn: drawn)
    assert after < 0.6 * before
    assert losses(swapped) > after + 0.3


def test_a_killed_training_goes_on_bit_for_bit(
    stories: StoryFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from throughline.training import packed_training

    whole = _trainer(stories)
    average, losses = train(whole, stories, HEAD, tmp_path / "a", CONFIG, _accelerator(), 1e9)
    draw, made = packed_training.draw_step, []

    def killed(*arguments: Any) -> PackedStep:
        made.append(1)
        if len(made) == 4:
            raise KeyboardInterrupt
        return draw(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(packed_training, "draw_step", killed)
        with pytest.raises(KeyboardInterrupt):  # three steps, each with its checkpoint
            train(_trainer(stories), stories, HEAD, tmp_path / "b", CONFIG, _accelerator(), -1.0)
    again = _trainer(stories, replace(CONFIG, seed=CONFIG.seed))
    with torch.no_grad():
        for _, parameter in trained_parameters(again):
            parameter.zero_()  # all that counts comes from the checkpoint
    resumed, rest = train(again, stories, HEAD, tmp_path / "b", CONFIG, _accelerator(), 1e9)
    assert rest == losses[3:]
    for name, value in average.values.items():
        assert torch.equal(value, resumed.values[name])
    weights = dict(trained_parameters(again))
    for name, parameter in trained_parameters(whole):
        assert torch.equal(parameter, weights[name])


def test_gradients_reach_every_level_and_the_lora_only(stories: StoryFolder) -> None:
    config = replace(CONFIG, context_dropout=0.0)
    trainer = _trainer(stories, config)
    for step in range(12):
        drawn = draw_step(config, len(stories), 8, step)
        trainer(drawn.step, step_tensors(stories, drawn, HEAD), 0).backward()
    reached = {name for name, p in trainer.named_parameters() if p.grad is not None}
    assert {f"embedder.level.{level}.weight" for level in (1, 2)} <= reached
    assert any(".lora_B" in name for name in reached)
    assert all(".lora_" in name or name.startswith("embedder.") for name in reached)


def test_steps_stay_inside_the_film_and_some_begin_it() -> None:
    """Every target of level 0 lies in the film; some steps see no history, some all of it, and a
    step sees what the schedule says."""
    rollout, generator = CoarseToFine(Windows((1, 2, 4))), np.random.default_rng(0)
    steps = [draw_rollout_step(rollout, 24, generator) for _ in range(600)]
    assert {step.target.start for step in steps} == set(range(24))
    spans = [span for step in steps for span in step.context]
    assert all(0 <= span.start < span.stop <= 24 for span in spans)
    full = [step for step in steps if step.target.start == 12]
    history = {min((s.start for s in step.context), default=12) for step in full}
    assert min(history) <= 12 - 6 and max(history) >= 12
    assert {span.level for span in spans} == {0, 1, 2}
    scheduled = {
        (step.target, step.context) for begins in range(24) for step in rollout.steps(begins)
    }
    whole = [step for step in steps if (step.target, step.context) in scheduled]
    assert len(whole) > 100
    with pytest.raises(ValueError, match="4 latent frames or more, got 3"):
        draw_rollout_step(CoarseToFine(Windows((4, 8))), 3, generator)


def test_the_context_is_what_the_head_makes_of_the_story(stories: StoryFolder) -> None:
    drawn = next(
        one
        for one in (draw_step(CONFIG, len(stories), 8, step) for step in range(100))
        if {span.level for span in one.step.context} == {0, 1, 2}
    )
    given = step_tensors(stories, drawn, HEAD)
    tokens = 0
    for span, values in zip(drawn.step.context, given.context, strict=True):
        latents = torch.stack([stories.stories[i]["latents"][0] for i in drawn.stories])
        colours = latents[:, :, 0, 0, 0]
        if span.level == 0:
            assert values.shape == (4, CHANNELS, span.frames, SIDE, SIDE)
            assert torch.equal(values[:, :, 0, 0, 0], colours)
        else:
            assert values.shape[2] == (4 >> span.level) ** 2
            assert torch.allclose(values[:, 0, 0].view(4, CHANNELS, 4)[..., 0], colours)
        places = given.positions[tokens : tokens + span.frames * (4 >> span.level) ** 2]
        assert places[0, 0] == span.start and places[-1, 0] == span.stop - 1
        tokens += len(places)
    assert tokens == len(given.positions)
    assert _trainer(stories).tokens(drawn.step, given, torch.device("cpu"), 4).shape[1] == tokens


def test_wrong_windows_and_options_are_refused(
    stories: StoryFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="one per level of the head, 3, got 2"):
        _trainer(stories, replace(CONFIG, windows=(1, 2)))
    assert parse(["--windows", "1,4,16"]).windows == (1, 4, 16)
    with pytest.raises(SystemExit):
        parse(["--model", "folder"])
    assert "--model and --videos (or --stories) go together" in capsys.readouterr().err
