"""Training the demo's keyframes: small settings from the command line, and that what is trained is
what the planner's adapters compute."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
"""Of diffusers."""

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--cpu", "--mixed-precision", "no", "--stories", "3", "--batch", "2")


def written(folder: Path) -> tuple[Path, Path]:
    """The encoder's and the LoRA's file of a training."""
    (encoder,) = (folder / "film" / "memory_encoders").iterdir()
    (lora,) = (folder / "film" / "loras").iterdir()
    return encoder, lora


@pytest.fixture(scope="module")
def trained(comfy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two steps."""
    from throughline.training.keyframes_training import main

    folder = tmp_path_factory.mktemp("keyframes")
    assert main([*SMALL, "--steps", "2", "--address-steps", "2", "--out", str(folder)]) == 0
    return folder


def test_the_files_are_what_the_nodes_load(trained: Path) -> None:
    from throughline.adapters.encoders import load_encoder
    from throughline.memory.lora_digest import lora_digest

    encoder, lora = written(trained)
    card = load_encoder(encoder).card
    assert (str(card.rate), card.lr_mode, card.stream) == ("1x1x1", "latent", "segment")
    assert (card.segment_latents, card.address_dim) == (1, 128)
    assert card.lora == lora.name and card.lora_hash == lora_digest(load_file(lora))
    assert encoder.name == "throughline_demo_keyframes_1x1x1.safetensors"


def test_it_begins_with_the_shipped_memory(trained: Path) -> None:
    """Two steps move the LoRA by little."""
    from throughline.training.keyframes_training import MEMORY_LORA

    before, after = load_file(MEMORY_LORA), load_file(written(trained)[1])
    assert before.keys() == after.keys()
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert 0.0 < max(moved.values()) < 1e-3


def test_a_training_goes_on_where_it_was_stopped(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from throughline.training.keyframes_training import main

    assert main([*SMALL, "--steps", "3", "--out", str(trained)]) == 0
    said = capsys.readouterr().out
    assert "step 3/3" in said and "addresses" not in said
    with pytest.raises(ValueError, match="was trained with seed 11, this is 12"):
        main([*SMALL, "--steps", "3", "--seed", "1", "--out", str(trained)])


@pytest.fixture(scope="module")
def shipped(comfy: ModuleType, trained: Path) -> Any:
    """The trainer with the shipped keyframes in it, and its stories."""
    from throughline.adapters.demo_models import WEIGHTS
    from throughline.training.keyframes_training import CONFIG, begin_keyframes, keyframe_subject
    from throughline.training.launch import make_accelerator

    accelerator = make_accelerator(SimpleNamespace(cpu=True, mixed_precision="no"))
    subject = keyframe_subject(trained / "stories", 3, accelerator)
    return begin_keyframes(subject, CONFIG, WEIGHTS, again=True), subject.data


def test_it_goes_on_from_the_shipped_keyframes(shipped: Any) -> None:
    from throughline.adapters.demo_models import WEIGHTS
    from throughline.memory.weight_format import read_encoder_file
    from throughline.training.keyframes_training import RATE, STEM

    file = WEIGHTS / "memory_encoders" / f"{STEM}_{RATE}.safetensors"
    state = shipped[0].ways.encoders[RATE].state_dict()
    for name, value in read_encoder_file(file).tensors.items():
        torch.testing.assert_close(state[name], value.float(), atol=0.0, rtol=0.0)


def test_the_command_line_goes_on_from_them(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One step from the shipped files, in a folder of its own, moves them by little."""
    from throughline.adapters.demo_models import WEIGHTS
    from throughline.training.keyframes_training import STEM, main

    assert main([*SMALL, "--steps", "1", "--continue", "--out", str(trained)]) == 0
    assert "addresses" not in capsys.readouterr().out
    name = f"{STEM}_memory.safetensors"
    before = load_file(WEIGHTS / "loras" / name)
    after = load_file(trained / "continued" / "loras" / name)
    moved = max(float((after[key] - before[key]).abs().max()) for key in before)
    assert 0.0 < moved < 1e-3


@torch.no_grad()
def test_the_planner_computes_what_was_trained(shipped: Any) -> None:
    """The velocity of one keyframe beside three references: the trainer's and the host's."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.sampler_helpers

    from throughline.adapters.video_images import PictureClip
    from throughline.training.memory_data import step_tensors
    from throughline.training.memory_plan import HistoryPlan, Query, StepPlan
    from throughline.training.memory_ways import Way

    trainer, data = shipped
    history = HistoryPlan(1, (4, 12, 7), (0, 1, 2), 3)  # shots 5 and 8 and a sheet
    plan = StepPlan("shot", (history,), (Query(0, 2, 0, 1, 0),))
    step = step_tensors(data, plan, (), None)  # type: ignore[arg-type]
    way = Way.parse("encoder 1x1x1")
    memory = trainer.ways(way, trainer.model, step, plan.histories)
    read = trainer.ways.read(way, memory, "shot", step, step.history)
    noisy = torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs = torch.cat([noisy, torch.zeros(1, 20, 1, 8, 8)], dim=1)
    expected = trainer.model(
        inputs, torch.tensor([700.0]), step.text, read.tokens, read.positions, step.start
    )
    assert read.tokens.shape[1] == 4 * 16

    keyframer = new_keyframer()
    form = keyframer.model.get_model_object("latent_format")
    clips = [
        PictureClip(latents=form.process_out(latents[None]), title="", caption=caption[None])
        for latents, caption in zip(step.latents[0], step.captions[0], strict=True)
    ]
    positive = [[step.text, {}]]
    model = keyframer.family.with_clips(keyframer.model, positive, positive, clips).model
    options = comfy.model_patcher.create_model_options_clone(model.model_options)
    comfy.sampler_helpers.prepare_model_patcher(model, {}, options)
    comfy.model_management.load_models_gpu([model])
    made = model.model.diffusion_model(
        inputs, torch.tensor([700.0]), step.text, transformer_options=options["transformer_options"]
    )
    torch.testing.assert_close(made, expected, atol=1e-3, rtol=0.0)


def new_keyframer() -> Any:
    """The shipped keyframes as the bench loads them."""
    from development.package import enter_package

    if "benchmarks" not in sys.modules:
        enter_package("benchmarks", ROOT / "benchmarks", execute=False)
    return importlib.import_module("benchmarks._keyframing").Keyframer()
