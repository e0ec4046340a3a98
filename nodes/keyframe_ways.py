"""The ways in which reference pictures enter a keyframe: as a list of golden sizes, tiled into one
picture, as a video model's memory, or as context of keyframes that are made together.

What a keyframe is shown is arranged in ints first (`arrange`), then made (`inputs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import comfy.utils
import torch

from ..adapters.family import Conditioning
from ..adapters.flux_joint import join_prompts
from ..adapters.image_family import ImageFamily, ImageInputs
from ..adapters.references import packed_pictures
from ..adapters.video_images import PictureClip, VideoImages, reference_tokens
from ..memory.golden import Packing, PackingPolicy, pack_references
from ..memory.golden_atlas import pack_atlas
from ..planning.keyframe_prompts import Reference
from ..planning.keyframes import ShownReference

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE


AUTOMATIC, ATLAS, JOINT, NONE = "automatic", "atlas", "joint K/V", "none"
MODES = (AUTOMATIC, ATLAS, JOINT, NONE)

REMEMBERED = "memory"
"""Name of the way of video models."""

TOGETHER = 4
"""Shots that the joint mode makes at once: the group of the paper's figure 4 (design, 2.3)."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A picture that a keyframe may be shown: the keyframe of a shot (0-based), or a file's.

    `text` are the words it was made from; `shows` what is seen on it; `why` it was chosen.
    """

    shot: int | None
    name: str
    digest: str
    height: int
    width: int
    text: str
    shows: Reference
    why: str


@dataclass(frozen=True, kw_only=True)
class Arranged:
    """What one keyframe is shown, in pixels and tokens.

    `offered` are the chosen pictures, best first, `sources` those that are shown, in the model's
    order, `sizes` (height, width) what they are shown at. `packing` counts the offered ones; it is
    None for memory, whose pictures all have the keyframe's size. `left_out` are sentences about
    chosen pictures that are not shown.
    """

    offered: tuple[Source, ...] = ()
    sources: tuple[Source, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    tokens: int = 0
    packing: Packing | None = None
    left_out: tuple[str, ...] = ()

    @property
    def shown(self) -> tuple[ShownReference, ...]:
        return tuple(
            ShownReference(source.shot, source.digest, height, width)
            for source, (height, width) in zip(self.sources, self.sizes, strict=True)
        )


class Pictures(Protocol):
    """What a way asks of the one who draws."""

    def picture(self, source: Source) -> torch.Tensor:
        """The picture [1, h, w, 3] in 0..1."""
        ...

    def latent(self, source: Source) -> torch.Tensor | None:
        """The latent 1 c 1 h w of a finished keyframe, None for a file."""
        ...

    def encode(self, text: str, pictures: Sequence[torch.Tensor]) -> Conditioning: ...


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One sampler call: the prompts of its shots and what they are shown together.

    `negatives` is None where no guidance is used. `strength` 0..1 is how much a memory counts.
    """

    model: ModelPatcher
    prompts: tuple[str, ...]
    negatives: tuple[str, ...] | None
    arranged: Arranged
    strength: float = 1.0


class Way(Protocol):
    """How references enter. `most` are the pictures that a keyframe is shown, `together` the shots
    of one sampler call; `name` is part of every keyframe's key."""

    @property
    def name(self) -> str: ...

    @property
    def most(self) -> int: ...

    @property
    def together(self) -> int: ...

    @property
    def remembers(self) -> bool:
        """Whether even a keyframe without references sees what a memory was given."""
        ...

    def arrange(self, sources: Sequence[Source]) -> Arranged:
        """Chosen pictures, best first, as the model gets them."""
        ...

    def spoken(self, arranged: Arranged) -> tuple[Reference, ...]:
        """The references as a prompt may number them."""
        ...

    def inputs(self, drawn: Drawn, pictures: Pictures) -> ImageInputs: ...


@dataclass(frozen=True, eq=False)
class NoReferences:
    """Every keyframe from its words alone."""

    family: ImageFamily
    name: str = "no references"
    most: int = 0
    together: int = 1
    remembers: bool = False

    def arrange(self, sources: Sequence[Source]) -> Arranged:
        return Arranged()

    def spoken(self, arranged: Arranged) -> tuple[Reference, ...]:
        return ()

    def inputs(self, drawn: Drawn, pictures: Pictures) -> ImageInputs:
        positive, negative = _encoded(drawn, pictures, (), ())
        return self.family.with_references(drawn.model, positive, negative, ())


@dataclass(frozen=True, eq=False)
class Listed:
    """Each reference at its own golden size, as one of the model's reference latents."""

    family: ImageFamily
    vae: VAE
    policy: PackingPolicy
    target: tuple[int, int]
    name: str = "reference list"
    together: int = 1
    remembers: bool = False

    @property
    def most(self) -> int:
        assert self.policy.most_references is not None
        return self.policy.most_references

    def arrange(self, sources: Sequence[Source]) -> Arranged:
        sizes = [(one.height, one.width) for one in sources]
        return _arranged(sources, pack_references(sizes, self.target, self.policy))

    def spoken(self, arranged: Arranged) -> tuple[Reference, ...]:
        return tuple(source.shows for source in arranged.sources)

    def inputs(self, drawn: Drawn, pictures: Pictures) -> ImageInputs:
        packing = drawn.arranged.packing
        assert packing is not None
        offered = [pictures.picture(source) for source in drawn.arranged.offered]
        shown = packed_pictures(offered, packing)
        beside = shown if self.family.capabilities(drawn.model).negative_references else []
        positive, negative = _encoded(drawn, pictures, shown, beside)
        latents = [self.family.encode_reference(self.vae, picture) for picture in shown]
        return self.family.with_references(drawn.model, positive, negative, latents)


@dataclass(frozen=True, eq=False)
class Tiled(Listed):
    """All references tiled without a gap into one picture, the best one largest."""

    name: str = "atlas"

    def arrange(self, sources: Sequence[Source]) -> Arranged:
        sizes = [(one.height, one.width) for one in sources]
        return _arranged(sources, pack_atlas(sizes, self.target, self.policy))

    def spoken(self, arranged: Arranged) -> tuple[Reference, ...]:
        """One picture that shows what all of them show."""
        shown = [source.shows for source in arranged.sources]
        if not shown:
            return ()
        people = dict.fromkeys(name for one in shown for name in one.characters)
        place = next((one.location for one in shown if one.location is not None), None)
        return (Reference(characters=tuple(people), location=place),)


@dataclass(frozen=True, eq=False)
class Together(Listed):
    """Shots in one batch that see one another; what was made before is context of golden sizes."""

    name: str = "joint"
    together: int = TOGETHER

    def spoken(self, arranged: Arranged) -> tuple[Reference, ...]:
        return ()


@dataclass(frozen=True, eq=False)
class Remembered:
    """References as a video model's memory: keyframes as they were sampled, in story order."""

    family: VideoImages
    most: int
    target: tuple[int, int]
    latent_size: tuple[int, int]
    name: str = REMEMBERED
    together: int = 1

    @property
    def remembers(self) -> bool:
        return self.family.memory is not None and bool(self.family.memory.bank.entries)

    def arrange(self, sources: Sequence[Source]) -> Arranged:
        ordered = sorted(sources, key=lambda one: -1 if one.shot is None else one.shot)
        assert self.family.memory is not None
        return Arranged(
            offered=tuple(sources),
            sources=tuple(ordered),
            sizes=(self.target,) * len(ordered),
            tokens=reference_tokens(self.family.memory, len(ordered), self.latent_size),
        )

    def spoken(self, arranged: Arranged) -> tuple[Reference, ...]:
        return ()

    def inputs(self, drawn: Drawn, pictures: Pictures) -> ImageInputs:
        positive, negative = _encoded(drawn, pictures, (), ())
        clips = [self._clip(source, pictures) for source in drawn.arranged.sources]
        return self.family.with_clips(drawn.model, positive, negative, clips, drawn.strength)

    def _clip(self, source: Source, pictures: Pictures) -> PictureClip:
        assert self.family.memory is not None
        latent, frames = pictures.latent(source), None
        if latent is None:
            frames = fitted(pictures.picture(source), *self.target)
            latent = self.family.encode_reference(self.family.memory.vae, frames)
        caption = None
        if source.text and any(e.card.caption_dim for e in self.family.memory.encoders):
            caption = pictures.encode(source.text, ())[0][0]
        return PictureClip(
            latents=latent,
            title=source.name,
            shot=0 if source.shot is None else source.shot + 1,
            text=source.text,
            caption=caption,
            frames=frames,
        )


def fitted(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A picture [1, h, w, 3] cropped in its middle and scaled to a size."""
    scaled = comfy.utils.common_upscale(picture.movedim(-1, 1), width, height, "area", "center")
    return scaled.movedim(1, -1)  # b c h w -> b h w c


def _arranged(sources: Sequence[Source], packing: Packing) -> Arranged:
    """The sources that a packing uses, the tiles of its atlas last."""
    used = [(one.source, (one.height, one.width)) for one in packing.references]
    if packing.atlas is not None:
        tiles = packing.atlas.atlas.tiles
        sizes = [(tile.height, tile.width) for tile in tiles]
        used += list(zip(packing.atlas.sources, sizes, strict=True))
    return Arranged(
        offered=tuple(sources),
        sources=tuple(sources[source] for source, _ in used),
        sizes=tuple(size for _, size in used),
        tokens=packing.tokens,
        packing=packing,
        left_out=tuple(
            f"{sources[one.source].name} is left out: {one.reason}" for one in packing.left_out
        ),
    )


def _encoded(
    drawn: Drawn,
    pictures: Pictures,
    shown: Sequence[torch.Tensor],
    beside_negative: Sequence[torch.Tensor],
) -> tuple[Conditioning, Conditioning]:
    """The prompts of a call as one conditioning, and the negative ones; without guidance the
    sampler asks for a negative one but reads none."""
    positives = [pictures.encode(prompt, shown) for prompt in drawn.prompts]
    positive = positives[0] if len(positives) == 1 else join_prompts(positives)
    if drawn.negatives is None:
        return positive, positive
    negatives = [pictures.encode(text, beside_negative) for text in drawn.negatives]
    return positive, negatives[0] if len(negatives) == 1 else join_prompts(negatives)
