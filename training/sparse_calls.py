"""One call of the video model over clean and noisy frames, as sparse sampling sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..adapters.sparse_wan import sparse_positions
from ..planning.layout import Group, Layout
from .video_training import TIMESTEP_SCALE


@dataclass(frozen=True, eq=False)
class Call:
    """The frames of one call: `clean` ids, then `noisy` ids, and who sees whom, a bool
    `frames frames` whose rows look."""

    clean: tuple[int, ...]
    noisy: tuple[int, ...]
    sees: Tensor

    @property
    def ids(self) -> tuple[int, ...]:
        return (*self.clean, *self.noisy)


def clean_groups(layout: Layout, group: Group) -> list[Group]:
    """The groups that must stand clean for one: those it sees and those that they saw."""
    wanted: set[int] = set(group.visible)
    found: list[Group] = []
    for earlier in reversed(layout.groups[: layout.groups.index(group)]):
        if wanted & set(earlier.ids):
            found.append(earlier)
            wanted |= set(earlier.visible)
    return found[::-1]


def make_call(layout: Layout, group: Group) -> Call:
    """Everything clean before a group as at sampling: each group sees itself and its visible."""
    before = clean_groups(layout, group)
    clean = tuple(i for one in before for i in one.ids)
    owners = [one for one in (*before, group) for _ in one.ids]
    ids = (*clean, *group.ids)
    sees = [
        [j in owner.visible or owners[column] is owner for column, j in enumerate(ids)]
        for owner in owners
    ]
    return Call(clean, group.ids, torch.tensor(sees))


class FrameAttention:
    """Self-attention of whole frames by `sees`, an `optimized_attention_override` of core;
    attention to the text is plain."""

    def __init__(self, sees: Tensor, tokens: int) -> None:
        """`tokens` is how many a frame has."""
        blocked = ~sees.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
        self.bias = torch.zeros(blocked.shape).masked_fill(blocked, float("-inf"))

    def __call__(
        self,
        _: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        **kwargs: object,
    ) -> Tensor:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        weights = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
        if q.shape[-2] == k.shape[-2]:
            weights = weights + self.bias
        weights = weights.softmax(-1).to(v.dtype)
        return torch.matmul(weights, v).transpose(1, 2).flatten(2)


def velocity(
    video: Any, call: Call, latents: Tensor, noisy: Tensor, sigma: Tensor, context: Tensor
) -> Tensor:
    """The velocity of the noisy frames `b 16 n h w` at noise levels `sigma` (b), where `latents`
    `b 16 t h w` are the whole segment, of which the clean frames are taken."""
    x = torch.cat([latents[:, :, list(call.clean)], noisy], dim=2)
    known = torch.zeros(len(x), len(call.clean))
    times = torch.cat([known, sigma[:, None].expand(-1, len(call.noisy))], dim=1)
    height, width = x.shape[-2] // video.patch_size[1], x.shape[-1] // video.patch_size[2]
    attention = FrameAttention(call.sees, height * width)
    out = video.forward_orig(
        x,
        times * TIMESTEP_SCALE,
        context,
        freqs=sparse_positions(video, x, call.ids, {}),
        transformer_options={"optimized_attention_override": attention},
    )
    return out[:, :, len(call.clean) :]
