"""A coarse plan as guide: the unmodified video model begins from it, or sees it as a control video.

MilliVid's way with an existing model (arXiv 2606.09056; mode M1 of the shared design
`hierarchical-latents.md`, section 7.4, inferred there): a window starts from the noised guide at a
lower noise level, its clean overlap kept by the family's own means; or Wan VACE is shown the guide
as the control video. Without a planner the plan is the model's own: one small clip of several
segments at a low frame rate, enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import comfy.utils
import torch

from .blank import BlankClips
from .family import Capabilities, Family, SegmentInputs, frame_mask
from .wan_vace import WanVace, add_control

if TYPE_CHECKING:
    from comfy.sd import VAE

    from .family import Conditioning
    from .sampling import SamplerSettings

SMALLER = 2
"""How many times smaller a small clip's sides are: one level of the paper's hierarchy keeps one
cell in four (arXiv 2606.09056, section 3)."""

PATCH = 2
"""Latent cells along one side of a video transformer's token (Wan, HunyuanVideo 1.0)."""


@dataclass(frozen=True, kw_only=True)
class Guide:
    """What a segment follows: `latent` b c t h w in the VAE's space, as long as the segment.

    `start_noise` is the share of the first noise level at which it begins, above 0 and at most 1;
    `as_control` shows it to Wan VACE as the control video instead, which then begins from noise.
    """

    latent: torch.Tensor
    start_noise: float
    as_control: bool = False


def check_guide(family: Family, capabilities: Capabilities, as_control: bool) -> None:
    """Raises ValueError for a family that a guide cannot enter in this way."""
    if as_control and not isinstance(family, WanVace):
        raise ValueError(
            f"guide_as 'control video' needs a Wan VACE model, got {family.name}: choose "
            "'noisy start'"
        )
    if capabilities.own_sampler is not None:
        raise ValueError(
            f"a coarse plan needs a model that begins from a noisy guide, got {family.name}, whose "
            f"sampler '{capabilities.own_sampler}' begins from noise alone"
        )


def guided_settings(settings: SamplerSettings, guide: Guide) -> SamplerSettings:
    """The sampler's settings with as many steps, from the guide's noise level down."""
    if guide.as_control:
        return settings
    return replace(settings, sigmas=lower_start(settings.sigmas, guide.start_noise))


def lower_start(sigmas: torch.Tensor, share: float) -> torch.Tensor:
    """The same number of noise levels along the same falling curve, from `share` of the first on.

    Raises ValueError for a share outside 0..1 and for levels that never fall so low.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"start_noise must be above 0 and at most 1, got {share}")
    curve, steps = sigmas.double(), len(sigmas) - 1
    wanted = float(curve[0]) * share
    low = int((curve > wanted).sum())
    if low > steps or (low == steps and float(curve[-1]) == wanted):
        raise ValueError(
            f"start_noise {share:g} must lie above the last noise level, got levels from "
            f"{float(sigmas[0]):g} to {float(sigmas[-1]):g}"
        )
    if low == 0:
        return sigmas.clone()
    above, below = float(curve[low - 1]), float(curve[low])
    begin = low - 1 + (above - wanted) / (above - below)
    times = torch.linspace(begin, steps, steps + 1, dtype=torch.float64)
    before = times.floor().clamp(max=steps - 1).long()
    between = torch.lerp(curve[before], curve[before + 1], times - before)
    return between.to(sigmas.dtype)


def prepare_control(
    blanks: BlankClips,
    inputs: SegmentInputs,
    positive: Conditioning,
    negative: Conditioning,
    guide: Guide,
    known_latent_frames: int,
    end_known_latent_frames: int,
) -> SegmentInputs:
    """Wan VACE's inputs with the guide as the video that is to be made anew.

    Known frames stand in the half of the control video that is kept, the guide in the other
    (WanVaceToVideo of core with the plan as `control_video`). `positive` and `negative` are the
    conditionings without a control video.
    """
    latent = inputs.latent
    mask = frame_mask(latent, known_latent_frames, end_known_latent_frames)
    inactive = torch.where(mask == 0.0, latent, blanks.behind_start(latent))
    reactive = torch.where(mask == 0.0, blanks.grey(latent), guide.latent.to(latent))
    frames = torch.cat((inactive, reactive), dim=1)
    return replace(
        inputs,
        positive=add_control(positive, frames, mask),
        negative=add_control(negative, frames, mask),
    )


def small_size(height: int, width: int, pixels_per_latent: int) -> tuple[int, int]:
    """Height and width in pixels of a small clip for a film of this size: whole tokens."""
    token = pixels_per_latent * PATCH

    def side(pixels: int) -> int:
        return max(1, round(pixels / SMALLER / token)) * token

    return side(height), side(width)


def small_picture(vae: VAE, known: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The last picture [1, height, width, 3] of known latent frames b c k h w, made small."""
    frames = _frames(vae.decode(known))[-1:]
    return _resized(frames, height, width, "area")


def clip_pictures(vae: VAE, latent: torch.Tensor) -> torch.Tensor:
    """The pictures [n, h, w, 3] in 0..1 of a small clip."""
    return _frames(vae.decode(latent))


def guide_latent(
    vae: VAE, pictures: torch.Tensor, places: Sequence[float], height: int, width: int
) -> torch.Tensor:
    """The latent b c t h w of a segment's own clip, shown by the small `pictures` at `places`.

    Between two pictures they are mixed; then they are enlarged to the film's size and encoded.
    """
    at = torch.tensor(places, dtype=torch.float64)
    before = at.floor().long()
    share = (at - before).to(pictures)[:, None, None, None]
    after = (before + 1).clamp(max=len(pictures) - 1)
    mixed = torch.lerp(pictures[before], pictures[after], share)
    return vae.encode(_resized(mixed, height, width, "bicubic").clamp(0.0, 1.0)).float().cpu()


def _frames(decoded: torch.Tensor) -> torch.Tensor:
    return decoded.reshape(-1, *decoded.shape[-3:])[..., :3].clamp(0.0, 1.0).float().cpu()


def _resized(frames: torch.Tensor, height: int, width: int, method: str) -> torch.Tensor:
    """Frames [n, h, w, 3] stretched to another size."""
    moved = comfy.utils.common_upscale(frames.movedim(-1, 1), width, height, method, "disabled")
    return moved.movedim(1, -1)
