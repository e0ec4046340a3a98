"""A video model as an image model: a picture is a clip of one latent frame.

References enter as memory (adapters/attach.py): clean latent frames of the past beside the one that
is drawn. With a trained history encoder they are its tokens, and what the shot's own words name is
recalled from them; without one they are what the memory's form says. The pack's keyframe encoder
is trained and measured through `remembering_references`, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from .attach import attach_memory, injection_of
from .families import family_of
from .family import Conditioning, Family
from .geometry import read_geometry
from .history import write_clip
from .image_family import ImageCapabilities, ImageInputs
from .memory_value import HistoryClip, Memory
from .pieces import WHOLE, grid_config
from .recalled import with_recalled

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

ADVISED_REFERENCES = 4
"""Of models that were not trained for a number: as small pictures of a quarter, four have as many
tokens as the picture that is drawn (our choice)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PictureClip:
    """A reference as a clip of one latent frame.

    `latents` (1 c 1 h w, VAE's space) at the size of the picture that is drawn; `shot` its 1-based
    number, 0 for a picture from outside; `text` the words it was made from, `caption` their text
    states 1 n d, which an encoder finds it by; `frames` its picture [1, h, w, 3] where it is known.
    """

    latents: torch.Tensor
    title: str
    shot: int = 0
    text: str = ""
    caption: torch.Tensor | None = None
    frames: torch.Tensor | None = None


def remembering_references(
    model: ModelPatcher,
    memory: Memory,
    references: Sequence[PictureClip],
    wanted: torch.Tensor | None,
    *,
    strength: float = 1.0,
) -> ModelPatcher:
    """A clone of the model that draws one latent frame and remembers `references`, oldest first.

    They stand one latent frame apart behind what the memory was given, and the picture that is
    drawn right after them. `wanted` are the text states 1 n d of its prompt, by which an encoder
    with addresses recalls. With no references and an empty memory it is the model itself. Raises
    ValueError like `attach_memory`.
    """
    first = memory.bank.latent_frames
    clips = [_clip(one, first + place) for place, one in enumerate(references)]
    bank = memory.bank.with_entries([write_clip(memory, clip)[0].entry for clip in clips])
    if not bank.entries:
        return model
    start = first + len(clips)
    if wanted is not None and clips:
        latent = (1, *clips[0].latents.shape[3:])
        bank = with_recalled(
            bank, memory.encoders, memory.cache, memory.dtype, wanted, latent, start
        )
    return attach_memory(
        model,
        bank,
        strength=strength,
        segment_start_latent_frames=start,
        patchers=(memory.view(bank),),
        cross_attention=memory.cross_attention(bank),
    )


def _clip(reference: PictureClip, start: int) -> HistoryClip:
    return HistoryClip(
        latents=reference.latents,
        title=reference.title,
        shot=reference.shot,
        start=start,
        pinned=False,
        text=reference.text,
        caption=reference.caption,
        frames=reference.frames,
    )


def reference_tokens(memory: Memory, count: int, latent_size: tuple[int, int]) -> int:
    """Memory tokens that `count` references of `latent_size` (rows, columns) add to each step, what
    an encoder recalls by the shot's words included."""
    if not count:
        return 0
    frame = (1, 1, 1, *latent_size)
    if memory.form == "encoder":
        per_reference, recalled = 0, 0
        for encoder in memory.encoders:
            cells = encoder.card.config.memory_grid(frame)
            per_reference += cells.tokens
            recalled += cells.tokens if encoder.card.address_dim else 0
        return count * per_reference + recalled
    rate = memory.rate if memory.form == "low" else WHOLE
    return count * grid_config(memory, rate).memory_grid(frame).tokens


@dataclass(frozen=True, eq=False)
class VideoImages:
    """A video model that draws pictures; an ImageFamily.

    `memory` is how references are remembered, None for a model that memory cannot enter.
    """

    family: Family
    memory: Memory | None = None
    strength: float = 1.0

    @property
    def name(self) -> str:
        return self.family.name

    def recognises(self, model: ModelPatcher) -> bool:
        return self.family.recognises(model)

    def capabilities(self, model: ModelPatcher) -> ImageCapabilities:
        return ImageCapabilities(
            unit=_unit(model),
            most_references=None if self.memory is not None else 0,
            advised_references=ADVISED_REFERENCES,
            method="",
            negative_references=False,
            template="plain",
            least_side=0,
        )

    def latent_shape(self, model: ModelPatcher, height: int, width: int) -> tuple[int, ...]:
        return read_geometry(model).latent_shape(1, height, width)

    def encode_prompt(
        self, clip: CLIP, text: str, pictures: Sequence[torch.Tensor]
    ) -> Conditioning:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def encode_reference(self, vae: VAE, picture: torch.Tensor) -> torch.Tensor:
        """A picture [1, h, w, 3] as one latent frame 1 c 1 h w."""
        return vae.encode(picture[..., :3]).float().cpu()

    def with_references(
        self,
        model: ModelPatcher,
        positive: Conditioning,
        negative: Conditioning,
        references: Sequence[torch.Tensor],
    ) -> ImageInputs:
        clips = [
            PictureClip(latents=latents, title=f"reference {number}")
            for number, latents in enumerate(references, 1)
        ]
        return self.with_clips(model, positive, negative, clips)

    def with_clips(
        self,
        model: ModelPatcher,
        positive: Conditioning,
        negative: Conditioning,
        references: Sequence[PictureClip],
        strength: float = 1.0,
    ) -> ImageInputs:
        """What is sampled with references of which the words are known, too; `strength` 0..1 is the
        shot's share of the family's."""
        if self.memory is None:
            if references:
                raise ValueError(
                    f"{self.name} takes no references, got {len(references)}: set references to 0"
                )
            return ImageInputs(model=model, positive=positive, negative=negative)
        remembering = remembering_references(
            model, self.memory, references, positive[0][0], strength=self.strength * strength
        )
        return ImageInputs(model=remembering, positive=positive, negative=negative)

    def with_memory(self, memory: Memory | None, strength: float) -> VideoImages:
        """The same family with another way to remember."""
        return replace(self, memory=memory, strength=strength)


def video_images_of(model: ModelPatcher) -> VideoImages:
    """The video model's family as one of image models. Raises ValueError, naming the model, for one
    that makes no video."""
    return VideoImages(family_of(model))


def takes_references(model: ModelPatcher) -> bool:
    """Whether memory can enter the video model."""
    try:
        injection_of(model)
    except ValueError:
        return False
    return True


def _unit(model: ModelPatcher) -> int:
    """Pixels along a side of one token."""
    pixels = read_geometry(model).pixels_per_latent
    if not takes_references(model):
        return pixels
    patch = injection_of(model).patch_size(model.model.diffusion_model)
    return pixels * int(patch[-1])
