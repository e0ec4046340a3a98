"""What the sampling nodes' widgets offer, and what is checked before a graph runs."""

from __future__ import annotations

import comfy.samplers

from ..planning.script import parse_storyboard
from ..planning.segments import parse_takes
from ..runs.paths import run_path
from .rendering import runs_root

MAX_RESOLUTION = 16384
"""The range of ComfyUI's own size widgets (`MAX_RESOLUTION` in its nodes.py)."""

SAMPLER_NAMES = [*comfy.samplers.SAMPLER_NAMES, "ar_video"]
"""Core's list and the sampler of causal Wan, which core offers as a node only."""

NOT_LINKED = "not linked"
"""In `validate_inputs` the host gives None for a linked input and leaves an absent one out."""


def check_widgets(script: str | None, run_name: str | None, retakes: str | None) -> bool | str:
    """True, or what is wrong with the texts; None stands for a text that is not known yet."""
    try:
        if script is not None:
            parse_storyboard(script)
        if run_name is not None:
            run_path(runs_root(), run_name)
        if retakes is not None:
            parse_takes(retakes)
    except ValueError as error:
        return str(error)
    return True
