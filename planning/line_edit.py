"""Changes one line of a script and leaves everything else on it as it was typed.

Every function takes a whole line without its end and returns the new one. Values are words as an
artist would type them; an empty value takes the thing out. Whether the new line says what was meant
is checked by `planning/script_edit.py`, which reads it again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from .lists import LISTED
from .script import DEFINITION, EXTRAS_APART, begins_a_shot, content_lines
from .shot_line import (
    OVERRIDE,
    TRANSITIONS,
    ShotParts,
    braces_words,
    item_seconds,
    shot_parts,
)
from .spans import Span
from .storyboard import Character, find_tags

BRACKET_FIELDS = ("size", "seconds", "transition")
"""What stands in the brackets of a shot, in the order in which it is written."""

_LONE_NUMBER = re.compile(r"[\d.]+", re.A)
_SPACED = r"[^\W\u2e80-\U0010ffff]"  # letters of scripts that put spaces between words
_RECALLED = re.compile(r'["<@#\s]*(.*?)[>\s"]*')


def with_caption(line: str, caption: str) -> str:
    """A shot's line with another description."""
    parts = _shot(line)
    guard = "" if parts.bracket is not None or begins_a_shot(caption) else "[] "
    return _replaced(line, parts.caption, guard + caption)


def with_bracket_field(line: str, field: str, value: str) -> str:
    """A shot's line with another size, length ("5" or "5s") or transition in its brackets."""
    if field == "seconds" and _LONE_NUMBER.fullmatch(value):
        value += "s"
    items = _bracket_items(line)
    same = [item for kind, item in items if kind == field]
    if not value and not same:
        return line
    for item in reversed(same[1:] if value else same):
        line = _without(line, [one for _, one in _bracket_items(line)], item)
    if not value:
        return _without_empty_bracket(line)
    return _replaced(line, same[0], value) if same else _with_bracket_item(line, field, value)


def with_override(line: str, key: str, value: str) -> str:
    """A shot's line with another `{key: value}`."""
    parts = _shot(line)
    items = parts.items
    value = braces_words(value) if value else ""
    found = [item for item in items if _key(item) == key]
    if found and value:
        return _replaced(line, _brace_value(found[0]), value)
    if found:
        if len(items) > 1:
            return _without(line, items, found[0])
        return line[: _end(parts.caption)] + line[_end(_content(line)) :]
    if not value:
        return line
    if items:
        return _inserted(line, _end(items[-1]), f"; {key}: {value}")
    if parts.braces is not None:
        return _inserted(line, _start(parts.braces), f"{key}: {value}")
    return _inserted(line, _end(parts.caption), f" {{{key}: {value}}}")


def with_recalls(line: str, renamed: Callable[[str], str]) -> str:
    """A shot's line whose `recall:` names shots and people by other names; signs around them and
    spaces stay."""
    recalls = [item for item in _shot(line).items if _key(item) == "recall"]
    for piece in reversed(_brace_value(recalls[0]).split(LISTED) if recalls else []):
        match = _RECALLED.fullmatch(piece.text)
        if match is not None:
            bare = piece.cut(match.start(1), match.end(1))
            line = _replaced(line, bare, renamed(bare.text))
    return line


def place_of(line: str) -> str:
    """The `#place` of a `== Scene ==` line without its sign, "" when it has none."""
    return _scene(line).text.partition("#")[2].strip()


def with_place(line: str, place: str) -> str:
    """A `== Scene ==` line with another `#place`."""
    inner = _scene(line)
    words, mark, _ = inner.text.partition("#")
    mark_words = f"#{place}" if place else ""
    if mark:
        name = inner.cut(len(words))
        return _replaced(line, name, mark_words) if place else _squeezed(line, name)
    if not place:
        return line
    after = " " if line[_end(inner) : _end(inner) + 1] == "=" else ""
    before = "" if line[_start(inner) - 1] == " " and not inner.text else " "
    return _inserted(line, _end(inner), before + mark_words + after)


def with_name(line: str, name: str) -> str:
    """A definition's line with another name."""
    content = _content(line)
    match = DEFINITION.match(content.text)
    assert match is not None, line
    return _replaced(line, content.cut(match.start(2), match.end(2)), name)


def with_description(line: str, description: str) -> str:
    """A definition's line with another description."""
    body, *extras = _definition_pieces(line)
    if body.text and description:
        return _replaced(line, body, description)
    start = line.index("=") + 1
    end = line.index("|", start) if extras else _end(_content(line))
    words = f" {description}" if description else ""
    return line[:start] + words + (" " if extras else "") + line[end:]


def with_extra(line: str, key: str, value: str) -> str:
    """A definition's line with another `| key: value` (ref, pin or lora)."""
    _, *extras = _definition_pieces(line)
    for extra in extras:
        word, _, _ = extra.text.partition(":")
        if word.strip().lower().removesuffix("s") != key:
            continue
        if value:
            return _replaced(line, extra.cut(len(word) + 1), value)
        bar = line.rindex("|", 0, _start(extra))
        return line[:bar].rstrip() + line[_end(extra) :]
    return _inserted(line, _end(_content(line)), f" | {key}: {value}") if value else line


def with_setting(line: str, value: str) -> str:
    """A setting's line (`style: ...`) with another value."""
    content = _content(line)
    mark = re.search("[:：]", content.text)
    assert mark is not None, line
    start = _start(content) + mark.end()
    return f"{line[:start]} {value}{line[_end(content) :]}"


def tagged_caption(caption: str, name: str, characters: Iterable[Character]) -> str:
    """A caption that tags `name`: at the first place that says the name, else in front."""
    tags = find_tags(caption, characters)
    if any(tag.name == name for tag in tags):
        return caption
    word = re.compile(rf"(?<!{_SPACED}){re.escape(name)}(?!{_SPACED})", re.I)
    for match in word.finditer(caption):
        if all(tag.end <= match.start() or match.end() <= tag.start for tag in tags):
            return f"{caption[: match.start()]}<{name}>{caption[match.end() :]}"
    return f"<{name}> {caption}"


def retagged_caption(
    caption: str, name: str, characters: Iterable[Character], written: Callable[[str], str]
) -> str:
    """A caption in which every tag of `name` is replaced by `written(the tag)`."""
    for tag in reversed(find_tags(caption, characters)):
        if tag.name == name:
            tagged = written(caption[tag.start : tag.end])
            caption = caption[: tag.start] + tagged + caption[tag.end :]
    return caption


def _content(line: str) -> Span:
    """What the line says, without its comment and the spaces around it."""
    return next(content_lines(line))


def _shot(line: str) -> ShotParts:
    return shot_parts(_content(line))


def _scene(line: str) -> Span:
    """What a scene's line says between its "=="."""
    content = _content(line)
    lead = len(content.text) - len(content.text.lstrip("="))
    return content.cut(lead, max(lead, len(content.text.rstrip("="))))


def _start(span: Span) -> int:
    return span.column - 1


def _end(span: Span) -> int:
    return span.column - 1 + len(span.text)


def _replaced(line: str, span: Span, words: str) -> str:
    return line[: _start(span)] + words + line[_end(span) :]


def _inserted(line: str, at: int, words: str) -> str:
    return line[:at] + words + line[at:]


def _without(line: str, items: Sequence[Span], item: Span) -> str:
    """The line without one of several items and the separator that joined it to the others."""
    at = items.index(item)
    if at + 1 < len(items):
        return line[: _start(item)] + line[_start(items[at + 1]) :]
    return line[: _end(items[at - 1]) if at else _start(item)] + line[_end(item) :]


def _squeezed(line: str, span: Span) -> str:
    """The line without a piece and without the spaces in front of it."""
    return line[: _start(span)].rstrip() + line[_end(span) :]


def _bracket_items(line: str) -> list[tuple[str, Span]]:
    """Every item of a shot's brackets with the field that it gives, "" for an empty one."""
    bracket = _shot(line).bracket
    return (
        [] if bracket is None else [(_bracket_field(item), item) for item in bracket.split(LISTED)]
    )


def _bracket_field(item: Span) -> str:
    if item.text.casefold() in TRANSITIONS:
        return "transition"
    if item_seconds(item) is not None:
        return "seconds"
    return "size" if item.text else ""


def _with_bracket_item(line: str, field: str, value: str) -> str:
    bracket = _shot(line).bracket
    if bracket is None:
        return _inserted(line, _start(_content(line)), f"[{value}] ")
    items = [(kind, item) for kind, item in _bracket_items(line) if kind]
    rank = BRACKET_FIELDS.index
    earlier = [item for kind, item in items if rank(kind) < rank(field)]
    if earlier:
        return _inserted(line, _end(earlier[-1]), f", {value}")
    return _inserted(line, _start(bracket), f"{value}, " if items else value)


def _without_empty_bracket(line: str) -> str:
    """The line without its "[]", unless the description would be read as something else then."""
    parts = _shot(line)
    if parts.bracket is None or parts.bracket.text or not begins_a_shot(parts.caption.text):
        return line
    return line[: _start(_content(line))] + line[_start(parts.caption) :]


def _key(item: Span) -> str:
    match = OVERRIDE.match(item.text)
    return match.group(1).strip().lower() if match else ""


def _brace_value(item: Span) -> Span:
    match = OVERRIDE.match(item.text)
    assert match is not None, item
    return item.cut(match.end())


def _definition_pieces(line: str) -> list[Span]:
    content = _content(line)
    match = DEFINITION.match(content.text)
    assert match is not None, line
    return content.cut(match.end()).split(EXTRAS_APART)
