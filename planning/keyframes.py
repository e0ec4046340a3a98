"""Keyframes as segments of a run: one latent frame for each shot, planned when its turn comes.

What a keyframe is shown may depend on pictures that were made before it, so a run of keyframes
begins with undecided segments. A *step* is one sampler call: one shot, or a group of shots that are
made together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .segments import SEED_RANGE, TAKE_STRIDE, Segment
from .storyboard import Storyboard, image_prompt

KEYFRAMES = "keyframes"
"""The kind of a run of keyframes, see `runs/keys.py`."""


@dataclass(frozen=True, kw_only=True)
class KeyframeSegment(Segment):
    """One keyframe.

    `shown` are the references as the model gets them, in its order, each in words that change
    whenever what the model sees does; of those that are keyframes themselves, `recalls` are the
    indices in the same order. `beside` are the prompts and seeds of the shots that are made
    together with it, itself included. `decided` is false until its turn has come: such a segment is
    never on disk.
    """

    shown: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    decided: bool = True


@dataclass(frozen=True)
class ShownReference:
    """One reference as the model gets it: the keyframe of an earlier shot, or a picture file.

    `shot` is its index, None for a file, of which `digest` are its pixels. `height` and `width` are
    its size in pixels.
    """

    shot: int | None
    digest: str
    height: int
    width: int

    @property
    def words(self) -> str:
        """What a key of the keyframe changes with; a recalled keyframe's own key is in it, too."""
        what = "keyframe" if self.shot is not None else f"picture {self.digest}"
        return f"{what} {self.width}x{self.height}"


def plan_keyframes(
    storyboard: Storyboard, seed: int, takes: Mapping[int, int]
) -> tuple[KeyframeSegment, ...]:
    """An undecided segment for every shot.

    Each has a seed of its own, `seed` + its index, or the shot's; `takes` maps 0-based indices to
    takes. Raises ValueError for takes of shots that do not exist and a seed out of range.
    """
    if not 0 <= seed < SEED_RANGE:
        raise ValueError(f"seed must be 0 to {SEED_RANGE - 1}, got {seed}")
    shots = storyboard.shots
    surplus = sorted(index + 1 for index in takes if index >= len(shots))
    if surplus:
        raise ValueError(f"retakes name shots 1 to {len(shots)} only, got {surplus[0]}")
    return tuple(
        KeyframeSegment(
            index=index,
            shot=index,
            shot_id=shot.id,
            chain=index,
            start="text",
            latent_frames=1,
            known_latent_frames=0,
            prompt=image_prompt(storyboard, shot),
            negative=shot.negative,
            seed=_seed(seed + index if shot.seed is None else shot.seed, takes.get(index, 0)),
            take=takes.get(index, 0),
            decided=False,
        )
        for index, shot in enumerate(shots)
    )


def _seed(base: int, take: int) -> int:
    return (base + take * TAKE_STRIDE) % SEED_RANGE


def keyframe_steps(count: int, together: int) -> tuple[tuple[int, ...], ...]:
    """Indices of `count` shots in the groups, of at most `together`, that are made at once."""
    if together < 1:
        raise ValueError(f"a group must have 1 shot or more, got {together}")
    starts = range(0, count, together)
    return tuple(tuple(range(start, min(start + together, count))) for start in starts)


def decide(
    segment: KeyframeSegment,
    prompt: str,
    shown: Sequence[ShownReference],
    way: str,
    remembers: bool = False,
) -> KeyframeSegment:
    """The segment with its prompt and its references, in the model's order.

    `way` says how they enter; `remembers`: there is a memory that holds something by itself, which
    even a keyframe without references sees.
    """
    recalls = tuple(one.shot for one in shown if one.shot is not None)
    sees = bool(shown) or remembers
    return replace(
        segment,
        prompt=prompt,
        start="memory" if sees else "text",
        recalls=recalls if sees else None,
        shown=(way, *(one.words for one in shown)) if sees else (),
        decided=True,
    )


def together(segments: Sequence[KeyframeSegment]) -> tuple[KeyframeSegment, ...]:
    """Decided segments of one group: each depends on the words and seeds of all of them."""
    if len(segments) == 1:
        return tuple(segments)
    beside = tuple(f"{one.seed} {one.negative!r} {one.prompt}" for one in segments)
    return tuple(replace(one, beside=(str(at), *beside)) for at, one in enumerate(segments))
