"""Learned heads: a small autoencoder over the latents of a video model, every level a whole code.

One encoder makes the codes of all levels at once; the decoder is given one level, all others are
zero, and draws the latent frame from it. Training keeps one level per sample, which is all that
makes the levels complete (MilliVid, arXiv 2606.09056, section 3; shared design
`hierarchical-latents.md`, 1.2 to 1.4 and 7.2). Frames never see each other.

Two kinds: `TokenHead` is a transformer over the tokens of all levels, `ConvolutionHead` works on
grids of any size at a cost that grows with their area. Level 0 is the latent itself in both.

Axes: latents `b c t h w`; frames `f c h w` with f = (b t); tokens `f n d`; codes `b t n c`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .hierarchy import (
    PATCH,
    HierarchyGrid,
    as_frames,
    as_latents,
    check_channels,
    check_codes,
    from_patches,
    grid_of,
    pyramid,
    repeated,
    to_patches,
)

HeadKind = Literal["tokens", "convolution"]
TEMPERATURE = 10_000.0  # of the sines of positions (paper; repository dcharatan/millivid)
FRAMES_AT_ONCE = 64
"""Latent frames that a head works on at a time, so that a long video needs no more memory."""
PLAIN_TOKENS = 160
"""Up to here attention is written out, see `attend`."""
ATTENTION_CELLS = 400
"""The convolutional head attends on grids up to this size (design, 7.2)."""


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of a learned head.

    `width` is that of the transformer, or of the finest grid of the convolutional head, which
    doubles per level and ends at four times as much; `blocks` are those of the encoder and again
    of the decoder.
    """

    kind: HeadKind = "tokens"
    channels: int = 16
    levels: int = 3
    code: int = 32
    width: int = 128
    blocks: int = 3
    heads: int = 4
    patch: int = PATCH

    def __post_init__(self) -> None:
        sizes = (self.channels, self.code, self.width, self.blocks, self.heads, self.patch)
        if min(sizes) < 1 or self.levels < 2:
            raise ValueError(f"a head needs two levels or more and sizes of 1 or more, got {self}")
        if self.width % (4 * self.heads):
            raise ValueError(
                f"the width of a head must be a multiple of four times its {self.heads} attention "
                f"heads, got {self.width}"
            )

    @property
    def code_channels(self) -> tuple[int, ...]:
        """Channels of a token per level: a patch at level 0, `code` above it."""
        return (self.channels * self.patch**2, *(self.code,) * (self.levels - 1))


class LearnedHead(nn.Module, ABC):
    """What both kinds share: frames are cut out, checked and worked on a few at a time."""

    def __init__(self, config: HeadConfig, name: str) -> None:
        super().__init__()
        self.config, self.name = config, name

    @property
    def levels(self) -> int:
        return self.config.levels

    @property
    def code_channels(self) -> tuple[int, ...]:
        return self.config.code_channels

    def encode(self, latents: Tensor, first: Tensor | None = None) -> tuple[Tensor, ...]:
        """See HierarchyHead. Codes of level 1 and above lie in -1..1."""
        check_channels(latents, self.config.channels)
        grid = grid_of(latents, self.levels, self.config.patch)
        marks = repeated(first, len(latents), latents.shape[2], latents.device)
        parts = [
            self.encode_frames(frames, marked, grid)
            for frames, marked in zip(
                as_frames(latents).split(FRAMES_AT_ONCE), marks.split(FRAMES_AT_ONCE), strict=True
            )
        ]
        shape = (len(latents), -1)
        return tuple(torch.cat(level).unflatten(0, shape) for level in zip(*parts, strict=True))

    def decode(
        self, level: int, codes: Tensor, grid: HierarchyGrid, first: Tensor | None = None
    ) -> Tensor:
        """See HierarchyHead. Level 0 needs no weights: it is the latent."""
        check_codes(level, codes, grid, self.code_channels)
        flat = codes.flatten(0, 1)
        if level == 0:
            frames = from_patches(flat, grid.rows(0), self.config.patch)
        else:
            marks = repeated(first, len(codes), codes.shape[1], codes.device)
            parts = zip(flat.split(FRAMES_AT_ONCE), marks.split(FRAMES_AT_ONCE), strict=True)
            frames = torch.cat(
                [self.decode_frames(level, part, marked, grid)[0] for part, marked in parts]
            )
        return as_latents(frames[..., : grid.height, : grid.width], len(codes))

    @abstractmethod
    def encode_frames(self, frames: Tensor, first: Tensor, grid: HierarchyGrid) -> list[Tensor]:
        """Codes `f n c` of all levels of frames `f c h w`, marked `f` as single pictures."""

    @abstractmethod
    def decode_frames(
        self, level: int, codes: Tensor, first: Tensor, grid: HierarchyGrid
    ) -> list[Tensor]:
        """Frames at every level, `f c h w` finest first, from codes `f n c` of one level; only
        the first is a picture, the others make the training faster (paper, section 3)."""


class TokenHead(LearnedHead):
    """A transformer over the tokens of all levels of a latent frame (design, 7.2)."""

    def __init__(self, config: HeadConfig, name: str = "") -> None:
        super().__init__(config, name)
        width, patch = config.width, config.channels * config.patch**2
        self.patch_in = nn.Linear(patch, width)
        self.code_in = nn.Linear(config.code, width)
        self.level = nn.Embedding(config.levels, width)
        self.single = nn.Embedding(2, width)
        self.encoder = nn.ModuleList(
            Block(width, config.heads, conditioned=False) for _ in range(config.blocks)
        )
        self.encoder_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.code_out = nn.Linear(width, config.code)
        self.decoder = nn.ModuleList(
            Block(width, config.heads, conditioned=True) for _ in range(config.blocks)
        )
        self.decoder_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.patch_out = nn.Linear(width, patch)

    def encode_frames(self, frames: Tensor, first: Tensor, grid: HierarchyGrid) -> list[Tensor]:
        """See LearnedHead."""
        patches = [to_patches(each, grid.patch) for each in pyramid(frames, grid)]
        x = self.patch_in(torch.cat(patches, dim=1)) + self._places(grid, frames.device)
        x = x + self.single(first.long())[:, None]
        for block in self.encoder:
            x = block(x)
        codes = torch.tanh(self.code_out(self.encoder_norm(x))).split(grid.tokens, dim=1)
        return [patches[0], *codes[1:]]

    def decode_frames(
        self, level: int, codes: Tensor, first: Tensor, grid: HierarchyGrid
    ) -> list[Tensor]:
        """See LearnedHead."""
        given = [codes.new_zeros(len(codes), n, self.config.code) for n in grid.tokens]
        given[level] = codes
        x = self.code_in(torch.cat(given, dim=1)) + self._places(grid, codes.device)
        condition = self.level.weight[level] + self.single(first.long())
        for block in self.decoder:
            x = block(x, condition[:, None])
        tokens = self.patch_out(self.decoder_norm(x)).split(grid.tokens, dim=1)
        return [
            from_patches(each, grid.rows(index), grid.patch) for index, each in enumerate(tokens)
        ]

    def _places(self, grid: HierarchyGrid, device: torch.device) -> Tensor:
        """What a token's place and level add, `n d`."""
        places = [
            plane_code(grid.centres(level).to(device), self.config.width) + self.level.weight[level]
            for level in range(grid.levels)
        ]
        return torch.cat(places)


def plane_code(centres: Tensor, width: int) -> Tensor:
    """Sines and cosines of row and column (`n 2`, in level-0 tokens), `n width`."""
    count = width // 4
    rates = TEMPERATURE ** (-torch.arange(count, device=centres.device) / max(1, count - 1))
    angles = centres[:, :, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


class Block(nn.Module):
    """A pre-norm transformer block over `f n d`; a condition `f 1 d` scales, shifts and gates it
    (adaLN-Zero: it begins as the identity)."""

    def __init__(self, width: int, heads: int, conditioned: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(width // heads)
        self.k_norm = nn.RMSNorm(width // heads)
        self.mix = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.feed_in = nn.Linear(width, 4 * width)
        self.feed_out = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width) if conditioned else None
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        if self.modulation is None or condition is None:
            x = x + self._attend(self.norm(x))
            return x + self._feed(self.feed_norm(x))
        shift, scale, gate, feed_shift, feed_scale, feed_gate = self.modulation(
            F.silu(condition)
        ).chunk(6, dim=-1)
        x = x + gate * self._attend(self.norm(x) * (1 + scale) + shift)
        return x + feed_gate * self._feed(self.feed_norm(x) * (1 + feed_scale) + feed_shift)

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = attend(self.q_norm(q.float()), self.k_norm(k.float()), v)
        return self.mix(read.transpose(1, 2).flatten(2))

    def _feed(self, x: Tensor) -> Tensor:
        return self.feed_out(F.gelu(self.feed_in(x), approximate="tanh"))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of `b h m d`; `mask` (bool, True is seen) broadcasts to `b h m m`.

    Over few tokens the written-out products are twice as fast on a CPU, forward and backward in
    bfloat16, as the fused kernel (0.18 s -> 0.11 s for a step of the planner's training).
    """
    if q.shape[-2] > PLAIN_TOKENS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    weights = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    if mask is not None:
        weights = weights.masked_fill(~mask, -torch.inf)
    return torch.matmul(weights.softmax(-1).to(v.dtype), v)


class ConvolutionHead(LearnedHead):
    """Residual blocks that halve the grid level by level, and back (design, 7.2)."""

    def __init__(self, config: HeadConfig, name: str = "") -> None:
        super().__init__(config, name)
        widths = [config.width * min(4, 1 << level) for level in range(config.levels)]
        patch = config.channels * config.patch**2
        self.patch_in = nn.Conv2d(patch, widths[0], 1)
        self.single_in = nn.Embedding(2, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(fine, coarse, 2, stride=2),
                *(GridBlock(coarse, config.heads) for _ in range(config.blocks)),
            )
            for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.code_out = nn.ModuleList(nn.Conv2d(wide, config.code, 1) for wide in widths[1:])
        self.code_in = nn.ModuleList(nn.Conv2d(config.code, wide, 1) for wide in widths[1:])
        self.up = nn.ModuleList(
            nn.Sequential(
                *(GridBlock(coarse, config.heads) for _ in range(config.blocks)),
                nn.ConvTranspose2d(coarse, fine, 2, stride=2),
            )
            for fine, coarse in zip(widths, widths[1:], strict=False)
        )
        self.single_out = nn.Embedding(2, widths[0])
        self.last = GridBlock(widths[0], config.heads)
        self.picture = nn.ModuleList(nn.Conv2d(wide, patch, 1) for wide in widths)

    def encode_frames(self, frames: Tensor, first: Tensor, grid: HierarchyGrid) -> list[Tensor]:
        """See LearnedHead."""
        patches = to_patches(pyramid(frames, grid)[0], grid.patch)
        x = self.patch_in(as_grid(patches, grid.rows(0)))
        x = x + self.single_in(first.long())[:, :, None, None]
        codes = [patches]
        for down, out in zip(self.down, self.code_out, strict=True):
            x = down(filled_even(x))
            codes.append(torch.tanh(out(x)).flatten(2).transpose(1, 2))
        return codes

    def decode_frames(
        self, level: int, codes: Tensor, first: Tensor, grid: HierarchyGrid
    ) -> list[Tensor]:
        """See LearnedHead. Grids coarser than the given level are not drawn."""
        x = self.code_in[level - 1](as_grid(codes, grid.rows(level)))
        drawn = []
        for finer in reversed(range(level)):
            drawn.append(self._picture(finer + 1, x, grid))
            x = self.up[finer](x)[..., : grid.rows(finer), : grid.columns(finer)]
        x = self.last(x + self.single_out(first.long())[:, :, None, None])
        return [self._picture(0, x, grid), *reversed(drawn)]

    def _picture(self, level: int, x: Tensor, grid: HierarchyGrid) -> Tensor:
        tokens = self.picture[level](x).flatten(2).transpose(1, 2)
        return from_patches(tokens, grid.rows(level), grid.patch)


class GridBlock(nn.Module):
    """A residual block on a grid `f c h w`, with attention where the grid is small."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(1, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.attention_norm = nn.GroupNorm(1, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.second(F.silu(self.first(F.silu(self.norm(x)))))
        if x.shape[-2] * x.shape[-1] > ATTENTION_CELLS:
            return x
        q, k, v = (
            self.qkv(self.attention_norm(x)).unflatten(1, (3, self.heads, -1)).flatten(4)
        ).permute(1, 0, 2, 4, 3)
        read = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape)
        return x + self.mix(read)


def as_grid(tokens: Tensor, rows: int) -> Tensor:
    """Tokens `f n d` -> `f d rows columns`."""
    return tokens.transpose(1, 2).unflatten(2, (rows, -1))


def filled_even(x: Tensor) -> Tensor:
    """`f c h w` with an odd side filled up by its last row or column."""
    missing = (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)
    return F.pad(x, missing, mode="replicate") if any(missing) else x


HEADS = {"tokens": TokenHead, "convolution": ConvolutionHead}


def build_head(config: HeadConfig, name: str = "") -> LearnedHead:
    """A head of these sizes with random weights. Raises ValueError for an unknown kind."""
    if config.kind not in HEADS:
        raise ValueError(f"kind of a head must be one of {', '.join(HEADS)}, got {config.kind}")
    return HEADS[config.kind](config, name)


def head_loss(head: LearnedHead, frames: Tensor, first: Tensor, level: int) -> Tensor:
    """Error of the latents that one level alone gives back, frames `f c h w`.

    Every level of the drawn pyramid weighs the same (a token of level l stands for 4^l of level 0),
    and the gradients of the picture count a tenth (design, 1.4 and 7.2).
    """
    grid = grid_of(frames, head.levels, head.config.patch)
    codes = head.encode_frames(frames, first, grid)[level]
    drawn, truth = head.decode_frames(level, codes, first, grid), pyramid(frames, grid)
    loss = sum(
        (made - wanted).square().mean() for made, wanted in zip(drawn, truth, strict=False)
    ) + GRADIENT_WEIGHT * gradient_distance(drawn[0], truth[0])
    assert isinstance(loss, Tensor)
    return loss


GRADIENT_WEIGHT = 0.1  # design, 7.2


def gradient_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the spatial gradients of `f c h w`."""
    difference = a - b
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def psnr_of_latents(a: Tensor, b: Tensor, peak: float = 1.0) -> float:
    """Decibels between normalised latents; `peak` 1 is one standard deviation of a latent."""
    error = (a - b).square().mean().clamp(min=1e-12)
    return float(10 * torch.log10(peak**2 / error))
