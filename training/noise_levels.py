"""How noise levels are drawn in the trainings."""

from __future__ import annotations

from torch import Tensor


def shifted(uniform: Tensor, shift: float) -> Tensor:
    """Noise levels in 0..1 from uniform numbers in 0..1; a shift above 1 draws high ones more often
    (the time shift of flow models, arXiv 2403.03206, section 5.3.2)."""
    return shift * uniform / (1 + (shift - 1) * uniform)
