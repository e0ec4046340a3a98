"""Banks are values: a longer one shares its entries, and the old one stays as it was."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch

from throughline.memory.bank import MemoryBank, MemoryEntry, MemoryPiece
from throughline.memory.rates import Rate


def _piece(tokens: int, form: str = "low 4x4x2") -> MemoryPiece:
    return MemoryPiece(
        key=f"{form}-{tokens}",
        form=form,
        rate=Rate(4, 4, 2),
        low=torch.nn.Identity(),
        fine=None,
        hidden=None,
        positions=torch.zeros(tokens, 3),
    )


def _entry(
    key: str, start: int, shot: int = 1, pinned: bool = False, frames: int = 6
) -> MemoryEntry:
    return MemoryEntry(
        key=key,
        title=key,
        caption="",
        shot=shot,
        start=start,
        latent_frames=frames,
        pinned=pinned,
        picture=None,
        pieces=(_piece(3), _piece(5, "low 2x2x2")),
    )


EMPTY = MemoryBank(entries=(), rope_mode="history_negative", trained=False)


def test_tokens_and_length_are_sums_over_the_entries() -> None:
    bank = EMPTY.with_entries([_entry("a", 0), _entry("b", 10)])
    assert bank.entries[0].tokens == 8 and bank.tokens == 16
    assert bank.entries[1].stop == 16 == bank.latent_frames
    assert EMPTY.tokens == 0 == EMPTY.latent_frames


def test_entries_are_kept_in_the_order_of_time() -> None:
    bank = EMPTY.with_entries([_entry("late", 12), _entry("first", 0)])
    bank = bank.with_entries([_entry("middle", 6)])
    assert [entry.key for entry in bank.entries] == ["first", "middle", "late"]
    assert bank.rope_mode == EMPTY.rope_mode and bank.trained == EMPTY.trained


def test_appending_shares_entries_and_leaves_the_old_bank_alone() -> None:
    before = EMPTY.with_entries([_entry("a", 0)])
    after = before.with_entries([_entry("b", 6)])
    assert after.entries[0] is before.entries[0]
    assert len(before.entries) == 1 and len(after.entries) == 2
    with pytest.raises(FrozenInstanceError):
        before.trained = True  # type: ignore[misc]


def test_the_same_content_at_the_same_time_is_one_entry() -> None:
    old, new = _entry("a", 0, shot=1), _entry("a", 0, shot=2)
    assert EMPTY.with_entries([old]).with_entries([new]).entries == (new,)
    assert len(EMPTY.with_entries([old, _entry("a", 6)]).entries) == 2
