"""What a history encoder is trained on: a frozen video model and its encoded stories."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..memory.rates import Rate
from .memory_data import StoryFolder
from .memory_model import MemoryModel, WanMemoryModel, wan_from_comfy
from .story_videos import COMMON_FILE, CutSettings, encode_videos
from .vae_training import BUILD


@dataclass(frozen=True)
class Subject:
    """What is trained on: a frozen model, its stories, and what no caption and grey are to it."""

    model: MemoryModel
    data: StoryFolder
    grey: Tensor | None
    empty_caption: Tensor | None


def demo_subject(
    rates: Sequence[str], count: int, empty_captions: bool, accelerator: Any
) -> Subject:
    """The demo model and the stories of its world, encoded here where they are missing."""
    import comfy.model_management

    from ..adapters.demo_models import TEXT_FILE, VAE_FILE, VIDEO_FILE, load_demo_text_encoder
    from .memory_world import write_stories
    from .vae_export import load_vae
    from .video_data import grey_latents

    comfy.model_management.in_training = True
    vae, stories = load_vae(VAE_FILE), BUILD / "memory" / "stories"
    seeds = range(count)[accelerator.process_index :: accelerator.num_processes]
    clip = load_demo_text_encoder(TEXT_FILE)
    parsed = [Rate.parse(rate) for rate in rates]
    write_stories(vae, clip.cond_stage_model, stories, seeds, parsed)
    accelerator.wait_for_everyone()
    model = WanMemoryModel(wan_from_comfy(VIDEO_FILE).to(accelerator.device))
    empty: Tensor | None = None
    if empty_captions:
        empty = clip.encode_from_tokens(clip.tokenize(""))[0].float().detach()
    return Subject(model, StoryFolder(stories, count), grey_latents(vae), empty)


def model_subject(
    options: argparse.Namespace, rates: Sequence[str], folder: Path, accelerator: Any
) -> Subject:
    """A real model and its stories, encoded from videos into `folder` where they are missing."""
    from .pretrained import WanCodec, load_memory_model

    dtype = torch.bfloat16 if options.mixed_precision == "bf16" else torch.float32
    stories = options.stories or folder
    if options.videos is not None:
        settings = CutSettings(
            frames=options.segment_frames,
            segments=options.story_segments,
            height=options.size[0],
            width=options.size[1],
            fps=options.fps,
            rates=tuple(rates),
        )
        place = (accelerator.process_index, accelerator.num_processes)
        make_codec = partial(WanCodec, options.model, dtype, accelerator.device)
        encode_videos(make_codec, options.videos, stories, settings, *place)
    accelerator.wait_for_everyone()
    model = load_memory_model(options.model, options.transformer, dtype, accelerator.device)
    data, common = StoryFolder(stories), {}
    if (stories / COMMON_FILE).is_file():
        common = load_file(stories / COMMON_FILE)
    check_fits(model, data)
    return Subject(model, data, common.get("grey"), common.get("empty_text"))


def check_fits(model: MemoryModel, data: StoryFolder) -> None:
    """Raises ValueError when the stories were made for another model."""
    channels = int(model.transformer.config.out_channels)
    for name, wanted, given in (
        ("latent channels", channels, int(data.latent_shape[0])),
        ("text width", model.text_dim, data.text_dim),
    ):
        if wanted != given:
            raise ValueError(f"the model has {name} {wanted}, the stories {given}")
