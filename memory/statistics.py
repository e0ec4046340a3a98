"""Statistics of a segment's latent, recorded at every hop. Axes: b c t h w."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def latent_statistics(latent: torch.Tensor, known_latent_frames: int) -> dict[str, float]:
    """Measures of the new latent frames of a segment (b c t h w), in the latent's own units.

    `mean` and `std` over everything; `detail`, the mean absolute difference of neighbouring cells
    (softening lowers it); `motion`, of neighbouring latent frames; `seam`, of the first new latent
    frame to the last known one, relative to `motion` (1.0 is a seam that does not show).
    `motion` is 0 and `seam` 1.0 where there is nothing to compare. Definitions are ours.
    """
    new = latent[:, :, known_latent_frames:].float()
    steps = (new[:, :, 1:] - new[:, :, :-1]).abs()
    motion = float(steps.mean()) if steps.numel() else 0.0
    seam = 1.0
    if known_latent_frames and motion > 0.0:
        handed = latent[:, :, known_latent_frames - 1].float()
        seam = float((new[:, :, 0] - handed).abs().mean()) / motion
    across = [
        (new[..., 1:, :] - new[..., :-1, :]).abs().flatten(),
        (new[..., 1:] - new[..., :-1]).abs().flatten(),
    ]
    differences = torch.cat(across)
    return {
        "mean": float(new.mean()),
        "std": float(new.std(correction=0)),
        "detail": float(differences.mean()) if differences.numel() else 0.0,
        "motion": motion,
        "seam": seam,
    }


def hop(statistics: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Ratio of a segment's measures to those of the segment before (1.0 is no drift)."""
    names = ("std", "detail", "motion")
    return {
        f"{name}_ratio": statistics[name] / before[name] for name in names if before[name] > 0.0
    }
