"""What HoloCine and LCT have in common: one text per scene, characters by number, shots in a row.

A scene's own words become `global:` when the text has one scene or all say the same, else the
description of a place that only this scene has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from ..storyboard import Character, Location, Shot, Storyboard, Transition, find_tags, joined
from .written import one_line, retagged, sentences, untagged

ROUND = {ord("["): "(", ord("]"): ")"}
"""Square brackets are marks in these forms; any others become round."""

_NUMBERED = re.compile(r"character ?(\d{1,4})", re.I | re.A)


@dataclass(frozen=True, kw_only=True)
class ReadShot:
    """A shot of a scene; its caption is clean and tags characters by their names."""

    caption: str
    transition: Transition | None
    seconds: float | None = None
    line: int


@dataclass(frozen=True, kw_only=True)
class ReadScene:
    """A scene as it was read. `people`: descriptions by number, empty where there is none."""

    words: str
    people: Mapping[int, str]
    shots: tuple[ReadShot, ...]


def numbered_words(text: str, mark: re.Pattern[str], name: Callable[[int], str]) -> str:
    """A foreign text on one line; each `mark` (its group is a number) tags the character `name`."""
    parts = mark.split(untagged(text))
    words = [
        f"<{name(int(part))}>" if index % 2 else part.translate(ROUND)
        for index, part in enumerate(parts)
    ]
    return one_line("".join(words))


def numbers_in(texts: Iterable[str]) -> set[int]:
    """The numbers of the characters that texts of `numbered_words` tag."""
    found = (match for text in texts for match in re.findall(r"<character ?(\d+)>", text, re.I))
    return {int(number) for number in found}


def storyboard_of(
    scenes: tuple[ReadScene, ...],
    name: Callable[[int], str],
    fps: float | None,
    warnings: Iterable[str],
) -> Storyboard:
    """All scenes as one storyboard; `name` gives the name of a character by number."""
    doubts = list(warnings)
    people: dict[int, str] = {}
    for scene in scenes:
        for number, description in scene.people.items():
            if people.get(number) and description not in ("", people[number]):
                doubts.append(f"{name(number)} is described anew; the first description counts")
            people[number] = people.get(number) or description
    characters = tuple(
        Character(name=name(number), description=people[number]) for number in sorted(people)
    )
    same = len({scene.words for scene in scenes}) == 1
    places = {
        number: Location(name=f"scene {number}", description=scene.words)
        for number, scene in enumerate(scenes, start=1)
        if scene.words and not same
    }
    return Storyboard(
        global_text=scenes[0].words if same else "",
        fps=fps,
        characters=characters,
        locations=tuple(places.values()),
        shots=tuple(_shots(scenes, characters, places)),
        warnings=tuple(doubts),
    )


def _shots(
    scenes: tuple[ReadScene, ...],
    characters: tuple[Character, ...],
    places: Mapping[int, Location],
) -> Iterator[Shot]:
    for number, scene in enumerate(scenes, start=1):
        place = places.get(number)
        for index, shot in enumerate(scene.shots, start=1):
            tagged = [tag.name for tag in find_tags(shot.caption, characters) if tag.name]
            yield Shot(
                id=f"{number}.{index}",
                scene=number,
                location=place.name if place else None,
                caption=shot.caption,
                transition=shot.transition,
                seconds=shot.seconds,
                characters=tuple(dict.fromkeys(tagged)),
                line=shot.line,
            )


def character_numbers(storyboard: Storyboard) -> dict[str, int]:
    """A number for every character by name; "character 2" and the like keep theirs."""
    numbers: dict[str, int] = {}
    for one in storyboard.characters:
        match = _NUMBERED.fullmatch(one.name)
        if match and int(match.group(1)) not in numbers.values():
            numbers[one.name] = int(match.group(1))
    taken, free = set(numbers.values()), 0
    for one in storyboard.characters:
        if one.name not in numbers:
            free = next(number for number in range(free + 1, MOST) if number not in taken)
            numbers[one.name] = free
    return numbers


MOST = 1_000_000
"""More characters than a storyboard can have."""


def renamed(storyboard: Storyboard, mark: Callable[[int], str]) -> Iterator[str]:
    """A warning that says who got which number, unless the names already say so."""
    given = [
        f"{name} is {mark(number)}"
        for name, number in character_numbers(storyboard).items()
        if not _NUMBERED.fullmatch(name)
    ]
    if given:
        yield f"names become numbers: {', '.join(given)}"


@dataclass(frozen=True, kw_only=True)
class WrittenScene:
    """A scene to write: its words, its characters by number, and the captions of its shots."""

    words: str
    people: Mapping[int, str]
    shots: tuple[Shot, ...]
    captions: tuple[str, ...]


def written_scenes(storyboard: Storyboard, mark: Callable[[int], str]) -> Iterator[WrittenScene]:
    """Every run of shots of one scene and place; `mark` writes a character's number in a text.

    A character is described in the scenes that mention them, or in the first if none does.
    """
    numbers = character_numbers(storyboard)
    looks = {one.name: one.description for one in storyboard.characters}

    def words_of(text: str) -> str:
        return retagged(storyboard, text, lambda name: mark(numbers[name]), ROUND)

    runs = groupby(storyboard.shots, key=lambda shot: (shot.scene, shot.location))
    scenes = [list(shots) for _, shots in runs]
    mentions = [_mentioned(storyboard, shots) for shots in scenes]
    mentions[0] |= set(looks) - set().union(*mentions)
    for shots, here in zip(scenes, mentions, strict=True):
        place = storyboard.location(shots[0].location).description if shots[0].location else ""
        words = (storyboard.style, storyboard.global_text, place)
        yield WrittenScene(
            words=sentences(words_of(text) for text in words),
            people={
                numbers[name]: words_of(looks[name])
                for name in sorted(here, key=lambda one: numbers[one])
            },
            shots=tuple(shots),
            captions=tuple(
                words_of(joined([shot.size, shot.caption, shot.motion, shot.camera]))
                for shot in shots
            ),
        )


def _mentioned(storyboard: Storyboard, shots: Iterable[Shot]) -> set[str]:
    texts = [storyboard.global_text, storyboard.style]
    people: set[str] = set()
    for shot in shots:
        texts += [shot.caption, shot.motion, shot.camera, shot.size]
        texts.append(storyboard.location(shot.location).description if shot.location else "")
        people |= set(shot.characters)
    names = (tag.name for text in texts for tag in find_tags(text, storyboard.characters))
    return people | {name for name in names if name}
