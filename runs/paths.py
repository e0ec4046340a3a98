"""Names that stay inside a folder: run names and everything else a workflow can hand us."""

import re
from pathlib import Path

LONGEST_NAME = 100
"""Characters of a run name; file systems take 255 bytes and a character is up to two or three."""

FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""What Windows refuses in a file name; refused everywhere, so that a run can be moved."""


def run_path(root: Path, name: str) -> Path:
    """The folder of the run `name` below `root`; nothing is made.

    Raises ValueError for a name that is not a plain folder name or that leads out of `root`
    (through a link).
    """
    rule = 'a run name is one folder name without \\ / : * ? " < > | and without a leading dot'
    if not name.strip():
        raise ValueError(f"{rule}, got an empty name")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a run name has at most {LONGEST_NAME} characters, got {len(name)}")
    if name != name.strip() or name.startswith(".") or name.endswith("."):
        raise ValueError(f"{rule}, nor spaces or a dot at its ends, got {name!r}")
    if FORBIDDEN.search(name):
        raise ValueError(f"{rule}, got {name!r}")
    if RESERVED.fullmatch(name):
        raise ValueError(f"run name {name!r} is reserved by Windows, choose another one")
    path = root / name
    if not is_inside(root, path):
        raise ValueError(f"run {name!r} leads out of the folder {root}")
    return path


def is_inside(root: Path, path: Path) -> bool:
    """Whether `path` lies in `root` after all links are followed; `root` itself does not."""
    real_root, real_path = root.resolve(), path.resolve()
    return real_path != real_root and real_path.is_relative_to(real_root)
