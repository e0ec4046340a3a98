"""The codes of a video, level by level, while MilliVid's rollout goes over it.

Frames are numbered from the first of the history; what lies further back than the rollout looks can
be dropped, so that a video of any length takes the same memory (arXiv 2606.09056; shared design
`hierarchical-latents.md`, section 3.5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class VideoCodes:
    """Codes `frames n c` of each level from frame `first` on; what is not known yet is zero."""

    def __init__(self, levels: Sequence[Tensor], first: int = 0) -> None:
        self._levels = list(levels)
        self.first = first

    @property
    def stop(self) -> int:
        """The frame after the last."""
        return self.first + len(self._levels[0])

    def extend(self, frames: int) -> None:
        """Make room for frames that are not known yet."""
        for level, codes in enumerate(self._levels):
            blank = codes.new_zeros(frames, *codes.shape[1:])
            self._levels[level] = torch.cat([codes, blank])

    def drop(self, first: int) -> None:
        """Forget the frames before `first`."""
        gone = max(0, first - self.first)
        self._levels = [codes[gone:].clone() for codes in self._levels]
        self.first += gone

    def read(self, level: int, start: int, stop: int) -> Tensor:
        """Codes `f n c` of the frames [start, stop)."""
        assert self.first <= start < stop <= self.stop
        return self._levels[level][start - self.first : stop - self.first]

    def write(self, level: int, start: int, codes: Tensor) -> None:
        """Put codes `f n c` in the place of the frames from `start` on, and nowhere else."""
        self.read(level, start, start + len(codes)).copy_(codes)

    def packed(self, start: int, stop: int) -> Tensor:
        """All levels of some frames as one latent `1 c f 1 n`, finest cells first."""
        parts = [self.read(level, start, stop) for level in range(len(self._levels))]
        return torch.cat(parts, dim=1).permute(2, 0, 1)[None, :, :, None].contiguous()


def unpack_codes(packed: Tensor, cells: Sequence[int]) -> tuple[Tensor, ...]:
    """The levels `f n c` of a latent `1 c f 1 n` that `packed` gave.

    Raises ValueError for a latent of other levels.
    """
    if packed.ndim != 5 or packed.shape[4] != sum(cells):
        raise ValueError(
            f"packed codes must have {sum(cells)} cells per frame, got {list(packed.shape)}"
        )
    return packed[0, :, :, 0].permute(1, 2, 0).split(list(cells), dim=1)
