"""Freed memory goes back to the system between the segments of a film."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from throughline.runs.heap import give_back_freed_memory


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def test_holes_in_the_heap_are_given_back() -> None:
    size, count = 100_000, 3000  # below the size from which glibc maps blocks one by one
    blocks = [bytearray(size) for _ in range(count)]
    kept = blocks[::50]  # what stays keeps the heap from shrinking by itself
    del blocks
    before = _resident_bytes() if sys.platform == "linux" else 0
    give_back_freed_memory()
    give_back_freed_memory()
    after = _resident_bytes() if sys.platform == "linux" else 0
    assert all(not any(block[:10]) for block in kept)
    assert after <= before
