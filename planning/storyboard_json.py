"""The JSON form of a storyboard, version 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .storyboard import (
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

    Raises StoryboardError that names the field, the rule and what came.
    """
    top = _Fields(value, "the storyboard")
    version = top.take("version", _whole, None)
    if version != VERSION:
        raise StoryboardError(f"version must be {VERSION}, which this pack reads, got {version}")
    characters = tuple(_character(*one) for one in top.take("characters", _named, ()))
    locations = tuple(_location(*one) for one in top.take("locations", _named, ()))
    shots = top.take("shots", _list, [])
    rest = {
        "title": top.take("title", _text, ""),
        "style": top.take("style", _text, ""),
        "aspect": top.take("aspect", _text, ""),
        "fps": top.take("fps", _real, None),
        "global_text": top.take("global", _text, ""),
        "story": top.take("story", _text, ""),
    }
    top.end()
    return Storyboard(
        characters=characters,
        locations=locations,
        shots=tuple(
            _shot_from_json(number, shot, characters) for number, shot in enumerate(shots, start=1)
        ),
        **rest,
    )


def _character(name: str, fields: _Fields) -> Character:
    desc, refs = fields.take("desc", _text, ""), fields.take("refs", _texts, ())
    pin, lora = fields.take("pin", _flag, True), fields.take("lora", _text, "")
    fields.end()
    return Character(name=name, description=desc, refs=refs, pin=pin, lora=lora)


def _location(name: str, fields: _Fields) -> Location:
    desc, refs = fields.take("desc", _text, ""), fields.take("refs", _texts, ())
    fields.end()
    return Location(name=name, description=desc, refs=refs)


def _shot_from_json(number: int, value: object, characters: tuple[Character, ...]) -> Shot:
    shot = _Fields(value, f"shot {number}")
    rare = _Fields(shot.take("overrides", _mapping, {}), f"the overrides of shot {number}")
    caption = shot.take("caption", _text, "")
    tagged = [tag.name for tag in find_tags(caption, characters) if tag.name]
    result = Shot(
        id=shot.take("id", _text, str(number)),
        scene=shot.take("scene", _whole, 1),
        location=shot.take("location", _text, None),
        size=shot.take("size", _text, ""),
        seconds=shot.take("seconds", _real, None),
        transition=_TRANSITION[shot.take("cut", _flag, None)],
        characters=shot.take("characters", _texts, tuple(dict.fromkeys(tagged))),
        caption=caption,
        keyframe_prompt=shot.take("keyframe_prompt", _text, ""),
        motion=shot.take("motion", _text, ""),
        recall=shot.take("recall", _texts, ()),
        seed=shot.take("seed", _whole, None),
        camera=rare.take("camera", _text, ""),
        negative=rare.take("negative", _text, ""),
        refs=rare.take("refs", _texts, ()),
        strength=rare.take("strength", _real, None),
        lora=rare.take("lora", _text, ""),
        audio=rare.take("audio", _text, ""),
    )
    rare.end()
    shot.end()
    return result


class _Fields:
    """A JSON object whose fields are taken one by one; `end` refuses what nobody took."""

    def __init__(self, value: object, where: str) -> None:
        self._left = dict(_mapping(value, where))
        self._where = where
        self._known: list[str] = []

    def take(self, key: str, read: Callable[[object, str], Any], default: Any) -> Any:
        """The field read by `read`; `default` when it is missing or null."""
        self._known.append(key)
        value = self._left.pop(key, None)
        return default if value is None else read(value, f"{key} of {self._where}")

    def end(self) -> None:
        """Raise StoryboardError when a field is left that version 1 does not have."""
        for key in self._left:
            raise StoryboardError(
                f"{self._where} accepts the fields {listed(self._known)}, got {key!r}"
            )


def _refused(where: str, rule: str, value: object) -> StoryboardError:
    return StoryboardError(f"{where} must be {rule}, got {value!r:.80}")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
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
    return [(name, _Fields(one, name)) for name, one in _mapping(value, where).items()]
