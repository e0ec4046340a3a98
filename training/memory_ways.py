"""The ways to remember that are trained side by side: they share the LoRA and the data.

An encoder at each rate; what it is compared with: its low-resolution branch alone, FramePack's
larger patches over the whole history or in its buckets, and a window of the newest latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..memory.encoder import EncoderConfig, HistoryEncoder, as_tokens
from ..memory.packing import FRAMEPACK_BUCKETS, Bucket, PatchPacker, packed_spans
from ..memory.positions import memory_positions
from ..memory.rates import Grid, Rate
from .address_warm_up import missed_likeness
from .memory_data import StepTensors
from .memory_model import MemoryModel
from .memory_plan import HistoryPlan, Task

TRAINED_BUCKETS = tuple(
    Bucket(bucket.rate, 3 * bucket.latent_frames) for bucket in FRAMEPACK_BUCKETS
)
"""FramePack's buckets, three times as long: as many tokens as the 2x2x2 encoder makes of six shots
of the demo world, so that the comparison is at equal context."""

Kind = Literal["encoder", "low", "packed", "framepack", "window", "none"]


@dataclass(frozen=True)
class Way:
    """One way to remember. `rate` where the kind has one, `window` in latent frames."""

    kind: Kind
    rate: Rate | None = None
    window: int = 5

    def __str__(self) -> str:
        return self.kind if self.rate is None else f"{self.kind} {self.rate}"

    @staticmethod
    def parse(text: str) -> Way:
        kind, _, rate = text.partition(" ")
        return Way(kind, Rate.parse(rate) if rate else None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class MemoryTokens:
    """Tokens h m d and positions h m 3 of the histories of a step; addresses h m w, or None."""

    tokens: Tensor
    positions: Tensor
    addresses: Tensor | None = None


@dataclass(frozen=True)
class Read:
    """Tokens q m d and positions q m 3 of every query, and how far its addresses are from what is
    really alike (cross-entropy; 0 where nothing is recalled)."""

    tokens: Tensor
    positions: Tensor
    missed: Tensor


class MemoryWays(nn.Module):
    """The trained parts of all ways; `packed` without FramePack's larger patches has none."""

    def __init__(
        self, model: MemoryModel, encoders: tuple[EncoderConfig, ...], packed: bool = True
    ) -> None:
        super().__init__()
        channels = encoders[0].in_channels
        self.encoders = nn.ModuleDict({str(c.rate): HistoryEncoder(c) for c in encoders})
        rates = (
            {*(c.rate for c in encoders), *(b.rate for b in FRAMEPACK_BUCKETS)} if packed else ()
        )
        self.packers = nn.ModuleDict(
            {
                str(rate): PatchPacker(channels, model.inner_dim, rate, model.patch)
                for rate in sorted(rates, key=str)
            }
        )
        own = model.patch_projection
        for packer in self.packers.values():
            packer.tile(own.weight, own.bias)

    def forward(
        self,
        way: Way,
        model: MemoryModel,
        step: StepTensors,
        plans: tuple[HistoryPlan, ...],
        buckets: tuple[Bucket, ...] = TRAINED_BUCKETS,
    ) -> MemoryTokens:
        """What each history of the step is remembered as."""
        histories, segments, _, frames, height, width = step.latents.shape
        grid = Grid(frames, height // model.patch[1], width // model.patch[2])
        if way.kind == "none":
            return MemoryTokens(
                step.latents.new_zeros(histories, 0, model.inner_dim),
                step.latents.new_zeros(histories, 0, 3),
            )
        if way.kind in ("framepack", "window"):
            return self._recent(way, model, step, plans, buckets)
        assert way.rate is not None
        addresses: Tensor | None = None
        flat = step.latents.flatten(0, 1)
        low = step.low[str(way.rate)].flatten(0, 1) if str(way.rate) in step.low else flat
        if way.kind == "encoder":
            encoder = self.encoders[str(way.rate)]
            captions = step.captions.flatten(0, 1)
            tokens = encoder(flat, low, model.project, captions).tokens
            if encoder.addresses is not None:
                cells = encoder.config.memory_grid(flat.shape)
                addresses = encoder.held_addresses(captions, cells)
                addresses = addresses.reshape(histories, -1, addresses.shape[-1])
        elif way.kind == "low":
            tokens = as_tokens(model.project(low))
        else:
            tokens = self.packers[str(way.rate)](flat)
        positions = torch.stack(
            [
                torch.cat(
                    [
                        memory_positions(grid, way.rate, "ceil", plan.start(i, frames))
                        for i in range(segments)
                    ]
                )
                for plan in plans
            ]
        )
        tokens = tokens.reshape(histories, -1, tokens.shape[-1])
        return MemoryTokens(tokens, positions.to(tokens.device), addresses)

    def read(
        self, way: Way, memory: MemoryTokens, task: Task, step: StepTensors, whose: Tensor
    ) -> Read:
        """What every query reads; `whose` (q) is the history it reads.

        A shot after the history also gets what its caption recalls, at its own times.
        """
        tokens, positions = memory.tokens[whose], memory.positions[whose]
        if memory.addresses is None or task == "frames":
            return Read(tokens, positions, tokens.new_zeros(()))
        encoder = self.encoders[str(way.rate)]
        shape = step.targets.shape
        cells = encoder.config.memory_grid(shape)
        asked = encoder.asked_addresses(step.text, shape[2], cells)
        weights = encoder.addresses.weights(asked, memory.addresses[whose])
        recalled = torch.matmul(weights.to(tokens.dtype), tokens)
        each = Rate(way.rate.height, way.rate.width, 1)
        places = memory_positions(encoder.config.token_grid(shape), each, "ceil")
        places = places.to(positions).expand(len(tokens), -1, -1).clone()
        places[..., 0] += step.start.to(places)[:, None]
        missed = missed_likeness(encoder, step, weights)
        return Read(
            torch.cat([tokens, recalled], dim=1), torch.cat([positions, places], dim=1), missed
        )

    def _recent(
        self,
        way: Way,
        model: MemoryModel,
        step: StepTensors,
        plans: tuple[HistoryPlan, ...],
        buckets: tuple[Bucket, ...],
    ) -> MemoryTokens:
        """The newest latent frames in buckets; a window is one bucket at full resolution."""
        if way.kind == "window":
            buckets = (Bucket(Rate(1, 1, 1), way.window),)
        film = step.latents.transpose(2, 3).flatten(1, 2).transpose(1, 2)  # h c (s t) h w
        height, width = film.shape[-2] // model.patch[1], film.shape[-1] // model.patch[2]
        tokens, positions = [], []
        for span in packed_spans(film.shape[2], buckets):
            piece = film[:, :, span.first : span.stop]
            whole = span.rate.volume == 1
            pack = model.project if whole else self.packers[str(span.rate)]
            tokens.append(as_tokens(pack(piece)) if whole else pack(piece))
            # the newest segment ends at time 0
            start = span.first - film.shape[2]
            places = memory_positions(span.grid(height, width), span.rate, "ceil", start)
            positions.append(places.expand(len(plans), -1, -1))
        joined = torch.cat(tokens, dim=1)
        return MemoryTokens(joined, torch.cat(positions, dim=1).to(joined.device))
