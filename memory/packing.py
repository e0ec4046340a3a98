"""Memory by larger patches, the way of FramePack: no trained encoder.

FramePack (arXiv 2504.12626, hunyuan_video_packed.py): older frames go through copies of the
model's patch projection with larger kernels, initialised by tiling the model's own and dividing by
the ratio of the volumes, so that a constant history gives the token that the model knows. Untrained
it is a blur of the history; the kernels are meant to be trained.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .encoder import as_tokens
from .rates import Grid, Rate


class PatchPacker(nn.Module):
    """One larger patchifier: latents `b c t h w` to tokens `b n d` at a rate.

    Sides that do not divide are padded by repeating the edge, as FramePack does.
    """

    def __init__(
        self,
        in_channels: int,
        inner_dim: int,
        rate: Rate,
        patch: tuple[int, int, int] = (1, 2, 2),
        operations: Any = nn,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        kernel = (patch[0] * rate.time, patch[1] * rate.height, patch[2] * rate.width)
        self.rate, self.kernel = rate, kernel
        self.proj = operations.Conv3d(
            in_channels, inner_dim, kernel, stride=kernel, device=device, dtype=dtype
        )

    @torch.no_grad()
    def tile(self, weight: Tensor, bias: Tensor | None) -> None:
        """Initialise from the model's first projection `d c 1 h w`; its channels beyond the
        latent's are left out, they are zero for a history."""
        own = self.proj.weight
        repeats = [k // p for k, p in zip(self.kernel, weight.shape[2:], strict=True)]
        tiled = weight[:, : own.shape[1]].to(own).repeat(1, 1, *repeats) / self.rate.volume
        own.copy_(tiled)
        if bias is None:
            self.proj.bias.zero_()
        else:
            self.proj.bias.copy_(bias)

    def forward(self, latents: Tensor) -> Tensor:
        """Tokens `b n d`, in the order t, h, w of the cells."""
        return as_tokens(self.proj(pad_to(latents, self.kernel)))


def pad_to(latents: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    """Repeat the last frame, row and column until every side divides by the kernel's."""
    for axis, size in zip((2, 3, 4), kernel, strict=True):
        missing = -latents.shape[axis] % size
        if missing:
            edge = latents.narrow(axis, latents.shape[axis] - 1, 1)
            latents = torch.cat([latents, *[edge] * missing], dim=axis)
    return latents


@dataclass(frozen=True)
class Bucket:
    """The `latent_frames` next older ones of a history, kept at `rate`."""

    rate: Rate
    latent_frames: int


FRAMEPACK_BUCKETS = (
    Bucket(Rate(1, 1, 1), 1),
    Bucket(Rate(2, 2, 2), 2),
    Bucket(Rate(4, 4, 4), 16),
)
"""FramePack's released model: 1 latent frame at 1x, 2 at 2x, 16 at 4x (demo_gradio_f1.py)."""


@dataclass(frozen=True)
class PackedSpan:
    """Latent frames first .. stop of a history, kept at `rate`."""

    rate: Rate
    first: int
    stop: int

    def grid(self, height: int, width: int) -> Grid:
        """Their grid in tokens of the model, of which a packer makes cells."""
        return Grid(self.stop - self.first, height, width)


def packed_spans(
    latent_frames: int, buckets: tuple[Bucket, ...] = FRAMEPACK_BUCKETS
) -> tuple[PackedSpan, ...]:
    """What of a history each bucket takes, newest first in `buckets`, oldest first in the result.

    What is older than all buckets is dropped: FramePack's budget is constant.
    """
    spans, stop = [], latent_frames
    for bucket in buckets:
        first = max(0, stop - bucket.latent_frames)
        if first < stop:
            spans.append(PackedSpan(bucket.rate, first, stop))
        stop = first
    return tuple(reversed(spans))
