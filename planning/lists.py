"""How lists and numbers are written in a script."""

from __future__ import annotations

import re

LISTED = re.compile("[,，、]")
NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?"
