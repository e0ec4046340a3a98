"""Writing a file so that a reader, or the next start after a crash, sees all of it or none."""

import errno
import os
import shutil
import time
from pathlib import Path
from secrets import token_hex

TEMPORARY_PATTERN = ".*.partial"
REPLACE_ATTEMPTS = 20
REPLACE_PAUSE_SECONDS = 0.05
"""Windows refuses to replace a file that somebody reads at that moment; readers take far less
than a second."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)


class DiskFullError(OSError):
    """The disk is full; nothing was half-written."""


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write `data` to `path`: temporary file beside it, fsync, rename, fsync of the folder.

    Whatever happens, `path` holds its old content or all of the new one. Without `durable` nothing
    waits for the disk: enough for what can be made again from other files after a power cut. Raises
    DiskFullError naming the folder and the bytes needed; the temporary file is then gone.
    """
    temporary = path.with_name(f".{path.name}.{token_hex(4)}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        replace(temporary, path)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full(path, len(data)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def disk_full(path: Path, needed: int) -> DiskFullError:
    """The error for a full disk at `path`; `needed` is in bytes."""
    free = shutil.disk_usage(path.parent).free
    return DiskFullError(
        errno.ENOSPC,
        f"disk full: {path.name} needs at least {needed} bytes in {path.parent}, {free} are free. "
        "Make room and queue the graph again; what was finished is kept",
    )


def replace(source: Path, target: Path) -> None:
    """os.replace that waits a moment for readers of `target` where the system needs that."""
    for attempt in range(REPLACE_ATTEMPTS):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if os.name != "nt" or attempt == REPLACE_ATTEMPTS - 1:
                raise
            time.sleep(REPLACE_PAUSE_SECONDS)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can (not on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise  # network file systems that cannot sync a folder say EINVAL or ENOTSUP
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process left half-written in `folder`."""
    for path in folder.glob(TEMPORARY_PATTERN):
        path.unlink(missing_ok=True)
