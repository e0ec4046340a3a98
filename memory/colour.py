"""Mean-and-spread colour matching in Y'CbCr: what pulls a drifting segment back to its anchor.

Frames are [n, h, w, 3], gamma-encoded RGB in 0..1, as ComfyUI's IMAGE. Y' is 0..1, Cb and Cr are
-0.5..0.5 (Rec. ITU-R BT.709-6, items 3.2 and 3.3, full range).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LUMA_WEIGHTS = (0.2126, 0.7152, 0.0722)
"""Red, green and blue in Y' (BT.709-6, item 3.2)."""

CB_RANGE, CR_RANGE = 1.8556, 1.5748
"""2(1 - 0.0722) and 2(1 - 0.2126): they bring B' - Y' and R' - Y' to -0.5..0.5 (item 3.3)."""

LARGEST_GAIN = 2.0
"""A segment is stretched or squeezed by at most this factor (our choice): what differs more from
its anchor is another picture, not drift."""

FLAT = 1e-3
"""A channel that spreads less than a quarter of an 8-bit step has no contrast to be matched."""


@dataclass(frozen=True)
class ColourStatistics:
    """Mean and standard deviation of Y', Cb and Cr over the frames of a segment."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class ColourCorrection:
    """Per channel of Y'CbCr: `gain * x + offset`."""

    gain: tuple[float, float, float]
    offset: tuple[float, float, float]


IDENTITY = ColourCorrection((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def rgb_to_ycbcr(frames: Tensor) -> Tensor:
    """[..., 3] R'G'B' to [..., 3] Y'CbCr."""
    luma = frames @ frames.new_tensor(LUMA_WEIGHTS)
    blue = (frames[..., 2] - luma) / CB_RANGE
    red = (frames[..., 0] - luma) / CR_RANGE
    return torch.stack([luma, blue, red], -1)


def ycbcr_to_rgb(frames: Tensor) -> Tensor:
    """The inverse of rgb_to_ycbcr; values outside 0..1 are kept."""
    luma, blue, red = frames.unbind(-1)
    r = luma + CR_RANGE * red
    b = luma + CB_RANGE * blue
    g = (luma - LUMA_WEIGHTS[0] * r - LUMA_WEIGHTS[2] * b) / LUMA_WEIGHTS[1]
    return torch.stack([r, g, b], -1)


def correction_to(
    segment: ColourStatistics, anchor: ColourStatistics, strength: float, contrast: bool
) -> ColourCorrection:
    """What brings the means of `segment` to those of `anchor`, and with `contrast` the spreads.

    Reinhard et al., Color Transfer between Images, IEEE CG&A 2001, section 2, in Y'CbCr instead of
    their logarithmic space, so that black stays black. `strength` 0 (nothing) to 1 (all of it)
    blends with the identity.
    """
    gains, offsets = [], []
    for mean, std, goal_mean, goal_std in zip(
        segment.mean, segment.std, anchor.mean, anchor.std, strict=True
    ):
        gain = goal_std / std if contrast and min(std, goal_std) > FLAT else 1.0
        gain = 1.0 + strength * (min(max(gain, 1.0 / LARGEST_GAIN), LARGEST_GAIN) - 1.0)
        goal = mean + strength * (goal_mean - mean)
        gains.append(gain)
        offsets.append(goal - gain * mean)
    return ColourCorrection((gains[0], gains[1], gains[2]), (offsets[0], offsets[1], offsets[2]))


def apply_corrections(
    frames: Tensor, corrections: Sequence[ColourCorrection], positions: Tensor
) -> Tensor:
    """Correct frames, each by a mix of two neighbouring corrections.

    `positions` [n] counts in corrections: 1.25 is three parts of the second and one of the third;
    below 0 and above the last the outermost holds. Gives new frames [n, h, w, 3] in 0..1.
    """
    gain = torch.tensor([correction.gain for correction in corrections], dtype=torch.float32)
    offset = torch.tensor([correction.offset for correction in corrections], dtype=torch.float32)
    place = positions.clamp(0, len(corrections) - 1)
    lower = place.floor().long()
    upper = (lower + 1).clamp(max=len(corrections) - 1)
    share = (place - lower).unsqueeze(1)
    gains = torch.lerp(gain[lower], gain[upper], share)[:, None, None]
    offsets = torch.lerp(offset[lower], offset[upper], share)[:, None, None]
    return ycbcr_to_rgb(rgb_to_ycbcr(frames) * gains + offsets).clamp(0.0, 1.0)
