"""Frame schedules: `"0": "prompt", "24": "prompt"`, FizzNodes' and Deforum's prompt travel.

Learnt from the repository FizzleDorf/ComfyUI_FizzNodes: `BatchPromptSchedule` sets braces around
the text, drops a comma before the closing one and reads JSON; `interpolate_prompt_series` sorts the
frames and lets each prompt run to the next one's frame, mixing the two on the way; "--neg" divides
a prompt from its negative; what stands between backticks is a formula of the frame.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ..spans import CONTROLS
from ..storyboard import MAX_SECONDS, NO_SHOTS, Shot, Storyboard, video_prompt
from .json_text import JsonText
from .written import Written, default_lengths, frame_counts, lost_fields, one_line, untagged

FPS = 16.0
"""Frames per second of a schedule where the graph says none: Wan's own rate."""

NEGATIVE = "--neg"

_BEGINS = r'\s*"\s*\d{1,9}\s*"\s*:\s*"'
_LINE = re.compile(_BEGINS, re.A)
_ENTRY = re.compile(
    _BEGINS + r'(?:[^"\\]|\\.)*"\s*(?:,\s*)?(?:\Z|"[^"\n]{1,40}"\s*:|//)', re.A | re.S
)
_FRAME = re.compile(r"\s*(\d{1,9})\s*", re.A)
_FORMULA = re.compile(r"`[^`]*`")
_SAID = (
    "style",
    "global",
    "size",
    "seconds",
    "continue",
    "motion",
    "camera",
    "negative",
    "names",
    "places",
)


def looks_like(text: str) -> bool:
    """Whether a text without braces is a schedule.

    It begins with a whole entry that another entry or nothing follows, or every line of several
    begins an entry. A sentence that begins with a quoted number is prose.
    """
    if not _LINE.match(text):
        return False
    if _ENTRY.match(text):
        return True
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) > 1 and all(_LINE.match(line) for line in lines)


def is_schedule(value: object) -> bool:
    """Whether a JSON value is a schedule in braces: every name is a number of digits."""
    return isinstance(value, dict) and bool(value) and all(map(_FRAME.fullmatch, value))


def read(source: JsonText, fps: float | None) -> Storyboard:
    """A shot runs from its frame to the next one's, without a cut; the last has no length.

    Frames become seconds at `fps`, else at 16 frames per second, and the storyboard has that rate:
    a frame of the schedule is a frame of the film. Raises StoryboardError with line and column.
    """
    rate = fps or FPS
    warnings: list[str] = []
    entries: list[tuple[int, str, str, str]] = []
    for frame, key in sorted(_frames(source)):
        prompt, negative = _prompt(source, key)
        if not prompt:
            warnings.append(source.warning((key,), f"frame {frame} has no prompt and is left out"))
            continue
        if _FORMULA.search(prompt):
            warnings.append(
                source.warning((key,), "a formula between backticks is read as plain words")
            )
        entries.append((frame, key, prompt, negative))
    if not entries:
        raise source.error((), NO_SHOTS)
    if entries[0][0] > 0:
        warnings.append(
            source.warning((entries[0][1],), "the first prompt begins at frame 0 of the film")
        )
    starts = [0, *(frame for frame, *_ in entries[1:])]
    return Storyboard(
        fps=rate,
        shots=tuple(
            Shot(
                id=f"1.{index + 1}",
                caption=prompt,
                negative=negative,
                transition="continue" if index else None,
                seconds=_seconds(source, key, starts[index : index + 2], rate),
                line=source.places.at(source.offset((key,)))[0],
            )
            for index, (_, key, prompt, negative) in enumerate(entries)
        ),
        warnings=tuple(warnings),
    )


def _frames(source: JsonText) -> Iterator[tuple[int, str]]:
    taken: set[int] = set()
    for key in source.value:
        match = _FRAME.fullmatch(key)
        if match is None:
            raise source.error(
                (key,), f"a frame must be a whole number, got {key!r:.80}; formulas are not read"
            )
        frame = int(match.group(1))
        if frame in taken:
            raise source.error((key,), f"frames must differ, got {frame} again")
        taken.add(frame)
        yield frame, key


def _prompt(source: JsonText, key: str) -> tuple[str, str]:
    value = source.value[key]
    if not isinstance(value, str) or CONTROLS.search(value):
        raise source.error((key,), f"the prompt of a frame must be text, got {value!r:.80}")
    prompt, _, negative = untagged(value).partition(NEGATIVE)
    return one_line(prompt), one_line(negative.partition(NEGATIVE)[0])


def _seconds(source: JsonText, key: str, frames: list[int], fps: float) -> float | None:
    if len(frames) < 2:
        return None
    seconds = (frames[1] - frames[0]) / fps
    if seconds > MAX_SECONDS:
        raise source.error(
            (key,), f"a shot lasts at most {MAX_SECONDS:g} s, got {seconds:g} s at {fps:g} fps"
        )
    return seconds


def write(storyboard: Storyboard) -> Written:
    """An entry per shot, each with all that the model must know."""
    fps = storyboard.fps or FPS
    said = (*_SAID, "fps") if fps == FPS else _SAID
    warnings = [*lost_fields(storyboard, said), *default_lengths(storyboard.shots)]
    entries, at = [], 0
    for shot, frames in zip(storyboard.shots, frame_counts(storyboard.shots, fps), strict=True):
        prompt = untagged(video_prompt(storyboard, shot)).replace(NEGATIVE, NEGATIVE.strip("-"))
        if shot.negative:
            prompt += f" {NEGATIVE} {untagged(shot.negative)}"
        entries.append(f'"{at}": {json.dumps(prompt, ensure_ascii=False)}')
        at += frames
    warnings.append(f"{at} frames at {fps:g} per second: set max_frames to that number")
    return Written(",\n".join(entries) + "\n", tuple(warnings))
