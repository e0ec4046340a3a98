"""What a folder must be before a run is written there: none yet, or one of that kind that nobody
else is writing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock

from .keys import FILM, KIND
from .manifest import FILE_NAME, Manifest, read_manifest
from .run import PREVIEWS, SEGMENTS

LOCK = ".lock"


def manifest_before(path: Path, parameters: Mapping[str, Any]) -> Manifest | None:
    """The manifest of a run folder, None where there is no run yet.

    Raises ValueError for a folder that holds something else, a run of another kind too.
    """
    if not path.exists():
        return None
    if not path.is_dir():
        raise ValueError(f"{path} is a file, not a run folder: choose another run name")
    if (path / FILE_NAME).exists():
        before = read_manifest(path)
        held, wanted = before.parameters.get(KIND, FILM), parameters.get(KIND, FILM)
        if held != wanted:
            raise ValueError(
                f"run_name {path.name!r} is that of a run of {held}, and this makes {wanted}: "
                "choose another run name"
            )
        return before
    foreign = [entry.name for entry in path.iterdir() if not _left_by_a_start(entry)]
    if foreign:
        raise ValueError(
            f"{path} is not a Throughline run (it has no {FILE_NAME} but holds {foreign[0]!r}); "
            "nothing was changed. Choose another run name"
        )
    return None


def _left_by_a_start(entry: Path) -> bool:
    """Whether a run that was killed before its first manifest leaves such an entry."""
    if entry.name in (SEGMENTS, PREVIEWS):
        return entry.is_dir() and not any(entry.iterdir())
    return entry.name == LOCK or entry.match(".manifest.json.*.partial")


def take_lock(path: Path, name: str) -> filelock.BaseFileLock:
    """Hold the run folder `path`, made if it is missing. Raises ValueError when somebody does."""
    path.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ValueError(
            f"run {name!r} is being written by another process or queue ({path}): wait for it, "
            "interrupt it, or choose another run name"
        ) from error
    return lock
