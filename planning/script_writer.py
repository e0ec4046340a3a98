"""Writes a storyboard in the text form that `planning/script.py` reads."""

from __future__ import annotations

from collections.abc import Iterator

from .script import SETTINGS, begins_a_shot, parse_storyboard
from .shot_line import OVERRIDES, braces_words
from .storyboard import Character, Location, Shot, Storyboard, StoryboardError


def to_text(storyboard: Storyboard) -> str:
    """The script of a storyboard: `parse_storyboard(to_text(s)) == s`.

    Raises StoryboardError for what the text form has no words for, such as a caption of several
    lines (it can only come from JSON).
    """
    text = "\n".join([*_head(storyboard), "", *_body(storyboard)]).lstrip("\n") + "\n"
    try:
        same = parse_storyboard(text) == storyboard
    except StoryboardError as error:
        raise StoryboardError(f"this storyboard cannot be written as text: {error}") from None
    if not same:
        raise StoryboardError(
            "this storyboard cannot be written as text: it holds something that the text form "
            "reads differently, got another storyboard back"
        )
    return text


def number_words(number: float) -> str:
    """A number as an artist would type it: 5 and 2.5, not 5.0."""
    return repr(int(number)) if number == int(number) else repr(number)


def _head(storyboard: Storyboard) -> Iterator[str]:
    fps = "" if storyboard.fps is None else number_words(storyboard.fps)
    given = (storyboard.title, storyboard.style, storyboard.aspect, fps, storyboard.global_text)
    for key, value in zip(SETTINGS, (*given, storyboard.story), strict=True):
        if value:
            yield f"{key}: {value}"
    for character in storyboard.characters:
        lora = f" | lora: {character.lora}" if character.lora else ""
        yield "@" + _definition(character) + lora + ("" if character.pin else " | pin: no")
    for location in storyboard.locations:
        yield "#" + _definition(location)


def _definition(one: Character | Location) -> str:
    words = f"{one.name} = {one.description}".rstrip()
    return words + (f" | ref: {', '.join(one.refs)}" if one.refs else "")


def _body(storyboard: Storyboard) -> Iterator[str]:
    before: tuple[int, str | None] = (1, None)
    for shot in storyboard.shots:
        if (shot.scene, shot.location) != before:
            place = f" #{shot.location}" if shot.location else ""
            yield f"== Scene {shot.scene}{place} =="
        before = (shot.scene, shot.location)
        yield _line(shot)


def _line(shot: Shot) -> str:
    seconds = "" if shot.seconds is None else f"{number_words(shot.seconds)}s"
    bracket = ", ".join(filter(None, (shot.size, seconds, shot.transition)))
    # "[]" keeps a caption that begins like another kind of line from being read as one.
    words = [f"[{bracket}]"] if bracket or not begins_a_shot(shot.caption) else []
    words.append(shot.caption)
    given: dict[str, object] = {
        "motion": shot.motion,
        "seed": shot.seed,
        "recall": ", ".join(shot.recall),
        **shot.overrides,
        "keyframe": shot.keyframe_prompt,
        "refs": ", ".join(shot.refs),
    }
    pairs = [(key, given.get(key)) for key in OVERRIDES]
    braces = "; ".join(f"{key}: {_word(value)}" for key, value in pairs if value not in ("", None))
    return " ".join([*words, f"{{{braces}}}"] if braces else words)


def _word(value: object) -> str:
    return number_words(value) if isinstance(value, int | float) else braces_words(str(value))
