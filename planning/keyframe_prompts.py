"""The prompt of a keyframe, in the way its model is spoken to about reference pictures.

Stock models know nothing of a tag such as `<Ana>`: a name is followed by its description where it
first stands and is a plain name after that. Templates: shared design, golden-memory-and-keyframes,
section 9.5.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .storyboard import Shot, Storyboard, find_tags, image_prompt

if TYPE_CHECKING:
    from .storyboard import Character

Template = Literal["numbered", "instruction", "plain"]
"""Written out once more in `adapters/image_family.py`, which may not be imported from here."""

LONGEST_PROMPT = 512
"""Tokens: where Flux.2's text encoder is cut off (ComfyUI's text_encoders/flux.py) and what the
design allows a prompt."""

TOKENS_PER_WORD = 4 / 3
"""Of English prose in the vocabularies of T5 and Qwen: a rule of thumb, other scripts need more."""

_PIECE = re.compile(r"[\w'\-]+|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a reference picture shows, in the storyboard's names."""

    characters: tuple[str, ...] = ()
    location: str | None = None


def keyframe_prompt(
    storyboard: Storyboard, shot: Shot, template: Template, references: Sequence[Reference] = ()
) -> str:
    """The prompt of a shot that is drawn beside `references`, best first.

    `plain`, and every template without references, is `image_prompt`. A shot's own
    `keyframe_prompt` stands for the words about the new picture; what the references are is still
    said in front of it.
    """
    if template == "plain" or not references:
        return image_prompt(storyboard, shot)
    if template == "numbered":
        return _numbered(storyboard, shot, references)
    return _instruction(storyboard, shot, references)


def estimated_tokens(prompt: str) -> int:
    """About how many tokens a text encoder makes of a prompt."""
    return round(len(_PIECE.findall(prompt)) * TOKENS_PER_WORD)


def _numbered(storyboard: Storyboard, shot: Shot, references: Sequence[Reference]) -> str:
    """Flux.2 and Qwen-Image-Edit: pictures are spoken of as "image 1"."""
    facts, told, named = [], set(), set()
    for name in shot.characters:
        images = [i for i, one in enumerate(references, 1) if name in one.characters]
        if images:
            facts.append(f"{_described(storyboard.character(name))} is in {_images(images)}")
            told.add(name)
            named.update(images)
    if shot.location is not None:
        images = [i for i, one in enumerate(references, 1) if one.location == shot.location]
        if images:
            facts.append(f"the place is the one in {_images(images)}")
            named.update(images)
    others = [i for i in range(1, len(references) + 1) if i not in named]
    if others:
        facts.append(f"{_images(others)} {'is' if len(others) == 1 else 'are'} of the same film")
    text = "; ".join(facts)
    return f"{text[0].upper()}{text[1:]}. New shot: {_new_picture(storyboard, shot, told)}"


def _instruction(storyboard: Storyboard, shot: Shot, references: Sequence[Reference]) -> str:
    """Flux.1 Kontext: what changes, then what stays; numbers of pictures are weakly obeyed."""
    shown = {name for one in references for name in one.characters}
    people = [name for name in shot.characters if name in shown]
    kept = [f"{name}'s face, hair and clothes" for name in people]
    if shot.location is not None and any(one.location == shot.location for one in references):
        kept.append("the place")
    keep = _listed(kept or ["the style and the colours"])
    picture = _new_picture(storyboard, shot, set())
    stop = "" if picture[-1:] in ".!?" else "."
    return f"Show a new shot of the same film: {picture}{stop} Keep {keep} as in the given picture."


def _new_picture(storyboard: Storyboard, shot: Shot, told: set[str]) -> str:
    """Style, size, place and caption; people in `told` are described already."""
    if shot.keyframe_prompt:
        return shot.keyframe_prompt
    place = storyboard.location(shot.location).description if shot.location else ""
    caption, mentioned = _expanded_caption(storyboard, shot, told)
    silent = [name for name in shot.characters if name not in mentioned and name not in told]
    looks = [_described(storyboard.character(name)) for name in silent]
    parts = (storyboard.style, shot.size, place, *looks, caption)
    return ", ".join(part.strip(" ,") for part in parts if part.strip(" ,"))


def _expanded_caption(
    storyboard: Storyboard, shot: Shot, told: set[str]
) -> tuple[str, frozenset[str]]:
    """The caption with descriptions at first mention, and the names that it mentions."""
    text, done, mentioned = "", 0, set()
    for tag in find_tags(shot.caption, storyboard.characters):
        if tag.start < done:
            continue
        words = tag.words
        if tag.name is not None and tag.name not in mentioned:
            mentioned.add(tag.name)
            if tag.name not in told:
                words = _described(storyboard.character(tag.name))
        text += shot.caption[done : tag.start] + words
        done = tag.end
    return text + shot.caption[done:], frozenset(mentioned)


def _described(character: Character) -> str:
    return (
        f"{character.name} ({character.description})" if character.description else character.name
    )


def _images(numbers: Sequence[int]) -> str:
    return _listed([f"image {number}" for number in numbers])


def _listed(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
