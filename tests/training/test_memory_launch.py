"""Stage I on a folder in the real layout, by two processes: averaged, killed, resumed, equal."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
STEPS = 16
SIZES = ["--size", "32x48", "--fps", "8", "--segment-frames", "9", "--story-segments", "5"]
SMALL = ["--rank", "2", "--widths", "4,4,8,8", "--mixed-precision", "no", "--cpu"]

# What dev.py does once it stands in the environment; here the environment is the tests' own.
LAUNCHER = """
import importlib.util, sys
from pathlib import Path
root, comfyui, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
spec = importlib.util.spec_from_file_location("dev", root / "dev.py")
dev = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dev)
dev.load_development()
from development import trainings
from development.environment import Host
sys.exit(trainings.run(Host(comfyui, Path(sys.executable)), name, sys.argv[4:]))
"""


def _command(name: str, *arguments: str | Path) -> list[str]:
    given = [str(each) for each in arguments]
    start = [sys.executable, "-P", "-c", LAUNCHER, str(ROOT), os.environ["COMFYUI_PATH"], name]
    return [*start, *given, *SIZES, *SMALL]


def _steps(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, "pt") as file:
        return int(file.metadata()["step"])


def _run_and_kill(command: list[str], checkpoint: Path, after: int) -> int:
    """Start a training in a process group of its own and kill the group after some steps."""
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while _steps(checkpoint) < after and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return _steps(checkpoint)


@pytest.mark.slow
def test_two_processes_train_one_model_and_survive_a_kill(
    comfy: ModuleType, tiny_wan_folder: Path, tiny_videos: Path, tmp_path: Path
) -> None:
    stories = tmp_path / "stories"
    common: list[str | Path] = ["--model", tiny_wan_folder, "--stories", stories]
    common += ["--steps", str(STEPS), "--processes", "2", "--checkpoint-seconds", "0"]

    whole = tmp_path / "whole"
    encode = ["--videos", tiny_videos, "--out", whole]
    done = subprocess.run(
        _command("encoder", *common, *encode), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(f"step {STEPS}/{STEPS}") == 1  # one process reports
    assert len(list(stories.glob("story_*.safetensors"))) == 2
    assert len(list((whole / "retrieval").glob("*/*.safetensors"))) == 3  # two encoders, one LoRA

    broken = tmp_path / "broken" / "retrieval" / "checkpoint.safetensors"
    command = _command("encoder", *common, "--out", tmp_path / "broken")
    killed_at = _run_and_kill(command, broken, after=3)
    assert 3 <= killed_at < STEPS
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert _steps(broken) == STEPS

    expected = load_file(whole / "retrieval" / "checkpoint.safetensors")
    resumed = load_file(broken)
    assert resumed.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name

    reference = _by_one_process(tiny_wan_folder, stories)
    for name, value in reference.items():
        assert torch.allclose(expected[f"weights.{name}"], value, atol=1e-5), name


def _by_one_process(model: Path, stories: Path) -> dict[str, torch.Tensor]:
    """The same training by hand: both processes' losses one after the other, gradients averaged."""
    from throughline.training.checkpoints import learning_rate, trained_parameters
    from throughline.training.memory_recipes import RETRIEVAL
    from throughline.training.memory_stages import begin, parse, stage_phases
    from throughline.training.memory_subject import model_subject
    from throughline.training.memory_training import draw, noise_generator

    class OneProcess:
        """What is asked of accelerate before a training."""

        device = torch.device("cpu")
        process_index, num_processes = 0, 1

        def wait_for_everyone(self) -> None:
            """There is nobody else."""

    arguments = ["--model", str(model), "--stories", str(stories), "--steps", str(STEPS)]
    options: argparse.Namespace = parse(RETRIEVAL, [*arguments, *SIZES, *SMALL])
    subject = model_subject(options, RETRIEVAL.real[0].rates, stories, OneProcess())
    (config,) = stage_phases(RETRIEVAL, options, subject)
    trainer = begin(subject, config, packed=False)
    parameters = [parameter for _, parameter in trained_parameters(trainer)]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(
                step, STEPS, config.peak_learning_rate, config.warm_up, config.decay_from
            )
        optimiser.zero_grad(set_to_none=True)
        for process in range(2):
            drawn = draw(config, subject.data, step, process, subject.empty_caption)
            loss = trainer(drawn.way, drawn.plan, drawn.tensors, noise_generator(drawn))
            (loss / 2).backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        optimiser.step()
    return {name: value.detach() for name, value in trained_parameters(trainer)}
