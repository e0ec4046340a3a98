"""What a family of image models can do, and how reference pictures enter it.

As `adapters/family.py` for video models: each family is one file with frozen classes, nodes ask the
family, and `adapters/image_families.py` lists them. Facts per family: the shared design
`golden-memory-and-keyframes.md`, section 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

    from .family import Conditioning

PromptTemplate = Literal["numbered", "instruction", "plain"]
"""How a prompt speaks of its references: "image 1" by number (Flux.2, Qwen), as an instruction
(Kontext), or not at all (models that take references as memory or jointly)."""


@dataclass(frozen=True, kw_only=True)
class ImageCapabilities:
    """What a family takes.

    `unit` is the pixels along a side of one token. `most_references` is what the model can be given
    at all, None for any number; `advised_references` what its makers advise. `method` is core's
    `reference_latents_method`, "" where it does not apply. `negative_references`: with guidance the
    references stand on the negative side, too. `least_side` are the pixels below which a reference
    says little, `most_pixels` what its makers give one of several references at most.
    """

    unit: int
    most_references: int | None
    advised_references: int | None
    method: str
    negative_references: bool
    template: PromptTemplate
    least_side: int = 256
    most_pixels: int | None = None


@dataclass(frozen=True, kw_only=True)
class ImageInputs:
    """What the sampler is called with for one keyframe; the caller's values are never mutated."""

    model: ModelPatcher
    positive: Conditioning
    negative: Conditioning


class ImageFamily(Protocol):
    """One family of image models. `name` is what artists call it."""

    @property
    def name(self) -> str: ...

    def recognises(self, model: ModelPatcher) -> bool:
        """Whether the loaded model belongs to this family."""
        ...

    def capabilities(self, model: ModelPatcher) -> ImageCapabilities: ...

    def latent_shape(self, model: ModelPatcher, height: int, width: int) -> tuple[int, ...]:
        """Shape of the latent of one picture in pixels, batch 1, as the model's VAE gives it.

        Raises ValueError naming the side that does not divide.
        """
        ...

    def encode_prompt(
        self, clip: CLIP, text: str, pictures: Sequence[torch.Tensor]
    ) -> Conditioning:
        """The conditioning of a prompt; `pictures` [1, h, w, 3] are what the text encoder looks at,
        where it looks at pictures (Qwen)."""
        ...

    def encode_reference(self, vae: VAE, picture: torch.Tensor) -> torch.Tensor:
        """The latent of one reference [1, h, w, 3] at the size that it has, in the VAE's space."""
        ...

    def with_references(
        self,
        model: ModelPatcher,
        positive: Conditioning,
        negative: Conditioning,
        references: Sequence[torch.Tensor],
    ) -> ImageInputs:
        """What is sampled with these references, encoded by `encode_reference`, best first.

        Raises ValueError naming the family and its cap for more than it can take.
        """
        ...
