"""What every node asks of pictures that are connected to it."""

from __future__ import annotations

import torch


def check_pictures(pictures: torch.Tensor, name: str = "images") -> None:
    """Raises ValueError naming the input for what is not [n, height, width, 3 or more], and for
    values that are not finite, which every later picture would inherit."""
    if pictures.ndim != 4 or pictures.shape[-1] < 3 or 0 in pictures.shape:
        raise ValueError(
            f"{name} must be pictures, height, width, 3 colours, got {tuple(pictures.shape)}"
        )
    if not bool(torch.isfinite(pictures).all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
