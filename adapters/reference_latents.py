"""What image models have in common that read references as `reference_latents` of a conditioning.

Each reference is encoded at its own size and stands behind the picture's tokens (Flux, Qwen-Image)
or before them (OmniGen2), with positions of its own (ComfyUI 0.30, comfy/ldm/flux/model.py and
others; shared design `golden-memory-and-keyframes.md`, section 9.1). No method of placing them is
written down, so that the model's own holds, or the one that core's node "Edit Model Reference
Method" chose.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .family import Conditioning, with_values
from .image_family import ImageCapabilities, ImageInputs

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

REFERENCES = "reference_latents"


class ReferenceLatents(ABC):
    """An ImageFamily without its name, what it recognises and what it can do."""

    name: str = ""

    @abstractmethod
    def capabilities(self, model: ModelPatcher) -> ImageCapabilities:
        """As in ImageFamily."""

    def latent_shape(self, model: ModelPatcher, height: int, width: int) -> tuple[int, ...]:
        """As in ImageFamily. Sides are whole tokens: an odd latent would be padded by its other
        end (`pad_to_patch_size` in comfy/ldm/common_dit.py pads circularly)."""
        unit = self.capabilities(model).unit
        for name, pixels in (("width", width), ("height", height)):
            if pixels < unit or pixels % unit:
                raise ValueError(
                    f"{name} must be a multiple of {unit} for {self.name}, got {pixels}"
                )
        latent_format = model.get_model_object("latent_format")
        cells = latent_format.spacial_downscale_ratio
        frames = (1,) * (latent_format.latent_dimensions - 2)
        return (1, latent_format.latent_channels, *frames, height // cells, width // cells)

    def encode_prompt(
        self, clip: CLIP, text: str, pictures: Sequence[torch.Tensor]
    ) -> Conditioning:
        """The text alone: these text encoders do not look at pictures."""
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def encode_reference(self, vae: VAE, picture: torch.Tensor) -> torch.Tensor:
        """As in ImageFamily."""
        return vae.encode(picture[..., :3])

    def with_references(
        self,
        model: ModelPatcher,
        positive: Conditioning,
        negative: Conditioning,
        references: Sequence[torch.Tensor],
    ) -> ImageInputs:
        """As in ImageFamily. Those that a conditioning already holds stay before them and count."""
        capabilities = self.capabilities(model)
        cells = model.get_model_object("latent_format").spacial_downscale_ratio
        for reference in references:
            self._check(model, reference, capabilities.unit // cells)
        held = max((len(options.get(REFERENCES, ())) for _, options in positive), default=0)
        self._check_count(capabilities.most_references, held, len(references))
        if capabilities.negative_references:
            negative = with_reference_latents(negative, references)
        return ImageInputs(
            model=model,
            positive=with_reference_latents(positive, references),
            negative=negative,
        )

    def _check_count(self, most: int | None, held: int, given: int) -> None:
        if most is None or held + given <= most:
            return
        before = f" beside {held} that positive already holds" if held else ""
        raise ValueError(
            f"{self.name} takes {most} references at most, got {given}{before}: "
            "use fewer, or put several on one atlas"
        )

    def _check(self, model: ModelPatcher, reference: torch.Tensor, patch: int) -> None:
        latent_format = model.get_model_object("latent_format")
        shape = tuple(reference.shape)
        channels, axes = latent_format.latent_channels, latent_format.latent_dimensions + 2
        if len(shape) != axes or shape[1] != channels:
            raise ValueError(
                f"references of {self.name} must be latents of {channels} channels and {axes} "
                f"axes, got {shape}: choose the VAE that belongs to the model"
            )
        if any(side % patch for side in shape[-2:]):
            raise ValueError(
                f"references of {self.name} must have sides of {patch} latent cells or a multiple, "
                f"got {shape[-1]} x {shape[-2]}"
            )


def with_reference_latents(
    conditioning: Conditioning, references: Sequence[torch.Tensor]
) -> Conditioning:
    """Every entry with these references behind its own, as core's node ReferenceLatent does it.

    Without references it stays as it is: core's OmniGen2 fails at an empty list.
    """
    if not references:
        return conditioning
    return [
        with_values([entry], {REFERENCES: [*entry[1].get(REFERENCES, ()), *references]})[0]
        for entry in conditioning
    ]
