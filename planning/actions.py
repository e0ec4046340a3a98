"""What the viewer does, frame by frame, as text or as a curve: forward, left or right.

MilliVid's released model (arXiv 2606.09056) follows one of three actions per frame; in its training
videos each lasts nine frames, a turn of 90 degrees (shared design `hierarchical-latents.md`,
section 4.1). The action of a frame is the one that led to it (section 2.5).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby

ACTIONS = ("forward", "left", "right")
"""By the number that the model knows them under."""

FORWARD, LEFT, RIGHT = range(3)

ACTION_FRAMES = 9
"""Frames of an action that says no number."""

MOST_FRAMES = 1_000_000
"""Of one text: half a day of video, so that a mistyped number does not fill the memory."""

ITEM = re.compile(r"(forward|left|right)(?:\s+(\d{1,7}))?|([012])")


def parse_actions(text: str, name: str) -> tuple[int, ...]:
    """An action per frame from "forward 18, left 9" or from numbers 0, 1, 2 (one frame each).

    Items stand between commas, semicolons or line ends; one without a number lasts ACTION_FRAMES.
    Empty text is empty. Raises ValueError, saying the input's name, for an item that is neither.
    """
    found: list[int] = []
    for item in re.split(r"[,;\n]", text.lower()):
        if not item.strip():
            continue
        match = ITEM.fullmatch(item.strip())
        frames = int(match[2] or ACTION_FRAMES) if match and match[1] else 1
        if match is None or frames < 1 or len(found) + frames > MOST_FRAMES:
            raise ValueError(
                f"{name} must be actions such as 'forward 18, left 9, right 9' or numbers 0, 1, 2, "
                f"of {MOST_FRAMES} frames at most, got {item.strip()[:60]!r}"
            )
        action = ACTIONS.index(match[1]) if match[1] else int(match[3])
        found += [action] * frames
    return tuple(found)


def repeated(actions: Sequence[int], frames: int) -> tuple[int, ...]:
    """The actions from the beginning again and again until there are `frames`."""
    return tuple(actions[frame % len(actions)] for frame in range(frames))


def steered(height: Callable[[float], float], frames: int) -> tuple[int, ...]:
    """Actions that a curve over 0..1 steers: left below a third, right above two thirds, forward
    between. The first frame is at 0, the last at 1."""
    found = []
    for frame in range(frames):
        value = height(frame / max(frames - 1, 1))
        found.append(LEFT if value < 1 / 3 else RIGHT if value > 2 / 3 else FORWARD)
    return tuple(found)


def actions_text(actions: Sequence[int]) -> str:
    """The shortest text that `parse_actions` reads as these actions."""
    runs = [(action, len(list(group))) for action, group in groupby(actions)]
    return ", ".join(f"{ACTIONS[action]} {frames}" for action, frames in runs)
