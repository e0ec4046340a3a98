"""The forms that a storyboard is read from and written in, one module each.

The form of a text is found by itself. Plain prose always stays prose: another form must begin with
its own mark (a brace, a heading in brackets, a quoted frame), or every line must carry it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..script import parse_storyboard
from ..storyboard import Storyboard, StoryboardError, check_fps, image_prompt, listed, video_prompt
from ..storyboard_tiled import tiled_prompt
from . import holocine, json_form, lct, schedule, script_form, storydiffusion, storymem
from .json_text import JsonText
from .written import Written, one_line

SCRIPT = "script"
JSON = "JSON"
STORYMEM = "StoryMem"
HOLOCINE = "HoloCine"
LCT = "LCT"
STORYDIFFUSION = "StoryDiffusion"
SCHEDULE = "frame schedule"

FORMS = (SCRIPT, JSON, STORYMEM, HOLOCINE, LCT, STORYDIFFUSION, SCHEDULE)
"""What `detect_form` can say and `read_storyboard` reads."""

_PROMPTS: dict[str, Callable] = {
    "image prompts": image_prompt,
    "video prompts": video_prompt,
    "tiled prompts": tiled_prompt,
}
_TEXT_READERS: dict[str, Callable[[str, float | None], Storyboard]] = {
    HOLOCINE: holocine.read,
    LCT: lambda text, fps: lct.read(text),
    STORYDIFFUSION: lambda text, fps: storydiffusion.read(text),
}
_JSON_READERS: dict[str, Callable[[JsonText, float | None], Storyboard]] = {
    JSON: lambda source, fps: json_form.read(source),
    STORYMEM: lambda source, fps: storymem.read(source),
    SCHEDULE: schedule.read,
}
_WRITERS: dict[str, Callable[[Storyboard], Written]] = {
    SCRIPT: lambda storyboard: script_form.write(storyboard, detect_form, SCRIPT),
    JSON: json_form.write,
    STORYMEM: storymem.write,
    HOLOCINE: holocine.write,
    LCT: lct.write,
    STORYDIFFUSION: storydiffusion.write,
    SCHEDULE: schedule.write,
}

WRITTEN_FORMS = (*_WRITERS, *_PROMPTS)
"""What `write_storyboard` writes: every form that is read, and prompts, one per line."""

# What language models set around an answer. Both fences must be there.
_FENCED = re.compile(r"(\s*```[\w-]*[^\S\n]*\n)(.*?\n)([^\S\n]*```\s*)", re.S)
_JSON_MARKS = {
    STORYMEM: re.compile(r'"(?:scenes|video_prompts|story_overview)"\s*:'),
    SCHEDULE: re.compile(r'\{\s*"\s*\d+\s*"\s*:', re.A),
}


def detect_form(text: str) -> str:
    """Which of FORMS a text is in. Every text that is in no other form is a script.

    A text whose first line is a comment (`// ...`) is always a script.
    """
    return _recognised(_unfenced(text))[0]


def _recognised(text: str) -> tuple[str, JsonText | None]:
    """The form of a text, and its JSON where that could be read."""
    bare = text.lstrip()
    if bare.startswith("//"):
        return SCRIPT, None
    if bare.startswith("{"):
        return _json_form(text)
    if schedule.looks_like(bare):
        return SCHEDULE, None
    if "[" not in bare:
        return SCRIPT, None
    looks = {HOLOCINE: holocine, LCT: lct, STORYDIFFUSION: storydiffusion}
    return next((form for form, one in looks.items() if one.looks_like(bare)), SCRIPT), None


def _json_form(text: str) -> tuple[str, JsonText | None]:
    try:
        source = JsonText(text)
    except StoryboardError:  # the form's reader will say what is wrong, so a likely form will do
        likely = (form for form, mark in _JSON_MARKS.items() if mark.search(text))
        return next(likely, JSON), None
    if storymem.is_storymem(source.value):
        return STORYMEM, source
    return SCHEDULE if schedule.is_schedule(source.value) else JSON, source


def read_storyboard(text: str, fps: float | None = None) -> Storyboard:
    """The storyboard of a text in any of FORMS.

    `fps`, above 0: the film's frames per second, for the forms that count frames; None leaves it
    to the form (16 for a frame schedule, 15 for HoloCine). Raises StoryboardError (a ValueError)
    with line, column, rule and value.
    """
    if not isinstance(text, str):
        raise StoryboardError(f"a script must be text, got {type(text).__name__}")
    if fps is not None:
        check_fps(fps)
    bare = _unfenced(text)
    form, known = _recognised(bare)
    if form == SCRIPT:
        return parse_storyboard(bare)
    if form in (HOLOCINE, LCT, STORYDIFFUSION):
        return _TEXT_READERS[form](bare, fps)
    source = known or JsonText(bare, bare=not bare.lstrip().startswith("{"))
    return _JSON_READERS[form](source, fps)


def _unfenced(text: str) -> str:
    """The text with spaces in place of the code fences around it, so that places stay."""
    text = text.removeprefix("\ufeff")
    match = _FENCED.fullmatch(text)
    if match is None:
        return text
    opening, inner, closing = match.groups()
    return re.sub(r"\S", " ", opening) + inner + re.sub(r"\S", " ", closing)


def export_storyboard(storyboard: Storyboard, form: str) -> Written:
    """A storyboard in one of WRITTEN_FORMS, with warnings for what that form cannot say.

    Raises StoryboardError for an unknown form, and where a script could not say it at all.
    """
    if form in _PROMPTS:
        lines = (one_line(_PROMPTS[form](storyboard, shot)) for shot in storyboard.shots)
        return Written("\n".join(lines) + "\n")
    if form not in _WRITERS:
        raise StoryboardError(f"form must be one of {listed(WRITTEN_FORMS)}, got {form!r:.80}")
    return _WRITERS[form](storyboard)


def write_storyboard(storyboard: Storyboard, form: str) -> str:
    """The text of `export_storyboard`."""
    return export_storyboard(storyboard, form).text
