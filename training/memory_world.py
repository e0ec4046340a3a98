"""Encoded stories of the procedural world, in the form that `memory_data` reads."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters.demo_models import DemoTextModel, DemoTokenizer
from ..memory.rates import Rate, cell_frames
from .checkpoints import write_tensors
from .memory_story import StoryShape, memory_story
from .vae_network import encode_clip
from .vae_training import clip_tensor
from .video_data import encoder_digest
from .video_network import build_vocabulary
from .world import Split, Story
from .world_rendering import render


@torch.no_grad()
def encode_story(
    vae: nn.Module, text: DemoTextModel, story: Story, rates: Sequence[Rate]
) -> dict[str, Tensor]:
    """`latents` s c t h w and `low.RATE` s c cells h w in the model's input space, `text` s n d."""
    import comfy.latent_formats

    form = comfy.latent_formats.Wan21()
    clips = [clip_tensor(render(story, shot))[None] for shot in story.shots]
    latents = torch.cat([form.process_in(encode_clip(vae, clip)) for clip in clips])
    tensors = {"latents": latents.half()}
    for rate in rates:
        low = [low_resolution_latents(vae, clip, rate, latents.shape[2]) for clip in clips]
        tensors[f"low.{rate}"] = torch.cat([form.process_in(each) for each in low]).half()
    tokenizer = DemoTokenizer(build_vocabulary())
    ids = [tokenizer.padded(tokenizer.ids(caption)) for caption in story.captions]
    tensors["text"] = text(torch.tensor(ids)).half()
    return tensors


def low_resolution_latents(vae: nn.Module, clip: Tensor, rate: Rate, latent_frames: int) -> Tensor:
    """One picture per cell of a clip `1 c t h w`, made small and encoded alone: `1 c cells h w`."""
    frames = clip[0, :, list(cell_frames(latent_frames, rate.time, 4))].transpose(0, 1)
    size = (frames.shape[-2] // rate.height, frames.shape[-1] // rate.width)
    small = F.interpolate(frames, size=size, mode="area")
    encoded = encode_clip(vae, small[:, :, None])
    return encoded.transpose(0, 2)


def write_stories(
    vae: nn.Module,
    text: DemoTextModel,
    folder: Path,
    seeds: Sequence[int],
    rates: Sequence[Rate],
    shape: StoryShape = StoryShape(),  # noqa: B008 (frozen)
    split: Split = Split.TRAINING,
) -> None:
    """Encode the stories of these seeds that the folder lacks or that another VAE made."""
    digest = encoder_digest(vae)
    for seed in seeds:
        path = folder / f"story_{seed:06d}.safetensors"
        if path.exists():
            continue
        story = memory_story(seed, split, shape)
        metadata = {"captions": json.dumps(story.captions), "encoder": digest}
        write_tensors(path, encode_story(vae, text, story, rates), metadata)
