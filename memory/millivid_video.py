"""The authors' video model of MilliVid: one transformer denoises the codes of any level.

arXiv 2606.09056, sections 2.1, 2.2, 2.4 and 2.5 of the shared design `hierarchical-latents.md`,
which names every constant of the released weights. The authors' re-implementation of FramePack has
a first projection per level, of level-0 codes in patches of 2 ** level on a side (section 3.8); how
such a patch is put in a row is not stated there: channel, row, column here (inferred).

Axes: codes of a block of frames are `b f n c`, the cells row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .millivid_layers import (
    Transformer,
    angles,
    for_tokens,
    frequencies,
    grid_places,
    modulated,
)

AXES = 3
"""Of a position: frame, row, column."""

TIME_SCALE = 1000.0
"""t in 0..1 times this enters the time embedding (section 2.1)."""

LOG_SNR_LIMIT = 15.0
"""The logarithm of the signal to noise ratio is within this of 0 (section 2.2)."""


@dataclass(frozen=True, kw_only=True)
class VideoSizes:
    """Sizes of a video model, all read from its tensors.

    `patched_levels` is 0 where all levels share the first projection, else how many it has.
    """

    width: int
    head_width: int
    channels: int
    levels: int
    actions: int
    depth: int
    time_width: int
    patched_levels: int = 0

    def __post_init__(self) -> None:
        if self.width < 2 * AXES or self.width % self.head_width or self.time_width % 2:
            raise ValueError(
                "the video model's width must divide by its heads and its time embedding by 2, got "
                f"{self.width}, {self.head_width} and {self.time_width}"
            )


@dataclass(frozen=True, eq=False)
class CodeBlock:
    """Frames of one level in a step: numbers of the frames `f`, codes `b f n c`, the action that
    led to each frame `f` (None: the action is not told), and the noise level t in 0..1."""

    level: int
    frames: Tensor
    codes: Tensor
    actions: Tensor | None
    time: float

    @property
    def tokens(self) -> int:
        return self.codes.shape[1] * self.codes.shape[2]


class TimeEmbedding(nn.Module):
    def __init__(self, sizes: VideoSizes, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            operations.Linear(sizes.time_width, sizes.width, **place),
            nn.SiLU(),
            operations.Linear(sizes.width, sizes.width, **place),
        )
        self.time_width = sizes.time_width

    def forward(self, time: Tensor) -> Tensor:
        """Times `n` in 0..1 to vectors `n d`: cosines, then sines (section 2.5)."""
        waves = TIME_SCALE * time.float().unsqueeze(-1)
        waves = waves * frequencies(self.time_width // 2, time.device)
        output: Tensor = self.mlp(torch.cat([waves.cos(), waves.sin()], dim=-1))
        return output


class ActionEncoder(nn.Module):
    def __init__(self, sizes: VideoSizes, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.action_embedding = operations.Embedding(sizes.actions, sizes.width, **place)


class Conditioned(nn.Module):
    """The transformer and what its modulations follow from."""

    def __init__(self, sizes: VideoSizes, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.dit = Transformer(sizes.depth, sizes.width, sizes.head_width, True, operations, place)
        self.time_embedding = TimeEmbedding(sizes, operations, place)
        self.level_embedding = operations.Embedding(sizes.levels, sizes.width, **place)
        self.action_encoder = ActionEncoder(sizes, operations, place)

    def vectors(self, block: CodeBlock) -> Tensor:
        """What modulates the block's frames: time, level and action, `1 f d`."""
        device = block.codes.device
        vector = self.time_embedding(torch.tensor([block.time], device=device))
        vector = vector + self.level_embedding(torch.tensor([block.level], device=device)).to(
            vector
        )
        if block.actions is not None:
            vector = vector + self.action_encoder.action_embedding(block.actions).to(vector)
        return vector.expand(len(block.frames), -1)[None]


class Head(nn.Module):
    def __init__(self, sizes: VideoSizes, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        linear = operations.Linear(sizes.width, 2 * sizes.width, **place)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), linear)
        self.linear = operations.Linear(sizes.width, sizes.channels, **place)

    def forward(self, x: Tensor, vectors: Tensor, rows: Tensor) -> Tensor:
        shift, scale = for_tokens(self.adaLN_modulation(vectors), rows).chunk(2, dim=-1)
        output: Tensor = self.linear(modulated(x, shift, scale))
        return output


class Denoiser(nn.Module):
    def __init__(self, sizes: VideoSizes, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.dit = Conditioned(sizes, operations, place)
        self.patchify = (
            nn.ModuleList(
                operations.Linear(sizes.channels * 4**level, sizes.width, **place)
                for level in range(sizes.patched_levels)
            )
            if sizes.patched_levels
            else operations.Linear(sizes.channels, sizes.width, **place)
        )
        self.unpatchify = Head(sizes, operations, place)


class MilliVidVideo(nn.Module):
    """The video model, under the names of the released state dict."""

    def __init__(
        self,
        sizes: VideoSizes,
        operations: Any = nn,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.dit = Denoiser(sizes, operations, {"device": device, "dtype": dtype})

    def forward(self, target: CodeBlock, context: Sequence[CodeBlock]) -> Tensor:
        """The velocity of the target's codes, `b f n c`; all blocks see each other.

        Frames count from the first one that the step sees (section 2.1).
        """
        blocks = (target, *context)
        first = torch.stack([block.frames.min() for block in blocks]).min()
        x = torch.cat([self._embedded(block, first) for block in blocks], dim=1)
        vectors = torch.cat([self.dit.dit.vectors(block) for block in blocks], dim=1)
        cells = [[block.codes.shape[2]] * len(block.frames) for block in blocks]
        counts = torch.tensor(sum(cells, []), device=x.device)
        rows = torch.arange(len(counts), device=x.device).repeat_interleave(counts)
        x = self.dit.dit.dit(x, vectors, rows)[:, : target.tokens]
        velocity: Tensor = self.dit.unpatchify(x, vectors, rows[: target.tokens])
        return velocity.unflatten(1, target.codes.shape[1:3])

    def _embedded(self, block: CodeBlock, first: Tensor) -> Tensor:
        layers = self.dit.patchify
        patched = isinstance(layers, nn.ModuleList)
        projected = (layers[block.level] if patched else layers)(block.codes)
        side = math.isqrt(block.codes.shape[2])
        places = positions(block.frames - first, side, self.sizes.width)
        return (projected + places.to(projected)).flatten(1, 2)


def positions(frames: Tensor, side: int, width: int) -> Tensor:
    """Sin/cos positions `f n width` of the cells of square grids: frame, row, column (2.5)."""
    count = width // (2 * AXES)
    cells = grid_places(side, side, frames.device)
    time = frames.view(-1, 1, 1).expand(-1, len(cells), 1)
    places = torch.cat([time, cells.expand(len(frames), -1, -1)], dim=-1)  # f n 3
    waves = angles(places, count)
    both = torch.stack([waves.sin(), waves.cos()], dim=-2).flatten(-3)
    return nn.functional.pad(both, (0, width - both.shape[-1]))


def patches_of(codes: Tensor, level: int) -> Tensor:
    """Level-0 codes `b f n c` in patches of 2 ** level on a side, `b f n/4**level c*4**level`."""
    side, size = math.isqrt(codes.shape[2]), 2**level
    cells = codes.unflatten(2, (side // size, size, side // size, size))  # b f rows p columns q c
    return cells.permute(0, 1, 2, 4, 6, 3, 5).flatten(4).flatten(2, 3)


def signal_and_noise(time: float) -> tuple[float, float]:
    """Shares alpha and sigma at t in 0..1: 0 is data, 1 is noise (section 2.2, shift 1)."""
    least = math.atan(math.exp(-LOG_SNR_LIMIT / 2))
    most = math.atan(math.exp(LOG_SNR_LIMIT / 2))
    angle = least + time * (most - least)
    return math.cos(angle), math.sin(angle)


def sample_times(steps: int) -> tuple[float, ...]:
    """Noise levels of `steps` evaluations, from 1 down to 0, both included (section 2.4)."""
    return tuple(1.0 - index / max(steps - 1, 1) for index in range(steps))


Velocity = Callable[[Tensor, float], Tensor]
"""What a model says of noisy codes at a noise level: alpha * noise - sigma * data."""

Progress = Callable[[int, Tensor], None]
"""Called after every evaluation with its number, from 1, and the clean codes expected."""


def denoise(noise: Tensor, velocity: Velocity, steps: int, progress: Progress) -> Tensor:
    """Deterministic DDIM from pure noise (section 2.4); gives the clean codes.

    Raises ValueError for less than one step.
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more, got {steps}")
    times = sample_times(steps)
    noisy = clean = noise
    for index, time in enumerate(times):
        alpha, sigma = signal_and_noise(time)
        said = velocity(noisy, time)
        clean, rest = alpha * noisy - sigma * said, alpha * said + sigma * noisy
        progress(index + 1, clean)
        if index + 1 < steps:
            alpha, sigma = signal_and_noise(times[index + 1])
            noisy = alpha * clean + sigma * rest
    return clean
