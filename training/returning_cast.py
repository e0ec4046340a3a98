"""Twelve-shot stories with two leads who go away and come back: what recall is measured on.

The first lead opens in her place, the second takes over, the first comes back after four or five
shots without her, then the second comes back after as long. Looks are drawn per story and no
caption tells them.
"""

from __future__ import annotations

import numpy as np

from .memory_story import SEGMENT_LATENT_FRAMES
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
    shot_caption,
)

SHOTS = 12
LEAST_AWAY = 4
"""Shots without a lead before she counts as coming back: one more than the newest three."""

EMPTY_SHARE = 0.25  # of the shots between that show nobody
LENGTHS = ((4, 3), (4, 4), (5, 3))
"""How many shots the first and the second lead are away; the rest of the story follows from it."""


def two_leads_story(seed: int, split: Split = Split.HELD_OUT) -> Story:
    """A story in which both leads return, each to the place that she was first seen in."""
    generator = seeded_generator(seed, split, "two leads")
    words = generator.permutation(PLACE_WORDS)[:3]
    names = generator.permutation(CHARACTER_NAMES)[:2]
    places = tuple(draw_place(str(word), generator) for word in words)
    characters = tuple(draw_character(str(name), generator) for name in names)
    first_away, second_away = LENGTHS[int(generator.integers(len(LENGTHS)))]
    cast = [(0, 0), (0, 0), (1, 1)]  # character and place
    cast += [_between(generator, 1) for _ in range(first_away - 1)]
    cast += [(0, 0), *(_between(generator, 0) for _ in range(second_away)), (1, 1)]
    cast += [_between(generator, 1) for _ in range(SHOTS - len(cast))]
    shots = tuple(_shot(generator, who, place) for who, place in cast)
    return Story(seed, Split(split), places, characters, shots)


def _between(generator: np.random.Generator, lead: int) -> tuple[int | None, int]:
    """Somebody or nobody, at home or in the third place."""
    who = None if generator.uniform() < EMPTY_SHARE else lead
    return who, int(generator.choice([lead, 2]))


def _shot(generator: np.random.Generator, who: int | None, place: int) -> Shot:
    position = None if who is None else str(generator.choice(list(POSITIONS)))
    start = int(generator.integers(NUM_POSES))
    end = (start + int(generator.integers(-MAX_TURN, MAX_TURN + 1))) % NUM_POSES
    return Shot(place, who, position, start, end, SEGMENT_LATENT_FRAMES)


def openings(story: Story) -> tuple[int, ...]:
    """The shots, from 0, in which a character is seen for the first time."""
    cast = [shot.character for shot in story.shots]
    return tuple(i for i, who in enumerate(cast) if who is not None and who not in cast[:i])


def returns(story: Story) -> tuple[int, ...]:
    """The shots, from 0, whose character was seen before but not in the last LEAST_AWAY shots."""
    cast = [shot.character for shot in story.shots]
    return tuple(
        i
        for i, who in enumerate(cast)
        if who is not None and who in cast[:i] and who not in cast[max(0, i - LEAST_AWAY) : i]
    )


def story_script(story: Story) -> str:
    """The story in the storyboard's text form: names and places are defined without a look."""
    names = [character.name for character in story.characters]
    lines = [f"@{name} =" for name in names]
    lines += [f"#{place.word} =" for place in story.places]
    scene, before = 0, None
    for shot in story.shots:
        if shot.place != before:
            scene, before = scene + 1, shot.place
            lines.append(f"== Scene {scene} #{story.places[shot.place].word} ==")
        caption = shot_caption(story, shot)
        for name in names:
            caption = caption.replace(name, f"<{name}>")
        lines.append(caption)
    return "\n".join(lines)
