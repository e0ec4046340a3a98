"""What a model family can do, and how the tail of one segment enters the next one.

Each family is one file of this folder with one frozen class. A node asks the family what it can
do; only the family knows the model's class. `adapters/families.py` lists them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from comfy.model_patcher import ModelPatcher

    from .blank import BlankClips

Conditioning = list[list[Any]]
"""ComfyUI's own: a list of [embedding, options]."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a family does natively.

    `known_latent_frames` is the most clean latent frames that may start a segment, None for any
    number. Every family here keeps them by construction: the first latent frames of a segment are
    the tail it was handed, but for the float rounding of the latent format's scaling.
    `end_frame`: a segment can end on a picture. `end_known_latent_frames` are the latent frames of
    such an end that are kept by construction; 0 where the model is shown the picture and draws it.
    `context` names the weights of this family that see further pictures, see
    `adapters/wan_context.py`.
    `own_sampler` names the core sampler that the family needs, None for any; `guidance` is false
    where that sampler knows one conditioning only, so that cfg must be 1.
    """

    known_latent_frames: int | None
    known_latent_frames_default: int
    end_frame: bool = False
    end_known_latent_frames: int = 0
    context: tuple[str, ...] = ()
    middle_frames: bool = False
    per_frame_timestep: bool = False
    own_sampler: str | None = None
    guidance: bool = True
    segment_latent_frames: int = 21


@dataclass(frozen=True, kw_only=True)
class SegmentInputs:
    """What the sampler is called with for one segment; the caller's values are never mutated.

    `latent` (b c t h w) in the VAE's latent space, the known frames filled in; `noise_mask`
    broadcasts to it, 0 where the latent is kept, or None.
    """

    model: ModelPatcher
    positive: Conditioning
    negative: Conditioning
    latent: torch.Tensor
    noise_mask: torch.Tensor | None


class Family(Protocol):
    """One model family. `name` is what artists call it."""

    @property
    def name(self) -> str: ...

    def recognises(self, model: ModelPatcher) -> bool:
        """Whether the loaded model belongs to this family."""
        ...

    def capabilities(self, model: ModelPatcher) -> Capabilities: ...

    def prepare(
        self,
        model: ModelPatcher,
        blanks: BlankClips,
        positive: Conditioning,
        negative: Conditioning,
        latent: torch.Tensor,
        known_latent_frames: int,
        end_known_latent_frames: int = 0,
    ) -> SegmentInputs:
        """Turn a latent (b c t h w) whose first `known_latent_frames` and last
        `end_known_latent_frames` are known (one of them 1 or more) and whose others are zero into
        what the sampler is called with.

        A known end is only asked for where `Capabilities.end_frame` is true.
        """
        ...


def frame_mask(
    latent: torch.Tensor, known_latent_frames: int, end_known_latent_frames: int = 0
) -> torch.Tensor:
    """Mask 1 1 t h w for a latent b c t h w: 0 on the known latent frames, 1 on the others."""
    mask = latent.new_ones((1, 1, *latent.shape[2:]))
    mask[:, :, :known_latent_frames] = 0.0
    mask[:, :, latent.shape[2] - end_known_latent_frames :] = 0.0
    return mask


def keep_known(
    model: ModelPatcher,
    positive: Conditioning,
    negative: Conditioning,
    latent: torch.Tensor,
    known_latent_frames: int,
    end_known_latent_frames: int = 0,
) -> SegmentInputs:
    """The known latent frames kept by the noise mask alone."""
    return SegmentInputs(
        model=model,
        positive=positive,
        negative=negative,
        latent=latent,
        noise_mask=frame_mask(latent, known_latent_frames, end_known_latent_frames),
    )


def with_values(conditioning: Conditioning, values: dict[str, Any]) -> Conditioning:
    """A conditioning with more options; the given one stays as it is."""
    return [[embedding, {**options, **values}] for embedding, options in conditioning]
