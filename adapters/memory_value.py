"""The value on the socket TL_MEMORY, and what can be remembered.

Ways to remember ("forms"): `encoder`, one or several trained history encoders whose tokens add up;
and without training `low` (small pictures through the model's own VAE and projection), `framepack`
(larger patches, memory/packing.py) and `window` (whole latent frames).

Latents `b c t h w` come in the VAE's latent space, as ComfyUI's LATENT has them, and are remembered
in the model's input space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..memory.bank import MemoryBank
from ..memory.packing import FRAMEPACK_BUCKETS
from ..memory.rates import Rate
from ..planning.recall import RecallPolicy
from .cache import LatentCache
from .encoders import LoadedEncoder

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

Form = Literal["encoder", "low", "framepack", "window"]

WINDOW_LATENT_FRAMES = 8
"""Of a window that does not say: the sliding window that the paper compares with (v6, table C)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class HistoryClip:
    """Something to remember.

    `latents` (1 c t h w, VAE's space) of which the first `handed` are the end of the clip before
    (`continues`). `caption` are text states 1 n d or None. `frames` are the clip's own pictures
    [n, h, w, 3] where they are known, so that nothing is decoded.
    """

    latents: Tensor
    title: str
    shot: int
    start: int
    pinned: bool
    handed: int = 0
    continues: bool = False
    text: str = ""
    caption: Tensor | None = None
    frames: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Memory:
    """The value on TL_MEMORY. `bank` holds what was given; a film's own segments are added to it by
    a `HistoryWriter` while the film is made.

    `rate` is that of `low`, `window` the latent frames of `window`. `latent_format` is core's, of
    the video model; `dtype` the type that tokens are kept in. `latent_size` (height, width) of what
    the bank was made from, None while it is empty.
    """

    bank: MemoryBank
    form: Form
    encoders: tuple[LoadedEncoder, ...]
    rate: Rate
    window: int
    vae: VAE
    vae_digest: str
    latent_format: Any
    patch: tuple[int, int, int]
    dtype: torch.dtype
    cache: LatentCache
    policy: RecallPolicy
    latent_size: tuple[int, int] | None = None

    @property
    def patcher(self) -> ModelPatcher:
        """By this name ComfyUI finds the models of a node's output."""
        return self.cache.patcher

    @property
    def trained(self) -> bool:
        return bool(self.encoders)

    @property
    def recent_latent_frames(self) -> int:
        """How many of the newest latent frames become one entry, 0 where each segment is one."""
        if self.form == "framepack":
            return sum(bucket.latent_frames for bucket in FRAMEPACK_BUCKETS)
        return self.window if self.form == "window" else 0

    def recalling(self, latent_frames: int) -> Memory:
        """The same memory, reaching back this many latent frames."""
        return replace(self, policy=replace(self.policy, latent_frames=latent_frames))

    def describe(self) -> dict[str, Any]:
        """Everything that affects pixels, as JSON data."""
        policy = self.policy
        return {
            "form": self.form,
            "encoders": [encoder.card.digest for encoder in self.encoders],
            "rate": str(self.rate),
            "window": self.recent_latent_frames,
            "recent": policy.recent,
            "latent_frames": policy.latent_frames,
            "given": [
                [entry.start, *(piece.key for piece in entry.pieces)] for entry in self.bank.entries
            ],
        }

    def view(self, bank: MemoryBank) -> ModelPatcher:
        """The cache's patcher with exactly the tensors of `bank`, to be loaded with a model."""
        return self.cache.view(
            f"{piece.key}-{part}"
            for entry in bank.entries
            for piece in entry.pieces
            for part, leaf in (
                ("low", piece.low),
                ("fine", piece.fine),
                ("hidden", piece.hidden),
            )
            if leaf is not None
        )

    def cross_attention(self, bank: MemoryBank) -> Mapping[str, Tensor] | None:
        """Weights of the add-on that reads the hidden states in `bank`, None where it has none.

        Only pieces of the encoder that brings an add-on hold any (`one_cross_attention`).
        """
        if all(piece.hidden is None for entry in bank.entries for piece in entry.pieces):
            return None
        found = (encoder.cross_attention for encoder in self.encoders)
        return next((weights for weights in found if weights is not None), None)


def empty_bank(memory_encoders: Sequence[LoadedEncoder]) -> MemoryBank:
    """A bank of the encoders' rope mode. Raises ValueError when they were trained in two modes."""
    modes = {encoder.card.rope_mode for encoder in memory_encoders} or {"history_negative"}
    if len(modes) > 1:
        names = " and ".join(encoder.card.name for encoder in memory_encoders)
        raise ValueError(f"encoders must share one rope mode, {names} were trained in two")
    return MemoryBank(entries=(), rope_mode=modes.pop(), trained=bool(memory_encoders))


def one_cross_attention(encoders: Sequence[LoadedEncoder]) -> None:
    """Raises ValueError for two encoders that each bring a cross-attention add-on: nothing in a
    bank tells whose hidden states are whose."""
    names = [encoder.card.name for encoder in encoders if encoder.cross_attention is not None]
    if len(names) > 1:
        raise ValueError(
            "encoder and second_encoder must bring one cross-attention add-on together, got "
            f"{' and '.join(names)}: use one of them, or put each into a memory of its own"
        )
