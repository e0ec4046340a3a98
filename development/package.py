"""Entering a folder as a package by its path, without its parent on sys.path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def enter_package(name: str, folder: Path, *, execute: bool) -> ModuleType:
    """Make `folder` importable as `name`; with `execute` its __init__.py runs now."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if execute:
        spec.loader.exec_module(module)
    return module
