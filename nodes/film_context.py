"""Keyframes as context of a segment, for weights that see further pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..adapters.family import Conditioning
from ..planning.segments import Segment

if TYPE_CHECKING:
    import torch

    from .film import Film


class ContextPictures:
    """Encodes what each segment sees beside its first and last frame, once for all segments that
    see the same. Lives as long as a run."""

    def __init__(self, film: Film) -> None:
        self._film = film
        self._encoded: tuple[tuple[int, ...], list[torch.Tensor]] = ((), [])

    def attach(
        self, segment: Segment, positive: Conditioning, negative: Conditioning
    ) -> tuple[Conditioning, Conditioning]:
        """Both conditionings with the segment's context; the given ones stay as they are."""
        weights, shots = self._film.keyframes.weights, segment.context_keyframes
        if weights is None or not shots:
            return positive, negative
        if self._encoded[0] != shots:
            request = self._film.request
            pictures = [self._film.keyframes.picture(shot) for shot in shots]
            latents = weights.encode(request.vae, pictures, request.height, request.width)
            self._encoded = (shots, latents)
        return weights.attach(positive, negative, self._encoded[1])
