"""How a long video wanders from its beginning: measures of decoded frames, segment by segment.

Frames are [n, h, w, 3], gamma-encoded RGB in 0..1. A *hop* is the step from one segment to the one
that continues it; a cut is not a hop. Definitions:

luma      mean of Y' (BT.709).
chroma    mean length of (Cb, Cr): how saturated the picture is.
contrast  standard deviation of Y' within a frame, mean over the frames.
texture   standard deviation of the 4-neighbour Laplacian of Y' within a frame, mean over the
          frames: edges and grain (its square is the focus measure of Pech-Pacheco et al., ICPR
          2000). It falls when pictures soften and rises when they are over-sharpened.
motion    mean absolute difference of consecutive frames over R, G and B.
seam      the same difference across the hop, by those inside from one latent frame to the next: the
          mean of the two segments' medians; 1.0 is a seam that does not show. A hop always lies
          between two latent frames, where a VAE that packs four frames into one changes the picture
          more than within (measured on a demo film: 0.030 against 0.013), so that the steps within
          would make every seam look bad.

luma, chroma, contrast and texture are the *appearance* measures: all scale with the picture's
values, so a gain of 1.05 per hop is a drift of 5 % in each.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .colour import ColourStatistics, rgb_to_ycbcr

APPEARANCE = ("luma", "chroma", "contrast", "texture")
MEASURES = (*APPEARANCE, "motion")

FLOOR = 1.0 / 1024.0
"""Values below a quarter of an 8-bit step are taken as this: a ratio of two invisible amounts
means nothing."""


@dataclass(frozen=True, kw_only=True)
class SegmentMeasures:
    """Measures of the frames that one segment adds to the film.

    `motion` is None for a single frame; `median_step`, the median difference from one latent frame
    to the next, for a single latent frame; `entry_step` is the difference of its first frame to the
    frame before it, None at a cut.
    """

    frames: int
    luma: float
    chroma: float
    contrast: float
    texture: float
    motion: float | None
    median_step: float | None
    entry_step: float | None
    colour: ColourStatistics


class SegmentMeter:
    """Measures a segment while its frames pass by; holds one frame and a few sums."""

    def __init__(
        self, before: Tensor | None = None, frames_per_latent: int = 1, lone_frames: int = 0
    ) -> None:
        """`before` [h, w, 3] is the frame that the segment continues, None at a cut.

        The first `lone_frames` frames are a latent frame of their own (1 where a clip begins), then
        `frames_per_latent` each belong to one.
        """
        self.last = before
        self._stride, self._lone = frames_per_latent, lone_frames
        self._entry: float | None = None
        self._steps: list[float] = []
        self._latent_steps: list[float] = []
        self._frames = 0
        self._sums = torch.zeros(4, dtype=torch.float64)
        self._colour = torch.zeros(2, 3, dtype=torch.float64)

    def add(self, frames: Tensor) -> None:
        """Take the next frames [n, h, w, 3], one or more; they are not changed."""
        ycbcr = rgb_to_ycbcr(frames)
        luma = ycbcr[..., 0]
        per_frame = torch.stack(
            [
                luma.mean((1, 2)),
                torch.linalg.vector_norm(ycbcr[..., 1:], dim=-1).mean((1, 2)),
                luma.std((1, 2), correction=0),
                laplacian(luma).flatten(1).std(1, correction=0),
            ]
        )
        self._sums += per_frame.double().sum(1)
        self._colour += torch.stack([ycbcr, ycbcr.square()]).mean((2, 3)).double().sum(1)
        self._add_steps(frames)
        self._frames += frames.shape[0]
        self.last = frames[-1].clone()

    def _add_steps(self, frames: Tensor) -> None:
        """Differences to the frame before, for every frame that has one."""
        steps = (frames[1:] - frames[:-1]).abs().mean((1, 2, 3)).tolist()
        first = self._frames + 1
        if self.last is not None:
            step = float((frames[0] - self.last).abs().mean())
            if self._frames == 0:
                self._entry = step
            else:
                steps, first = [step, *steps], self._frames
        self._steps += steps
        self._latent_steps += [
            step for i, step in enumerate(steps, first) if (i - self._lone) % self._stride == 0
        ]

    def measures(self) -> SegmentMeasures:
        """The measures of what was added so far. Raises ValueError when that is nothing."""
        if self._frames == 0:
            raise ValueError("a segment must have at least one frame to be measured, got none")
        luma, chroma, contrast, texture = (self._sums / self._frames).tolist()
        mean, square = self._colour / self._frames
        std = (square - mean.square()).clamp(min=0.0).sqrt()
        return SegmentMeasures(
            frames=self._frames,
            luma=luma,
            chroma=chroma,
            contrast=contrast,
            texture=texture,
            motion=statistics.fmean(self._steps) if self._steps else None,
            median_step=statistics.median(self._latent_steps) if self._latent_steps else None,
            entry_step=self._entry,
            colour=ColourStatistics(_triple(mean), _triple(std)),
        )


def laplacian(luma: Tensor) -> Tensor:
    """4-neighbour Laplacian of [n, h, w] without the border; zeros where there is no inside."""
    if min(luma.shape[1:]) < 3:
        return luma.new_zeros((luma.shape[0], 1, 1))
    inside = luma[:, 1:-1, 1:-1]
    around = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return around - 4.0 * inside


def measure_segments(
    segments: Sequence[Tensor],
    cuts: Sequence[int] = (),
    frames_per_latent: int = 1,
    lone_frames: int = 0,
) -> list[SegmentMeasures]:
    """Measure whole segments [n, h, w, 3] in film order; those in `cuts` do not continue.

    `lone_frames` is for the first segment and for those after a cut; see SegmentMeter.
    """
    measured: list[SegmentMeasures] = []
    last: Tensor | None = None
    for index, frames in enumerate(segments):
        begins = last is None or index in cuts
        meter = SegmentMeter(
            None if begins else last, frames_per_latent, lone_frames if begins else 0
        )
        meter.add(frames)
        measured.append(meter.measures())
        last = meter.last
    return measured


@dataclass(frozen=True, kw_only=True)
class Hop:
    """The step to segment `index` (0-based) from the one before.

    `ratios` are this segment's measures by those of the one before (1.0 is no drift; `motion` is
    absent where either has a single frame). At a cut `seam` and `drift_percent` are None.
    """

    index: int
    cut: bool
    ratios: Mapping[str, float]
    seam: float | None
    drift_percent: float | None


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """The drift of a film.

    drift_percent   100 (exp(m) - 1), m the mean of |ln ratio| over all hops and the four appearance
                    measures: how far the look moves per hop, in whatever direction. None without a
                    hop.
    by_measure      the same for one measure at a time.
    trend           100 (exp(mean of ln ratio) - 1), signed: how far it wanders per hop on average;
                    what goes up and down again cancels.
    against_first   per segment, its measures by those of segment 1, cuts included.
    worst_seam      the largest seam and `worst_seam_index` the segment that begins there.
    """

    hops: tuple[Hop, ...]
    against_first: tuple[Mapping[str, float], ...]
    drift_percent: float | None
    by_measure: Mapping[str, float]
    trend: Mapping[str, float]
    worst_seam: float | None
    worst_seam_index: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps."""
        return asdict(self)


def drift_report(measures: Sequence[SegmentMeasures]) -> DriftReport:
    """Compare the segments of a film in order. Raises ValueError for none."""
    if not measures:
        raise ValueError("a drift report needs at least one segment, got none")
    hops = tuple(
        _hop(index, before, after)
        for index, (before, after) in enumerate(zip(measures, measures[1:], strict=False), 1)
    )
    logs = {
        name: [math.log(hop.ratios[name]) for hop in hops if not hop.cut] for name in APPEARANCE
    }
    seams = [(hop.seam, hop.index) for hop in hops if hop.seam is not None]
    worst = max(seams) if seams else (None, None)
    return DriftReport(
        hops=hops,
        against_first=tuple(_ratios(measures[0], segment) for segment in measures),
        drift_percent=_percent([abs(x) for values in logs.values() for x in values]),
        by_measure=_percents({name: [abs(x) for x in values] for name, values in logs.items()}),
        trend=_percents(logs),
        worst_seam=worst[0],
        worst_seam_index=worst[1],
    )


def _hop(index: int, before: SegmentMeasures, after: SegmentMeasures) -> Hop:
    cut = after.entry_step is None
    ratios = _ratios(before, after)
    return Hop(
        index=index,
        cut=cut,
        ratios=ratios,
        seam=None if cut else _seam(before, after),
        drift_percent=None if cut else _percent([abs(math.log(ratios[n])) for n in APPEARANCE]),
    )


def _ratios(before: SegmentMeasures, after: SegmentMeasures) -> dict[str, float]:
    ratios = {}
    for name in MEASURES:
        was, now = getattr(before, name), getattr(after, name)
        if was is not None and now is not None:
            ratios[name] = max(now, FLOOR) / max(was, FLOOR)
    return ratios


def _seam(before: SegmentMeasures, after: SegmentMeasures) -> float | None:
    """None where neither segment has two latent frames to compare with."""
    inside = [step for step in (before.median_step, after.median_step) if step is not None]
    if after.entry_step is None or not inside:
        return None
    return max(after.entry_step, FLOOR) / max(statistics.fmean(inside), FLOOR)


def _percent(logs: Sequence[float]) -> float | None:
    return 100.0 * math.expm1(statistics.fmean(logs)) if logs else None


def _percents(logs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {
        name: percent for name, values in logs.items() if (percent := _percent(values)) is not None
    }


def _triple(values: Tensor) -> tuple[float, float, float]:
    first, second, third = values.tolist()
    return first, second, third
