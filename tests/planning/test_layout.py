"""Layouts of a segment against the tables of the released code."""

from __future__ import annotations

import pytest

from throughline.planning.layout import (
    Group,
    Layout,
    anchored_layout,
    block_by_block,
    dyadic_layout,
    layout_of_steps,
    mmpl_i2v,
    mmpl_t2v,
    preset_layouts,
    split_start,
)


def ids(text: str) -> tuple[int, ...]:
    """ "0-2, 5" as 0, 1, 2, 5."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def test_mmpl_t2v_is_the_released_table() -> None:
    groups = mmpl_t2v().groups
    assert [group.ids for group in groups] == [
        ids("0-1"), ids("2-3, 10-12, 19-20"), ids("4-9"), ids("13-18"),
    ]  # fmt: skip
    assert [group.visible for group in groups] == [
        (), ids("0-1"), ids("0-3, 10-12"), ids("0-12, 19-20"),
    ]  # fmt: skip
    assert [len(group.visible) + len(group.ids) for group in groups] == [2, 9, 13, 21]


def test_mmpl_i2v_makes_the_first_two_frames_in_turn_and_hides_nothing() -> None:
    groups = mmpl_i2v().groups
    assert [group.ids for group in groups] == [
        (0,), (1,), ids("2-3, 10-12, 19-20"), ids("4-9"), ids("13-18"),
    ]  # fmt: skip
    assert [group.visible for group in groups] == [
        (), (0,), ids("0-1"), ids("0-3, 10-12, 19-20"), ids("0-12, 19-20"),
    ]  # fmt: skip


def test_steps_as_the_released_code_writes_them() -> None:
    """`0 0 | 1 1 | 2x6 | 1 1 1 | 3x6 | 1 1`, and the tree that stands there as a comment."""
    steps = [0, 0, 1, 1, *[2] * 6, 1, 1, 1, *[3] * 6, 1, 1]
    layout = layout_of_steps("MMPL T2V", steps, hidden={2: (19, 20)})
    assert layout == mmpl_t2v()
    tree = [0, 0, 1, *[2] * 4, *[3] * 4, 1, *[4] * 4, *[5] * 4, 1]
    found = layout_of_steps("tree", tree)
    assert found.anchors == (2, 11, 20) and len(found.groups_of("fill")) == 4
    assert found.groups[3].visible == ids("0-6, 11, 20")


def test_a_segment_of_31_latent_frames_has_the_rescaled_anchors() -> None:
    layout = mmpl_t2v(31)
    assert layout.anchors == ids("2-3, 14-17, 29-30")
    assert [group.ids for group in layout.groups_of("fill")] == [ids("4-13"), ids("18-28")]
    assert layout.groups[2].visible == ids("0-3, 14-17")


@pytest.mark.parametrize("latent_frames", [4, 5, 9, 13, 21, 31, 41])
def test_presets_are_layouts_of_any_length(latent_frames: int) -> None:
    presets = preset_layouts(latent_frames)
    assert {"MMPL T2V", "MMPL I2V", "end only"} <= set(presets)
    assert len(presets) == 14 or latent_frames < 13
    for name, layout in presets.items():
        assert layout.name == name
        covered = sorted(i for group in layout.groups for i in group.ids)
        assert covered == list(range(latent_frames))
        before: set[int] = set()
        for group in layout.groups:
            assert set(group.visible) <= before and not set(group.visible) & set(group.ids)
            before |= set(group.ids)
        assert latent_frames - 1 in layout.anchors
        assert layout.known_to_fillers == tuple(sorted((*layout.initial, *layout.anchors)))


def test_ablations_are_those_of_the_released_code() -> None:
    presets = preset_layouts()
    near = presets["without near anchors"]
    assert near.anchors == ids("10-12, 19-20") and near.groups[2].ids == ids("2-9")
    middle = presets["without middle anchors"]
    assert middle.anchors == ids("2-3, 19-20")
    wanted = {
        "end only": "20",
        "two at the end": "19-20",
        "one middle and end": "10, 20",
        "two middle and end": "10-11, 20",
        "wide middle and end": "9-12, 20",
        "wide middle and two at the end": "9-12, 19-20",
    }
    for name, anchors in wanted.items():
        assert presets[name].anchors == ids(anchors)


def test_trees_halve_the_gaps() -> None:
    layout = dyadic_layout(21, 5)
    assert [group.ids for group in layout.groups] == [
        (0, 1), (20,), (10,), (5, 15), tuple(i for i in range(2, 20) if i not in (5, 10, 15)),
    ]  # fmt: skip
    assert layout.groups[3].visible == (0, 1, 10, 20)
    with pytest.raises(ValueError, match="3 levels or more, got 2"):
        dyadic_layout(21, 2)
    with pytest.raises(ValueError, match="got 9 levels"):
        dyadic_layout(5, 9)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([("initial", (0,), ()), ("plan", (2,), (0,))], "each of 0 to 2 once"),
        ([("initial", (0,), ()), ("plan", (2,), (1,)), ("fill", (1,), (0,))], r"got \[1\]"),
        (
            [("initial", (0,), ()), ("fill", (1,), ()), ("plan", (2,), ())],
            "must have initial, plan and then fill",
        ),
        ([("initial", (0,), ()), ("plan", (2, 1), ()), ("fill", (), ())], "out of order"),
        ([("initial", (1,), ()), ("plan", (2,), ()), ("fill", (0,), ())], "begin with 0"),
    ],
)
def test_a_layout_that_cannot_be_made_is_refused(groups: list, said: str) -> None:
    made = tuple(Group(kind=kind, ids=own, visible=seen) for kind, own, seen in groups)
    with pytest.raises(ValueError, match=said):
        Layout(name="wrong", latent_frames=3, groups=made)


def test_short_segments_have_fewer_anchors_and_the_shortest_none() -> None:
    assert mmpl_t2v(5).anchors == (2, 3, 4) and not mmpl_t2v(5).groups_of("fill")
    assert mmpl_t2v(3).anchors == (2,)
    with pytest.raises(ValueError, match=r"must lie behind its first 2, got \[\]"):
        mmpl_t2v(2)
    with pytest.raises(ValueError, match=r"of 9 latent frames .* got \[4, 9\]"):
        anchored_layout("far", 9, (4, 9))


def test_initial_frames_of_the_t2v_model_are_made_together() -> None:
    assert anchored_layout("one", 9, (8,)).groups[0].ids == (0, 1)
    assert anchored_layout("two", 9, (8,), initial_steps=2).groups[1].visible == (0,)


def test_a_known_image_splits_the_start() -> None:
    split = split_start(mmpl_t2v())
    assert [group.ids for group in split.groups[:2]] == [(0,), (1,)]
    assert split.groups[1].visible == (0,) and split.groups[2:] == mmpl_t2v().groups[1:]
    assert split_start(mmpl_i2v()) == mmpl_i2v()


def test_a_causal_model_fills_block_by_block() -> None:
    found = block_by_block(mmpl_t2v())
    assert [g.ids for g in found.groups] == [
        (0, 1),
        (2, 3, 10, 11, 12, 19, 20),
        (4, 5, 6),
        (7, 8, 9),
        (13, 14, 15),
        (16, 17, 18),
    ]
    known = (0, 1, 2, 3, 10, 11, 12, 19, 20)
    assert found.groups[2].visible == known  # what MMPL hides from the first fill, too
    assert found.groups[3].visible == tuple(sorted((*known, 4, 5, 6)))
    assert found.groups[5].visible == tuple(i for i in range(21) if i not in (16, 17, 18))


@pytest.mark.parametrize("block", [1, 2, 4, 30])
@pytest.mark.parametrize("latent_frames", [6, 13, 21, 31])
def test_blocks_keep_what_was_planned(latent_frames: int, block: int) -> None:
    for layout in preset_layouts(latent_frames).values():
        found = block_by_block(layout, block)
        assert found.groups_of("plan") == layout.groups_of("plan")
        assert found.known_to_fillers == layout.known_to_fillers
        fills = found.groups_of("fill")
        assert all(len(g.ids) <= block for g in fills)
        assert all(b - a == 1 for g in fills for a, b in zip(g.ids, g.ids[1:], strict=False))
        assert [g.ids[0] for g in fills] == sorted(g.ids[0] for g in fills)
