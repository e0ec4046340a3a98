"""Importing the pack: the root stays off sys.path."""

from __future__ import annotations

import sys
from pathlib import Path

import throughline

ROOT = Path(__file__).resolve().parents[1]


def test_the_root_is_never_on_sys_path() -> None:
    assert ROOT not in [Path(entry).resolve() for entry in sys.path]
    assert throughline.__path__ == [str(ROOT)]
