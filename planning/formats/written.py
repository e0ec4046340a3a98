"""What a writer hands back, and the words for what a form has no place for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..storyboard import Shot, Storyboard, find_tags, listed, plain_words

DEFAULT_SECONDS = 5.0
"""The length of a shot that has none, where a form must have one (StoryMem's shots are 5 s)."""

_FIELDS: tuple[tuple[str, Callable[[Storyboard], object]], ...] = (
    ("title", lambda story: story.title),
    ("style", lambda story: story.style),
    ("aspect", lambda story: story.aspect),
    ("fps", lambda story: story.fps),
    ("global", lambda story: story.global_text),
    ("story", lambda story: story.story),
    ("names", lambda story: story.characters),
    ("places", lambda story: story.locations),
    ("references of characters", lambda story: any(one.refs for one in story.characters)),
    ("lora of characters", lambda story: any(one.lora for one in story.characters)),
    ("pin", lambda story: any(not one.pin for one in story.characters)),
    ("references of places", lambda story: any(one.refs for one in story.locations)),
)
_SHOT_FIELDS: tuple[tuple[str, Callable[[Shot], object]], ...] = (
    ("size", lambda shot: shot.size),
    ("seconds", lambda shot: shot.seconds),
    ("cut", lambda shot: shot.transition == "cut"),
    ("continue", lambda shot: shot.transition == "continue"),
    ("motion", lambda shot: shot.motion),
    ("camera", lambda shot: shot.camera),
    ("negative", lambda shot: shot.negative),
    ("recall", lambda shot: shot.recall),
    ("seed", lambda shot: shot.seed is not None),
    ("refs", lambda shot: shot.refs),
    ("strength", lambda shot: shot.strength is not None),
    ("lora", lambda shot: shot.lora),
    ("audio", lambda shot: shot.audio),
    ("keyframe", lambda shot: shot.keyframe_prompt),
)
MOST_SHOTS_NAMED = 5
"""Shots named in one warning before they are counted."""


@dataclass(frozen=True)
class Written:
    """A storyboard in another form; `warnings` are sentences about what it could not say."""

    text: str
    warnings: tuple[str, ...] = ()


def lost_fields(storyboard: Storyboard, said: Collection[str]) -> Iterator[str]:
    """One sentence for each field that the storyboard has and the form has not."""
    for name, read in _FIELDS:
        if name not in said and read(storyboard):
            yield f"no place in this form: {name}"
    for name, of_shot in _SHOT_FIELDS:
        shots = [] if name in said else [shot.id for shot in storyboard.shots if of_shot(shot)]
        if shots:
            yield f"no place in this form: {name} of {shots_named(shots)}"


def shots_named(ids: Collection[str]) -> str:
    """ "shot 1.2", "shots 1.1, 1.2", or how many they are."""
    if len(ids) > MOST_SHOTS_NAMED:
        return f"{len(ids)} shots"
    return f"shot{'' if len(ids) == 1 else 's'} {listed(ids)}"


def one_line(text: str) -> str:
    """Words apart by single spaces, without line breaks and byte order marks."""
    return " ".join(text.replace("\ufeff", "").split())


def untagged(text: str) -> str:
    """A foreign text on one line, without what a script would read as tags of characters."""
    before, text = "", one_line(text)
    while text != before:
        before, text = text, one_line(plain_words(text, ()))
    return text


def retagged(
    storyboard: Storyboard, text: str, mark: Callable[[str], str], signs: Mapping[int, str]
) -> str:
    """A text on one line whose tags of characters are written as `mark(name)`.

    `signs` is a table of `str.translate` for all the rest.
    """
    words, done = "", 0
    for tag in find_tags(text, storyboard.characters):
        if tag.start >= done:
            words += text[done : tag.start].translate(signs)
            words += mark(tag.name) if tag.name else tag.words
            done = tag.end
    return one_line(words + text[done:].translate(signs))


def sentence(text: str) -> str:
    """Words that end like a sentence; nothing stays nothing."""
    return text if not text or text[-1] in ".!?…。！？" else text.rstrip(",;:，；：、 ") + "."


def sentences(parts: Iterable[str]) -> str:
    """Parts one after the other, each ending like a sentence."""
    return " ".join(filter(None, (sentence(one_line(part)) for part in parts)))


def frame_counts(shots: Iterable[Shot], fps: float) -> list[int]:
    """Frames of every shot, at least one; a shot without a length has the default."""
    return [max(1, round((shot.seconds or DEFAULT_SECONDS) * fps)) for shot in shots]


def default_lengths(shots: Iterable[Shot]) -> Iterator[str]:
    """A warning that names the shots which got a length that they do not have."""
    without = [shot.id for shot in shots if shot.seconds is None]
    if without:
        yield f"no length of their own: {shots_named(without)}, written as {DEFAULT_SECONDS:g} s"
