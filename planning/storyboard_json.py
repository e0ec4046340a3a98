"""The JSON form of a storyboard, version 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import storyboard as values
from .spans import CONTROLS
from .storyboard import (
    NO_SHOTS,
    Character,
    Location,
    Shot,
    Storyboard,
    StoryboardError,
    Transition,
    find_tags,
    listed,
)

VERSION = 1

_CUT: dict[Transition | None, bool | None] = {"cut": True, "continue": False, None: None}
_TRANSITION = {cut: transition for transition, cut in _CUT.items()}


def to_json(storyboard: Storyboard) -> dict[str, Any]:
    """A storyboard as values that `json.dumps` writes. Lines and warnings are left out."""
    return {
        "version": VERSION,
        "title": storyboard.title,
        "style": storyboard.style,
        "aspect": storyboard.aspect,
        "fps": _plain(storyboard.fps),
        "global": storyboard.global_text,
        **({"story": storyboard.story} if storyboard.story else {}),
        "characters": {one.name: _character_to_json(one) for one in storyboard.characters},
        "locations": {
            one.name: {"desc": one.description, "refs": list(one.refs)}
            for one in storyboard.locations
        },
        "shots": [_shot_to_json(shot) for shot in storyboard.shots],
    }


def _character_to_json(one: Character) -> dict[str, Any]:
    fields = {"desc": one.description, "refs": list(one.refs), "pin": one.pin}
    return fields | ({"lora": one.lora} if one.lora else {})


def _plain(number: float | None) -> float | None:
    return int(number) if number is not None and number == int(number) else number


def _shot_to_json(shot: Shot) -> dict[str, Any]:
    return {
        "id": shot.id,
        "scene": shot.scene,
        "location": shot.location,
        "size": shot.size,
        "seconds": _plain(shot.seconds),
        "cut": _CUT[shot.transition],
        "characters": list(shot.characters),
        "caption": shot.caption,
        "keyframe_prompt": shot.keyframe_prompt or None,
        "motion": shot.motion,
        "recall": list(shot.recall),
        "seed": shot.seed,
        "overrides": shot.overrides,
    }


def from_json(value: object) -> Storyboard:
    """The storyboard of a JSON value (what `json.loads` gives).

    Raises StoryboardError that names the field, the rule and what came; its `field` is the way to
    the field.
    """
    top = _Fields(value, "the storyboard")
    version = top.take("version", _whole, None)
    if version != VERSION:
        raise StoryboardError(
            f"version must be {VERSION}, which this pack reads, got {version}", field=("version",)
        )
    characters = tuple(_character(*one) for one in top.take("characters", _named, ()))
    locations = tuple(_location(*one) for one in top.take("locations", _named, ()))
    shots = top.take("shots", _list, [])
    rest = {
        "title": top.take("title", _text, ""),
        "style": top.take("style", _text, ""),
        "aspect": top.take("aspect", _aspect, ""),
        "fps": top.take("fps", _fps, None),
        "global_text": top.take("global", _text, ""),
        "story": top.take("story", _text, ""),
    }
    top.end()
    if not shots:
        raise StoryboardError(NO_SHOTS, field=("shots",))
    return Storyboard(
        characters=characters,
        locations=locations,
        shots=tuple(_shot_from_json(index, shot, characters) for index, shot in enumerate(shots)),
        **rest,
    )


def _character(name: str, fields: _Fields) -> Character:
    fields.check_name(name, "character")
    desc, refs = fields.take("desc", _text, ""), fields.take("refs", _files, ())
    pin, lora = fields.take("pin", _flag, True), fields.take("lora", _loras, "")
    fields.end()
    return Character(name=name, description=desc, refs=refs, pin=pin, lora=lora)


def _location(name: str, fields: _Fields) -> Location:
    fields.check_name(name, "location")
    desc, refs = fields.take("desc", _text, ""), fields.take("refs", _files, ())
    fields.end()
    return Location(name=name, description=desc, refs=refs)


def _shot_from_json(index: int, value: object, characters: tuple[Character, ...]) -> Shot:
    number, way = index + 1, ("shots", index)
    shot = _Fields(value, f"shot {number}", way)
    rare = _Fields(
        shot.take("overrides", _mapping, {}),
        f"the overrides of shot {number}",
        (*way, "overrides"),
    )
    caption = shot.take("caption", _text, "")
    shot_id = shot.take("id", _text, str(number))
    if not caption.strip():
        raise StoryboardError(
            f"shot {shot_id} needs a description, got none", field=(*way, "caption")
        )
    tagged = [tag.name for tag in find_tags(caption, characters) if tag.name]
    result = Shot(
        id=shot_id,
        scene=shot.take("scene", _whole, 1),
        location=shot.take("location", _text, None),
        size=shot.take("size", _text, ""),
        seconds=shot.take("seconds", _seconds, None),
        transition=_TRANSITION[shot.take("cut", _flag, None)],
        characters=shot.take("characters", _texts, tuple(dict.fromkeys(tagged))),
        caption=caption,
        keyframe_prompt=shot.take("keyframe_prompt", _text, ""),
        motion=shot.take("motion", _text, ""),
        recall=shot.take("recall", _texts, ()),
        seed=shot.take("seed", _seed, None),
        camera=rare.take("camera", _text, ""),
        negative=rare.take("negative", _text, ""),
        refs=rare.take("refs", _files, ()),
        strength=rare.take("strength", _strength, None),
        lora=rare.take("lora", _loras, ""),
        audio=rare.take("audio", _file, ""),
    )
    rare.end()
    shot.end()
    return result


class _Fields:
    """A JSON object whose fields are taken one by one; `end` refuses what nobody took.

    `way` leads to the object from the top of the JSON.
    """

    def __init__(self, value: object, where: str, way: tuple[str | int, ...] = ()) -> None:
        try:
            self._left = dict(_mapping(value, where))
        except StoryboardError as error:
            raise error.of_field(way) from None
        self._where = where
        self._way = way
        self._known: list[str] = []

    def take(self, key: str, read: Callable[[object, str], Any], default: Any) -> Any:
        """The field read by `read`; `default` when it is missing or null."""
        self._known.append(key)
        value = self._left.pop(key, None)
        if value is None:
            return default
        try:
            return read(value, f"{key} of {self._where}")
        except StoryboardError as error:
            raise error.of_field((*self._way, key)) from None

    def check_name(self, name: str, kind: str) -> None:
        """Refuse a character's or place's name, at the place of its object."""
        try:
            values.check_name(name, kind)
        except StoryboardError as error:
            raise error.of_field(self._way) from None

    def end(self) -> None:
        """Raise StoryboardError when a field is left that version 1 does not have."""
        for key in self._left:
            raise StoryboardError(
                f"{self._where} accepts the fields {listed(self._known)}, got {key!r}",
                field=(*self._way, key),
            )


def _refused(where: str, rule: str, value: object) -> StoryboardError:
    return StoryboardError(f"{where} must be {rule}, got {value!r:.80}")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or CONTROLS.search(value):
        raise _refused(where, "text", value)
    return value


def _whole(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refused(where, "a whole number", value)
    return value


def _real(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(where, "a number", value)
    return float(value) if abs(value) < 1e300 or value != value else float("inf")


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise _refused(where, "true or false", value)
    return value


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list | tuple):
        raise _refused(where, "a list", value)
    return list(value)


def _texts(value: object, where: str) -> tuple[str, ...]:
    return tuple(_text(one, where) for one in _list(value, where))


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _refused(where, "an object", value)
    return value


def _named(value: object, where: str) -> list[tuple[str, _Fields]]:
    kind = where.partition(" ")[0]
    return [
        (name, _Fields(one, name, (kind, name))) for name, one in _mapping(value, where).items()
    ]


def _checked(read: Callable[[object, str], Any], check: Callable[[Any], None]) -> Callable:
    def read_and_check(value: object, where: str) -> Any:
        found = read(value, where)
        check(found)
        return found

    return read_and_check


_aspect = _checked(_text, lambda text: values.check_aspect(text) if text else None)
_fps = _checked(_real, values.check_fps)
_seconds = _checked(_real, values.check_seconds)
_seed = _checked(_whole, values.check_seed)
_strength = _checked(_real, values.check_strength)
_files = _checked(_texts, values.check_references)
_file = _checked(_text, lambda name: values.check_references([name] if name else []))
_loras = _checked(_text, values.check_loras)
