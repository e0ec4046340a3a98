"""Pieces of a text that know where they stand, for errors with a line and a column."""

from __future__ import annotations

import re
from typing import NamedTuple

from . import storyboard as values
from .lists import LISTED, NUMBER
from .storyboard import StoryboardError

NO_COMMENT = "a comment needs a space before its '//', got none"

CONTROLS = re.compile("[\\x00-\\x08\\x0e-\\x1f\\x7f-\\x84\\x86-\\x9f\\ud800-\\udfff]")
"""Signs that no text may hold (Unicode's Cc and Cs) but white space and line breaks."""

_REAL = re.compile(rf"[+-]?(?:{NUMBER})", re.I | re.A)


class Span(NamedTuple):
    """A piece of one line that knows where it stands; `line` and `column` count from 1.

    A tuple, because a script of 400 lines makes ten thousand of them.
    """

    text: str
    line: int
    column: int

    def cut(self, start: int, end: int | None = None) -> Span:
        """`text[start:end]` without the spaces around it."""
        text, line, column = self
        piece = text[start:end]
        bare = piece.strip()
        if len(bare) < len(piece):
            start += len(piece) - len(piece.lstrip())
        return Span(bare, line, column + start)

    def split(self, separator: re.Pattern[str]) -> list[Span]:
        """The pieces between separators, without the spaces around them."""
        start, pieces = 0, []
        for match in separator.finditer(self.text):
            pieces.append(self.cut(start, match.start()))
            start = match.end()
        return [*pieces, self.cut(start)]

    def error(self, problem: str) -> StoryboardError:
        """The problem, at the place of this span."""
        return StoryboardError(problem, self.line, self.column)

    def placed(self) -> _Placed:
        """Gives a StoryboardError raised inside `with` the place of this span."""
        return _Placed(self)


class _Placed:
    """A context manager; `contextlib`'s generators are slow where thousands are entered."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, StoryboardError):
            raise error.at(self._span.line, self._span.column) from None


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
