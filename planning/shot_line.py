"""One shot of a script: `[wide, 5s, continue] <Ana> looks up. {motion: push-in; seed: 7}`."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

from . import storyboard as values
from .lists import LISTED, NUMBER
from .spans import CONTROLS, NO_COMMENT, Span, file_names, real_number, value_of
from .storyboard import Character, Location, Shot

OVERRIDES = (
    "motion",
    "camera",
    "seed",
    "recall",
    "refs",
    "strength",
    "lora",
    "negative",
    "audio",
    "keyframe",
)
"""What `{key: value; ...}` accepts; `keyframe` is the shot's `keyframe_prompt`."""

TRANSITIONS = ("cut", "continue")

_NO_NUMBER = r"nan|inf(?:inity)?"
_SECONDS = re.compile(rf"([+-]?(?:{NUMBER}|{_NO_NUMBER}))\s*(?:s|secs?|seconds?|秒)", re.I | re.A)
_QUANTITY = re.compile(
    rf"[+-]?(?:{_NO_NUMBER}|{NUMBER}(?:\s*[-~:]\s*{NUMBER})*\s*-?\s*(%|[^\W\d_]*))", re.I
)
_SIZE_UNITS = ("mm", "shot")  # "35mm" is a lens and "2-shot" a framing, never a length of time
_WHOLE = re.compile(r"\d{1,20}", re.A)
OVERRIDE = re.compile(r"([^:：]*)[:：]")
_QUOTED = re.compile(r'[^:：;；{}"]*[:：]\s*"(?:[^"\\]|\\.)*"\s*(?=[;；}])')
_ENDS_A_VALUE = re.compile("[;；{}]")
_NEEDS_QUOTES = re.compile(r'^"|[;；{}]|(?:^|\s)//')
_BREAKS = "\x7f\x85\u2028\u2029"  # JSON leaves these as they are, a script does not


@dataclass
class Known:
    """What a shot may refer to, names by their folded spelling; the readers add `warnings`."""

    characters: dict[str, Character] = field(default_factory=dict)
    locations: dict[str, Location] = field(default_factory=dict)
    earlier: dict[str, None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def warn(self, span: Span, text: str) -> None:
        self.warnings.append(f"line {span.line}, column {span.column}: {text}")


@dataclass(frozen=True)
class ShotParts:
    """The pieces of a shot's line: what stands inside its brackets and braces (None: it has none),
    and the words between them. `items`: each `key: value` of the braces, quotes kept."""

    bracket: Span | None
    caption: Span
    braces: Span | None
    items: tuple[Span, ...] = ()


def shot_parts(span: Span) -> ShotParts:
    """Where the pieces of a shot's line stand. Raises StoryboardError for marks without an end."""
    bracket, rest = _leading_bracket(span)
    caption, braces, items = _trailing_braces(rest)
    if not caption.text:
        raise rest.error("a shot needs a description, got none")
    return ShotParts(bracket, caption, braces, items)


def read_shot(known: Known, span: Span, shot_id: str, scene: int, location: str | None) -> Shot:
    """Read one line; every name, and every earlier shot, is in `known` already.

    Raises StoryboardError with line and column. Adds to `known.warnings`.
    """
    parts = shot_parts(span)
    caption = parts.caption
    given: dict = _read_bracket(known, parts.bracket) if parts.bracket else {}
    given |= _read_braces(known, parts.items)
    people = []
    for tag in values.find_tags(caption.text, known.characters.values()):
        if tag.name is None:
            known.warn(caption.cut(tag.start), f"nobody is called {tag.words!r}; read as words")
        else:
            people.append(tag.name)
    with span.placed():
        return Shot(
            id=shot_id,
            scene=scene,
            location=location,
            characters=tuple(dict.fromkeys(people)),
            caption=caption.text,
            line=span.line,
            **given,
        )


def _leading_bracket(span: Span) -> tuple[Span | None, Span]:
    if not span.text.startswith("["):
        return None, span
    end = span.text.find("]")
    if end < 0:
        raise span.error("a '[' at the start of a shot needs its ']', got none")
    again = span.text.find("[", 1, end)
    if again > 0:
        raise span.cut(again).error("a '[' inside the brackets of a shot is not accepted, got '['")
    rest = span.cut(end + 1)
    if rest.text.startswith("//"):
        raise rest.error(NO_COMMENT)
    return span.cut(1, end), rest


def _read_bracket(known: Known, bracket: Span) -> dict[str, object]:
    given: dict[str, object] = {}
    sizes = []
    for item in bracket.split(LISTED):
        word = item.text.casefold()
        seconds = None if word in TRANSITIONS else item_seconds(item)
        if word in TRANSITIONS:
            if "transition" in given:
                raise item.error(f"a shot takes one of cut and continue, got {word!r} as well")
            given["transition"] = word
        elif seconds is not None:
            if "seconds" in given:
                raise item.error(f"a shot takes one length, got {item.text!r} as well")
            given["seconds"] = seconds
        elif item.text:
            if word in known.characters:
                name = known.characters[word].name
                known.warn(
                    item, f"[{item.text}] is read as a shot size; write <{name}> for the character"
                )
            sizes.append(value_of(item, "size").text)
    return given | {"size": ", ".join(sizes)}


def item_seconds(item: Span) -> float | None:
    """The length that an item of the brackets gives, or None when it is about something else."""
    plain = unicodedata.normalize("NFKC", item.text)
    match = _SECONDS.fullmatch(plain)
    if match:
        seconds = float(match.group(1))
        if not (math.isfinite(seconds) and 0 < seconds <= values.MAX_SECONDS):
            raise item.error(
                f"seconds per shot must be above 0 and at most {values.MAX_SECONDS:g}, "
                f"got {item.text}"
            )
        return seconds
    quantity = _QUANTITY.fullmatch(plain)
    if quantity and (quantity.group(1) or "").lower() not in _SIZE_UNITS:
        raise item.error(f"a length is written in seconds, such as 5s, got {item.text!r}")
    return None


def _trailing_braces(span: Span) -> tuple[Span, Span | None, tuple[Span, ...]]:
    """The caption, what stands inside the braces behind it, and each `key: value` in there.

    A value is quoted when it is one JSON string between its colon and the next `;` or `}`; only
    there may it hold these signs.
    """
    start = span.text.find("{")
    if start < 0:
        return span, None, ()
    items: list[Span] = []
    begin = start + 1
    while True:
        quotes = _QUOTED.match(span.text, begin)
        end = _ENDS_A_VALUE.search(span.text, quotes.end() if quotes else begin)
        if end is None or (end.group() == "{" and "}" not in span.text[end.end() :]):
            raise span.cut(start).error("a '{' needs its '}' on the same line, got none")
        if end.group() == "{":
            raise span.cut(start).error("'{...}' must not hold another '{', got one")
        items.append(span.cut(begin, end.start()))
        begin = end.end()
        if end.group() == "}":
            break
    if begin != len(span.text):
        raise span.cut(begin).error(
            f"'{{...}}' must stand at the end of a shot, got {span.cut(begin).text!r} after it"
        )
    braces = span.cut(start + 1, begin - 1)
    return span.cut(0, start), braces, tuple(item for item in items if item.text)


def _read_braces(known: Known, items: tuple[Span, ...]) -> dict[str, object]:
    given: dict[str, object] = {}
    for item in items:
        match = OVERRIDE.match(item.text)
        key = match.group(1).strip().lower() if match else item.text
        if match is None or key not in OVERRIDES:
            raise item.error(
                f"'{{key: value; ...}}' accepts the keys {', '.join(OVERRIDES)}, got {key!r}"
            )
        field_name = "keyframe_prompt" if key == "keyframe" else key
        if field_name in given:
            raise item.error(f"{key} may be given once per shot, got it twice")
        given[field_name] = _override(known, key, braces_value(item.cut(match.end()), key))
    return given


def braces_value(span: Span, key: str) -> Span:
    """What stands behind the colon, without its quotes. Raises StoryboardError for nothing."""
    if not (len(span.text) > 1 and span.text[0] == span.text[-1] == '"'):
        return value_of(span, key)
    try:
        text = json.loads(span.text, strict=False)
    except ValueError:
        return value_of(span, key)
    wrong = CONTROLS.search(text)
    if wrong:
        raise span.error(f"{key} must not hold control characters, got U+{ord(wrong.group()):04X}")
    if not text:
        raise span.error(f"{key} needs a value between its quotes, got none")
    return Span(text, span.line, span.column + 1)


def braces_words(text: str) -> str:
    """A value as it is written in braces: in quotes where `braces_value` would misread it."""
    if text == text.strip() and len(text.splitlines()) == 1 and not _NEEDS_QUOTES.search(text):
        return text
    escaped = json.dumps(text, ensure_ascii=False).replace("//", "\\/\\/")
    return "".join(f"\\u{ord(one):04x}" if one in _BREAKS else one for one in escaped)


def _override(known: Known, key: str, value: Span) -> object:
    if key == "recall":
        return _recall(known, value)
    return _READERS[key](value) if key in _READERS else value.text


def _seed(value: Span) -> int:
    if not _WHOLE.fullmatch(value.text):
        raise value.error(
            f"seed must be a whole number from 0 to {values.MAX_SEED}, got {value.text!r}"
        )
    with value.placed():
        values.check_seed(int(value.text))
    return int(value.text)


def _strength(value: Span) -> float:
    strength = real_number(value, "strength")
    with value.placed():
        values.check_strength(strength)
    return strength


def _file(value: Span) -> str:
    with value.placed():
        values.check_references([value.text])
    return value.text


def _loras(value: Span) -> str:
    with value.placed():
        values.check_loras(value.text)
    return value.text


_READERS: dict[str, Callable[[Span], object]] = {
    "seed": _seed,
    "strength": _strength,
    "refs": file_names,
    "lora": _loras,
    "audio": _file,
}


def _recall(known: Known, value: Span) -> tuple[str, ...]:
    named: list[Character | Location] = [*known.characters.values(), *known.locations.values()]
    found = []
    for item in value.split(LISTED):
        with item.placed():
            found.append(values.find_recall(item.text, known.earlier, named))
    return tuple(dict.fromkeys(found))
