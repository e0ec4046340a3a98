"""Train the demo VAE on the procedural world: frames first, then clips."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from .checkpoints import (
    MovingAverage,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
)
from .vae_network import build_vae, decode_clip, encode_clip
from .world import Split, random_take, refuse_held_out
from .world_rendering import render_take

BUILD = Path(__file__).parent.parent / "build" / "training"  # ignored by git


@dataclass(frozen=True)
class VaeTrainingConfig:
    """Everything that the result depends on. Sized to fit 25 minutes on two shared cores."""

    seed: int = 0
    split: Split = Split.TRAINING
    frame_steps: int = 600
    frame_batch: int = 32
    clip_steps: int = 1900
    clip_batch: int = 4
    clip_latent_frames: int = 3
    peak_learning_rate: float = 2e-3
    warm_up: int = 100
    decay_from: float = 0.5
    gradient_weight: float = (
        0.05  # of the L1 distance of image gradients, beside the MSE; shared design notes 8.2
    )
    latent_noise: float = (
        0.07  # of each channel's standard deviation: the decoder must stand a sampler's errors
    )
    average_decay: float = 0.998
    threads: int = 1  # two collapse when another process wants a core: 0.33 s -> 1.5 s a step

    @property
    def steps(self) -> int:
        """Steps of both stages."""
        return self.frame_steps + self.clip_steps


def clip_tensor(frames: np.ndarray) -> Tensor:
    """uint8 `t h w c` -> float `c t h w` in -1..1, the range of ComfyUI's VAE input."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1.0


def training_batch(config: VaeTrainingConfig, step: int) -> Tensor:
    """The clips `b 3 t h w` of a step, by its number: a resumed training sees the same data."""
    in_frames = step < config.frame_steps
    batch = config.frame_batch if in_frames else config.clip_batch
    latent_frames = 1 if in_frames else config.clip_latent_frames
    first = (config.seed * config.steps + step) * max(config.frame_batch, config.clip_batch)
    split = refuse_held_out(config.split)
    takes = (random_take(first + i, latent_frames, split) for i in range(batch))
    return torch.stack([clip_tensor(render_take(take)) for take in takes])


def gradient_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute distance of horizontal and vertical image differences."""
    error = a - b
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def training_loss(
    vae: nn.Module, clip: Tensor, config: VaeTrainingConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Loss and plain MSE in -1..1 units (PSNR = 10 log10(4 / mse))."""
    latents = encode_clip(vae, clip)
    spread = latents.detach().std(dim=(0, 2, 3, 4), keepdim=True)
    noise = torch.randn(latents.shape, generator=generator) * spread * config.latent_noise
    decoded = decode_clip(vae, latents + noise)
    error = F.mse_loss(decoded, clip)
    return error + config.gradient_weight * gradient_distance(decoded, clip), error.detach()


def training_step(
    vae: nn.Module,
    average: MovingAverage,
    optimiser: torch.optim.AdamW,
    config: VaeTrainingConfig,
    step: int,
) -> float:
    """One optimiser step in place; returns the MSE in -1..1 units."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(
            step, config.steps, config.peak_learning_rate, config.warm_up, config.decay_from
        )
    generator = torch.Generator().manual_seed(config.seed * config.steps + step)
    loss, error = training_loss(vae, training_batch(config, step), config, generator)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
    optimiser.step()
    average.add(vae, step)
    return error.item()


def train_vae(
    folder: Path,
    config: VaeTrainingConfig,
    checkpoint_seconds: float = 240.0,
    start_from: Path | None = None,
) -> nn.Module:
    """Train or resume in `folder`; returns the VAE with averaged weights, latents not normalised.

    `start_from` is a VAE file to begin with when the folder holds no checkpoint.
    """
    torch.set_num_threads(config.threads)
    vae = build_vae(torch.Generator().manual_seed(config.seed))
    if start_from is not None:
        vae.load_state_dict(load_file(start_from))
    average = MovingAverage(vae, config.average_decay)
    optimiser = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.98), weight_decay=1e-4)
    path = folder / "checkpoint.safetensors"
    start = load_checkpoint(path, vae, average, optimiser) if path.exists() else 0
    saved, errors = time.monotonic(), []
    for step in range(start, config.steps):
        errors.append(training_step(vae, average, optimiser, config, step))
        if (step + 1) % 50 == 0:
            psnr = 10 * np.log10(4 / np.mean(errors))
            clock = time.strftime("%H:%M:%S")
            print(f"{clock} step {step + 1}/{config.steps} psnr {psnr:.2f} dB", flush=True)
            errors = []
        if time.monotonic() - saved > checkpoint_seconds or step + 1 == config.steps:
            save_checkpoint(path, vae, average, optimiser, step + 1, config)
            saved = time.monotonic()
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            parameter.copy_(average.values[name])
    return vae


def main(arguments: Sequence[str]) -> int:
    """Train the VAE and write the file; `--ship` replaces the shipped one."""
    from ..adapters.demo_models import VAE_FILE
    from .vae_export import export_vae

    parser = argparse.ArgumentParser(prog="dev.py train vae", description=__doc__)
    parser.add_argument("--ship", action="store_true", help="write into weights/")
    parser.add_argument("--continue", dest="again", action="store_true", help="start from weights/")
    parser.add_argument("--frame-steps", type=int, default=VaeTrainingConfig.frame_steps)
    parser.add_argument("--clip-steps", type=int, default=VaeTrainingConfig.clip_steps)
    parser.add_argument("--seed", type=int, default=VaeTrainingConfig.seed)
    options = parser.parse_args(arguments)
    config = VaeTrainingConfig(
        seed=options.seed, frame_steps=options.frame_steps, clip_steps=options.clip_steps
    )
    vae = train_vae(BUILD / "vae", config, start_from=VAE_FILE if options.again else None)
    target = VAE_FILE if options.ship else BUILD / "vae" / VAE_FILE.name
    export_vae(vae, target, config)
    print(f"wrote {target.relative_to(BUILD.parent.parent)}")
    return 0
