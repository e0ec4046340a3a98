"""The history encoder: a history of latents becomes few tokens of the video model's own width.

Pretraining Frame Preservation / TinyHistory (arXiv 2512.23851v6, section 3.1, figure 2): a
high-resolution branch of strided 3D convolutions (64-128-256-512, time first) with attention at
the narrowest point is added to a low-resolution branch, which is the video model's own VAE,
patchifier and first projection on the downsampled history. Kernel sizes, heads, causality and the
gate are not stated there and are ours (inferred; AlayaWorld's derivative is close). So is the
shortcut, one linear layer from a cell's latents to the narrowest point: with the convolutions alone
the encoder learned to remember more slowly than one larger patch (measured, docs/log.md).

Everything is causal at the granularity of a cell (`rate.time` latent frames), so that appending
never encodes the past again: `append` continues from an `EncoderState`, and what it gives is what
one call over the whole history gives.

Axes: latents and hidden states are `b c t h w`, tokens `b n d` in the order t, h, w.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rates import Grid, Rate, Rounding, memory_grid
from .recall import Addresses, cell_places, time_code

KERNEL = 3
"""Taps per axis of every convolution (inferred; AlayaWorld and CaR use the same)."""

PAPER_WIDTHS = (64, 128, 256, 512)
"""Channels of the high-resolution branch (paper v6, figure 2)."""

CHANNELS = (0, 1, 2, 2, 3, 3)
"""Which of the four widths each of the six convolutions gives (design, section 1.3)."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of an encoder.

    `in_channels` latent channels; `inner_dim` the video model's width; `patch` its patch size
    (time, height, width); `attention_cells` how many cells back a cell's attention looks, its own
    included; `caption_dim` the width of the text states that a segment's caption comes in, 0 for
    none; `address_dim` the width of the addresses that tokens are found by, 0 for none.
    """

    in_channels: int
    inner_dim: int
    rate: Rate
    rounding: Rounding = "ceil"
    patch: tuple[int, int, int] = (1, 2, 2)
    widths: tuple[int, int, int, int] = PAPER_WIDTHS
    heads: int = 8
    attention_cells: int = 8
    caption_dim: int = 0
    shortcut: bool = True
    address_dim: int = 0

    def __post_init__(self) -> None:
        if self.patch[0] != 1:
            raise ValueError(f"the patch must be one latent frame long, got {self.patch[0]}")
        if self.widths[-1] % self.heads:
            raise ValueError(f"width {self.widths[-1]} must divide by {self.heads} heads")
        if self.address_dim and not self.caption_dim:
            raise ValueError("addresses are made from captions: caption_dim must not be 0")
        halvings = (len(self.strides) - self.strides.count((1, 1, 1)), len(CHANNELS) - 1)
        if halvings[0] > halvings[1]:
            raise ValueError(f"rate {self.rate} needs {halvings[0]} strides, there are 5")

    @property
    def spatial_stride(self) -> tuple[int, int]:
        """Latent rows and columns in one cell."""
        return self.patch[1] * self.rate.height, self.patch[2] * self.rate.width

    @property
    def strides(self) -> tuple[tuple[int, int, int], ...]:
        """Stride of each convolution: time first, then space (paper v6, section 3.1)."""
        time = _halvings(self.rate.time, "time")
        rows = _halvings(self.spatial_stride[0], "height")
        columns = _halvings(self.spatial_stride[1], "width")
        halved = [(2, 1, 1)] * time if time else [(1, 1, 1)]
        for i in range(max(rows, columns)):
            halved.append((1, 2 if i < rows else 1, 2 if i < columns else 1))
        return ((1, 1, 1), *halved, *[(1, 1, 1)] * (len(CHANNELS) - 1 - len(halved)))

    def token_grid(self, latent: torch.Size | tuple[int, ...]) -> Grid:
        """Tokens of the video model for latents `b c t h w`; sides are padded up to whole ones."""
        time, height, width = latent[-3:]
        return Grid(time, -(-height // self.patch[1]), -(-width // self.patch[2]))

    def memory_grid(self, latent: torch.Size | tuple[int, ...]) -> Grid:
        """Cells that latents `b c t h w` become."""
        return memory_grid(self.token_grid(latent), self.rate, self.rounding)


def _halvings(factor: int, axis: str) -> int:
    count = int(math.log2(factor))
    if 2**count != factor:
        raise ValueError(f"the {axis} stride of an encoder must be a power of 2, got {factor}")
    return count


@dataclass(frozen=True)
class EncoderState:
    """What appending needs of the past, of bounded size.

    `pending` latents `b c t h w` that do not fill a cell yet, `contexts` the last frames that each
    convolution read, `keys` and `values` `b cells heads s d` of the last cells.
    """

    pending: Tensor | None = None
    contexts: tuple[Tensor, ...] | None = None
    keys: Tensor | None = None
    values: Tensor | None = None


@dataclass(frozen=True)
class Encoded:
    """Hidden states `b c t h w` at the encoder's own width and tokens `b n d`."""

    hidden: Tensor
    tokens: Tensor


Projection = Callable[[Tensor], Tensor]
"""The video model's patchifier and first projection: latents `b c t h w` to `b d t h w`."""


class HistoryEncoder(nn.Module):
    """The trained part. `operations` is a namespace of layer classes, as ComfyUI's core has them.

    A new one adds nothing to the low-resolution branch: its gate is zero.
    """

    def __init__(
        self,
        config: EncoderConfig,
        operations: Any = nn,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.config = config
        widths = [config.widths[i] for i in CHANNELS]
        self.conv = nn.ModuleList(
            operations.Conv3d(before, after, KERNEL, stride=stride, **place)
            for before, after, stride in zip(
                [config.in_channels, *widths], widths, config.strides, strict=False
            )
        )
        cell = (config.rate.time, *config.spatial_stride)
        self.shortcut = (
            operations.Conv3d(config.in_channels, widths[-1], cell, stride=cell, **place)
            if config.shortcut
            else None
        )
        self.attn = CellAttention(widths[-1], config.heads, operations, place)
        self.caption = (
            CaptionAttention(widths[-1], config.caption_dim, config.heads, operations, place)
            if config.caption_dim
            else None
        )
        self.addresses = (
            Addresses(config.address_dim, config.caption_dim, operations, **place)
            if config.address_dim
            else None
        )
        self.proj = operations.Conv3d(widths[-1], config.inner_dim, 1, **place)
        self.gate = nn.Parameter(torch.zeros(config.inner_dim, **place))

    def forward(
        self, latents: Tensor, low: Tensor, project: Projection, caption: Tensor | None = None
    ) -> Encoded:
        """Encode one whole segment; see `append` and `tokens` for the arguments."""
        done, state = self.append(EncoderState(), latents, caption)
        rest = self.flush(state, caption, latents.shape[2])
        hidden = torch.cat([part for part in (done, rest) if part is not None], dim=2)
        return Encoded(hidden, self.tokens(hidden, low, project))

    def append(
        self,
        state: EncoderState,
        latents: Tensor,
        caption: Tensor | None = None,
        caption_start: int = 0,
    ) -> tuple[Tensor | None, EncoderState]:
        """Hidden states `b c t h w` of the cells that `latents` complete, and the new state.

        `latents` are in the video model's input space. `caption` (b n caption_dim) are the text
        states of their segment, `caption_start` the number of latent frames of that segment which
        were appended before. The given state stays as it is.
        """
        if state.pending is not None:
            caption_start -= state.pending.shape[2]
            latents = torch.cat([state.pending, latents], dim=2)
        whole = latents.shape[2] // self.config.rate.time * self.config.rate.time
        pending = latents[:, :, whole:]
        state = replace(state, pending=pending.clone() if pending.shape[2] else None)
        if not whole:
            return None, state
        return self._cells(state, latents[:, :, :whole], caption, caption_start)

    def flush(
        self, state: EncoderState, caption: Tensor | None = None, caption_start: int = 0
    ) -> Tensor | None:
        """Hidden states of the cell that is not full yet, its last latent frame repeated.

        `caption_start` counts all latent frames of the segment so far.
        """
        if state.pending is None:
            return None
        caption_start -= state.pending.shape[2]
        missing = self.config.rate.time - state.pending.shape[2]
        full = torch.cat([state.pending, *[state.pending[:, :, -1:]] * missing], dim=2)
        return self._cells(state, full, caption, caption_start)[0]

    def tokens(self, hidden: Tensor, low: Tensor, project: Projection) -> Tensor:
        """Memory tokens `b n d`: the low-resolution branch plus the gated high-resolution one.

        `low` (b c cells 2h 2w for a patch of 2) are the downsampled history's latents. Raises
        ValueError when the two grids differ.
        """
        base = project(low)
        if base.shape[2:] != hidden.shape[2:]:
            raise ValueError(
                f"both branches must have one grid, got {tuple(base.shape[2:])} of low resolution "
                f"and {tuple(hidden.shape[2:])} of high"
            )
        return as_tokens(base) + self.fine(hidden)

    def fine(self, hidden: Tensor) -> Tensor:
        """The gated high-resolution branch alone, `b n d`: what is added to the other one."""
        fine = as_tokens(self.proj(hidden))
        return self.gate.to(fine.device, fine.dtype) * fine

    def held_addresses(self, caption: Tensor, grid: Grid, first: float = 0.0) -> Tensor:
        """Addresses `b m w` of memory tokens, in their order, under their segment's caption.

        The first cell begins `first` latent frames into the segment.
        """
        assert self.addresses is not None
        time = self.config.rate.time
        middles = first + torch.arange(grid.time, device=caption.device) * time + (time - 1) / 2
        return self.addresses(caption, cell_places(middles, grid.height, grid.width))

    def asked_addresses(self, caption: Tensor, latent_frames: int, grid: Grid) -> Tensor:
        """Addresses `b k w` of what a shot of this caption asks for: every latent frame at the
        rows and columns of the memory's grid."""
        assert self.addresses is not None
        frames = torch.arange(latent_frames, device=caption.device)
        return self.addresses(caption, cell_places(frames, grid.height, grid.width))

    def _cells(
        self, state: EncoderState, latents: Tensor, caption: Tensor | None, caption_start: int
    ) -> tuple[Tensor, EncoderState]:
        x = fitted = fit_to_cells(latents, self.config)
        contexts = []
        for index, conv in enumerate(self.conv):
            x, context = self._convolve(conv, x, state, index)
            contexts.append(context)
        if self.shortcut is not None:
            x = x + self.shortcut(fitted)
        x, keys, values = self.attn(x, state.keys, state.values, self.config.attention_cells)
        if self.caption is not None and caption is not None:
            x = self.caption(x, caption, caption_start, self.config.rate.time)
        return x, replace(state, contexts=tuple(contexts), keys=keys, values=values)

    def _convolve(
        self, conv: nn.Module, x: Tensor, state: EncoderState, index: int
    ) -> tuple[Tensor, Tensor]:
        """A convolution that looks back only, and the frames that the next call will look back at.

        With stride 2 a cell's own frames are both read: `KERNEL - stride` frames lie before it.
        """
        behind = KERNEL - self.config.strides[index][0]
        context = (
            x.new_zeros(*x.shape[:2], behind, *x.shape[3:])
            if state.contexts is None
            else state.contexts[index]
        )
        x = torch.cat([context, x], dim=2)
        kept = x[:, :, x.shape[2] - behind :].clone()  # a view would hold on to all of x
        return F.silu(conv(F.pad(x, (1, 1, 1, 1)))), kept


def fit_to_cells(latents: Tensor, config: EncoderConfig) -> Tensor:
    """Latents cropped or padded (edge repeated) to whole cells in height and width."""
    grid = config.memory_grid(latents.shape)
    height, width = (
        cells * stride
        for cells, stride in zip((grid.height, grid.width), config.spatial_stride, strict=True)
    )
    latents = latents[..., :height, :width]
    missing = (width - latents.shape[-1], height - latents.shape[-2])
    if not any(missing):
        return latents
    frames = latents.transpose(1, 2).flatten(0, 1)  # (b t) c h w: replicate pads two axes
    frames = F.pad(frames, (0, missing[0], 0, missing[1]), mode="replicate")
    return frames.unflatten(0, (latents.shape[0], -1)).transpose(1, 2)


def as_tokens(x: Tensor) -> Tensor:
    """`b c t h w` to `b (t h w) c`."""
    return x.flatten(2).transpose(1, 2)


class CellAttention(nn.Module):
    """Attention among the cells of a moment and of those before it, pre-normed, residual.

    It goes moment by moment, each over a bounded look-back: no n x n mask, and nothing that grows
    with the history.
    """

    def __init__(self, width: int, heads: int, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.heads = heads
        self.norm = operations.LayerNorm(width, **place)
        self.qkv = operations.Linear(width, 3 * width, **place)
        self.out = operations.Linear(width, width, **place)

    def forward(
        self, x: Tensor, keys: Tensor | None, values: Tensor | None, look_back: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`b c t h w`, the keys and values of earlier moments `b t heads s d`, how many moments a
        moment sees; gives the same shape and the newest keys and values."""
        b, c, t, h, w = x.shape
        moments = x.permute(0, 2, 3, 4, 1).reshape(b, t, h * w, c)
        qkv = self.qkv(self.norm(moments)).view(b, t, h * w, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # each b t heads s d
        earlier = 0 if keys is None else keys.shape[1]
        if keys is not None and values is not None:
            k, v = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        mixed = [
            F.scaled_dot_product_attention(
                q[:, i],
                _moments(k, earlier + i, look_back),
                _moments(v, earlier + i, look_back),
            )
            for i in range(t)
        ]
        joined = torch.stack(mixed, dim=1).transpose(2, 3).reshape(b, t, h * w, c)
        moments = moments + self.out(joined)
        first = max(0, k.shape[1] - (look_back - 1))
        newest = k[:, first:].clone(), v[:, first:].clone()  # views would hold on to all moments
        return moments.view(b, t, h, w, c).permute(0, 4, 1, 2, 3), *newest


def _moments(x: Tensor, last: int, look_back: int) -> Tensor:
    """The moments up to `last` of `b t heads s d` in one row: `b heads n d`."""
    chosen = x[:, max(0, last + 1 - look_back) : last + 1]
    return chosen.transpose(1, 2).flatten(2, 3)


class CaptionAttention(nn.Module):
    """Cells read the caption of their segment, so that a later shot can find them by its own text.

    Ours: the paper does not say how a token is found. A caption often describes motion over the
    segment ("camera 3 to 7"), so a query carries how far into its segment it stands.
    """

    def __init__(
        self, width: int, caption_dim: int, heads: int, operations: Any, place: dict[str, Any]
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm = operations.LayerNorm(width, **place)
        self.q = operations.Linear(width, width, **place)
        self.kv = operations.Linear(caption_dim, 2 * width, **place)
        self.out = operations.Linear(width, width, **place)

    def forward(self, x: Tensor, caption: Tensor, start: int, cell_frames: int) -> Tensor:
        """`b c t h w` after reading `caption` (b n caption_dim)."""
        b, c, t, h, w = x.shape
        moments = x.permute(0, 2, 3, 4, 1)  # b t h w c
        times = start + cell_frames * torch.arange(t, device=x.device)
        q = self.q(self.norm(moments) + time_code(times, c).to(x.dtype)[:, None, None])
        q = q.reshape(b, t * h * w, self.heads, -1).transpose(1, 2)
        kv = self.kv(caption.to(x.dtype)).view(b, -1, 2, self.heads, c // self.heads)
        k, v = kv.permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, h, w, c)
        return (moments + self.out(read)).permute(0, 4, 1, 2, 3)
