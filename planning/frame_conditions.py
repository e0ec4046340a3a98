"""What is told about every latent frame of a film, written as numbers.

A planner that was trained on a world knows a list of things that can be true of a latent frame:
where the camera stands, how it moves, which place it is. A film says for each latent frame, from
the first on, which of them are: `3+17, 4+17*5` is things 3 and 17, then five times 4 and 17.
"""

from __future__ import annotations

import re

FrameConditions = tuple[tuple[int, ...], ...]
"""Per latent frame the numbers, 0-based, of what is true of it."""

MOST_FRAMES = 1_000_000

_ENTRY = re.compile(r"(\d{1,6}(?:\s*\+\s*\d{1,6})*)(?:\s*\*\s*(\d{1,7}))?", re.A)


def parse_conditions(text: str, known: int) -> FrameConditions:
    """The conditions that a text says; `known` is how many things there are.

    Raises ValueError naming the first entry that does not read, or that is not among the known.
    """
    frames: list[tuple[int, ...]] = []
    for entry in filter(None, (part.strip() for part in re.split(r"[,\n]", text))):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(
                f"conditions must read like '3+17, 4+17*5' (numbers of a latent frame, *repeats), "
                f"got {entry!r:.60}"
            )
        told = tuple(int(number) for number in match[1].split("+"))
        if max(told) >= known:
            raise ValueError(
                f"conditions of this planner are numbers from 0 to {known - 1}, got {max(told)}"
            )
        repeats = int(match[2] or 1)
        if len(frames) + repeats > MOST_FRAMES:
            raise ValueError(f"conditions must be {MOST_FRAMES:,} latent frames or fewer")
        frames += [told] * repeats
    return tuple(frames)
