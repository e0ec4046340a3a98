"""The script as a form among others: what it cannot say is said in its own way, with a warning."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby

from ..script_writer import to_text
from ..storyboard import Character, Location, Shot, Storyboard, StoryboardError, find_tags
from .written import Written, one_line, shots_named

SCRIPT_MARK = "// script"
"""A first line that keeps a script from being taken for another form."""

_COMMENT = re.compile(r"(^|(?<=\s))//")
_BRACES = str.maketrans("{}", "()")
_BARS = str.maketrans("|", "/")


def write(storyboard: Storyboard, detected: Callable[[str], str], own: str) -> Written:
    """A script that reads back the same, or nearly so with warnings that say what differs.

    `detected` tells which form a text is taken for and `own` what it says of scripts. Raises
    StoryboardError for what no script can say, such as a file name with a comma.
    """
    warnings: tuple[str, ...] = ()
    try:
        text = to_text(storyboard)
    except StoryboardError:
        storyboard, warnings = _speakable(storyboard)
        text = to_text(storyboard)
    if detected(text) != own or text.startswith("```"):
        text = f"{SCRIPT_MARK}\n{text}"
    return Written(text, warnings)


def _speakable(storyboard: Storyboard) -> tuple[Storyboard, tuple[str, ...]]:
    """The nearest storyboard that a script can say, and what is different in it."""
    characters = tuple(replace(one, description=_description(one)) for one in storyboard.characters)
    locations = tuple(replace(one, description=_description(one)) for one in storyboard.locations)
    ids, scenes = _numbers(storyboard)
    shots = tuple(_shot(shot, ids, scenes[shot.id], characters) for shot in storyboard.shots)
    spoken = replace(
        storyboard,
        title=_words(storyboard.title),
        style=_words(storyboard.style),
        global_text=_words(storyboard.global_text),
        story=_words(storyboard.story),
        characters=characters,
        locations=locations,
        shots=shots,
    )
    return spoken, tuple(_differences(storyboard, spoken))


def _numbers(storyboard: Storyboard) -> tuple[dict[str, str], dict[str, int]]:
    """New id and scene of each shot by its id: a scene's shots follow each other in a script."""
    runs = [
        [shot.id for shot in shots]
        for _, shots in groupby(storyboard.shots, key=lambda one: (one.scene, one.location))
    ]
    firsts = {shot.id: shot.scene for shot in storyboard.shots}
    numbers = [firsts[run[0]] for run in runs]
    if len(set(numbers)) < len(numbers) or min(numbers) < 1 or max(numbers) > 999_999:
        numbers = list(range(1, len(runs) + 1))
    ids, scenes = {}, {}
    for number, run in zip(numbers, runs, strict=True):
        for index, one in enumerate(run, start=1):
            ids[one], scenes[one] = f"{number}.{index}", number
    return ids, scenes


def _words(text: str) -> str:
    """One line without the beginning of a comment."""
    return _COMMENT.sub(r"\1/", one_line(text))


def _description(one: Character | Location) -> str:
    return _words(one.description).translate(_BARS).strip()


def _shot(shot: Shot, ids: dict[str, str], scene: int, characters: tuple[Character, ...]) -> Shot:
    caption = _words(shot.caption).translate(_BRACES)
    tagged = [tag.name for tag in find_tags(caption, characters) if tag.name]
    return replace(
        shot,
        id=ids[shot.id],
        scene=scene,
        caption=caption,
        characters=tuple(dict.fromkeys(tagged)),
        size=", ".join(filter(None, (part.strip() for part in _size(shot.size).split(",")))),
        recall=tuple(dict.fromkeys(ids.get(one, one) for one in shot.recall)),
    )


def _size(text: str) -> str:
    return re.sub(r"[\[\]]", "", _words(text))


def _differences(before: Storyboard, after: Storyboard) -> Iterator[str]:
    for name in ("title", "style", "global_text", "story", "characters", "locations"):
        if getattr(before, name) != getattr(after, name):
            yield f"{name.removesuffix('_text')}: line breaks, '//' or '|' are written otherwise"
    pairs = list(zip(before.shots, after.shots, strict=True))
    for name, what in (
        ("id", "shots are numbered again, by scene"),
        ("caption", "line breaks, braces or '//' are written otherwise in the caption"),
        ("size", "brackets or '//' are left out of the size"),
        ("characters", "only characters that the caption tags are kept"),
    ):
        shots = [old.id for old, new in pairs if getattr(old, name) != getattr(new, name)]
        if shots:
            yield f"{shots_named(shots)}: {what}"
