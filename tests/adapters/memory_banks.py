"""Small banks of random memory, and a model called once as a sampler would."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def random_bank(
    width: int,
    channels: int,
    patch: tuple[int, int, int],
    grids: tuple[tuple[int, int, int], ...] = ((2, 2, 3), (1, 3, 1)),
    rope_mode: Any = "history_negative",
    seed: int = 0,
    scale: float = 1.0,
) -> Any:
    """A bank of one entry per grid (cells: time, rows, columns), each three latent frames long.

    Entries have gaps between them. The second one has no fine part, the third no latents.
    """
    from throughline.adapters.cache import CachedTensor
    from throughline.memory.bank import MemoryBank, MemoryEntry, MemoryPiece
    from throughline.memory.rates import Rate

    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    entries = []
    for number, grid in enumerate(grids):
        cells = grid[0] * grid[1] * grid[2]
        low = drawn(channels, *(n * p for n, p in zip(grid, patch, strict=True)))
        fine = drawn(cells, width)
        positions = torch.rand(cells, 3, generator=generator) * torch.tensor([3.0, 4.0, 6.0])
        piece = MemoryPiece(
            key=f"{seed}-{number}",
            form="encoder 2x2x2",
            rate=Rate(2, 2, 2),
            low=None if number == 2 else CachedTensor(low),
            fine=None if number == 1 else CachedTensor(fine),
            hidden=CachedTensor(drawn(cells, 12)),
            positions=positions,
        )
        entries.append(
            MemoryEntry(
                key=f"{seed}-{number}",
                title=f"segment {number + 1}",
                caption="",
                shot=number + 1,
                start=4 * number + 1,
                latent_frames=3,
                pinned=False,
                picture=None,
                pieces=(piece,),
            )
        )
    return MemoryBank(entries=tuple(entries), rope_mode=rope_mode, trained=True)


def slow_tokens(banks: Any, project: Any) -> Tensor:
    """Tokens m d of banks: `project(c t h w)` gives `d t h w`, the fine part is added."""
    tokens = []
    for bank in banks:
        for entry in bank.entries:
            for piece in entry.pieces:
                token = torch.zeros(())
                if piece.low is not None:
                    token = project(piece.low.weight).flatten(1).T
                if piece.fine is not None:
                    token = token + piece.fine.weight
                tokens.append(token)
    return torch.cat(tokens)


def slow_positions(banks: Any, shift: float = 0.0) -> Tensor:
    """Positions m 3 on the film's time line, moved by `shift` in time."""
    return torch.cat(
        [
            piece.positions + torch.tensor([entry.start + shift, 0.0, 0.0])
            for bank in banks
            for entry in bank.entries
            for piece in entry.pieces
        ]
    )


def call_model(model: Any, *args: Any, **kwargs: Any) -> Tensor:
    """The network's output with all that hangs on its patcher, as core's samplers call it."""
    import comfy.model_patcher
    import comfy.sampler_helpers

    options = comfy.model_patcher.create_model_options_clone(model.model_options)
    comfy.sampler_helpers.prepare_model_patcher(model, {}, options)
    extra = options["transformer_options"] | kwargs.pop("transformer_options", {})
    with torch.no_grad():
        return model.model.diffusion_model(*args, transformer_options=extra, **kwargs)


def sharpen(model: Any) -> Any:
    """Make attention depend on positions: norms of queries and keys near 1, as trained ones are.

    The tiny models' random norms are near 0, and every token reads nearly the same.
    """
    for name, layer in model.model.diffusion_model.named_modules():
        if name.rpartition(".")[2] in ("norm_q", "norm_k", "query_norm", "key_norm"):
            layer.weight.data += 1.0
    return model
