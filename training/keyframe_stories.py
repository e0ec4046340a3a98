"""Keyframes of the procedural world's stories: the first frame of every shot, encoded alone, and a
sheet of every character, as an artist draws one: the figure on plain grey, under its name alone.

In the form that `memory_data` reads, with segments of one latent frame. A picture as whole as its
latents needs no small copy, so that `low.RATE` is left out. So are the captions' words, by which
Stage II looks for shots whose place its history shows: a keyframe may be asked for that has nothing
to go by.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..adapters.demo_models import DemoTextModel, DemoTokenizer
from .checkpoints import write_tensors
from .memory_story import StoryShape, memory_story
from .vae_network import encode_clip
from .vae_training import clip_tensor
from .video_data import encoder_digest
from .video_network import build_vocabulary
from .world import Split, Story, refuse_held_out, sheet_caption
from .world_rendering import render, render_sheet

SHAPES = (
    StoryShape(characters=2, empty_share=0.1),
    StoryShape(characters=3, empty_share=0.15),
)
"""In turn: as the stories that are measured, and with one more to mistake somebody for."""


def keyframe_story(seed: int, split: Split = Split.TRAINING) -> Story:
    """A story of shots in any order, of which the first frames are the keyframes."""
    return memory_story(seed, split, SHAPES[seed % len(SHAPES)])


@torch.no_grad()
def encode_keyframes(vae: nn.Module, text: DemoTextModel, story: Story) -> dict[str, Tensor]:
    """A story's shots and, behind them, its characters' sheets: `latents` s c 1 h w in the model's
    input space and `text` s n d."""
    import comfy.latent_formats

    frames = [render(story, shot, 0, 1) for shot in story.shots]
    frames += [render_sheet(character) for character in story.characters]
    captions = (*story.captions, *(sheet_caption(character) for character in story.characters))
    pictures = torch.stack([clip_tensor(frame) for frame in frames])
    latents = comfy.latent_formats.Wan21().process_in(encode_clip(vae, pictures))
    tokenizer = DemoTokenizer(build_vocabulary())
    ids = [tokenizer.padded(tokenizer.ids(caption)) for caption in captions]
    return {"latents": latents.half(), "text": text(torch.tensor(ids)).half()}


def write_keyframes(
    vae: nn.Module, text: DemoTextModel, folder: Path, seeds: Sequence[int]
) -> None:
    """Encode the training stories of these seeds that the folder lacks."""
    digest, split = encoder_digest(vae), refuse_held_out(Split.TRAINING)
    for seed in seeds:
        path = folder / f"story_{seed:06d}.safetensors"
        if path.exists():
            continue
        story = keyframe_story(seed, split)
        write_tensors(path, encode_keyframes(vae, text, story), {"encoder": digest})
