"""Keyframes of the demo world as the planner makes them: what the bench and the test share.

A storyboard's script, the planner's recall, the demo video model as an image model with the
keyframe encoder and LoRA; only the pictures go past the run folder.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._remembering import decibels

STEPS = 8
"""As in the demo's other workflows."""

SIZE = 64  # px
REFERENCES = 3
"""Pictures that a keyframe is shown. The leads are away for one shot more, see returning_cast."""


@dataclass(frozen=True)
class Drawn:
    """A keyframe: its latent 1 c 1 h w in the VAE's space and its picture [1, h, w, 3]."""

    latent: Tensor
    picture: Tensor


@dataclass(frozen=True)
class Look:
    """What a shot truly shows: its picture [h, w, 3], the pixels of the figure and of each of its
    colours (masks h w)."""

    picture: Tensor
    figure: Tensor
    parts: tuple[Tensor, ...]


class Keyframer:
    """Model with its keyframe LoRA and encoder, loaded as nodes load them.

    `weights` is a folder with `memory_encoders` and `loras`.
    """

    def __init__(self, weights: Path | None = None) -> None:
        import comfy.samplers
        import comfy.sd
        import comfy.utils

        from throughline.adapters.demo_models import WEIGHTS, load_demo_models
        from throughline.adapters.encoders import load_encoder
        from throughline.adapters.sampling import SamplerSettings, schedule_sigmas
        from throughline.adapters.video_images import video_images_of
        from throughline.nodes.remembering import empty_memory, memory_request
        from throughline.training.keyframes_training import RATE, STEM

        folder = weights or WEIGHTS
        base, self.clip, self.vae = load_demo_models()
        lora = comfy.utils.load_torch_file(str(folder / "loras" / f"{STEM}_memory.safetensors"))
        self.model, _ = comfy.sd.load_lora_for_models(base, None, lora, 1.0, 0.0)
        encoder = load_encoder(folder / "memory_encoders" / f"{STEM}_{RATE}.safetensors")
        asked = {
            "model": self.model,
            "vae": self.vae,
            "encoder": encoder,
            "form": "automatic",
            "rate": "2x2x2",  # not read: an encoder has its own
            "recent_frames": "automatic",
            "window": 0,
            "pin": "references only",
            "captions": "",
            "width": SIZE,
            "height": SIZE,
        }
        memory = empty_memory(memory_request(asked))
        self.family = video_images_of(self.model).with_memory(memory, 1.0)
        self.shape = self.family.latent_shape(self.model, SIZE, SIZE)
        self.settings = SamplerSettings(
            sampler=comfy.samplers.sampler_object("euler"),
            sigmas=schedule_sigmas(self.model, "euler", "simple", STEPS),
            cfg=1.0,
        )

    def given(self, picture: Tensor) -> Drawn:
        """An artist's own picture [1, h, w, 3] as a keyframe."""
        return Drawn(self.family.encode_reference(self.vae, picture), picture)

    def draw(self, prompt: str, references: Sequence[tuple[str, Drawn]], seed: int) -> Drawn:
        """A keyframe beside keyframes with the prompts that they were made from, oldest first."""
        from throughline.adapters.image_sampling import sample_keyframes
        from throughline.adapters.video_images import PictureClip

        clips = [
            PictureClip(
                latents=drawn.latent,
                title=f"reference {number}",
                shot=number,
                text=text,
                caption=self._text(text)[0][0],
                frames=drawn.picture,
            )
            for number, (text, drawn) in enumerate(references, 1)
        ]
        positive = self._text(prompt)
        inputs = self.family.with_clips(self.model, positive, positive, clips)
        latent = sample_keyframes(inputs, self.settings, self.shape, [seed])
        picture = self.vae.decode(latent).reshape(1, SIZE, SIZE, 3).clamp(0.0, 1.0)
        return Drawn(latent, picture)

    def tokens(self, references: int) -> int:
        """Memory tokens of so many references, what is recalled by the shot's words included."""
        from throughline.adapters.video_images import reference_tokens

        return reference_tokens(self.family.memory, references, self.shape[-2:])

    def _text(self, words: str) -> Any:
        return self.family.encode_prompt(self.clip, words, ())


@dataclass(frozen=True)
class Cast:
    """A story of the world, its storyboard, and what each of its shots truly shows."""

    story: Any
    storyboard: Any
    looks: tuple[Look, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """What the planner says to a video model."""
        from throughline.planning.storyboard import image_prompt

        return tuple(image_prompt(self.storyboard, shot) for shot in self.storyboard.shots)


def cast_of(seed: int) -> Cast:
    """The held-out story of a seed."""
    from throughline.planning.script import parse_storyboard
    from throughline.training.returning_cast import story_script, two_leads_story

    story = two_leads_story(seed)
    looks = tuple(look_of(story, shot) for shot in story.shots)
    return Cast(story, parse_storyboard(story_script(story)), looks)


def look_of(story: Any, shot: Any) -> Look:
    """What the first frame of a shot shows; without a figure its masks are empty."""
    from throughline.training.world import shot_take
    from throughline.training.world_rendering import render_take

    take = shot_take(story, shot)
    full = render_take(take, 0, 1)[0]
    empty = render_take(replace(take, character=None, position=None), 0, 1)[0]
    stands = (full != empty).any(axis=-1)
    colours = np.unique(full[stands], axis=0)
    parts = tuple(torch.from_numpy(stands & (full == one).all(axis=-1)) for one in colours)
    return Look(torch.from_numpy(full).float() / 255.0, torch.from_numpy(stands), parts)


def recalled(cast: Cast, index: int, made: Sequence[Drawn], clip: Any = None) -> list[int]:
    """The earlier shots that the planner would show to a shot, in order of time."""
    from throughline.nodes.recalling import Recaller

    recaller = Recaller(cast.storyboard, {}, clip=clip)
    for earlier, drawn in enumerate(made[:index]):
        recaller.see(earlier, drawn.picture)
    chosen = recaller.choose(index, REFERENCES, range(index))
    ids = [shot.id for shot in cast.storyboard.shots]
    return sorted(ids.index(one.candidate.id) for one in chosen)


def picks(way: str, cast: Cast, index: int, made: Sequence[Drawn], clip: Any = None) -> list[int]:
    """The shots whose keyframes a shot is shown: by meaning, the newest ones, or none."""
    if way == "none" or not index:
        return []
    if way == "recency":
        return list(range(max(0, index - REFERENCES), index))
    return recalled(cast, index, made, clip)


def plan_story(
    keyframer: Keyframer, cast: Cast, way: str, seed: int, given: Collection[int]
) -> list[Drawn]:
    """The keyframes of a story, each drawn beside those made before it; those of the shots `given`
    are the artist's own, which are the true ones."""
    made: list[Drawn] = []
    for index, look in enumerate(cast.looks):
        if index in given:
            made.append(keyframer.given(look.picture[None]))
            continue
        chosen = picks(way, cast, index, made, keyframer.clip)
        shown = [(cast.prompts[i], made[i]) for i in chosen]
        made.append(keyframer.draw(cast.prompts[index], shown, seed + index))
    return made


def compare(picture: Tensor, look: Look) -> dict[str, float]:
    """Against the truth: PSNR over the figure's pixels and over the frame, and how far the mean
    colours of head, body and legs are from the true ones (0..255, mean over the parts)."""
    made = picture[0]
    square = (made - look.picture).square()
    far = [(made[part].mean(0) - look.picture[part].mean(0)).norm() for part in look.parts]
    return {
        "psnr": decibels(float(square[look.figure].mean())),
        "colour_error": float(torch.stack(far).mean()) * 255.0,
        "frame_psnr": decibels(float(square.mean())),
    }
