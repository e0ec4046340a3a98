"""Train embedders and a LoRA with which a Wan model reads a hierarchy as packed context.

    python3 dev.py train packed                                      the demo model and its world
    python3 dev.py train packed --model Wan2.1-T2V-1.3B-Diffusers --videos films --out trained

The video model is frozen; each step is one of MilliVid's schedule that makes level 0 (shared design
`hierarchical-latents.md`, 3.3), with a history that is cut off at random so that a film can begin
(7.3), and without any context in a tenth of the steps for guidance. The files load with Packed
context and Load LoRA. Killed, it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..memory.hierarchy import HierarchyHead, PooledHead
from ..memory.hierarchy_format import PackedCard, read_head_file, write_packed_file
from ..memory.lora_digest import LORA_HASH_KEY, lora_digest
from ..memory.packed_context import (
    PackedConfig,
    PackedEmbedder,
    initialise_embedder,
)
from ..planning.rollout import RolloutStep, Windows
from .checkpoints import (
    MovingAverage,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    trained_parameters,
    write_tensors,
)
from .launch import add_launch_options, launch, make_accelerator
from .memory_data import StoryFolder
from .memory_export import lora_factors
from .memory_model import MemoryModel
from .memory_stages import check_same_training
from .memory_subject import Subject, demo_subject, model_subject
from .noise_levels import shifted
from .packed_data import PackedTensors, PackedTrainingConfig, draw_step, step_tensors
from .story_videos import CutSettings
from .vae_training import BUILD
from .video_training import TIMESTEP_SCALE, concat_channels

REPORT_EVERY = 50

DEMO_RATES = ("2x2x2", "4x4x2")
"""Of the demo's stories: those of the trainings of memory, so that they are encoded once."""


class PackedTrainer(nn.Module):
    """Model and embedders as one module, so that a launcher may wrap it; forward gives the loss."""

    def __init__(
        self, model: MemoryModel, embedder: PackedEmbedder, grey: Tensor | None, noise_shift: float
    ) -> None:
        super().__init__()
        self.model, self.embedder, self.noise_shift = model, embedder, noise_shift
        self.grey = grey

    def forward(self, step: RolloutStep, given: PackedTensors, noise_seed: int) -> Tensor:
        """Mean squared error of the velocity of the step's target."""
        device = next(self.parameters()).device
        generator = torch.Generator().manual_seed(noise_seed)  # on the CPU: equal everywhere
        targets, batch = given.targets.to(device), len(given.targets)
        uniform = torch.rand(batch, generator=generator).to(device)
        sigma = shifted(uniform, self.noise_shift)
        noise = torch.randn(targets.shape, generator=generator).to(device)
        mixed = torch.lerp(targets, noise, sigma.view(-1, 1, 1, 1, 1))
        velocity = self.velocity(step, given, self._input(mixed, given.targets), sigma)
        return (velocity.float() - (noise - targets)).square().mean()

    def velocity(
        self, step: RolloutStep, given: PackedTensors, noisy: Tensor, sigma: Tensor
    ) -> Tensor:
        """What the model says of the target, `b c f h w`, with the step's context."""
        device, batch = noisy.device, len(noisy)
        tokens = self.tokens(step, given, device, batch)
        positions = given.positions.to(device).expand(batch, -1, -1)
        start = torch.full((batch,), float(step.target.start), device=device)
        text = given.text.to(device)
        return self.model(noisy, sigma * TIMESTEP_SCALE, text, tokens, positions, start)

    def tokens(
        self, step: RolloutStep, given: PackedTensors, device: torch.device, batch: int
    ) -> Tensor:
        """The context's tokens `b m d`."""
        parts = [torch.zeros(batch, 0, self.model.inner_dim, device=device)]
        for span, values in zip(step.context, given.context, strict=True):
            values = values.to(device)
            if span.level == 0:
                parts.append(self.model.project(values).flatten(2).transpose(1, 2))
            else:
                parts.append(self.embedder(span.level, values).flatten(1, 2))
        return torch.cat(parts, dim=1)

    def _input(self, mixed: Tensor, clean: Tensor) -> Tensor:
        """With the concat channels of an I2V model, which say that nothing is known."""
        if not self.model.takes_known:
            return mixed
        assert self.grey is not None
        channels = torch.stack([concat_channels(one.cpu(), 0, self.grey, None) for one in clean])
        return torch.cat([mixed, channels.to(mixed)], dim=1)


def begin(subject: Subject, head: HierarchyHead, config: PackedTrainingConfig) -> PackedTrainer:
    """Model with a new LoRA, and new embedders. Raises ValueError for windows of other levels."""
    if len(config.windows) != head.levels:
        raise ValueError(
            f"windows must be one per level of the head, {head.levels}, got {len(config.windows)}"
        )
    torch.manual_seed(config.seed)  # peft draws the LoRA's first weights globally
    subject.model.add_lora(config.lora_rank, config.lora_name)
    embedder = PackedEmbedder(PackedConfig(tuple(head.code_channels), subject.model.inner_dim))
    projection = subject.model.patch_projection
    assert projection.bias is not None
    initialise_embedder(
        embedder,
        projection.weight.detach().float().cpu(),
        projection.bias.detach().float().cpu(),
        torch.Generator().manual_seed(config.seed),
    )
    return PackedTrainer(subject.model, embedder, subject.grey, config.noise_shift)


def train(
    trainer: PackedTrainer,
    data: StoryFolder,
    head: HierarchyHead,
    folder: Path,
    config: PackedTrainingConfig,
    accelerator: Any,
    checkpoint_seconds: float = 300.0,
) -> tuple[MovingAverage, list[float]]:
    """Train or resume in `folder`; gives the averaged weights and the losses of the steps made."""
    torch.set_num_threads(config.threads)
    trainer.to(accelerator.device)
    parameters = [parameter for _, parameter in trained_parameters(trainer)]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    average = MovingAverage(trainer, config.average_decay)
    path = folder / "checkpoint.safetensors"
    start = load_checkpoint(path, trainer, average, optimiser) if path.exists() else 0
    wrapped, optimiser = accelerator.prepare(trainer, optimiser)
    frames = data.segments * int(data.latent_shape[1])
    saved, losses = time.monotonic(), []
    for step in range(start, config.steps):
        rate = learning_rate(
            step, config.steps, config.peak_learning_rate, config.warm_up, config.decay_from
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        drawn = draw_step(config, len(data), frames, step, accelerator.process_index)
        given = step_tensors(data, drawn, head)
        with accelerator.autocast():
            loss = wrapped(drawn.step, given, drawn.noise_seed)
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, config.gradient_clip)
        optimiser.step()
        average.add(trainer, step)
        losses.append(loss.item())
        last = step + 1 == config.steps
        if accelerator.is_main_process and ((step + 1) % REPORT_EVERY == 0 or last):
            mean = float(np.mean(losses[-REPORT_EVERY:]))
            print(
                f"{time.strftime('%H:%M:%S')} step {step + 1}/{config.steps}: loss {mean:.3f}",
                flush=True,
            )
        if accelerator.is_main_process and (last or time.monotonic() - saved > checkpoint_seconds):
            save_checkpoint(path, trainer, average, optimiser, step + 1, config)
            saved = time.monotonic()
    return average, losses


def export_packed(
    values: Mapping[str, Tensor],
    folder: Path,
    trainer: PackedTrainer,
    card: PackedCard,
    stem: str,
    training: str,
) -> tuple[Path, Path]:
    """Write the embedders and their LoRA from parameters by name, as the nodes load them, bfloat16.

    `card` lacks what only the files know: the LoRA's name and digest. `training` is noted as it is.
    """
    lora = {
        name: value.to(torch.bfloat16).contiguous() for name, value in lora_factors(values).items()
    }
    digest, lora_path = lora_digest(lora), folder / "loras" / f"{stem}_packed.safetensors"
    path = folder / "packed_context" / f"{stem}_packed.safetensors"
    metadata = {LORA_HASH_KEY: digest, "modelspec.title": card.title, "training": training}
    write_tensors(lora_path, lora, metadata)
    tensors = {
        name.removeprefix("embedder."): value.to(torch.bfloat16)
        for name, value in values.items()
        if name.startswith("embedder.")
    }
    said = {**asdict(card), "config": trainer.embedder.config}
    write_packed_file(
        path, tensors, PackedCard(**{**said, "lora": lora_path.name, "lora_hash": digest})
    )
    return path, lora_path


def main(arguments: Sequence[str]) -> int:
    """Train as the command line says; returns the exit status."""
    launch(run, parse(arguments))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; ends the program where it makes no sense."""
    default = PackedTrainingConfig()
    parser = argparse.ArgumentParser(
        prog="dev.py train packed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="a diffusers folder; nothing: the demo model")
    parser.add_argument("--transformer", default="transformer", help="transformer_2: low noise")
    parser.add_argument("--videos", type=Path, help="videos with captions beside them")
    parser.add_argument("--stories", type=Path, help="encoded stories, made from the videos")
    parser.add_argument("--head", type=Path, help="a trained hierarchy head; nothing: pooled")
    parser.add_argument("--out", type=Path, help="folder of checkpoints and results")
    parser.add_argument("--windows", type=_numbers, default=default.windows, help="per level")
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--batch", type=int, default=default.batch, help="stories per process")
    parser.add_argument("--rank", type=int, default=default.lora_rank, help="of the LoRA")
    parser.add_argument("--seed", type=int, default=0)
    cut = parser.add_argument_group("how videos are cut")
    settings = CutSettings()
    cut.add_argument("--size", type=_size, default=(settings.height, settings.width), help="HxW")
    cut.add_argument("--fps", type=float, default=settings.fps)
    cut.add_argument("--segment-frames", type=int, default=settings.frames, help="4n+1")
    cut.add_argument("--story-segments", type=int, default=settings.segments)
    add_launch_options(parser)
    options = parser.parse_args(arguments)
    if (options.model is None) != (options.videos is None and options.stories is None):
        parser.error("--model and --videos (or --stories) go together")
    return options


def _numbers(text: str) -> tuple[int, ...]:
    return Windows.from_text(text).frames


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def run(options: argparse.Namespace) -> None:
    """Train on this process's device; called in every process."""
    torch.set_num_threads(options.threads)
    accelerator = make_accelerator(options)
    name = "throughline_demo" if options.model is None else options.model.name
    out = options.out or BUILD / "packed" / name
    config = PackedTrainingConfig(
        seed=options.seed,
        steps=options.steps,
        batch=options.batch,
        windows=options.windows,
        head="pooled" if options.head is None else options.head.name,
        lora_rank=options.rank,
        threads=options.threads,
    )
    check_same_training(out / "checkpoint.safetensors", [config])
    subject = (
        demo_subject(DEMO_RATES, config.stories, False, accelerator)
        if options.model is None
        else model_subject(options, DEMO_RATES, out / "stories", accelerator)
    )
    head = _head(options.head, subject, len(config.windows))
    if options.gradient_checkpointing:
        subject.model.transformer.enable_gradient_checkpointing()
    trainer = begin(subject, head, config)
    average, _ = train(
        trainer, subject.data, head, out, config, accelerator, options.checkpoint_seconds
    )
    if accelerator.is_main_process:
        card = PackedCard(
            config=trainer.embedder.config,
            base=name,
            head=head.name,
            windows=config.windows,
            title=f"Packed context for {name}",
        )
        said = json.dumps(asdict(config))
        for path in export_packed(average.values, out, trainer, card, name, said):
            print(f"wrote {path}", flush=True)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _head(path: Path | None, subject: Subject, levels: int) -> HierarchyHead:
    if path is None:
        return PooledHead(int(subject.data.latent_shape[0]), levels)
    return read_head_file(path)[0]
