"""The rule for file names that a script may mention (pictures, sounds, LoRAs).

A script travels between people, so a name in it must not reach outside the folder that ComfyUI
gives to such files. The rule is about the text alone and is the same on every system; the node
that opens the file still resolves links.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .storyboard import Character, Location, Shot, Storyboard

_DRIVE = re.compile(r"[A-Za-z]:")
# folder_paths.annotated_filepath of ComfyUI sends "name [output]" to another folder.
_ANNOTATION = re.compile(r"\[(?:input|output|temp)\]\s*$", re.IGNORECASE)


def check_reference_name(name: str) -> str:
    """Return `name` unchanged when it stays inside ComfyUI's folder for such files.

    Folders inside it are written with "/". Raises ValueError that names the rule and the name for
    absolute paths, drive letters, "..", backslashes, home folders and anything Windows would
    read as one of these.
    """

    def refuse(rule: str) -> ValueError:
        return ValueError(
            f"a file name in a script must stay inside ComfyUI's input folder: {rule}, got {name!r}"
        )

    if not name.strip():
        raise refuse("it must not be empty")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise refuse("no control characters")
    if _DRIVE.match(name):
        raise refuse("no drive letters")
    if "\\" in name:
        raise refuse("no backslashes, write folders with '/'")
    if name.startswith(("/", "~")):
        raise refuse("no absolute paths")
    if ":" in name:
        raise refuse("no ':'")
    if _ANNOTATION.search(name):
        raise refuse("no [output], [temp] or [input] at its end")
    for part in name.split("/"):
        if not part.strip(". "):
            raise refuse("no '..', '.' or empty folder names")
        if part != part.rstrip(". ") or part != part.lstrip():
            raise refuse("no folder or file name that begins with a space or ends with ' ' or '.'")
    return name


def reference_names(storyboard: Storyboard) -> tuple[str, ...]:
    """Every picture that the script mentions, once, as written, in the order of mention.

    They stay inside ComfyUI's input folder; nothing was opened.
    """
    holders: list[Character | Location | Shot] = [
        *storyboard.characters,
        *storyboard.locations,
        *storyboard.shots,
    ]
    return tuple(dict.fromkeys(name for one in holders for name in one.refs))
