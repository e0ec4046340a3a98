"""Pieces of a text that know where they stand, for errors with a line and a column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from . import storyboard as values
from .lists import LISTED, NUMBER
from .storyboard import StoryboardError

NO_COMMENT = "a comment needs a space before its '//', got none"

_REAL = re.compile(rf"[+-]?(?:{NUMBER})", re.I | re.A)


@dataclass(frozen=True)
class Span:
    """A piece of one line that knows where it stands; `line` and `column` count from 1."""

    text: str
    line: int
    column: int

    def cut(self, start: int, end: int | None = None) -> Span:
        """`text[start:end]` without the spaces around it."""
        piece = self.text[start:end]
        begin = start + len(piece) - len(piece.lstrip())
        return Span(piece.strip(), self.line, self.column + begin)

    def split(self, separator: re.Pattern[str]) -> list[Span]:
        """The pieces between separators, without the spaces around them."""
        starts = [0] + [match.end() for match in separator.finditer(self.text)]
        ends = [match.start() for match in separator.finditer(self.text)] + [len(self.text)]
        return [self.cut(start, end) for start, end in zip(starts, ends, strict=True)]

    def error(self, problem: str) -> StoryboardError:
        """The problem, at the place of this span."""
        return StoryboardError(problem, self.line, self.column)

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Gives a StoryboardError raised inside the place of this span."""
        try:
            yield
        except StoryboardError as error:
            raise error.at(self.line, self.column) from None


def value_of(span: Span, key: str) -> Span:
    """`span` when it holds a value for `key`. Raises StoryboardError when it is empty."""
    if not span.text:
        raise span.error(f"{key} needs a value after the colon, got none")
    if span.text.startswith("//"):
        raise span.error(NO_COMMENT)
    return span


def real_number(span: Span, key: str) -> float:
    """A number in plain digits; words such as nan are refused, the range is the caller's."""
    if not _REAL.fullmatch(span.text):
        raise span.error(f"{key} must be a number, got {span.text!r}")
    return float(span.text)


def file_names(span: Span) -> tuple[str, ...]:
    """File names between commas; each stays inside ComfyUI's input folder."""
    names = []
    for name in span.split(LISTED):
        with name.placed():
            values.check_references([value_of(name, "refs").text])
        names.append(name.text)
    return tuple(names)
