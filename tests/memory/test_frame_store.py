"""Keys and values of finished latent frames, packed and picked out again."""

from __future__ import annotations

import pytest
import torch

from throughline.memory.frame_store import (
    StoredGroup,
    VisibleFrames,
    pack_frames,
    read_frames,
    visible_frames,
)


def test_frames_are_picked_out_of_a_group() -> None:
    keys = torch.arange(2 * 12 * 5.0).view(2, 12, 5)
    group = StoredGroup(ids=(2, 3, 10, 19), name="plan")
    stored = pack_frames(keys, -keys, len(group.ids))
    assert stored.shape == (2, 2, 4, 3, 5)
    found, values = read_frames(stored, VisibleFrames(group=group, ids=(3, 19)))
    wanted = torch.cat((keys[:, 3:6], keys[:, 9:12]), dim=1)
    assert torch.equal(found, wanted) and torch.equal(values, -wanted)
    everything, _ = read_frames(stored, VisibleFrames(group=group, ids=group.ids))
    assert torch.equal(everything, keys)


def test_visible_frames_are_found_in_their_groups() -> None:
    groups = (StoredGroup(ids=(0, 1), name="a"), StoredGroup(ids=(2, 3, 19), name="b"))
    found = visible_frames(groups, (0, 1, 2, 19))
    assert [(seen.group.name, seen.ids) for seen in found] == [("a", (0, 1)), ("b", (2, 19))]
    assert visible_frames(groups, ()) == ()
    assert groups[1].key(1, 7) == "b-1-7"
    with pytest.raises(ValueError, match=r"frames \[4\] must be finished"):
        visible_frames(groups, (0, 4))


def test_visible_frames_are_some_of_their_group() -> None:
    group = StoredGroup(ids=(0, 1), name="a")
    for ids in ((2,), ()):
        with pytest.raises(ValueError, match=r"some of \(0, 1\)"):
            VisibleFrames(group=group, ids=ids)
