"""What a shot recalls by its own caption, through the cache and an encoder of core's layers."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

SHARP = 1e7
"""So sharp that the nearest address alone is recalled."""


@pytest.fixture(scope="module")
def loaded(comfy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny encoder that recalls only what is nearest."""
    from development.tiny_encoders import write_tiny_encoder
    from throughline.adapters.encoders import load_encoder

    path: Path = tmp_path_factory.mktemp("encoders") / "tiny.safetensors"
    write_tiny_encoder(path, address_dim=8)
    made = load_encoder(path)
    with torch.no_grad():
        made.encoder.addresses.sharpness.fill_(math.log(SHARP))
    return made


def bank_of(loaded: Any, captions: list[torch.Tensor]) -> Any:
    """One entry of 2 latent frames of 4 x 4 per caption, low and fine all equal to its number."""
    from throughline.memory.bank import MemoryBank, MemoryEntry, MemoryPiece
    from throughline.memory.positions import memory_positions
    from throughline.memory.rates import Grid, Rate

    entries = []
    for number, caption in enumerate(captions):
        grid = loaded.card.config.memory_grid((1, 16, 2, 4, 4))
        piece = MemoryPiece(
            key=f"piece{number}",
            form="encoder 2x2x2",
            rate=Rate(2, 2, 2),
            low=loaded.cache.add(f"piece{number}-low", torch.full((16, 1, 2, 2), float(number))),
            fine=loaded.cache.add(f"piece{number}-fine", torch.full((1, 48), float(number))),
            hidden=None,
            positions=memory_positions(Grid(2, 2, 2), Rate(2, 2, 2), "ceil"),
            addresses=loaded.encoder.held_addresses(caption, grid)[0],
        )
        entries.append(
            MemoryEntry(
                key=f"entry{number}",
                title=f"clip {number}",
                caption="",
                shot=number + 1,
                start=2 * number,
                latent_frames=2,
                pinned=False,
                picture=None,
                pieces=(piece,),
            )
        )
    return MemoryBank(entries=tuple(entries), rope_mode="history_negative", trained=True)


def captions(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [5.0 * torch.randn(1, 4, 24, generator=generator) for _ in range(count)]


@torch.no_grad()
def recalled(loaded: Any, bank: Any, caption: torch.Tensor) -> Any:
    from throughline.adapters.recalled import with_recalled

    return with_recalled(
        bank, [loaded], loaded.cache, torch.float32, caption, (3, 4, 4), bank.latent_frames
    )


@torch.no_grad()
def test_each_moment_recalls_what_lies_at_the_nearest_address(loaded: Any) -> None:
    from throughline.memory.rates import Grid

    said = captions(3)
    bank = bank_of(loaded, said)
    held = torch.cat([entry.pieces[0].addresses for entry in bank.entries])
    found = []
    for caption in said:
        whole = recalled(loaded, bank, caption)
        entry = whole.entries[-1]
        (piece,) = entry.pieces
        assert (entry.title, entry.start, entry.latent_frames) == ("recalled", 6, 3)
        assert torch.equal(piece.positions[:, 0], torch.arange(3.0))
        assert piece.low.weight.shape == (16, 3, 2, 2)
        asked = loaded.encoder.asked_addresses(caption, 3, Grid(3, 1, 1))[0]
        nearest = (asked @ held.T).argmax(dim=-1).float()
        assert torch.allclose(piece.fine.weight, nearest[:, None].expand(3, 48), atol=0.05)
        assert torch.allclose(
            piece.low.weight, nearest[:, None, None].expand_as(piece.low.weight), atol=0.05
        )
        assert whole.entries[:3] == bank.entries
        found += nearest.tolist()
    assert len(set(found)) > 1, "the clips must differ in their addresses, or nothing is tested"


@torch.no_grad()
def test_what_is_recalled_is_made_once(loaded: Any) -> None:
    said = captions(2)
    bank = bank_of(loaded, said)
    one, two = (recalled(loaded, bank, said[0]).entries[-1].pieces[0] for _ in range(2))
    assert one.low.weight.data_ptr() == two.low.weight.data_ptr()
    assert one.fine.weight.data_ptr() == two.fine.weight.data_ptr()


@torch.no_grad()
def test_texts_of_another_width_recall_nothing(loaded: Any) -> None:
    bank = bank_of(loaded, captions(1))
    assert recalled(loaded, bank, torch.zeros(1, 4, 32)) is bank


@torch.no_grad()
def test_an_add_on_reads_what_is_held_beside_what_is_recalled(loaded: Any, tiny: Any) -> None:
    """What is recalled keeps no hidden states."""
    from dataclasses import replace

    from throughline.adapters.attach import attach_memory
    from throughline.adapters.cache import CachedTensor

    said = captions(2)
    bank = bank_of(loaded, said)
    entries = tuple(
        replace(
            entry, pieces=(replace(piece, hidden=CachedTensor(torch.full((1, 16), float(number)))),)
        )
        for number, entry in enumerate(bank.entries, 1)
        for piece in entry.pieces
    )
    whole = recalled(loaded, replace(bank, entries=entries), said[0])
    assert whole.entries[-1].pieces[0].hidden is None
    weights = {f"xattn.1.{name}.weight": torch.ones(48, 16) for name in "kv"}
    weights["xattn.1.o.weight"] = torch.eye(48)
    model = tiny.FAMILIES["wan_t2v"].model()
    attached = attach_memory(model, whole, cross_attention=weights)
    (patcher,) = attached.get_nested_additional_models()
    keys = patcher.model.get_parameter("1_k.weight")
    assert torch.equal(keys, torch.tensor([[16.0], [32.0]]).expand(2, 48))
