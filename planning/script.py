"""The script: the text form of a storyboard, as an artist types it into a node.

    title: The Last Diner
    style: 35mm film, muted teal
    @Ana = woman, 30, short red hair | ref: ana.png
    #diner = 1950s roadside diner at night
    == Scene 1 #diner ==
    [wide, 5s] <Ana> sits alone at the counter.
    [4s, continue] She looks up. {motion: slow push-in; recall: 1.1; seed: 7}   // a comment

Every other line that is not empty is a shot, so plain prose with one shot per line is a script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from . import storyboard as values
from .shot_line import Known, read_shot
from .spans import CONTROLS, NO_COMMENT, Span, file_names, real_number, value_of
from .storyboard import Character, Location, Storyboard, StoryboardError, listed

SETTINGS = ("title", "style", "aspect", "fps", "global", "story")

_COMMENT = re.compile(r"(?:^|(?<=\s))//")
_SETTING = re.compile(rf"({'|'.join(SETTINGS)})\s*[:：]", re.I)
DEFINITION = re.compile(r"([@#])([^=]*)=")
_SCENE = re.compile(r"={2,}(.*?)=*")
_SCENE_NUMBER = re.compile(r"\s*(?:scene(?![a-z]))?\s*(\d{1,6}(?!\d))?", re.I | re.A)
EXTRAS_APART = re.compile(r"\|")


@dataclass
class _Draft:
    """What has been read so far; `shots` wait until all names are known."""

    settings: dict[str, Span] = field(default_factory=dict)
    known: Known = field(default_factory=Known)
    scene: int = 0
    place: Span | None = None
    scenes: set[int] = field(default_factory=set)
    shots: list[tuple[int, Span | None, Span]] = field(default_factory=list)
    headers: dict[int, Span] = field(default_factory=dict)
    definitions: dict[str, Span] = field(default_factory=dict)


@dataclass(frozen=True)
class Outline:
    """Where everything of a script stands: lines without their comment and outer spaces.

    `definitions` by folded name; `scenes` are the `== Scene ==` lines by number, those without a
    shot too; `shots` by id, in order.
    """

    settings: Mapping[str, Span]
    definitions: Mapping[str, Span]
    scenes: Mapping[int, Span]
    shots: Mapping[str, Span]


def read_outline(text: str) -> Outline:
    """Where everything of a script stands, also of one without shots.

    Raises StoryboardError for mistakes outside shots; shots themselves are not read.
    """
    draft = _Draft()
    for span in content_lines(text):
        _read_line(draft, span)
    shots = {shot_id: span for shot_id, _, _, span in _numbered(draft)}
    return Outline(draft.settings, draft.definitions, draft.headers, shots)


def parse_storyboard(text: str) -> Storyboard:
    """Read a script.

    Plain prose with one shot per line works unmodified. Unknown tags become plain words with a
    warning. Raises StoryboardError (a ValueError) with line, column, rule and value for all else.
    """
    draft = _Draft()
    for span in content_lines(text):
        _read_line(draft, span)
    if not draft.shots:
        last = max(1, len(text.splitlines()))
        raise StoryboardError(values.NO_SHOTS, last, 1)
    return _finished(draft)


def content_lines(text: str) -> Iterator[Span]:
    """The lines that say something, without comments and the spaces around them."""
    if not isinstance(text, str):
        raise StoryboardError(f"a script must be text, got {type(text).__name__}")
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        whole = Span(raw, number, 1)
        wrong = CONTROLS.search(raw)
        if wrong:
            raise whole.cut(wrong.start()).error(
                f"a script must not hold control characters, got U+{ord(wrong.group()):04X}"
            )
        comment = _COMMENT.search(raw)
        span = whole.cut(0, comment.start() if comment else None)
        if span.text:
            yield span


def begins_a_shot(text: str) -> bool:
    """Whether a line that begins so is a shot without brackets, wherever it stands."""
    return not (
        text.startswith(("[", "==", "\ufeff")) or _SETTING.match(text) or DEFINITION.match(text)
    )


def _read_line(draft: _Draft, span: Span) -> None:
    setting = _SETTING.match(span.text)
    definition = DEFINITION.match(span.text)
    if setting and not draft.shots:
        _read_setting(draft, span, setting)
    elif span.text.startswith("=="):
        _read_scene(draft, span)
    elif definition:
        _read_definition(draft, span, definition)
    else:
        if setting:
            key = setting.group(1).lower()
            draft.known.warn(
                span, f"'{key}:' below the first shot is read as a shot; move it to the top"
            )
        if not draft.scene:
            draft.scene = 1
            draft.scenes.add(1)
        draft.shots.append((draft.scene, draft.place, span))


def _read_setting(draft: _Draft, span: Span, match: re.Match[str]) -> None:
    key, value = match.group(1).lower(), value_of(span.cut(match.end()), match.group(1))
    if key in draft.settings:
        raise span.error(f"{key} may be set once, but line {draft.settings[key].line} sets it too")
    if key == "fps":
        with value.placed():
            values.check_fps(real_number(value, key))
    if key == "aspect":
        with value.placed():
            values.check_aspect(value.text)
    draft.settings[key] = value


def _read_definition(draft: _Draft, span: Span, match: re.Match[str]) -> None:
    kind = "character" if match.group(1) == "@" else "location"
    name = span.cut(match.start(2), match.end(2))
    with name.placed():
        values.check_name(name.text, kind)
    for others, other in (
        (draft.known.characters, "character"),
        (draft.known.locations, "location"),
    ):
        if name.text.casefold() in others:
            raise name.error(f"a name may be used once, but {name.text!r} is already a {other}")
    draft.definitions[name.text.casefold()] = span
    body, *extras = span.cut(match.end()).split(EXTRAS_APART)
    if body.text.startswith("//"):
        raise body.error(NO_COMMENT)
    refs, pin, lora = _definition_extras(extras, kind)
    with span.placed():
        if kind == "character":
            draft.known.characters[name.text.casefold()] = Character(
                name=name.text, description=body.text, refs=refs, pin=pin, lora=lora
            )
        else:
            draft.known.locations[name.text.casefold()] = Location(
                name=name.text, description=body.text, refs=refs
            )


def _definition_extras(extras: list[Span], kind: str) -> tuple[tuple[str, ...], bool, str]:
    """What stands behind each `|`: reference pictures, and for a character whether it is pinned
    and its LoRAs."""
    accepted = ("ref", "pin", "lora") if kind == "character" else ("ref",)
    given: dict[str, Span] = {}
    for extra in extras:
        word, colon, _ = extra.text.partition(":")
        key = {"refs": "ref", "loras": "lora"}.get(word.strip().lower(), word.strip().lower())
        if not colon or key not in accepted:
            raise extra.error(
                f"after '|' a {kind} accepts {listed([f'{one}: ...' for one in accepted])}, "
                f"got {extra.text!r}"
            )
        if key in given:
            raise extra.error(f"{key} may be given once per {kind}, got it twice")
        given[key] = value_of(extra.cut(len(word) + 1), key)
    refs = file_names(given["ref"]) if "ref" in given else ()
    pin = given.get("pin")
    if pin is not None and pin.text.lower() not in ("yes", "no"):
        raise pin.error(f"pin must be yes or no, got {pin.text!r}")
    lora = given.get("lora")
    if lora is not None:
        with lora.placed():
            values.check_loras(lora.text)
    return refs, pin is None or pin.text.lower() == "yes", lora.text if lora else ""


def _read_scene(draft: _Draft, span: Span) -> None:
    match = _SCENE.fullmatch(span.text)
    assert match is not None, span.text
    inner = span.cut(match.start(1), match.end(1))
    words, hash_mark, place = inner.text.partition("#")
    number = _SCENE_NUMBER.match(words)
    digits = number.group(1) if number else None
    scene = int(digits) if digits else max(draft.scenes, default=0) + 1
    if scene < 1:
        raise inner.error(f"a scene number must be 1 or more, got {scene}")
    if scene in draft.scenes:
        raise inner.error(f"scene numbers must differ, got {scene} again")
    title = words[number.end() :].strip(" :.-") if number else words
    if title:
        draft.known.warn(inner, f"a scene line holds a number and a #place; {title!r} is not used")
    draft.scene = scene
    draft.scenes.add(scene)
    draft.headers[scene] = span
    draft.place = inner.cut(len(words) + 1) if hash_mark else None
    if draft.place is not None:
        with draft.place.placed():
            values.check_name(draft.place.text, "location")


def _finished(draft: _Draft) -> Storyboard:
    known = draft.known
    _define_places(draft)
    shots = []
    for shot_id, scene, place, span in _numbered(draft):
        location = known.locations[place.text.casefold()].name if place else None
        shots.append(read_shot(known, span, shot_id, scene, location))
        known.earlier[shots[-1].id] = None
    setting = {key: span.text for key, span in draft.settings.items()}
    return Storyboard(
        title=setting.get("title", ""),
        style=setting.get("style", ""),
        aspect=setting.get("aspect", ""),
        fps=float(setting["fps"]) if "fps" in setting else None,
        global_text=setting.get("global", ""),
        story=setting.get("story", ""),
        characters=tuple(draft.known.characters.values()),
        locations=tuple(draft.known.locations.values()),
        shots=tuple(shots),
        warnings=tuple(draft.known.warnings),
    )


def _numbered(draft: _Draft) -> Iterator[tuple[str, int, Span | None, Span]]:
    """Every shot's id, scene, place and line."""
    count: dict[int, int] = {}
    for scene, place, span in draft.shots:
        count[scene] = count.get(scene, 0) + 1
        yield f"{scene}.{count[scene]}", scene, place, span


def _define_places(draft: _Draft) -> None:
    """A place that is used but not described is still one place: it returns."""
    for _, place, _ in draft.shots:
        if place is None or place.text.casefold() in draft.known.locations:
            continue
        if place.text.casefold() in draft.known.characters:
            raise place.error(f"{place.text!r} is a character and cannot be a place as well")
        draft.known.locations[place.text.casefold()] = Location(name=place.text)
        draft.known.warn(
            place, f"#{place.text} has no description; add a line '#{place.text} = ...'"
        )
