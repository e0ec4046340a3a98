"""Training the history encoder on a toy: what learns, what does not, and that it goes on equally.

The toy's stories are segments of one colour each, which no caption tells: only the memory can.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from throughline.memory.encoder import as_tokens
from throughline.memory.positions import memory_positions
from throughline.memory.rates import Grid, Rate
from throughline.training.checkpoints import trained_parameters
from throughline.training.memory_data import StepTensors, StoryFolder
from throughline.training.memory_model import WanMemoryModel
from throughline.training.memory_plan import StepShape
from throughline.training.memory_recipes import FILM, RETRIEVAL
from throughline.training.memory_stages import (
    begin,
    check_same_training,
    continue_from,
    parse,
    stage_phases,
    stored_config,
)
from throughline.training.memory_subject import Subject, check_fits
from throughline.training.memory_training import (
    DrawnStep,
    MemoryTrainer,
    MemoryTrainingConfig,
    draw,
    noise_generator,
    probe,
    train,
)
from throughline.training.memory_ways import Way

CHANNELS, SEGMENTS, FRAMES, SIDE, TEXT = 2, 4, 2, 8, 8
CONFIG = MemoryTrainingConfig(
    steps=6,
    ways=(("encoder 2x2x2", 0.6), ("encoder 4x4x2", 0.2), ("packed 4x4x2", 0.2)),
    widths=(4, 8, 8, 16),
    lora_rank=16,
    peak_learning_rate=5e-3,
    warm_up=10,
    shape=StepShape(
        histories=2,
        queries=2,
        segments=(3, 3),
        slots=4,
        segment_latent_frames=FRAMES,
        prefix_share=0.0,
    ),
)


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> StoryFolder:
    """Twelve stories of coloured segments."""
    folder, generator = tmp_path_factory.mktemp("toy"), torch.Generator().manual_seed(0)
    for number in range(12):
        colour = torch.randn(SEGMENTS, CHANNELS, 1, 1, 1, generator=generator)
        tensors = {
            "latents": colour.expand(-1, -1, FRAMES, SIDE, SIDE).contiguous(),
            "text": torch.randn(SEGMENTS, 3, TEXT, generator=generator),
        }
        for rate, side in (("2x2x2", SIDE // 2), ("4x4x2", SIDE // 4)):
            tensors[f"low.{rate}"] = colour.expand(-1, -1, 1, side, side).contiguous()
        save_file(tensors, folder / f"story_{number:06d}.safetensors")
    return StoryFolder(folder)


def _model(seed: int = 0) -> WanMemoryModel:
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
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 1.0 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return WanMemoryModel(model)


def _trainer(stories: StoryFolder, config: MemoryTrainingConfig = CONFIG) -> MemoryTrainer:
    return begin(Subject(_model(), stories, None, None), config)


def _accelerator() -> Any:
    accelerate = pytest.importorskip("accelerate")
    return accelerate.Accelerator(cpu=True)


def _drawn(stories: StoryFolder, way: str, step: int = 0, **changes: Any) -> DrawnStep:
    config = replace(CONFIG, ways=((way, 1.0),), **changes)
    return draw(config, stories, step)


def _loss(trainer: MemoryTrainer, drawn: DrawnStep, swapped: bool = False) -> Tensor:
    return trainer(drawn.way, drawn.plan, drawn.tensors, noise_generator(drawn), swapped)


def test_a_short_training_falls_and_opens_the_recall_probe(
    stories: StoryFolder, tmp_path: Path
) -> None:
    shape = replace(CONFIG.shape, histories=6, queries=1)
    config = replace(
        CONFIG, steps=120, ways=(("encoder 2x2x2", 1.0),), rates=("2x2x2",), shape=shape
    )
    trainer, accelerator = _trainer(stories, config), _accelerator()
    held = [_drawn(stories, "encoder 2x2x2", step, shape=shape) for step in range(1000, 1006)]

    def measure() -> tuple[float, float]:
        with torch.no_grad():
            losses = [_loss(trainer, drawn).item() for drawn in held]
        recall = probe(trainer, stories, config, 5000, accelerator)
        return float(np.mean(losses)), recall["frames encoder 2x2x2"]

    loss, recall = measure()
    assert abs(recall) < 0.1  # nothing is remembered yet
    train(trainer, stories, tmp_path, config, accelerator, checkpoint_seconds=1e9)
    trained, opened = measure()
    assert trained < 0.6 * loss
    assert opened > 0.3


def test_gradients_reach_all_of_the_encoder_and_none_of_the_frozen_model(
    stories: StoryFolder,
) -> None:
    trainer = _trainer(stories)
    for task in ("frames", "repeat"):  # addresses are read by shots alone
        _loss(trainer, _drawn(stories, "encoder 2x2x2", tasks=((task, 1.0),))).backward()
    used = "ways.encoders.2x2x2."
    for name, parameter in trainer.named_parameters():
        if name.startswith(used):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        elif name.startswith("ways."):
            assert parameter.grad is None, name  # another way's
        elif ".lora_B." in name:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        elif ".lora_A." not in name:  # A begins to learn when B is no longer zero
            assert parameter.grad is None and not parameter.requires_grad, name
    assert any(name.startswith(f"{used}caption") for name, _ in trainer.named_parameters())


@pytest.mark.parametrize("task", ["frames", "shot"])
@pytest.mark.parametrize(
    "way", ["encoder 2x2x2", "low 2x2x2", "packed 4x4x2", "window", "framepack", "none"]
)
def test_on_a_gpu_every_tensor_is_on_the_gpu(stories: StoryFolder, way: str, task: str) -> None:
    """With torch's fake tensors, which know their device and need no GPU: two devices meeting in
    one operation are an error."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    trainer, drawn = _trainer(stories), _drawn(stories, way, tasks=((task, 1.0),))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        held = {
            name: mode.from_tensor(value.detach()).to("cuda")
            for name, value in (*trainer.named_parameters(), *trainer.named_buffers())
        }
        arguments = (drawn.way, drawn.plan, drawn.tensors, noise_generator(drawn))
        loss = torch.func.functional_call(trainer, held, arguments)
    assert loss.device.type == "cuda" and loss.shape == ()


def test_a_closed_gate_lets_no_gradient_through(stories: StoryFolder) -> None:
    """Why the gate begins at 0.5 (AlayaWorld): at 0 only the gate itself would learn."""
    trainer = _trainer(stories, replace(CONFIG, gate=0.0))
    _loss(trainer, _drawn(stories, "encoder 2x2x2")).backward()
    encoder = trainer.ways.encoders["2x2x2"]
    assert encoder.gate.grad is not None and encoder.gate.grad.abs().max() > 0
    assert encoder.proj.weight.grad is not None and encoder.proj.weight.grad.abs().max() == 0


@torch.no_grad()
def test_the_loss_is_of_the_velocity_at_the_drawn_noise_over_unknown_frames(
    stories: StoryFolder,
) -> None:
    seen: list[dict[str, Tensor]] = []

    class Zero(nn.Module):
        """Answers nothing and keeps what it was asked."""

        takes_known, inner_dim, patch = False, 48, (1, 2, 2)

        def forward(self, noisy: Tensor, timestep: Tensor, *_: Any) -> Tensor:
            seen.append({"noisy": noisy, "timestep": timestep})
            return torch.zeros_like(noisy)

    ways = _trainer(stories).ways
    trainer = MemoryTrainer(Zero(), ways, None, noise_shift=5.0)  # type: ignore[arg-type]
    drawn = _drawn(stories, "none", tasks=(("shot", 1.0),))
    step = drawn.tensors
    step.known[:, 0] = True  # the first frame is known
    loss = _loss(trainer, drawn)
    sigma = (seen[0]["timestep"] / 1000).view(-1, 1, 1, 1, 1)
    noise = (seen[0]["noisy"] - (1 - sigma) * step.targets) / sigma
    assert noise.mean().abs() < 0.15 and noise.std().item() == pytest.approx(1.0, abs=0.15)
    expected = (noise - step.targets)[:, :, 1:].square().mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)


@torch.no_grad()
def test_each_way_gives_its_tokens_and_their_places(stories: StoryFolder) -> None:
    trainer = _trainer(stories)
    drawn = _drawn(stories, "none")
    grid = Grid(FRAMES, SIDE // 2, SIDE // 2)  # of a segment, in tokens of the model
    for text, count in (
        ("none", 0),
        ("encoder 2x2x2", 3 * 4),
        ("encoder 4x4x2", 3 * 1),
        ("low 2x2x2", 3 * 4),
        ("packed 4x4x2", 3 * 1),
        ("window", 5 * 16),
    ):
        memory = trainer.ways(Way.parse(text), trainer.model, drawn.tensors, drawn.plan.histories)
        assert memory.tokens.shape == (2, count, 48), text
        assert memory.positions.shape == (2, count, 3), text
        if text.split()[0] in ("encoder", "low", "packed"):
            rate = Rate.parse(text.split()[1])
            for history, positions in zip(drawn.plan.histories, memory.positions, strict=True):
                starts = [history.start(index, FRAMES) for index in range(3)]
                parts = [memory_positions(grid, rate, "ceil", start) for start in starts]
                assert torch.equal(positions, torch.cat(parts))


@torch.no_grad()
def test_a_window_is_the_newest_frames_right_before_the_segment(stories: StoryFolder) -> None:
    trainer, drawn = _trainer(stories), _drawn(stories, "none", tasks=(("shot", 1.0),))
    memory = trainer.ways(Way.parse("window"), trainer.model, drawn.tensors, drawn.plan.histories)
    film = drawn.tensors.latents.transpose(2, 3).flatten(1, 2).transpose(1, 2)
    assert torch.equal(memory.tokens, as_tokens(trainer.model.project(film[:, :, -5:])))
    assert sorted(set(memory.positions[0, :, 0].tolist())) == [-5, -4, -3, -2, -1]


@torch.no_grad()
def test_a_shot_also_reads_what_its_caption_recalls(stories: StoryFolder) -> None:
    """At its own times, which are asked for by frame; a mix of the history's own tokens."""
    trainer = _trainer(stories)
    for task, recalled in (("frames", 0), ("shot", FRAMES * 4)):
        drawn = _drawn(stories, "encoder 2x2x2", tasks=((task, 1.0),))
        step = drawn.tensors
        memory = trainer.ways(drawn.way, trainer.model, step, drawn.plan.histories)
        read = trainer.ways.read(drawn.way, memory, drawn.plan.task, step, step.history)
        assert read.tokens.shape == (4, 12 + recalled, 48)
        assert read.positions.shape == (4, 12 + recalled, 3)
        held = memory.tokens[step.history]
        assert torch.equal(read.tokens[:, :12], held)
        if recalled:
            assert sorted(set(read.positions[0, 12:, 0].tolist())) == [0.0, 1.0]
            assert sorted(set(read.positions[0, 12:, 1].tolist())) == [0.5, 2.5]
            mixed, low, high = read.tokens[:, 12:], held.amin(1, True), held.amax(1, True)
            assert (mixed >= low - 1e-4).all() and (mixed <= high + 1e-4).all()


@torch.no_grad()
def test_an_encoder_with_a_closed_gate_is_its_low_branch(stories: StoryFolder) -> None:
    trainer, drawn = _trainer(stories, replace(CONFIG, gate=0.0)), _drawn(stories, "none")
    given = (trainer.model, drawn.tensors, drawn.plan.histories)
    encoder = trainer.ways(Way.parse("encoder 2x2x2"), *given)
    low = trainer.ways(Way.parse("low 2x2x2"), *given)
    assert torch.equal(encoder.tokens, low.tokens) and torch.equal(encoder.positions, low.positions)


@torch.no_grad()
def test_the_probe_swaps_whole_histories(stories: StoryFolder) -> None:
    """With one story shown twice, another's memory is one's own, and recall is exactly nothing."""
    trainer, drawn = _trainer(stories), _drawn(stories, "encoder 2x2x2")
    assert _loss(trainer, drawn) != _loss(trainer, drawn, swapped=True)
    same = drawn.plan.histories[0]
    plan = replace(drawn.plan, histories=(same, same))
    tensors = _doubled(drawn.tensors)
    twice = DrawnStep(drawn.way, plan, tensors, drawn.noise_seed)
    assert _loss(trainer, twice) == _loss(trainer, twice, swapped=True)


def _doubled(step: StepTensors) -> StepTensors:
    first = {name: value[:1].repeat(2, *[1] * (value.ndim - 1)) for name, value in step.low.items()}
    return replace(
        step,
        latents=step.latents[:1].repeat(2, 1, 1, 1, 1, 1),
        captions=step.captions[:1].repeat(2, 1, 1, 1),
        low=first,
    )


def test_processes_take_the_same_way_with_histories_of_their_own(stories: StoryFolder) -> None:
    ways = set()
    for step in range(30):
        one, two = (draw(CONFIG, stories, step, rank) for rank in (0, 1))
        assert (one.way, one.plan.task) == (two.way, two.plan.task)
        assert one.plan != two.plan and one.noise_seed != two.noise_seed
        ways.add(str(one.way))
        assert draw(CONFIG, stories, step, 1).plan == two.plan
    assert ways == {name for name, _ in CONFIG.ways}


def test_some_steps_go_without_memory(stories: StoryFolder) -> None:
    config = replace(CONFIG, dropout=0.4)
    without = sum(draw(config, stories, step).way.kind == "none" for step in range(200))
    assert without / 200 == pytest.approx(0.4, abs=0.1)


def test_a_training_that_stops_and_goes_on_is_the_same_training(
    stories: StoryFolder, tmp_path: Path
) -> None:
    """Stopped after every step; parameters of a way have had fewer updates than the training."""
    accelerator = _accelerator()
    whole = tmp_path / "whole"
    train(_trainer(stories), stories, whole, CONFIG, accelerator, checkpoint_seconds=1e9)
    halting = tmp_path / "halting"
    for _ in range(CONFIG.steps):
        train(_trainer(stories), stories, halting, CONFIG, accelerator, until=0.0)
    expected = load_file(whole / "checkpoint.safetensors")
    given = load_file(halting / "checkpoint.safetensors")
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(given[name], value), name
    updates = {int(value) for name, value in given.items() if name.startswith("step.")}
    assert max(updates) == CONFIG.steps and min(updates) < CONFIG.steps


def _finished(stories: StoryFolder, folder: Path) -> Path:
    """A Stage I result that differs from its beginning."""
    trainer = _trainer(stories)
    train(trainer, stories, folder, CONFIG, _accelerator(), checkpoint_seconds=1e9)
    return folder / "checkpoint.safetensors"


def test_stage_two_begins_where_stage_one_ended(stories: StoryFolder, tmp_path: Path) -> None:
    checkpoint = _finished(stories, tmp_path)
    average = load_file(checkpoint)
    first = _trainer(stories)
    with torch.no_grad():
        for name, parameter in trained_parameters(first):
            parameter.copy_(average[f"average.{name}"])
    config = replace(CONFIG, lora_rank=3, lora_name="film", tasks=(("shot", 1.0),), seed=7)
    second, lora = continue_from(Subject(_model(), stories, None, None), config, checkpoint)

    drawn = _drawn(stories, "encoder 2x2x2")
    with torch.no_grad():
        assert _loss(second, drawn).item() == pytest.approx(_loss(first, drawn).item(), abs=1e-5)
        assert _loss(second, drawn) != _loss(_trainer(stories), drawn)
    trained = dict(trained_parameters(second))
    loras = {name for name in trained if ".lora_" in name}
    assert all(".film." in name and 3 in trained[name].shape for name in loras)
    assert set(lora) == {name for name, _ in trained_parameters(first) if ".lora_" in name}
    assert all(torch.equal(value, average[f"average.{name}"]) for name, value in lora.items())
    encoders = {name for name in trained if name.startswith("ways.")}
    assert encoders == {name for name, _ in trained_parameters(first) if name.startswith("ways.")}
    assert all(torch.equal(trained[name], average[f"average.{name}"]) for name in encoders)


def test_stage_two_needs_stage_one_of_the_same_encoders(
    stories: StoryFolder, tmp_path: Path
) -> None:
    subject = Subject(_model(), stories, None, None)
    with pytest.raises(ValueError, match="begins with Stage I's result, .* is missing"):
        continue_from(subject, CONFIG, tmp_path / "checkpoint.safetensors")
    checkpoint = _finished(stories, tmp_path)
    with pytest.raises(ValueError, match="rates .*'2x2x2', '4x4x2'.* asked for .'2x2x2'."):
        continue_from(subject, replace(CONFIG, rates=("2x2x2",)), checkpoint)
    with pytest.raises(ValueError, match="widths .4, 8, 8, 16., .* asked for .4, 8, 16, 16."):
        continue_from(subject, replace(CONFIG, widths=(4, 8, 16, 16)), checkpoint)


def test_a_folder_begun_with_other_settings_is_refused(
    stories: StoryFolder, tmp_path: Path
) -> None:
    checkpoint = _finished(stories, tmp_path)
    check_same_training(checkpoint, [CONFIG])
    check_same_training(checkpoint, [replace(CONFIG, steps=50, threads=4)])
    check_same_training(checkpoint, [replace(CONFIG, seed=9), CONFIG])  # of one phase or another
    check_same_training(tmp_path / "none.safetensors", [replace(CONFIG, seed=9)])
    for change, words in (
        ({"seed": 9}, "trained with seed 0, this is 9"),
        ({"lora_rank": 8}, "trained with lora_rank 16, this is 8"),
        ({"shape": replace(CONFIG.shape, histories=5)}, "trained with shape .*'histories': 2"),
    ):
        with pytest.raises(ValueError, match=words):
            check_same_training(checkpoint, [replace(CONFIG, **change)])  # type: ignore[arg-type]
    assert stored_config(checkpoint)["ways"] == json.loads(json.dumps(CONFIG.ways))


def test_stories_of_another_model_are_refused(stories: StoryFolder) -> None:
    check_fits(_model(), stories)
    model = _model()
    other = SimpleNamespace(
        latent_shape=torch.Size((3, FRAMES, SIDE, SIDE)), text_dim=TEXT, segments=SEGMENTS
    )
    with pytest.raises(ValueError, match="latent channels 2, the stories 3"):
        check_fits(model, other)  # type: ignore[arg-type]
    other.latent_shape, other.text_dim = stories.latent_shape, 5
    with pytest.raises(ValueError, match="text width 8, the stories 5"):
        check_fits(model, other)  # type: ignore[arg-type]


def test_settings_of_the_stages(stories: StoryFolder) -> None:
    subject = Subject(_model(), stories, None, None)
    (demo,) = stage_phases(RETRIEVAL, parse(RETRIEVAL, ["--seed", "5"]), subject)
    assert demo.tasks == (("frames", 1.0),) and demo.shape.segment_latent_frames == FRAMES
    assert demo.ways == RETRIEVAL.demo[0].ways and not demo.shape.ordered and demo.seed == 5
    film = stage_phases(FILM, parse(FILM, ["--steps", "900"]), subject)
    assert [config.steps for config in film] == sorted({config.steps for config in film})
    assert film[-1].steps == 900 and all(config.lora_name == "film" for config in film)
    given = ["--model", "m", "--stories", "s", "--batch", "3", "--rates", "2x2x4", "--rank", "9"]
    (real,) = stage_phases(FILM, parse(FILM, given), subject)
    assert (real.shape.histories, real.rates, real.lora_rank) == (3, ("2x2x4",), 9)
    assert real.ways == (("encoder 2x2x4", 1.0),) and real.shape.ordered
    assert real.lora_name == "film" and real.shape.prefix_share == 0
    assert parse(RETRIEVAL, ["--model", "m", "--stories", "s"]).rates is None
    real = RETRIEVAL.real[0]
    assert real.lora_rank == 128 and real.widths == (64, 128, 256, 512)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "m"], "--model and --videos .* go together"),
        (["--videos", "v"], "--model and --videos .* go together"),
        (["--rates", "2x2"], "a rate reads like 2x2x2|invalid _rates value"),
        (["--widths", "8,8"], "four widths"),
        (["--model", "m", "--stories", "s", "--ship"], "--ship is for the demo"),
    ],
)
def test_command_lines_that_make_no_sense(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(RETRIEVAL, arguments)
    assert re.search(words, capsys.readouterr().err)
