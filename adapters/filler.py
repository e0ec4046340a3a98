"""Fillers: the frames between the anchors of a plan, made by models that were not trained for it.

A filler is handed the known latent frames of a segment, wherever they stand, and makes the others
in one call (shared design `macro-micro-planning.md`, section 8). Per family:
- Wan T2V and TI2V-5B (F4, F3): the noise mask keeps the known frames; TI2V also sees them at
  timestep 0.
- Wan I2V and FLF2V (F1): the anchors' own pictures stand in the concat clip at their places, grey
  between them, encoded as one clip as in training, and the mask says which are known.
- Wan VACE (F2): the known frames stand in the control video; the mask is built at latent
  resolution, since core's node shrinks one from pixels and flags the wrong frames.
A model that was only trained to continue a clip is shown the segment's start alone, as when it
continues one, and the noise mask holds the anchors. Shown them, the demo model smears what lies
between (19 to 20 dB against the clip that the anchors were drafted in; 52 to 58 dB when they are
held only, 32 to 34 dB with other noise than the draft's).
What was known comes out to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .family import Conditioning, Family, SegmentInputs, with_values
from .sampling import Prepare
from .wan import WanImage, WanText, WanTextImage
from .wan_vace import WanVace, add_control

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

GREY = 0.5
"""Pixel value of frames that are not known (core's WanImageToVideo)."""

FILLING_MODELS = "Wan T2V, I2V, FLF2V, VACE or TI2V-5B"

Known = Mapping[int, Tensor]
"""Known latent frames b c 1 h w by their place in the segment, in the VAE's space."""


def check_filler(family: Family) -> None:
    """Raises ValueError for a family that cannot be handed frames in the middle."""
    if not isinstance(family, WanText | WanTextImage | WanImage | WanVace):
        raise ValueError(
            f"model must be able to fill a plan, got {family.name}: use {FILLING_MODELS}"
        )


def place_mask(latent: Tensor, known: Sequence[int]) -> Tensor:
    """Mask 1 1 t h w for a latent b c t h w: 0 on the known latent frames, 1 on the others."""
    mask = latent.new_ones((1, 1, *latent.shape[2:]))
    mask[:, :, list(known)] = 0.0
    return mask


def filler_of(
    family: Family, vae: VAE, known: Known, latent_frames: int, shows_anchors: bool = True
) -> Prepare:
    """How a segment of `latent_frames` with these known frames enters a family's model.

    Without `shows_anchors` the model is shown the frames that the segment begins with and no later
    ones; all are kept by the noise mask.
    """
    check_filler(family)
    places = sorted(known)
    shown = places if shows_anchors else start_of(places)
    clip: Tensor | None = None
    if isinstance(family, WanImage):
        clip = vae.encode(pasted_clip(vae, known, latent_frames, shown)).float().cpu()
    if isinstance(family, WanVace):
        clip = vae.encode(_grey_clip(vae, known, latent_frames)).float().cpu()

    def prepare(
        model: ModelPatcher, positive: Conditioning, negative: Conditioning, latent: Tensor
    ) -> SegmentInputs:
        mask, told = place_mask(latent, places), place_mask(latent, shown)
        if isinstance(family, WanImage):
            values = {"concat_latent_image": clip, "concat_mask": told}
            positive, negative = with_values(positive, values), with_values(negative, values)
        if isinstance(family, WanVace):
            assert clip is not None
            control = torch.where(told == 0.0, latent, clip)
            frames = torch.cat((control, clip), dim=1)
            positive = add_control(positive, frames, told)
            negative = add_control(negative, frames, told)
        return SegmentInputs(
            model=model, positive=positive, negative=negative, latent=latent, noise_mask=mask
        )

    return prepare


def start_of(places: Sequence[int]) -> list[int]:
    """Those of ascending places that a segment begins with: 0 1 of 0 1 4 5, none of 4 5."""
    first = consecutive(places)[0]
    return first if first[0] == 0 else []


def pasted_clip(
    vae: VAE, known: Known, latent_frames: int, shown: Sequence[int] | None = None
) -> Tensor:
    """The clip [frames, height, width, 3] of a segment: the pictures of the `shown` frames (all
    that are known) at their places, grey between them."""
    clip = _grey_clip(vae, known, latent_frames).clone()
    stride = _stride(vae)
    for run in consecutive(sorted(known) if shown is None else shown):
        first = stride * (run[0] - 1) + 1 if run[0] else 0
        frames = decoded_run(vae, known, run)
        clip[first : first + len(frames)] = frames
    return clip


def decoded_run(vae: VAE, known: Known, run: Sequence[int]) -> Tensor:
    """The frames of known latent frames in a row, as the VAE shows them inside a clip.

    A causal decoder needs a legal beginning and one frame to warm up (as in the hand-off between
    segments): the segment's first frame, then the run's first one twice. A run that begins the
    segment is decoded as it is.
    """
    frames = [known[i] for i in run]
    if run[0] == 0:
        return _frames(vae.decode(torch.cat(frames, dim=2)))
    clip = torch.cat([known[min(known)], known[run[0]], *frames], dim=2)
    return _frames(vae.decode(clip))[1 + _stride(vae) :]


def consecutive(places: Sequence[int]) -> list[list[int]]:
    """Ascending places in runs of neighbours: 0 1 5 6 as [0 1], [5 6]."""
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def encode_known(vae: VAE, clip: Tensor, places: Sequence[int]) -> dict[int, Tensor]:
    """Known latent frames of another VAE from the pasted clip of the one that made the plan."""
    latent = vae.encode(clip).float().cpu()
    return {place: latent[:, :, place : place + 1] for place in places}


def _grey_clip(vae: VAE, known: Known, latent_frames: int) -> Tensor:
    some = next(iter(known.values()))
    pixels = vae.spacial_compression_encode()
    frames = _stride(vae) * (latent_frames - 1) + 1
    size = (some.shape[-2] * pixels, some.shape[-1] * pixels)
    return torch.full((1, 1, 1, 1), GREY).expand(frames, *size, 3)


def _stride(vae: VAE) -> int:
    return vae.temporal_compression_decode() or 1


def _frames(decoded: Tensor) -> Tensor:
    return decoded.reshape(-1, *decoded.shape[-3:])[..., :3].clamp(0.0, 1.0).cpu()
