"""The changes that an editor makes to a script, as values. `planning/script_edit.py` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from .line_edit import BRACKET_FIELDS
from .shot_line import OVERRIDES
from .storyboard import StoryboardError, listed

SHOT_FIELDS = ("caption", *BRACKET_FIELDS, *OVERRIDES)
CHARACTER_FIELDS = ("description", "ref", "pin", "lora")
LOCATION_FIELDS = ("description", "ref")


@dataclass(frozen=True, kw_only=True)
class InsertShot:
    """A new line: behind or in front of a shot, at the end of a scene, or at the end."""

    caption: str
    after: str = ""
    before: str = ""
    scene: int = 0


@dataclass(frozen=True, kw_only=True)
class DuplicateShot:
    """The same line once more, behind it."""

    shot: str


@dataclass(frozen=True, kw_only=True)
class DeleteShot:
    """A shot's line is taken out. Refused while another shot recalls it."""

    shot: str


@dataclass(frozen=True, kw_only=True)
class MoveShot:
    """A shot's line goes behind or in front of another shot, or to the end of a scene."""

    shot: str
    after: str = ""
    before: str = ""
    scene: int = 0


@dataclass(frozen=True, kw_only=True)
class ChangeShot:
    """One of SHOT_FIELDS gets another value, in the script's words; an empty one takes it out."""

    shot: str
    field: str
    value: str


@dataclass(frozen=True, kw_only=True)
class TagCharacter:
    """A shot's description tags a character, or says the name without tagging it."""

    shot: str
    name: str
    tagged: bool


@dataclass(frozen=True, kw_only=True)
class InsertScene:
    """A new `== Scene ==` line in front of a shot, or at the end."""

    before: str = ""
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class RemoveScene:
    """A scene's line goes; its shots belong to the scene before it."""

    scene: int


@dataclass(frozen=True, kw_only=True)
class ChangePlace:
    """A scene's line names another place, or none."""

    scene: int
    place: str


@dataclass(frozen=True, kw_only=True)
class Define:
    """A new line that defines a "character" or a "location"."""

    what: str
    name: str
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class Rename:
    """A character or location gets another name, also where shots tag or recall it."""

    name: str
    to: str


@dataclass(frozen=True, kw_only=True)
class ChangeDefinition:
    """A description, or what stands behind `|`: ref, pin or lora."""

    name: str
    field: str
    value: str


@dataclass(frozen=True, kw_only=True)
class RemoveDefinition:
    """The line of a character or location goes; its tags are words from then on."""

    name: str


@dataclass(frozen=True, kw_only=True)
class ChangeSetting:
    """One of SETTINGS gets another value; an empty one takes the line out."""

    setting: str
    value: str


Edit = (
    InsertShot
    | DuplicateShot
    | DeleteShot
    | MoveShot
    | ChangeShot
    | TagCharacter
    | InsertScene
    | RemoveScene
    | ChangePlace
    | Define
    | Rename
    | ChangeDefinition
    | RemoveDefinition
    | ChangeSetting
)

EDITS: Mapping[str, type] = {
    "insert_shot": InsertShot,
    "duplicate_shot": DuplicateShot,
    "delete_shot": DeleteShot,
    "move_shot": MoveShot,
    "change_shot": ChangeShot,
    "tag_character": TagCharacter,
    "insert_scene": InsertScene,
    "remove_scene": RemoveScene,
    "change_place": ChangePlace,
    "define": Define,
    "rename": Rename,
    "change_definition": ChangeDefinition,
    "remove_definition": RemoveDefinition,
    "change_setting": ChangeSetting,
}


_TYPES = {"str": (str, "text"), "int": (int, "a whole number"), "bool": (bool, "true or false")}


def read_edit(value: object) -> Edit:
    """An edit from what `json.loads` gives: {"edit": one of EDITS, and the fields of its class}.

    Raises StoryboardError that names the field, the rule and what came.
    """
    if not isinstance(value, Mapping):
        raise StoryboardError(f"an edit must be an object, got {value!r:.80}")
    given = dict(value)
    kind = given.pop("edit", None)
    made = EDITS.get(kind) if isinstance(kind, str) else None
    if made is None:
        raise StoryboardError(f"an edit is one of {listed(EDITS)}, got {kind!r:.80}")
    read: dict[str, Any] = {}
    for field in fields(made):
        if field.name not in given and field.default is not MISSING:
            continue
        accepted, words = _TYPES[str(field.type)]
        one = given.pop(field.name, None)
        if type(one) is not accepted:
            raise StoryboardError(f"{field.name} of {kind} must be {words}, got {one!r:.80}")
        read[field.name] = one
    if given:
        raise StoryboardError(
            f"{kind} accepts the fields {listed([field.name for field in fields(made)])}, "
            f"got {listed(list(given))!r:.80}"
        )
    return made(**read)
