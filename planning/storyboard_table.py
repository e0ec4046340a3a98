"""A storyboard in plain words, for the artist who wrote it."""

from __future__ import annotations

from collections.abc import Iterator

from .storyboard import Shot, Storyboard, plain_caption

CAPTION_LETTERS = 60


def describe_storyboard(storyboard: Storyboard) -> str:
    """A table of the shots with lengths and transitions, their total, and the warnings."""
    rows = [("shot", "length", "start", "size", "caption")]
    rows += [_row(storyboard, shot) for shot in storyboard.shots]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([_total(storyboard), *lines, *_warnings(storyboard)])


def _row(storyboard: Storyboard, shot: Shot) -> tuple[str, str, str, str, str]:
    caption = plain_caption(storyboard, shot)
    if len(caption) > CAPTION_LETTERS:
        caption = caption[: CAPTION_LETTERS - 1].rstrip() + "…"
    seconds = "-" if shot.seconds is None else f"{shot.seconds:g} s"
    return shot.id, seconds, shot.transition or "-", shot.size or "-", caption


def _total(storyboard: Storyboard) -> str:
    known = [shot.seconds for shot in storyboard.shots if shot.seconds is not None]
    shots = len(storyboard.shots)
    words = f"{shots} shot{'' if shots == 1 else 's'}, {sum(known):g} s"
    if len(known) < shots:
        words += f" and {shots - len(known)} without a length of their own"
    if storyboard.fps is not None:
        words += f", {storyboard.fps:g} fps"
    return (f"{storyboard.title}: " if storyboard.title else "") + words


def _warnings(storyboard: Storyboard) -> Iterator[str]:
    for warning in storyboard.warnings:
        yield f"Warning, {warning}"
