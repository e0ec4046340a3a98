"""How the latent frames of one segment are made: which together, in which order, seeing which.

Macro-from-Micro Planning (MMPL, arXiv 2508.03334): a few anchors that are spread over a segment are
denoised together first, then what lies between them is filled in. A layout is that as data; the
index tables are those of the released code (Tele-AI/MMPL, `pipeline/casual_fps_inference.py`, read
for the shared design `macro-micro-planning.md`, sections 1 and 2.4). All ids are 0-based latent
frames of a segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

Kind = Literal["initial", "plan", "fill"]

MMPL_LATENT_FRAMES = 21
"""A segment of Wan 2.1: 81 frames."""

TREE_LEVELS = range(3, 7)
"""Trees that the released code tried."""

CAUSAL_BLOCK = 3
"""Latent frames that the chunk-wise causal models make together (Self-Forcing, Causal-Forcing)."""

HANDED = 2
"""Latent frames that start a later segment: five frames, encoded anew (section 3.2)."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Latent frames that are denoised together, each seeing the others and the clean `visible`.

    `initial` frames are given or made first, `plan` frames are the anchors, `fill` the rest.
    """

    kind: Kind
    ids: tuple[int, ...]
    visible: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The groups of a segment of `latent_frames`, in the order of denoising."""

    name: str
    latent_frames: int
    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        covered = sorted(i for group in self.groups for i in group.ids)
        if covered != list(range(self.latent_frames)):
            raise ValueError(
                f"layout {self.name!r} must hold each of 0 to {self.latent_frames - 1} once, got "
                f"{covered}"
            )
        kinds = [group.kind for group in self.groups]
        ordered = kinds == sorted(kinds, key=("initial", "plan", "fill").index)
        if not ordered or not {"initial", "plan"} <= set(kinds):
            raise ValueError(
                f"layout {self.name!r} must have initial, plan and then fill groups, got {kinds}"
            )
        before: set[int] = set()
        for group in self.groups:
            foreign = set(group.visible) - before
            if foreign or list(group.ids) != sorted(group.ids):
                raise ValueError(
                    f"layout {self.name!r}: group {group.ids} must rise and see earlier groups "
                    f"only, got {sorted(foreign) or 'ids out of order'}"
                )
            before |= set(group.ids)
        if self.initial[: len(self.initial)] != tuple(range(len(self.initial))):
            raise ValueError(f"layout {self.name!r} must begin with 0, got {self.initial}")

    @property
    def initial(self) -> tuple[int, ...]:
        """The frames that a segment starts from."""
        return self._of("initial")

    @property
    def anchors(self) -> tuple[int, ...]:
        """The planned frames, in the order of time."""
        return tuple(sorted(self._of("plan")))

    @property
    def known_to_fillers(self) -> tuple[int, ...]:
        """What a filler is handed: initial frames and anchors, in the order of time."""
        return tuple(sorted((*self.initial, *self.anchors)))

    def groups_of(self, kind: Kind) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group.kind == kind)

    def _of(self, kind: Kind) -> tuple[int, ...]:
        return tuple(i for group in self.groups_of(kind) for i in group.ids)


def layout_of_steps(
    name: str,
    steps: Sequence[int],
    *,
    plan_steps: Sequence[int] = (1,),
    hidden: Mapping[int, Sequence[int]] | None = None,
) -> Layout:
    """A layout from a step per latent frame, as the released code writes it: frames of one step
    form a group, which sees all frames of lower steps but those that `hidden` names for it.

    Steps before the first of `plan_steps` are initial, those after the last are fills.
    """
    groups = []
    for step in sorted(set(steps)):
        kept_back = set((hidden or {}).get(step, ()))
        kind: Kind = "plan"
        if step < min(plan_steps):
            kind = "initial"
        elif step > max(plan_steps):
            kind = "fill"
        groups.append(
            Group(
                kind=kind,
                ids=tuple(i for i, of in enumerate(steps) if of == step),
                visible=tuple(i for i, of in enumerate(steps) if of < step and i not in kept_back),
            )
        )
    return Layout(name=name, latent_frames=len(steps), groups=tuple(groups))


def anchored_layout(
    name: str,
    latent_frames: int,
    anchors: Sequence[int],
    *,
    initial_steps: int = 1,
    hides_end: bool = False,
) -> Layout:
    """Two initial frames, these anchors together, then each gap between anchors in turn.

    `initial_steps` 2 makes the initial frames one after the other, as the I2V model does.
    `hides_end`: the first fill does not see the anchors behind the next gap, as in the T2V model.
    """
    chosen = set(anchors)
    if not chosen or min(chosen) < HANDED or max(chosen) >= latent_frames:
        raise ValueError(
            f"anchors of a segment of {latent_frames} latent frames must lie behind its first "
            f"{HANDED}, got {sorted(chosen)}"
        )
    steps = [0] * latent_frames
    for i in range(HANDED):
        steps[i] = i if initial_steps == 2 else 0
    plan_step = initial_steps
    for i in chosen:
        steps[i] = plan_step
    step, gap_before = plan_step, False
    for i in range(HANDED, latent_frames):
        if i in chosen:
            gap_before = False
            continue
        if not gap_before:
            step, gap_before = step + 1, True
        steps[i] = step
    hidden = {}
    if hides_end:
        second = [i for i, of in enumerate(steps) if of == plan_step + 2]
        hidden[plan_step + 1] = tuple(i for i in chosen if second and i > second[0])
    return layout_of_steps(name, steps, plan_steps=(plan_step,), hidden=hidden)


def middle_anchors(latent_frames: int) -> tuple[int, ...]:
    """The middle anchors of a segment: 10 to 12 of 21 (MMPL), 14 to 17 of 31 (section 10.1), and in
    the same proportion for other lengths (inferred)."""
    count = max(1, round(3 * latent_frames / MMPL_LATENT_FRAMES))
    first = (latent_frames - count) // 2 + 1
    return tuple(range(first, first + count))


def near_middle_end(latent_frames: int) -> tuple[int, ...]:
    """Anchors right behind the initial frames, in the middle, and at the end; a short segment has
    fewer, since they meet."""
    near = (HANDED, HANDED + 1)
    end = (latent_frames - 2, latent_frames - 1)
    wanted = {*near, *middle_anchors(latent_frames), *end}
    return tuple(sorted(i for i in wanted if HANDED <= i < latent_frames))


def dyadic_layout(latent_frames: int, levels: int) -> Layout:
    """A tree: the end, then the middle of each gap, level by level; the last fills what is left.

    `levels` are 3 or more, initial frames and fill included. Raises ValueError for more levels than
    there are gaps to halve.
    """
    if levels < 3:
        raise ValueError(f"a tree needs 3 levels or more, got {levels}")
    steps = [levels - 1] * latent_frames
    steps[:HANDED] = [0] * HANDED
    steps[-1] = 1
    for level in range(2, levels - 1):
        known = [i for i, step in enumerate(steps) if step < level]
        middles = [(a + b) // 2 for a, b in zip(known, known[1:], strict=False) if b - a > 1]
        if not middles:
            raise ValueError(
                f"a tree over {latent_frames} latent frames has no gap left at level {level}, got "
                f"{levels} levels"
            )
        for i in middles:
            steps[i] = level
    if levels - 1 not in steps:
        raise ValueError(
            f"a tree over {latent_frames} latent frames must leave something to fill, got "
            f"{levels} levels"
        )
    return layout_of_steps(
        f"tree of {levels} levels", steps, plan_steps=tuple(range(1, levels - 1))
    )


def mmpl_t2v(latent_frames: int = MMPL_LATENT_FRAMES) -> Layout:
    """Of the T2V model: the first fill does not see the terminal anchors."""
    return anchored_layout(
        "MMPL T2V", latent_frames, near_middle_end(latent_frames), hides_end=True
    )


def mmpl_i2v(latent_frames: int = MMPL_LATENT_FRAMES) -> Layout:
    """Of the I2V model: the first frame is an image, and all anchors are seen by both fills."""
    return anchored_layout(
        "MMPL I2V", latent_frames, near_middle_end(latent_frames), initial_steps=2
    )


def preset_layouts(latent_frames: int = MMPL_LATENT_FRAMES) -> dict[str, Layout]:
    """Every preset that a segment of this length has room for, by the name that the nodes show."""
    end = latent_frames - 1
    middle = middle_anchors(latent_frames)
    centre = middle[: max(1, len(middle) - 1)]
    wide = (middle[0] - 1, *middle)
    sets: dict[str, Sequence[int]] = {
        "without near anchors": (*middle, end - 1, end),
        "without middle anchors": (HANDED, HANDED + 1, end - 1, end),
        "end only": (end,),
        "two at the end": (end - 1, end),  # for short segments, where near and middle meet
        "one middle and end": (middle[0], end),
        "two middle and end": (*centre, end),
        "wide middle and end": (*wide, end),
        "wide middle and two at the end": (*wide, end - 1, end),
    }
    makers = [lambda: mmpl_t2v(latent_frames), lambda: mmpl_i2v(latent_frames)]
    makers += [partial(anchored_layout, name, latent_frames, sets[name]) for name in sets]
    makers += [partial(dyadic_layout, latent_frames, levels) for levels in TREE_LEVELS]
    layouts = []
    for make in makers:
        try:
            layouts.append(make())
        except ValueError:
            continue  # a short segment has no room for this one
    return {layout.name: layout for layout in layouts}


def split_start(layout: Layout) -> Layout:
    """The layout for a segment of which only the first frame is known: the others that it starts
    from are made after it, seeing it, as the I2V model does."""
    first, *groups = layout.groups
    if len(first.ids) == 1:
        return layout
    split = (
        Group(kind="initial", ids=first.ids[:1]),
        Group(kind="initial", ids=first.ids[1:], visible=first.ids[:1]),
    )
    return replace(layout, groups=(*split, *groups))


def block_by_block(layout: Layout, block: int = CAUSAL_BLOCK) -> Layout:
    """The layout with other fills: blocks of up to `block` latent frames, one after the other in
    each gap, which see all that is finished, the anchors behind them included.

    It is how a causal model fills a plan (section 8, F6): as it continues a clip, with the anchors
    among its keys and values.
    """
    groups = list(layout.groups_of("initial") + layout.groups_of("plan"))
    finished = set(layout.known_to_fillers)
    missing = [i for i in range(layout.latent_frames) if i not in finished]
    while missing:
        ids = [missing.pop(0)]
        while missing and len(ids) < block and missing[0] == ids[-1] + 1:
            ids.append(missing.pop(0))
        groups.append(Group(kind="fill", ids=tuple(ids), visible=tuple(sorted(finished))))
        finished |= set(ids)
    return replace(layout, name=f"{layout.name}, block by block", groups=tuple(groups))
