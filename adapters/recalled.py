"""What a shot recalls: tokens of the history that its own caption finds, put at its own times.

See memory/recall.py. The bank stays as it is; what is recalled is one more entry of a new one.
"""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management
import torch
from torch import Tensor

from ..memory.bank import MemoryBank, MemoryEntry, MemoryPiece
from ..memory.positions import memory_positions
from ..memory.rates import Grid, Rate
from ..memory.recall import low_patches, recalled_low
from .cache import LatentCache, read_cached
from .encoders import LoadedEncoder
from .pieces import digest, tensor_bytes

CPU = torch.device("cpu")


def with_recalled(
    bank: MemoryBank,
    encoders: Sequence[LoadedEncoder],
    cache: LatentCache,
    dtype: torch.dtype,
    caption: Tensor,
    latent: tuple[int, int, int],
    start: int,
) -> MemoryBank:
    """The bank with what a shot of `latent` (frames, height, width) at time `start` recalls of it.

    `caption` are the shot's text states 1 n d. Encoders without addresses, or for texts of another
    width, recall nothing; nor do entries that had no caption.
    """
    pieces = []
    for encoder in encoders:
        held = [
            piece
            for entry in bank.entries
            for piece in entry.pieces
            if piece.form == f"encoder {encoder.card.rate}" and piece.addresses is not None
        ]
        reads = encoder.card.address_dim and caption.shape[-1] == encoder.card.caption_dim
        if held and reads:
            pieces.append(_recalled(encoder, held, cache, dtype, caption, latent))
    if not pieces:
        return bank
    entry = MemoryEntry(
        key=digest(*(piece.key for piece in pieces)),
        title="recalled",
        caption="",
        shot=0,
        start=start,
        latent_frames=latent[0],
        pinned=False,
        picture=None,
        pieces=tuple(pieces),
    )
    return bank.with_entries([entry])


@torch.no_grad()
def _recalled(
    loaded: LoadedEncoder,
    held: Sequence[MemoryPiece],
    cache: LatentCache,
    dtype: torch.dtype,
    caption: Tensor,
    latent: tuple[int, int, int],
) -> MemoryPiece:
    card, config = loaded.card, loaded.card.config
    cells = config.memory_grid((1, card.in_channels, *latent))
    grid = Grid(latent[0], cells.height, cells.width)
    rate = Rate(card.rate.height, card.rate.width, 1)
    key = digest(
        "recalled", card.digest, str(latent), tensor_bytes(caption), *(p.key for p in held)
    )
    low, fine = cache.get(f"{key}-low"), cache.get(f"{key}-fine")
    if low is None or fine is None:
        weights = _weights(loaded, held, caption, grid)
        parts = [_float(piece.low) for piece in held]
        patches = torch.cat([low_patches(part, config.patch[1:]) for part in parts])
        mixed = recalled_low(weights, patches, config.patch[1:], grid)
        low = cache.add(f"{key}-low", mixed.to(CPU, dtype))
        tokens = torch.cat([_float(piece.fine) for piece in held])
        fine = cache.add(f"{key}-fine", torch.matmul(weights, tokens).to(CPU, dtype))
    return MemoryPiece(
        key=key,
        form=f"recalled {card.rate}",
        rate=rate,
        low=low,
        fine=fine,
        hidden=None,
        positions=memory_positions(
            config.token_grid((1, card.in_channels, *latent)), rate, card.rounding
        ),
    )


def _weights(
    loaded: LoadedEncoder, held: Sequence[MemoryPiece], caption: Tensor, grid: Grid
) -> Tensor:
    """How much of each held token is recalled at each place of the shot, k m on the CPU."""
    device = loaded.patcher.load_device
    comfy.model_management.load_models_gpu([loaded.patcher])
    asked = loaded.encoder.asked_addresses(caption.to(device, torch.float32), grid.time, grid)[0]
    addresses = torch.cat([piece.addresses for piece in held if piece.addresses is not None])
    assert loaded.encoder.addresses is not None
    return loaded.encoder.addresses.weights(asked, addresses.to(device)).cpu()


def _float(leaf: torch.nn.Module | None) -> Tensor:
    assert leaf is not None  # an encoder's pieces have both branches
    return read_cached(leaf, CPU, torch.float32)
