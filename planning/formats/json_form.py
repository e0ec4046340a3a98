"""Our own JSON as a text; `planning/storyboard_json.py` says what is in it."""

from __future__ import annotations

import json

from ..storyboard import Storyboard, StoryboardError
from ..storyboard_json import from_json, to_json
from .json_text import JsonText
from .written import Written


def read(source: JsonText) -> Storyboard:
    """Raises StoryboardError with the line and column of the field."""
    try:
        return from_json(source.value)
    except StoryboardError as error:
        raise source.placed(error) from None


def write(storyboard: Storyboard) -> Written:
    """Everything that a storyboard holds."""
    return Written(json.dumps(to_json(storyboard), ensure_ascii=False, indent=2) + "\n")
