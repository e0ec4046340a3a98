"""python3 dev.py test [level | path]...: pytest inside the environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .browser import ensure_browser
from .environment import ROOT, Host, Problem, say

LEVELS = ("pure", "host", "server", "browser")


def run(host: Host, what: Sequence[str], extra: Sequence[str]) -> int:
    """Run the levels and paths named in `what` (none: everything); returns the exit status.

    `extra` goes to pytest as it is. The level pure runs without ComfyUI.
    """
    levels = [word for word in what if word in LEVELS]
    paths = [word for word in what if word not in LEVELS]
    arguments = [
        f"--rootdir={ROOT}",
        f"--confcutdir={ROOT / 'tests'}",
        f"-c={ROOT / 'pyproject.toml'}",
    ]
    if levels:
        arguments += ["-m", " or ".join(levels)]
    if levels == ["pure"]:
        os.environ.pop("COMFYUI_PATH", None)
    else:
        os.environ["COMFYUI_PATH"] = str(host.comfyui)
    if not levels or "browser" in levels:
        _provide_browser()
    import pytest

    targets = [_target(path) for path in paths] or [str(ROOT / "tests")]
    return int(pytest.main([*arguments, *extra, *targets]))


def _provide_browser() -> None:
    """Tell the tests where the browser is; without one they are skipped, with CI=true they fail."""
    try:
        os.environ["THROUGHLINE_BROWSER"] = str(ensure_browser())
    except Problem as problem:
        say(str(problem))


def _target(path: str) -> str:
    """A path given from the current folder or from the repository, with a test's name or not."""
    file, mark, name = path.partition("::")
    found = Path(file) if Path(file).exists() else ROOT / file
    return str(found.resolve()) + mark + name
