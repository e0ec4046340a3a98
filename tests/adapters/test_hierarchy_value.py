"""A film's codes in the latent cache: windows read what was written, values never change."""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import pytest
import torch

from throughline.memory.hierarchy import CellState, Hierarchy, HierarchyGrid

LEVELS = 3
GRID = HierarchyGrid(6, 8, LEVELS)


@pytest.fixture
def empty(comfy: ModuleType) -> Any:
    """A timeline of no frames, of 4 channels, with Wan's latent format."""
    from comfy.latent_formats import Wan21

    from throughline.adapters.cache import LatentCache
    from throughline.adapters.hierarchy_value import Timeline
    from throughline.adapters.hierarchy_weights import pooled_head

    return Timeline((), GRID, pooled_head(16, LEVELS), Wan21(), LatentCache())


def filled(head: Any, frames: int, seed: int, state: CellState = CellState.FINAL) -> Hierarchy:
    made = Hierarchy.empty(head.head, GRID, frames)
    noise = torch.Generator().manual_seed(seed)
    for level in range(LEVELS):
        codes = torch.randn(made.codes[level].shape, generator=noise)
        made = made.with_codes(level, 0, codes, state)
    return made


def same(one: Hierarchy, other: Hierarchy) -> bool:
    pairs = [*zip(one.codes, other.codes, strict=True), (one.state, other.state)]
    return all(torch.equal(a, b) for a, b in pairs)


def test_windows_read_what_was_written_in_any_order(empty: Any) -> None:
    """Against one plain tensor per level, over random writes that overlap and go on."""
    chance = random.Random(0)
    slow, timeline = Hierarchy.empty(empty.head.head, GRID, 0), empty
    for seed in range(30):
        start, frames = chance.randint(0, timeline.frames), chance.randint(1, 7)
        piece = filled(empty.head, frames, seed, chance.choice(list(CellState)[1:]))
        timeline = timeline.written(start, piece)
        slow = slow.extended(max(0, start + frames - slow.frames))
        for level in range(LEVELS):
            state = CellState(int(piece.state[level, 0]))
            slow = slow.with_codes(level, start, piece.codes[level], state)
        assert timeline.frames == slow.frames
        begin = chance.randint(0, timeline.frames)
        end = chance.randint(begin, timeline.frames)
        window = timeline.window(begin, end)
        cut = [codes[begin:end] for codes in slow.codes]
        assert all(torch.equal(a, b) for a, b in zip(window.codes, cut, strict=True))
        assert torch.equal(window.state, slow.state[:, begin:end])
    assert torch.equal(timeline.state, slow.state)


def test_writing_leaves_the_old_timeline_as_it_was(empty: Any) -> None:
    first = empty.written(0, filled(empty.head, 8, 1))
    before = first.window(0, 8)
    second = first.written(3, filled(empty.head, 2, 2))
    assert same(first.window(0, 8), before)
    assert same(second.window(3, 5), filled(empty.head, 2, 2))
    assert same(second.window(0, 3), first.window(0, 3))
    assert first.content(0, 8) != second.content(0, 8)
    assert first.content(0, 3) == second.content(0, 3)


def test_what_is_not_known_takes_no_memory_and_is_named(empty: Any) -> None:
    planned = Hierarchy.empty(empty.head.head, GRID, 4)
    planned = planned.with_codes(2, 0, torch.ones(4, GRID.cells(2), 64))
    timeline = empty.written(0, planned)
    assert len(timeline.cache) == 1
    assert timeline.known(2, 0, 4) and not timeline.known(1, 0, 4) and not timeline.known(2, 0, 5)
    assert timeline.latents(2, 1, 3).shape == (1, 16, 2, 6, 8)
    with pytest.raises(ValueError, match="level 1 does not know latent frame 2"):
        timeline.latents(1, 2, 4)
    with pytest.raises(ValueError, match="level must be 0 to 2.*got 3"):
        timeline.latents(3, 0, 1)
    with pytest.raises(ValueError, match="latent frames 0 to 4, got 3 to 5"):
        timeline.latents(2, 3, 5)
    with pytest.raises(ValueError, match="must begin at 0 to 4, got 5"):
        timeline.written(5, planned)


def test_raw_latents_come_back_from_the_finest_level(empty: Any) -> None:
    """Normalised on the way in, and back: Wan's constants are no identity."""
    latents = torch.randn(1, 16, 5, 6, 8, generator=torch.Generator().manual_seed(3))
    marks = torch.tensor([True, False, False, False, False])
    timeline = empty.written(0, empty.encoded(latents, marks))
    assert torch.allclose(timeline.latents(0, 0, 5), latents, atol=1e-5)
    assert torch.equal(timeline.window(0, 5).first, marks)
    normal = empty.latent_format.process_in(latents)
    assert not torch.allclose(normal, latents, atol=0.1)
    coarse = empty.head.encode(normal, marks).codes[2]
    assert torch.equal(timeline.window(0, 5).codes[2], coarse)


def test_codes_of_another_head_or_size_are_refused(empty: Any, comfy: ModuleType) -> None:
    from throughline.adapters.hierarchy_weights import pooled_head

    other = Hierarchy.empty(pooled_head(16, LEVELS).head, HierarchyGrid(8, 8, LEVELS), 2)
    with pytest.raises(ValueError, match="do not belong to a hierarchy"):
        empty.written(0, other)


def test_the_codes_are_the_caches_and_go_with_the_value(empty: Any) -> None:
    timeline = empty.written(0, filled(empty.head, 4, 1))
    assert timeline.cache.sizes().total == sum(
        each.nbytes for each in filled(empty.head, 4, 1).codes
    )
    for seed in range(2, 6):
        timeline = timeline.written(0, filled(empty.head, 4, seed))
    assert len(timeline.cache) == LEVELS, "what was written over is still held"
    older, cache = timeline, timeline.cache
    timeline = timeline.written(0, filled(empty.head, 4, 1))
    assert len(cache) == 2 * LEVELS and same(older.window(0, 4), filled(empty.head, 4, 5))
    del older
    assert len(cache) == LEVELS


def test_only_a_clips_first_latent_frame_is_a_single_picture(comfy: ModuleType) -> None:
    from comfy.latent_formats import Wan21

    from throughline.adapters.hierarchy_value import picture_marks

    assert picture_marks(3, Wan21(), True).tolist() == [True, False, False]
    assert picture_marks(3, Wan21(), False).tolist() == [False] * 3
    assert picture_marks(0, Wan21(), True).tolist() == []
