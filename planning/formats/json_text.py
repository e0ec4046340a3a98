"""JSON as people and language models write it, with the place of every field.

`json.loads` reads the text; only where it cannot, or where an error needs a place, the slower
reader here goes through it again. It also takes trailing commas, `//` and `/* */` comments and
line breaks inside strings: StoryMem reads its scripts as JSON5, FizzNodes drops trailing commas.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ..storyboard import StoryboardError
from .places import Places

Way = tuple[str | int, ...]

DEEPEST = 32
"""Objects and lists inside each other; no storyboard needs more than six."""

_SPACE = re.compile(r"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.S)
_MOST_DIGITS = 20  # more than any field may have; Python refuses to read thousands of them


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


class JsonText:
    """The value of a JSON text. Raises StoryboardError with line and column.

    `bare`: the text is the inside of an object, without its braces.
    """

    def __init__(self, text: str, bare: bool = False) -> None:
        self.places = Places(text)
        self._bare = bare
        self._found: dict[Way, int] | None = None
        try:
            self.value = json.loads("{" + text + "}" if bare else text, parse_int=_whole)
        except (ValueError, RecursionError):
            self.value = self._read()

    def _read(self) -> Any:
        reader = _Reader(self.places)
        value = reader.read_bare() if self._bare else reader.read_all()
        self._found = reader.found
        return value

    def offset(self, way: Way) -> int:
        """Where the field stands, or the nearest thing around it that is there."""
        if self._found is None:
            self._read()
        found = self._found or {}
        while way and way not in found:
            way = way[:-1]
        return found.get(way, 0)

    def error(self, way: Way, problem: str) -> StoryboardError:
        """The problem, at the place of that field."""
        return self.places.error(self.offset(way), problem)

    def warning(self, way: Way, problem: str) -> str:
        """A warning with the place of that field."""
        return self.places.warning(self.offset(way), problem)

    def placed(self, error: StoryboardError) -> StoryboardError:
        """An error that knows its field, with that field's line and column."""
        return error if error.line is not None else self.error(error.field, error.problem)


class _Reader:
    """Goes through the text; `found` is where each member's key and each item begins."""

    def __init__(self, places: Places) -> None:
        self.found: dict[Way, int] = {}
        self._places = places
        self._text = places.text
        self._decoder = json.JSONDecoder(parse_int=_whole, strict=False)

    def read_all(self) -> Any:
        begin = self._skip(0)
        self.found[()] = begin
        value, end = self._value(begin, ())
        end = self._skip(end)
        if end < len(self._text):
            raise self._error(end, f"nothing may follow the JSON, got {self._text[end]!r}")
        return value

    def read_bare(self) -> Any:
        self.found[()] = self._skip(0)
        return self._members(self._skip(0), (), "")[0]

    def _skip(self, offset: int) -> int:
        match = _SPACE.match(self._text, offset)
        return match.end() if match else offset

    def _error(self, offset: int, problem: str) -> StoryboardError:
        return self._places.error(offset, f"this JSON cannot be read: {problem}")

    def _sign(self, offset: int) -> str:
        return self._text[offset : offset + 1]

    def _value(self, offset: int, way: Way) -> tuple[Any, int]:
        sign = self._sign(offset)
        if sign in ("{", "["):
            if len(way) >= DEEPEST:
                raise self._error(offset, f"more than {DEEPEST} brackets inside each other")
            return self._object(offset, way) if sign == "{" else self._list(offset, way)
        return self._scalar(offset)

    def _scalar(self, offset: int) -> tuple[Any, int]:
        try:
            return self._decoder.raw_decode(self._text, offset)
        except json.JSONDecodeError as error:
            problem = error.msg.lower()
            raise self._error(min(error.pos, len(self._text)), problem) from None

    def _object(self, offset: int, way: Way) -> tuple[dict[str, Any], int]:
        members, offset = self._members(self._skip(offset + 1), way, "}")
        return members, offset + 1

    def _members(self, offset: int, way: Way, closing: str) -> tuple[dict[str, Any], int]:
        members: dict[str, Any] = {}
        while self._sign(offset) != closing:
            if self._sign(offset) != '"':
                raise self._error(offset, self._expected("a name in double quotes", offset))
            begin = offset
            name, offset = self._scalar(offset)
            offset = self._skip(offset)
            if self._sign(offset) != ":":
                raise self._error(offset, self._expected(f"':' behind {name!r:.40}", offset))
            inner = (*way, name)
            self.found[inner] = begin
            members[name], offset = self._value(self._skip(offset + 1), inner)
            offset = self._comma(offset, closing)
        return members, offset

    def _list(self, offset: int, way: Way) -> tuple[list[Any], int]:
        items: list[Any] = []
        offset = self._skip(offset + 1)
        while self._sign(offset) != "]":
            inner = (*way, len(items))
            self.found[inner] = offset
            item, offset = self._value(offset, inner)
            items.append(item)
            offset = self._comma(offset, "]")
        return items, offset + 1

    def _comma(self, offset: int, closing: str) -> int:
        """Behind a member: past its comma, or at the closing bracket."""
        offset = self._skip(offset)
        if self._sign(offset) == ",":
            return self._skip(offset + 1)
        if self._sign(offset) != closing:
            raise self._error(offset, self._expected("',' or " + repr(closing or '"'), offset))
        return offset

    def _expected(self, wanted: str, offset: int) -> str:
        there = self._sign(offset)
        return f"expected {wanted}, got {repr(there) if there else 'the end of the text'}"
