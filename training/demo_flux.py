"""A tiny random Flux and films of the demo world, to try the interleaved training on one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters.demo_models import load_demo_text_encoder, load_demo_vae
from .interleaved_model import PATCH
from .keyframe_films import KeyframeFilms, write_film
from .libraries import library
from .memory_story import StoryShape, memory_story
from .world import Split
from .world_rendering import render

FILMS, KEYFRAMES = 6, 40
"""Enough for sequences of 32 pairs with several strides."""


class DemoCodec:
    """The demo's VAE and text encoder; the pooled text is the mean of its states."""

    def __init__(self) -> None:
        self._vae, self._clip = load_demo_vae(), load_demo_text_encoder()

    @property
    def unit(self) -> int:
        return PATCH * int(self._vae.spacial_compression_encode())

    def latents(self, pictures: Tensor) -> Tensor:
        import comfy.latent_formats

        frames = (pictures.permute(0, 2, 3, 1) + 1.0) / 2.0
        encoded = self._vae.encode(frames)[:, :, 0].cpu()
        return comfy.latent_formats.Wan21().process_in(encoded[:, :, None])[:, :, 0]

    def text(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        states = torch.cat(
            [
                self._clip.encode_from_tokens(self._clip.tokenize(caption)).cpu()
                for caption in captions
            ]
        )
        return states, states.mean(dim=1)


def demo_films(folder: Path, films: int = FILMS, keyframes: int = KEYFRAMES) -> None:
    """Write the first frames of the shots of some stories that the folder lacks."""
    shape = StoryShape(segments=keyframes)
    codec: DemoCodec | None = None
    for seed in range(films):
        path = folder / f"film_{seed:05d}.safetensors"
        if path.is_file():
            continue
        codec = codec or DemoCodec()
        story = memory_story(seed, Split.TRAINING, shape)
        pictures = [torch.from_numpy(render(story, shot)[0]) for shot in story.shots]
        with torch.inference_mode():
            write_film(path, codec, pictures, story.captions)


def demo_flux(films: KeyframeFilms, seed: int) -> Any:
    """A FluxTransformer2DModel of random weights that reads these films."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return library("diffusers").FluxTransformer2DModel(
            patch_size=1,
            in_channels=films.latent_shape[0] * PATCH**2,
            num_layers=2,
            num_single_layers=4,
            attention_head_dim=32,
            num_attention_heads=4,
            joint_attention_dim=films.text_shape[-1],
            pooled_projection_dim=films.pooled_shape[-1],
            guidance_embeds=True,
            axes_dims_rope=(8, 12, 12),
        )
