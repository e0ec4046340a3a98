"""From a trained VAE to the shipped file: latents of core's scale, bfloat16."""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .checkpoints import write_tensors
from .vae_network import build_vae, encode_clip
from .vae_training import VaeTrainingConfig, clip_tensor
from .world import Split, random_take
from .world_rendering import render_take

STATISTICS_TAKES = 96  # takes of 9 latent frames whose latents give mean and standard deviation
STATISTICS_LATENT_FRAMES = 9
STATISTICS_FIRST_INDEX = 10_000_000  # above every index that the VAE training draws


@torch.no_grad()
def latent_statistics(vae: nn.Module, num_takes: int = STATISTICS_TAKES) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every raw latent channel over training takes, both `c`."""
    total, squares, count = 0.0, 0.0, 0
    for i in range(num_takes):
        take = random_take(STATISTICS_FIRST_INDEX + i, STATISTICS_LATENT_FRAMES, Split.TRAINING)
        latents = encode_clip(vae, clip_tensor(render_take(take))[None]).double()
        total = total + latents.sum(dim=(0, 2, 3, 4))
        squares = squares + latents.square().sum(dim=(0, 2, 3, 4))
        count += latents.numel() // latents.shape[1]
    mean = total / count
    return mean.float(), (squares / count - mean.square()).sqrt().float()


@torch.no_grad()
def fold_latent_scale(
    vae: nn.Module, mean: Tensor, std: Tensor, to_mean: Tensor, to_std: Tensor
) -> None:
    """Change `vae` in place: latents of `mean`, `std` become ones of `to_mean`, `to_std`, all `c`.

    The map is folded into the last encoder and the first decoder convolution; decode(encode(x))
    stays the same. ComfyUI subtracts and divides by the constants of its latent format, so these
    must hold for our latents too.
    """
    channels = mean.shape[0]
    gain = to_std / std
    encoder, decoder = vae.conv1, vae.conv2
    encoder.weight[:channels] *= gain[:, None, None, None, None]
    encoder.bias[:channels] = (encoder.bias[:channels] - mean) * gain + to_mean
    offset = mean - to_mean / gain
    decoder.bias += decoder.weight[:, :, 0, 0, 0] @ offset
    decoder.weight /= gain[None, :, None, None, None]


def load_vae(path: Path) -> nn.Module:
    """The shipped VAE as core's class, float32. Other VAEs do not fit vae_network's fast form."""
    vae = build_vae(torch.Generator().manual_seed(0))
    vae.load_state_dict(load_file(path))
    return vae


def export_vae(vae: nn.Module, path: Path, config: VaeTrainingConfig) -> None:
    """Normalise `vae`'s latents in place and write the file; core loads it as a Wan 2.1 VAE."""
    import comfy.latent_formats

    target = comfy.latent_formats.Wan21()
    mean, std = latent_statistics(vae)
    fold_latent_scale(vae, mean, std, target.latents_mean.view(-1), target.latents_std.view(-1))
    metadata = {
        "modelspec.title": "Throughline demo VAE",
        "modelspec.license": "GPL-3.0-or-later",
        "training": json.dumps(dataclasses.asdict(config)),
    }
    state = {name: value.to(torch.bfloat16) for name, value in vae.state_dict().items()}
    write_tensors(path, state, metadata)
