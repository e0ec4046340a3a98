"""A diffusion model over the codes of a hierarchy: one network plans tokens of any level.

MilliVid (arXiv 2606.09056, section 3; shared design `hierarchical-latents.md`, sections 2 and 7.3):
the tokens of a step, clean context and noisy targets of several levels, go through one transformer
as a flat list. Each token knows its frame, row and column by sines that are added to it, and its
noise, level and its frame's condition by the scale, shift and gate of every block. Ours, where it
differs: a projection in and out per level (7.3, the levels have different channels), frames counted
from the target, rows and columns in level-0 tokens, the condition added to the tokens as well.

Axes: codes `b f n c` (f latent frames of n tokens), conditions `b f k`, tokens in the network
`b m d`. The noise level t runs from 0 (clean) to 1 (noise).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .hierarchy_heads import attend
from .recall import AddressBlock, time_code

TEMPERATURE = 10_000.0  # of the sines of positions (design, 2.1)
NOISE_RATES = 128  # frequencies of the noise level's sines (design, 2.1)
NOISE_SCALE = 1000.0  # what t is multiplied with before them (design, 2.1)
LOG_SNR = 15.0  # the largest log signal-to-noise ratio (design, 2.2)
READER_BLOCKS = 2  # one did not learn where a camera stands (docs/log.md)


@dataclass(frozen=True)
class PlannerConfig:
    """Sizes of a planner.

    `code_channels` are those of its head, level 0 first; the planner knows the levels from
    `finest` on. `condition` is the length of the vector that every latent frame brings, `text` the
    width of the text encoder's states where the planner makes that vector itself; 0 is without.
    """

    code_channels: tuple[int, ...]
    finest: int = 0
    condition: int = 0
    text: int = 0
    width: int = 128
    blocks: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        sizes = (*self.code_channels, self.width, self.blocks, self.heads)
        if not self.code_channels or min(sizes) < 1 or min(self.condition, self.text) < 0:
            raise ValueError(f"a planner needs a level and sizes of 1 or more, got {self}")
        if not 0 <= self.finest < len(self.code_channels):
            raise ValueError(
                f"the finest level of a planner must be below {len(self.code_channels)}, "
                f"got {self.finest}"
            )
        if self.width % (2 * self.heads) or self.width < 6:
            raise ValueError(
                "the width of a planner must be a multiple of twice its attention heads and 6 or "
                f"more, got {self.width} with {self.heads} heads"
            )
        if self.text and not self.condition:
            raise ValueError("a planner that reads text needs a condition of 1 or more, got 0")

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels that it plans, finest first."""
        return tuple(range(self.finest, len(self.code_channels)))


@dataclass(frozen=True)
class TokenSpan:
    """Latent frames at one level, as the network is given them.

    `codes` `b f n c` are scaled; `frames` (`b f` or `1 f`) are counted from the first frame of the
    target; `noise` `b` is t; `condition` is `b f k`; what `valid` (`b f`) leaves out is not seen.
    """

    level: int
    codes: Tensor
    frames: Tensor
    noise: Tensor
    condition: Tensor | None = None
    valid: Tensor | None = None


class HierarchyPlanner(nn.Module):
    """The network. `centres` of `forward` say where the tokens of a level stand in the picture."""

    gain: Tensor  # what brings the codes of each level to one standard deviation

    def __init__(self, config: PlannerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        channels = {str(level): config.code_channels[level] for level in config.levels}
        self.code_in = nn.ModuleDict({k: nn.Linear(c, width) for k, c in channels.items()})
        self.code_out = nn.ModuleDict({k: nn.Linear(width, c) for k, c in channels.items()})
        self.level = nn.Embedding(len(config.code_channels), width)
        self.noise = nn.Sequential(
            nn.Linear(2 * NOISE_RATES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.condition = nn.Linear(config.condition, width) if config.condition else None
        self.condition_in = nn.Linear(config.condition, width) if config.condition else None
        self.reader = TextReader(config.text, config.condition) if config.text else None
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(PlannerBlock(width, config.heads) for _ in range(config.blocks))
        self.out_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.out_modulation = nn.Linear(width, 2 * width)
        self.register_buffer("gain", torch.ones(len(config.code_channels)))
        for layer in (self.modulation, self.out_modulation, self.code_out):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self, targets: Sequence[TokenSpan], context: Sequence[TokenSpan], centres: Sequence[Tensor]
    ) -> list[Tensor]:
        """The velocity alpha noise - sigma codes of every target, `b f n c`.

        `centres` hold row and column of the tokens per level, `n 2` in level-0 tokens.
        """
        spans = [*targets, *context]
        tokens = torch.cat([self._tokens(span, centres[span.level]) for span in spans], dim=1)
        known = [self._known(span) for span in spans]
        scales = torch.cat(
            [spread(self.modulation(each), span) for each, span in zip(known, spans, strict=True)],
            dim=1,
        )
        mask = seen(spans)
        for block in self.blocks:
            tokens = block(tokens, scales, mask)
        made, start = [], 0
        for span, each in zip(targets, known, strict=False):
            stop = start + span.codes.shape[1] * span.codes.shape[2]
            shift, scale = spread(self.out_modulation(each), span).chunk(2, dim=-1)
            x = self.out_norm(tokens[:, start:stop]) * (1 + scale) + shift
            made.append(self.code_out[str(span.level)](x).view_as(span.codes))
            start = stop
        return made

    def scaled(self, level: int, codes: Tensor) -> Tensor:
        """Codes as the network sees them, about one standard deviation."""
        return codes * self.gain[level].to(codes)

    def unscaled(self, level: int, codes: Tensor) -> Tensor:
        """The inverse of `scaled`."""
        return codes / self.gain[level].to(codes)

    def _tokens(self, span: TokenSpan, centres: Tensor) -> Tensor:
        """Projected codes with their positions, `b m d`."""
        x = self.code_in[str(span.level)](span.codes)
        x = x + position_code(span.frames.to(x), centres.to(x), self.config.width)
        if self.condition_in is not None and span.condition is not None:
            x = x + self.condition_in(span.condition)[:, :, None]
        return x.flatten(1, 2)

    def _known(self, span: TokenSpan) -> Tensor:
        """What scales the tokens of each frame: noise, level and condition, `b f d`."""
        known = self.noise(noise_code(span.noise).to(self.level.weight))[:, None]
        known = known + self.level.weight[span.level]
        if self.condition is not None and span.condition is not None:
            known = known + self.condition(span.condition)
        return F.silu(known.expand(-1, span.codes.shape[1], -1))


def spread(per_frame: Tensor, span: TokenSpan) -> Tensor:
    """`b f d` repeated for the tokens of each frame, `b m d`."""
    return per_frame[:, :, None].expand(-1, -1, span.codes.shape[2], -1).flatten(1, 2)


def seen(spans: Sequence[TokenSpan]) -> Tensor | None:
    """Which tokens may be attended to, bool `b 1 1 m`; None where all may."""
    if all(span.valid is None for span in spans):
        return None
    parts = []
    for span in spans:
        shape = span.codes.shape[:3]
        valid = span.valid
        if valid is None:
            valid = torch.ones(shape[:2], dtype=torch.bool, device=span.codes.device)
        parts.append(valid[:, :, None].expand(shape).flatten(1))
    return torch.cat(parts, dim=1)[:, None, None]


class PlannerBlock(nn.Module):
    """A transformer block with a scale, shift and gate of its own per token; it begins as the
    identity. One linear layer makes them for all blocks, to which each adds its own constants
    (design, 8.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.constants = nn.Parameter(torch.zeros(6 * width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(width // heads)
        self.k_norm = nn.RMSNorm(width // heads)
        self.mix = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, scales: Tensor, mask: Tensor | None) -> Tensor:
        shift, scale, gate, feed_shift, feed_scale, feed_gate = (scales + self.constants).chunk(
            6, dim=-1
        )
        x = x + gate * self._attend(self.norm(x) * (1 + scale) + shift, mask)
        fed = self.feed_in(self.feed_norm(x) * (1 + feed_scale) + feed_shift)
        return x + feed_gate * self.feed_out(F.gelu(fed, approximate="tanh"))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = attend(self.q_norm(q.float()), self.k_norm(k.float()), v, mask)
        return self.mix(read.transpose(1, 2).flatten(2))


class TextReader(nn.Module):
    """The condition of a frame from its shot's text and how far into the shot it stands."""

    def __init__(self, text: int, condition: int) -> None:
        super().__init__()
        self.width = condition
        self.norm = nn.LayerNorm(text)
        self.blocks = nn.ModuleList(
            AddressBlock(condition, text, nn, {}) for _ in range(READER_BLOCKS)
        )

    def forward(self, text: Tensor, frames: Tensor) -> Tensor:
        """`b f k` from text states `b n d` and the latent frames `f`, counted in their shot."""
        text = self.norm(text)
        x = time_code(frames, self.width).to(text).expand(len(text), -1, -1)
        for block in self.blocks:
            x = block(x, text)
        return x


def position_code(frames: Tensor, centres: Tensor, width: int) -> Tensor:
    """Sines and cosines of frame (`b f`), row and column (`n 2`), `b f n width`.

    A sixth of the width each, zeros in what is left over (design, 2.5).
    """
    count = width // 6
    rates = TEMPERATURE ** (-torch.arange(count, device=frames.device) / max(1, count - 1))
    place = torch.cat([_waves(centres[:, axis], rates) for axis in (0, 1)], dim=-1)
    time = _waves(frames, rates)[:, :, None].expand(-1, -1, len(centres), -1)
    code = torch.cat([time, place.expand(*time.shape[:3], -1)], dim=-1)
    return F.pad(code, (0, width - code.shape[-1]))


def _waves(values: Tensor, rates: Tensor) -> Tensor:
    angles = values[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def noise_code(noise: Tensor) -> Tensor:
    """Cosines and sines of noise levels `b`, `b 256`."""
    rates = TEMPERATURE ** (-torch.arange(NOISE_RATES, device=noise.device) / (NOISE_RATES - 1))
    angles = NOISE_SCALE * noise.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def signal_and_noise(noise: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma at noise levels t in 0..1: cosine and sine of an angle that leaves out both
    ends, so that log(alpha^2 / sigma^2) stays within 15 (design, 2.2)."""
    least = math.atan(math.exp(-LOG_SNR / 2))
    angle = least + noise * (math.pi / 2 - 2 * least)
    return angle.cos(), angle.sin()


def mixed(codes: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Codes `b ...` with noise of the same shape at noise levels `b`."""
    alpha, sigma = (
        each.view(-1, *(1,) * (codes.ndim - 1)) for each in signal_and_noise(level.to(codes))
    )
    return alpha * codes + sigma * noise


def without_text(spans: Sequence[TokenSpan]) -> list[TokenSpan]:
    """The same spans with no condition told."""
    return [
        replace(span, condition=None if span.condition is None else span.condition * 0)
        for span in spans
    ]
