"""Train a LoRA that makes Flux paint the keyframes of a film together, as (caption, picture) pairs.

    python3 dev.py train interleaved                                     a tiny Flux, the demo world
    python3 dev.py train interleaved --model FLUX.1-dev --films films --out trained

Captain Cinema (arXiv 2507.18634), Tab. 4: sequences grow from single pictures to 8, 16 and 32
pairs; each picture has a noise level of its own; the blocks attend as in the nodes' joint mode. The
LoRA that comes out loads with Load memory LoRA. Everything stops and goes on at checkpoints.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoints import (
    MovingAverage,
    load_checkpoint,
    save_checkpoint,
    trained_parameters,
    write_tensors,
)
from .demo_flux import demo_films, demo_flux
from .interleaved_model import InterleavedFlux, Order
from .interleaved_plan import STAGE_PAIRS, STAGE_STEPS, SequencePlanner, Stage, check_stages
from .keyframe_films import KeyframeFilms, PictureSize, encode_films
from .launch import add_launch_options, launch, make_accelerator
from .memory_stages import check_same_training
from .pretrained import FluxCodec, load_flux
from .vae_training import BUILD

REPORT_EVERY = 50

DEMO_STAGES = ((1, 60), (8, 40), (16, 30), (32, 20))
"""Pairs and steps on the tiny Flux: a few minutes on one core."""


@dataclass(frozen=True)
class InterleavedConfig:
    """Everything that the result depends on; optimiser and rates are Tab. 4's.

    `stages` are pairs and steps. `batch` are the sequences of a process and step (16 in all in the
    paper). `guidance` is what a model with distilled guidance is told while it trains (unknown in
    the paper; 3.5 is the default of diffusers' trainers).
    """

    seed: int = 0
    stages: tuple[tuple[int, int], ...] = tuple((pairs, STAGE_STEPS) for pairs in STAGE_PAIRS)
    batch: int = 1
    lora_rank: int = 64
    order: Order = "full"
    guidance: float = 3.5
    context_share: float = 0.5
    peak_learning_rate: float = 4e-4
    warm_up: int = 500
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    threads: int = 1

    @property
    def steps(self) -> int:
        return sum(steps for _, steps in self.stages)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """The stage of a step (counted from 0) and how far into it the step is."""
        for pairs, steps in self.stages:
            if step < steps:
                return Stage(pairs=pairs, steps=steps), step
            step -= steps
        raise ValueError(f"the stages have {self.steps} steps, step {self.steps + step} is none")

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to 0, anew in each stage (Tab. 4; per stage inferred)."""
        stage, done = self.stage_at(step)
        warm_up = min(self.warm_up, stage.steps // 2)
        if done < warm_up:
            return self.peak_learning_rate * (done + 1) / warm_up
        progress = (done - warm_up) / max(1, stage.steps - warm_up)
        return self.peak_learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def sequence_loss(
    model: torch.nn.Module, pictures: tuple[Tensor, Tensor, Tensor], levels: Tensor, noise: Tensor
) -> Tensor:
    """Mean squared error of the velocity, all pictures alike.

    `pictures` are latents `f p c h w`, text and pooled text; `levels` f p; `noise` like latents.
    """
    latents, text, pooled = pictures
    mixed = torch.lerp(latents, noise, levels[:, :, None, None, None])
    velocity = model(mixed, levels, text, pooled)
    return (velocity.float() - (noise - latents)).square().mean()


def train(
    model: InterleavedFlux,
    films: KeyframeFilms,
    folder: Path,
    config: InterleavedConfig,
    accelerator: Any,
    checkpoint_seconds: float = 300.0,
) -> list[float]:
    """Train or resume in `folder`; gives the losses of the steps that were made."""
    torch.set_num_threads(config.threads)
    check_stages([Stage(pairs=pairs, steps=steps) for pairs, steps in config.stages])
    planners = {
        pairs: SequencePlanner(
            films.lengths, pairs, config.batch, config.seed, config.context_share
        )
        for pairs, _ in config.stages
    }
    model.to(accelerator.device)
    parameters = [parameter for _, parameter in trained_parameters(model)]
    optimiser = torch.optim.AdamW(
        parameters, betas=(0.9, 0.999), eps=1e-8, weight_decay=config.weight_decay
    )
    average = MovingAverage(model, 0.0)  # the paper names none: the last weights
    path = folder / "checkpoint.safetensors"
    start = load_checkpoint(path, model, average, optimiser) if path.exists() else 0
    wrapped, optimiser = accelerator.prepare(model, optimiser)
    saved, losses = time.monotonic(), []
    for step in range(start, config.steps):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate(step)
        stage, done = config.stage_at(step)
        plan = planners[stage.pairs].step(
            done, accelerator.process_index, accelerator.num_processes
        )
        pictures = films.read(plan)
        generator = torch.Generator().manual_seed(_noise_seed(config, step, accelerator))
        noise = torch.randn(pictures[0].shape, generator=generator).to(accelerator.device)
        levels = torch.tensor(plan.levels, device=accelerator.device)
        moved = tuple(part.to(accelerator.device) for part in pictures)
        with accelerator.autocast():
            loss = sequence_loss(wrapped, moved, levels, noise)
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, config.gradient_clip)
        optimiser.step()
        average.add(model, step)
        losses.append(loss.item())
        last = step + 1 == config.steps
        if accelerator.is_main_process and ((step + 1) % REPORT_EVERY == 0 or last):
            recent = losses[-REPORT_EVERY:]
            print(
                f"{time.strftime('%H:%M:%S')} step {step + 1}/{config.steps}: {stage.pairs} pairs, "
                f"loss {sum(recent) / len(recent):.3f}",
                flush=True,
            )
        if accelerator.is_main_process and (last or time.monotonic() - saved > checkpoint_seconds):
            save_checkpoint(path, model, average, optimiser, step + 1, config)
            saved = time.monotonic()
    return losses


def _noise_seed(config: InterleavedConfig, step: int, accelerator: Any) -> int:
    """Another one for every step and process; the same when a training is resumed."""
    return ((config.seed * 1_000_003 + step) * 1_009 + accelerator.process_index) % 2**63


def export_lora(model: InterleavedFlux, path: Path, config: InterleavedConfig, base: str) -> Path:
    """Write the LoRA as the nodes load it, bfloat16."""
    tensors = {name: value.to(torch.bfloat16) for name, value in model.lora().items()}
    metadata = {
        "format": "pt",
        "base": base,
        "title": f"Interleaved keyframes for {base}",
        "training": json.dumps(asdict(config)),
    }
    write_tensors(path, tensors, metadata)
    return path


def main(arguments: Sequence[str]) -> int:
    """Train as the command line says; returns the exit status."""
    launch(run, parse(arguments))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; ends the program where it makes no sense."""
    default, size = InterleavedConfig(), PictureSize()
    parser = argparse.ArgumentParser(
        prog="dev.py train interleaved",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", type=Path, help="a diffusers folder of Flux; nothing: a tiny one"
    )
    parser.add_argument("--films", type=Path, help="folders of pictures with captions beside them")
    parser.add_argument("--out", type=Path, help="folder of checkpoints and the LoRA")
    parser.add_argument("--stages", type=_stages, help="pairs:steps, such as 1:20000,8:20000")
    parser.add_argument("--size", type=_size, default=size, help="HxW of the pictures")
    parser.add_argument("--text-tokens", type=int, default=128, help="of T5, padded or cut")
    parser.add_argument("--batch", type=int, default=default.batch, help="sequences per process")
    parser.add_argument("--rank", type=int, default=default.lora_rank, help="of the LoRA")
    parser.add_argument("--order", choices=("full", "causal"), default=default.order)
    parser.add_argument("--guidance", type=float, default=default.guidance)
    parser.add_argument("--learning-rate", type=float, default=default.peak_learning_rate)
    parser.add_argument("--seed", type=int, default=0)
    add_launch_options(parser)
    options = parser.parse_args(arguments)
    if (options.model is None) != (options.films is None):
        parser.error("--model and --films go together")
    return options


def _stages(text: str) -> tuple[tuple[int, int], ...]:
    stages = []
    for entry in text.split(","):
        pairs, _, steps = entry.partition(":")
        stages.append((int(pairs), int(steps)))
    return tuple(stages)


def _size(text: str) -> PictureSize:
    height, _, width = text.partition("x")
    return PictureSize(int(height), int(width))


def run(options: argparse.Namespace) -> None:
    """Train on this process's device; called in every process."""
    torch.set_num_threads(options.threads)
    accelerator = make_accelerator(options)
    name = "demo" if options.model is None else options.model.name
    out = options.out or BUILD / "interleaved" / name
    config = InterleavedConfig(
        seed=options.seed,
        stages=options.stages or (DEMO_STAGES if options.model is None else _real_stages()),
        batch=options.batch,
        lora_rank=options.rank,
        order=options.order,
        guidance=options.guidance,
        peak_learning_rate=options.learning_rate,
        warm_up=500,
        threads=options.threads,
    )
    check_same_training(out / "checkpoint.safetensors", [config])
    if accelerator.is_main_process:
        _encode(options, out / "films", accelerator.device)
    accelerator.wait_for_everyone()
    films = KeyframeFilms(out / "films")
    transformer = (
        demo_flux(films, config.seed)
        if options.model is None
        else load_flux(options.model, torch.bfloat16, accelerator.device)
    )
    if options.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    model = InterleavedFlux(transformer, config.guidance, config.order)
    model.add_lora(config.lora_rank, config.seed)
    train(model, films, out, config, accelerator, options.checkpoint_seconds)
    if accelerator.is_main_process:
        path = out / f"{name}_interleaved_keyframes.safetensors"
        print(f"wrote {export_lora(model, path, config, name)}", flush=True)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _real_stages() -> tuple[tuple[int, int], ...]:
    return InterleavedConfig().stages


def _encode(options: argparse.Namespace, folder: Path, device: torch.device) -> None:
    if options.model is None:
        demo_films(folder)
    else:
        encode_films(
            lambda: FluxCodec(options.model, options.text_tokens, torch.bfloat16, device),
            options.films,
            folder,
            options.size,
        )
