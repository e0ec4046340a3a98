"""Stories for the history encoder: a few places and characters that are visited in any order.

Every segment is a shot of its own with its own caption, so that segments of one story may be put in
any order: one encoded story gives many histories. Looks are drawn per story and no caption tells
them, so that only the history can bring them back.
"""

from dataclasses import dataclass

import numpy as np

from .world import (
    CHARACTER_NAMES,
    MAX_TURN,
    NUM_POSES,
    PLACE_WORDS,
    POSITIONS,
    Shot,
    Split,
    Story,
    draw_character,
    draw_place,
    seeded_generator,
)

SEGMENT_LATENT_FRAMES = 6  # 21 frames: a window of the demo video model


@dataclass(frozen=True)
class StoryShape:
    """How many of what a story has; `empty_share` of its segments show nobody."""

    places: int = 3
    characters: int = 3
    segments: int = 12
    empty_share: float = 0.2
    rest_share: float = 0.08  # segments in which the camera stands still


def memory_story(seed: int, split: Split, shape: StoryShape = StoryShape()) -> Story:  # noqa: B008
    """A story of independent shots; each place is visited about equally often."""
    generator = seeded_generator(seed, split, "memory story")
    words = generator.permutation(PLACE_WORDS)[: shape.places]
    names = generator.permutation(CHARACTER_NAMES)[: shape.characters]
    places = tuple(draw_place(str(word), generator) for word in words)
    characters = tuple(draw_character(str(name), generator) for name in names)
    visits = generator.permutation(np.arange(shape.segments) % shape.places)
    shots = tuple(_shot(generator, shape, int(place), len(characters)) for place in visits)
    return Story(seed, Split(split), places, characters, shots)


def _shot(generator: np.random.Generator, shape: StoryShape, place: int, characters: int) -> Shot:
    empty = generator.uniform() < shape.empty_share
    character = None if empty else int(generator.integers(characters))
    position = None if empty else str(generator.choice(list(POSITIONS)))
    turn = int(generator.integers(1, MAX_TURN + 1)) * int(generator.choice([-1, 1]))
    if generator.uniform() < shape.rest_share:
        turn = 0
    start = int(generator.integers(NUM_POSES))
    end = (start + turn) % NUM_POSES
    return Shot(place, character, position, start, end, SEGMENT_LATENT_FRAMES)


def returning_story(
    seed: int, away: int = 4, before: int = 2, split: Split = Split.HELD_OUT
) -> Story:
    """A story whose last shot comes back: the measure that matters.

    `before` segments show the lead in the first place, `away` (3 or more) show other places without
    the lead, and the last one is the lead in the first place again, on a camera path over what was
    seen. Raises ValueError for fewer than three segments away.
    """
    if away < 3:
        raise ValueError(f"a return follows at least 3 segments away, got {away}")
    generator = seeded_generator(seed, split, "returning story")
    words = generator.permutation(PLACE_WORDS)[:3]
    names = generator.permutation(CHARACTER_NAMES)[:3]
    places = tuple(draw_place(str(word), generator) for word in words)
    characters = tuple(draw_character(str(name), generator) for name in names)
    start = int(generator.integers(NUM_POSES))
    direction = int(generator.choice([-1, 1]))
    shots, pose = [], start
    for _ in range(before):
        end = (pose + direction * int(generator.integers(3, MAX_TURN + 1))) % NUM_POSES
        position = str(generator.choice(list(POSITIONS)))
        shots.append(Shot(0, 0, position, pose, end, SEGMENT_LATENT_FRAMES))
        pose = end
    for index in range(away):
        shots.append(_other_shot(generator, 1 + index % 2))
    back = (pose - direction * int(generator.integers(2, MAX_TURN + 1))) % NUM_POSES
    position = str(generator.choice(list(POSITIONS)))
    shots.append(Shot(0, 0, position, pose, back, SEGMENT_LATENT_FRAMES))
    return Story(seed, Split(split), places, characters, tuple(shots))


def _other_shot(generator: np.random.Generator, place: int) -> Shot:
    """A shot elsewhere with somebody else or nobody."""
    character = None if generator.uniform() < 0.2 else int(generator.integers(1, 3))
    position = None if character is None else str(generator.choice(list(POSITIONS)))
    start = int(generator.integers(NUM_POSES))
    end = (start + int(generator.integers(-MAX_TURN, MAX_TURN + 1))) % NUM_POSES
    return Shot(place, character, position, start, end, SEGMENT_LATENT_FRAMES)
