"""Tags in a caption: `<Ana>` and `@Ana` stand for a character."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .storyboard import Character

NAME = re.compile(r"[^\W\d][\w .'\-]*")
"""What a character or a place may be called; see `check_name` for the length."""

_TAG = re.compile(r"<([^<>]{1,64})>|(?<!\w)@(?=[^\W\d])")
_WORD = re.compile(r"[^\W\d][\w'\-]*")
_FIRST_CJK = 0x2E80  # scripts from here on are written without spaces between words


@dataclass(frozen=True)
class Tag:
    """`caption[start:end]` tags `name` (None: nobody of that name); `words` stand in prompts."""

    start: int
    end: int
    name: str | None
    words: str


def find_tags(caption: str, characters: Iterable[Character]) -> tuple[Tag, ...]:
    """Every `<Name>` and `@Name` in a caption, in order, in any case.

    What cannot be a name (`<3`, `<lora:x:1>`, `a@b.org`) is no tag at all.
    """
    if "<" not in caption and "@" not in caption:
        return ()
    names = {one.name.casefold(): one.name for one in characters}
    found: list[Tag] = []
    for match in _TAG.finditer(caption):
        if match.group(1) is None:
            tag = _at_tag(caption, match.end(), names)
            found.append(tag)
            continue
        words = match.group(1).strip()
        if words.casefold() in names or NAME.fullmatch(words):
            name = names.get(words.casefold())
            found.append(Tag(match.start(), match.end(), name, name or words))
    return tuple(found)


def _at_tag(caption: str, start: int, names: dict[str, str]) -> Tag:
    """The tag whose name begins at `start`, just behind an `@`; the longest known name wins."""
    best = ""
    for folded in names:
        # A name may be longer folded than written, so compare pieces of the written length.
        piece = caption[start : start + len(names[folded])]
        after = caption[start + len(piece) : start + len(piece) + 1]
        if piece.casefold() == folded and len(piece) > len(best) and _word_ends(piece, after):
            best = piece
    if best:
        name = names[best.casefold()]
        return Tag(start - 1, start + len(best), name, name)
    word = _WORD.match(caption, start)
    words = word.group() if word else ""
    return Tag(start - 1, start + len(words), None, words)


def _word_ends(piece: str, after: str) -> bool:
    if not after or not (after.isalnum() or after == "_"):
        return True
    return ord(piece[-1]) >= _FIRST_CJK or ord(after) >= _FIRST_CJK
