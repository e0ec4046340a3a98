"""Where something stands in a text of several lines."""

from __future__ import annotations

from bisect import bisect_right

from ..spans import CONTROLS
from ..storyboard import StoryboardError


class Places:
    """Lines and columns of places in a text, from 1; lines end where `str.splitlines` says."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines = text.splitlines(keepends=True) or [""]
        self._starts = [0]
        for line in self._lines[:-1]:
            self._starts.append(self._starts[-1] + len(line))

    def at(self, offset: int) -> tuple[int, int]:
        """Line and column of `text[offset]`; the end of the text is behind its last letter."""
        index = bisect_right(self._starts, offset) - 1
        letters = len(self._lines[index].splitlines()[0]) if self._lines[index] else 0
        return index + 1, min(offset - self._starts[index], letters) + 1

    def error(self, offset: int, problem: str) -> StoryboardError:
        """The problem, at that place."""
        return StoryboardError(problem, *self.at(offset))

    def warning(self, offset: int, problem: str) -> str:
        """A warning in the words of the script's own."""
        line, column = self.at(offset)
        return f"line {line}, column {column}: {problem}"

    def refuse_controls(self) -> None:
        """Raise StoryboardError where the text holds a sign that no storyboard may hold."""
        wrong = CONTROLS.search(self.text)
        if wrong:
            raise self.error(
                wrong.start(),
                f"a script must not hold control characters, got U+{ord(wrong.group()):04X}",
            )


def first_word(text: str, begin: int, end: int) -> int:
    """Where the words of `text[begin:end]` begin; `end` when there are none."""
    piece = text[begin:end]
    return begin + len(piece) - len(piece.lstrip())
