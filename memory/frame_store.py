"""Keys and values of finished latent frames, as one network block has made them.

MMPL (arXiv 2508.03334; shared design `macro-micro-planning.md`, section 2.4): while a group of
latent frames is denoised it reads what earlier groups left behind, some of their frames only. One
tensor holds what one group left in one block and one pass of the guidance:
[2 (keys, values), b, frames, tokens of a frame, width].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class StoredGroup:
    """The frames of one finished group in the order in which they are held, and the beginning of
    the names under which their keys and values are kept."""

    ids: tuple[int, ...]
    name: str

    def key(self, branch: int, block: int) -> str:
        """The name of one tensor: pass of the guidance (0 wanted, 1 unwanted) and block."""
        return f"{self.name}-{branch}-{block}"


@dataclass(frozen=True, kw_only=True)
class VisibleFrames:
    """What a group reads of an earlier one: these of its frames."""

    group: StoredGroup
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        missing = set(self.ids) - set(self.group.ids)
        if missing or not self.ids:
            raise ValueError(
                f"visible frames must be some of {self.group.ids}, got {self.ids or 'none'}"
            )


def visible_frames(
    stored: Sequence[StoredGroup], visible: Sequence[int]
) -> tuple[VisibleFrames, ...]:
    """Where each visible frame is kept. Raises ValueError for a frame that nothing has left."""
    wanted = set(visible)
    found = []
    for group in stored:
        ids = tuple(i for i in group.ids if i in wanted)
        wanted -= set(ids)
        if ids:
            found.append(VisibleFrames(group=group, ids=ids))
    if wanted:
        raise ValueError(f"frames {sorted(wanted)} must be finished before they can be seen")
    return tuple(found)


def pack_frames(keys: Tensor, values: Tensor, frames: int) -> Tensor:
    """Keys and values `b n d` of a group, n tokens over `frames`, as one tensor to keep."""
    return torch.stack((keys, values)).unflatten(2, (frames, -1))


def read_frames(stored: Tensor, visible: VisibleFrames) -> tuple[Tensor, Tensor]:
    """Keys and values `b n d` of the visible frames of a kept tensor."""
    if visible.ids != visible.group.ids:
        stored = stored[:, :, [visible.group.ids.index(i) for i in visible.ids]]
    keys, values = stored.flatten(2, 3)
    return keys, values
