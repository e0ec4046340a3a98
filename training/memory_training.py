"""Train the history encoder: Stage I asks for frames of the history, Stage II for the next shot.

Pretraining Frame Preservation / TinyHistory (arXiv 2512.23851v6, section 3). The video model is
frozen; a LoRA on it and the encoders are trained together, by flow matching on the queried frames.
Several ways to remember share one LoRA and take turns, so that they can be compared.

Conventions are core's: x_s = (1 - s) x0 + s noise, the model gets 1000 s and returns noise - x0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..memory.encoder import EncoderConfig, HistoryEncoder
from ..memory.rates import Rate
from ..memory.recall import SHARPNESS
from .checkpoints import (
    MovingAverage,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    trained_parameters,
)
from .memory_data import StepTensors, StoryFolder, step_tensors
from .memory_model import MemoryModel
from .memory_plan import StepPlan, StepShape, Task, draw_step
from .memory_ways import MemoryWays, Way
from .noise_levels import shifted
from .video_training import TIMESTEP_SCALE, concat_channels

PROBE_EVERY = 100
"""Steps between two recall probes."""


@dataclass(frozen=True)
class MemoryTrainingConfig:
    """Everything that the result depends on.

    `tasks` and `ways` with their shares; `gate` what an encoder's gate begins with (AlayaWorld: 0
    lets no gradient through). `reference_noise` is the highest noise level of what is remembered:
    pictures that were made are not as clean as those that are trained on.
    """

    seed: int = 0
    stories: int = 1000
    steps: int = 4000
    tasks: tuple[tuple[Task, float], ...] = (("frames", 1.0),)
    ways: tuple[tuple[str, float], ...] = (
        ("encoder 2x2x2", 0.25),
        ("encoder 4x4x2", 0.25),
        ("low 4x4x2", 0.25),
        ("packed 4x4x2", 0.25),
    )
    rates: tuple[str, ...] = ("2x2x2", "4x4x2")
    widths: tuple[int, int, int, int] = (32, 64, 128, 256)
    lora_rank: int = 64
    lora_name: str = "retrieval"
    gate: float = 0.5
    address_dim: int = 128
    noise_shift: float = 5.0
    empty_caption_share: float = 0.05
    dropout: float = 0.0  # share of steps without any memory
    peak_learning_rate: float = 1e-3
    warm_up: int = 100
    decay_from: float = 0.7
    weight_decay: float = 0.01
    average_decay: float = 0.998
    gradient_clip: float = 1.0
    threads: int = 1
    reference_noise: float = 0.0
    shape: StepShape = field(default_factory=StepShape)


class MemoryTrainer(nn.Module):
    """Model and ways as one module, so that a launcher may wrap it; forward gives the loss."""

    def __init__(
        self, model: MemoryModel, ways: MemoryWays, grey: Tensor | None, noise_shift: float
    ) -> None:
        super().__init__()
        self.model, self.ways, self.noise_shift = model, ways, noise_shift
        self.address_weight = 0.0
        self.grey = grey

    def forward(
        self,
        way: Way,
        plan: StepPlan,
        step: StepTensors,
        generator: torch.Generator,
        swapped: bool = False,
    ) -> Tensor:
        """Mean squared error of the velocity of the frames that are asked for.

        `swapped` gives every query the memory of the next history: what the loss gains by that is
        what the memory is worth. Noise is drawn on the CPU: every kind of device sees the same.
        """
        device = next(self.parameters()).device
        step = step.to(device)
        memory = self.ways(way, self.model, step, plan.histories)
        whose = (
            step.history.roll(len(step.history) // len(plan.histories)) if swapped else step.history
        )
        uniform = torch.rand(len(step.targets), generator=generator).to(device)
        sigma = shifted(uniform, self.noise_shift)
        noise = torch.randn(step.targets.shape, generator=generator).to(device)
        mixed = torch.lerp(step.targets, noise, sigma.view(-1, 1, 1, 1, 1))
        read = self.ways.read(way, memory, plan.task, step, whose)
        velocity = self.model(
            self._with_known(mixed, step),
            sigma * TIMESTEP_SCALE,
            step.text,
            read.tokens,
            read.positions,
            step.start,
        )
        error = (velocity.float() - (noise - step.targets)).square().mean(dim=(1, 3, 4))
        weight = (~step.known).float()
        loss = (error * weight).sum() / weight.sum()
        # a probe measures the first part only
        return loss + self.address_weight * read.missed if torch.is_grad_enabled() else loss

    def _with_known(self, mixed: Tensor, step: StepTensors) -> Tensor:
        """The model's input: known frames come by the concat channels of an I2V model."""
        if not self.model.takes_known:
            return mixed
        assert self.grey is not None
        known = step.known.sum(dim=1).tolist()
        channels = [
            concat_channels(clean, int(count), self.grey, None)
            for clean, count in zip(step.targets.cpu(), known, strict=True)
        ]
        return torch.cat([mixed, torch.stack(channels).to(mixed.device)], dim=1)


@torch.no_grad()
def initialise_encoder(encoder: HistoryEncoder, generator: torch.Generator, gate: float) -> None:
    """Unit-gain layers in place, the projection small, the gate at `gate`."""
    for name, parameter in encoder.named_parameters():
        if name == "gate":
            parameter.fill_(gate)
        elif "norm" in name:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        elif name == "addresses.sharpness":
            parameter.fill_(math.log(SHARPNESS))
        elif parameter.ndim < 2:
            parameter.zero_()
        elif name.startswith("shortcut"):  # keeps as much of a cell as there is room for
            nn.init.orthogonal_(parameter.view(len(parameter), -1), generator=generator)
        else:
            gain = 1.6 if name.startswith("conv") else 1.0  # 1.6: silu halves the variance and more
            std = gain * parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def encoder_configs(
    config: MemoryTrainingConfig, model: MemoryModel, data: StoryFolder
) -> tuple[EncoderConfig, ...]:
    """Encoders that fit the model and the data."""
    return tuple(
        EncoderConfig(
            in_channels=int(data.latent_shape[0]),
            inner_dim=model.inner_dim,
            rate=Rate.parse(rate),
            patch=model.patch,
            widths=config.widths,
            caption_dim=data.text_dim,
            address_dim=config.address_dim,
        )
        for rate in config.rates
    )


def draw_way(config: MemoryTrainingConfig, generator: np.random.Generator) -> tuple[Task, Way]:
    """The task and the way of a step."""
    tasks, task_shares = zip(*config.tasks, strict=True)
    ways, way_shares = zip(*config.ways, strict=True)
    task = tasks[int(generator.choice(len(tasks), p=task_shares))]
    way = ways[int(generator.choice(len(ways), p=way_shares))]
    if generator.uniform() < config.dropout:
        way = "none"
    drawn = Way.parse(way)
    if task == "frames" and drawn.kind in ("window", "framepack"):
        task = "shot"  # frames that they dropped cannot be asked of them
    return task, drawn


@dataclass(frozen=True)
class DrawnStep:
    """All that a step needs besides the weights."""

    way: Way
    plan: StepPlan
    tensors: StepTensors
    noise_seed: int


def draw(
    config: MemoryTrainingConfig,
    data: StoryFolder,
    step: int,
    rank: int = 0,
    empty_caption: Tensor | None = None,
) -> DrawnStep:
    """The step of this number on this process: a resumed training sees the same data."""
    generator = np.random.default_rng([config.seed, step, rank])
    # every process takes the same way, else their gradients do not fit together
    task, way = draw_way(config, np.random.default_rng([config.seed, step]))
    plan = draw_step(task, config.shape, len(data), data.segments, generator, data.scenes_if_any)
    rates = tuple(Rate.parse(rate) for rate in config.rates)
    tensors = step_tensors(data, plan, rates, generator, empty_caption, config.empty_caption_share)
    if config.reference_noise:
        latents = noisy_references(tensors.latents, config.reference_noise, generator)
        tensors = replace(tensors, latents=latents)
    return DrawnStep(way, plan, tensors, int(generator.integers(2**62)))


def noisy_references(latents: Tensor, most: float, generator: np.random.Generator) -> Tensor:
    """Histories `h s c t h w`, each segment with noise of a level of its own, up to `most`."""
    levels = torch.from_numpy(generator.uniform(0.0, most, latents.shape[:2])).float()
    drawn = torch.Generator().manual_seed(int(generator.integers(2**62)))
    noise = torch.randn(latents.shape, generator=drawn)
    return torch.lerp(latents, noise, levels[:, :, None, None, None, None])


def train(
    trainer: MemoryTrainer,
    data: StoryFolder,
    folder: Path,
    config: MemoryTrainingConfig,
    accelerator: Any,
    empty_caption: Tensor | None = None,
    checkpoint_seconds: float = 300.0,
    until: float | None = None,
) -> MovingAverage:
    """Train or resume in `folder`; stops early at the monotonic time `until`.

    Launched by accelerate it runs on several devices or nodes: each draws histories of its own, the
    gradients are averaged, process 0 writes.
    """
    torch.set_num_threads(config.threads)
    trainer.to(accelerator.device)
    parameters = [parameter for _, parameter in trained_parameters(trainer)]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    average = MovingAverage(trainer, config.average_decay)
    path = folder / "checkpoint.safetensors"
    start = load_checkpoint(path, trainer, average, optimiser) if path.exists() else 0
    wrapped, optimiser = accelerator.prepare(trainer, optimiser)
    saved, losses = time.monotonic(), {}
    for step in range(start, config.steps):
        rate = learning_rate(
            step, config.steps, config.peak_learning_rate, config.warm_up, config.decay_from
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        drawn = draw(config, data, step, accelerator.process_index, empty_caption)
        with accelerator.autocast():
            loss = wrapped(drawn.way, drawn.plan, drawn.tensors, noise_generator(drawn))
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, config.gradient_clip)
        optimiser.step()
        average.add(trainer, step)
        losses.setdefault(f"{drawn.plan.task} {drawn.way}", []).append(loss.item())
        last = step + 1 == config.steps or _is_over(until, accelerator)
        if accelerator.is_main_process and ((step + 1) % PROBE_EVERY == 0 or last):
            _report(step + 1, config, losses, probe(trainer, data, config, step, accelerator))
            losses = {}
        if accelerator.is_main_process and (last or time.monotonic() - saved > checkpoint_seconds):
            save_checkpoint(path, trainer, average, optimiser, step + 1, config)
            saved = time.monotonic()
        if last:
            break
    return average


def _is_over(until: float | None, accelerator: Any) -> bool:
    """Whether process 0 says that the time is up; all processes must stop after the same step."""
    if until is None:
        return False
    over = torch.tensor(float(accelerator.is_main_process and time.monotonic() > until))
    return bool(accelerator.reduce(over.to(accelerator.device), "sum") > 0)


def noise_generator(drawn: DrawnStep) -> torch.Generator:
    """What the noise and the noise levels of a step are drawn from."""
    return torch.Generator().manual_seed(drawn.noise_seed)


@torch.no_grad()
def probe(
    trainer: MemoryTrainer,
    data: StoryFolder,
    config: MemoryTrainingConfig,
    step: int,
    accelerator: Any,
) -> dict[str, float]:
    """Recall of every task and way: the loss with another history's memory less that with its own.

    A falling loss says nothing about the memory; this does (design, section 2.1).
    """
    shape = replace(config.shape, histories=max(2, config.shape.histories))
    found = {}
    for task, _ in config.tasks:
        for name, _ in config.ways:
            generator = np.random.default_rng([config.seed, step, 1, 2])
            plan = draw_step(task, shape, len(data), data.segments, generator, data.scenes_if_any)
            rates = tuple(Rate.parse(rate) for rate in config.rates)
            drawn = DrawnStep(
                Way.parse(name), plan, step_tensors(data, plan, rates, generator), step
            )
            with accelerator.autocast():
                own, other = (
                    trainer(
                        drawn.way, drawn.plan, drawn.tensors, noise_generator(drawn), swapped
                    ).item()
                    for swapped in (False, True)
                )
            found[f"{task} {name}"] = other - own
    return found


def _report(
    step: int,
    config: MemoryTrainingConfig,
    losses: dict[str, list[float]],
    recall: dict[str, float],
) -> None:
    clock = time.strftime("%H:%M:%S")
    parts = [
        f"{name} {np.mean(losses.get(name, [np.nan])):.3f} (recall {gain:+.3f})"
        for name, gain in recall.items()
    ]
    print(f"{clock} step {step}/{config.steps}: " + ", ".join(parts), flush=True)


def main(arguments: Sequence[str]) -> int:
    """Stage II: predict the next shot from the history, from Stage I's result on."""
    from .memory_recipes import FILM
    from .memory_stages import command

    return command(FILM, arguments)
