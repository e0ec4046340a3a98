"""A storyboard in plain words, for the artist who wrote it."""

from __future__ import annotations

from collections.abc import Collection

from .storyboard import Shot, Storyboard, plain_caption

CAPTION_LETTERS = 60


def describe_storyboard(storyboard: Storyboard, form: str) -> str:
    """One line for the form it was read from, one for the whole, every shot and every warning.

    Not in columns: the page sets the words of a node in a proportional font.
    """
    shots = (_describe_shot(storyboard, shot) for shot in storyboard.shots)
    warnings = (f"Warning, {warning}" for warning in storyboard.warnings)
    return "\n".join([f"Read as: {form}", _total(storyboard), *shots, *warnings])


SAMPLER_IGNORES = ("recall", "refs", "strength", "lora", "audio")
"""Settings of a shot that the long video sampler does not follow."""


def ignored_settings(storyboard: Storyboard, follows: Collection[str] = ()) -> tuple[str, ...]:
    """Which of the script's settings the long video sampler passes over, each in words.

    `follows` are those of SAMPLER_IGNORES that it does follow in this graph, because something is
    connected that makes it do so.
    """
    passed_over = [name for name in SAMPLER_IGNORES if name not in follows]
    found = [
        f"{name} of shot {shot.id} has no effect here"
        for shot in storyboard.shots
        for name in passed_over
        if getattr(shot, name) not in ((), "", None)
    ]
    if "lora" in passed_over:
        people = [one.name for one in storyboard.characters if one.lora]
        found += [f"lora of character {name} has no effect here" for name in people]
    return tuple(found)


def _describe_shot(storyboard: Storyboard, shot: Shot) -> str:
    caption = plain_caption(storyboard, shot)
    if len(caption) > CAPTION_LETTERS:
        caption = caption[: CAPTION_LETTERS - 1].rstrip() + "…"
    seconds = "" if shot.seconds is None else f"{shot.seconds:g} s"
    parts = (shot.id, seconds, shot.transition, shot.size, caption)
    return " · ".join(part for part in parts if part)


def _total(storyboard: Storyboard) -> str:
    known = [shot.seconds for shot in storyboard.shots if shot.seconds is not None]
    open_ended = len(storyboard.shots) - len(known)
    words = f"{len(storyboard.shots)} shot{'' if len(storyboard.shots) == 1 else 's'}"
    if known:
        words += f", {sum(known):g} s"
    if open_ended:
        words += f"{' and' if known else ','} {open_ended} without a length of their own"
    if storyboard.fps is not None:
        words += f", {storyboard.fps:g} fps"
    return (f"{storyboard.title}: " if storyboard.title else "") + words
