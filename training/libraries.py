"""Libraries that only the training on real models needs, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

INSTALL = {"imageio.v3": "imageio[pyav]"}
"""What to install where it is not called like the module."""


def library(name: str) -> Any:
    """Import a library. Raises ImportError that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = INSTALL.get(name, name)
        raise ImportError(f"this training needs {name} ({error}): pip install {package}") from error
