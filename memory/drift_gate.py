"""Whether a generated picture has drifted from its anchor, by the measures of the drift report.

`memory/drift.py` follows a film hop by hop; here one keyframe stands against one anchor: the
character's reference picture, else the first keyframe with them. Pictures are compared at one
size, since texture depends on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .drift import APPEARANCE, FLOOR, SegmentMeasures, drift_report, measure_segments

COLOUR = "colour"
"""The fifth measure: how far the mean colour moved in the plane of Cb and Cr, by the mean of both
pictures' saturation. A tint of the same strength, which `chroma` cannot see, shows here."""

COMPARED_SIDE = 256
"""Pixels of the short side at which pictures are measured; the least that a reference should have
(design golden-memory-and-keyframes.md, section 9.2)."""


@dataclass(frozen=True)
class Drift:
    """How far a picture is from its anchor.

    `percent` is 100 (exp(m) - 1), m the mean of |ln ratio| over luma, chroma, contrast, texture and
    the shift of colour: the drift report's number for one hop, colour added. `measures` are the
    five by name as signed percents, colour unsigned; `worst` is the one that moved most.
    """

    percent: float
    measures: dict[str, float]
    worst: str


def reduced(picture: Tensor, side: int = COMPARED_SIDE) -> Tensor:
    """A picture [1, h, w, 3] with a short side of at most `side` pixels, area-averaged."""
    height, width = picture.shape[1:3]
    scale = side / min(height, width)
    if scale >= 1.0:
        return picture
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = F.interpolate(picture.movedim(-1, 1).float(), size=size, mode="area")
    return small.movedim(1, -1)


def short_side(picture: Tensor) -> int:
    """Pixels of the shorter side of [1, h, w, 3]."""
    return int(min(picture.shape[1:3]))


def picture_measures(picture: Tensor, side: int) -> SegmentMeasures:
    """The drift report's measures of one picture [1, h, w, 3] at that short side."""
    return measure_segments([reduced(picture, side).float().cpu()])[0]


def drift_from(anchor: SegmentMeasures, picture: SegmentMeasures) -> Drift:
    """How far a picture is from its anchor; both measured at the same size."""
    ratios = drift_report([anchor, picture]).against_first[1]
    logs = {name: math.log(ratios[name]) for name in APPEARANCE}
    logs[COLOUR] = colour_shift(anchor, picture)
    mean = sum(map(abs, logs.values())) / len(logs)
    return Drift(
        percent=100.0 * math.expm1(mean),
        measures={name: 100.0 * math.expm1(value) for name, value in logs.items()},
        worst=max(logs, key=lambda name: abs(logs[name])),
    )


def colour_shift(anchor: SegmentMeasures, picture: SegmentMeasures) -> float:
    """Distance of the mean (Cb, Cr), by the mean saturation of both; 0 to 2."""
    moved = math.dist(anchor.colour.mean[1:], picture.colour.mean[1:])
    saturation = (anchor.chroma + picture.chroma) / 2.0
    return moved / max(saturation, FLOOR)
