"""The storyboard: what every shot shows, as frozen values, and the prompts derived from them.

`planning/script.py` reads the text form and `planning/storyboard_json.py` the JSON form. A
storyboard holds words and seconds only; the model's frame grid belongs to `planning/frames.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

from .lora_words import parse_loras
from .references import check_reference_name
from .tags import NAME, find_tags

MAX_SECONDS = 3600.0  # one shot of an hour: above it the number is surely a slip
MAX_FPS = 240.0
MAX_SEED = 2**64 - 1  # the range of ComfyUI's seed widgets
MAX_STRENGTH = 10.0  # the range of ComfyUI's conditioning strength widgets
MAX_NAME = 64

NO_SHOTS = "the script must have at least one shot, one per line, got no shots"

Transition = Literal["cut", "continue"]

_ASPECT = re.compile(r"\d{1,5}(?:\.\d{1,4})?:\d{1,5}(?:\.\d{1,4})?", re.ASCII)
_PAUSES = ".,;:!?…。，；：！？、"


class StoryboardError(ValueError):
    """A storyboard that cannot be used: `problem` says what, `line` and `column` (from 1) where.

    `field` is the way to the field of the JSON form that is meant, such as ("shots", 0, "seed").
    """

    def __init__(
        self,
        problem: str,
        line: int | None = None,
        column: int | None = None,
        field: tuple[str | int, ...] = (),
    ) -> None:
        self.problem = problem
        self.line = line
        self.column = column
        self.field = field
        place = "" if line is None else f"script, line {line}, column {column or 1}: "
        super().__init__(place + problem)

    def at(self, line: int, column: int) -> StoryboardError:
        """The same problem with a place in the text, unless it already has one."""
        if self.line is not None:
            return self
        return StoryboardError(self.problem, line, column, self.field)

    def of_field(self, field: tuple[str | int, ...]) -> StoryboardError:
        """The same problem with the way to its field, unless it already has one."""
        return StoryboardError(self.problem, self.line, self.column, self.field or field)


@dataclass(frozen=True, kw_only=True)
class Character:
    """Somebody who returns. `pin`: the memory keeps the first good view of them. `lora`: LoRAs of
    every shot they are in, see `planning/lora_words.py`."""

    name: str
    description: str = ""
    refs: tuple[str, ...] = ()
    pin: bool = True
    lora: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "character")
        check_references(self.refs)
        check_loras(self.lora)


@dataclass(frozen=True, kw_only=True)
class Location:
    """A place that returns."""

    name: str
    description: str = ""
    refs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name, "location")
        check_references(self.refs)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One shot.

    `seconds` None: the node's own length counts. `transition` None: not marked, the node decides.
    `location` and `characters` are names defined in the storyboard. `recall`: earlier shot ids or
    names. `lora`: see `planning/lora_words.py`. `caption` keeps its tags (`<Ana>` or `@Ana`).
    `line`: where it stood in the text, 0 when it came from elsewhere; comparisons leave it out.
    """

    id: str
    caption: str
    scene: int = 1
    location: str | None = None
    size: str = ""
    seconds: float | None = None
    transition: Transition | None = None
    characters: tuple[str, ...] = ()
    motion: str = ""
    camera: str = ""
    negative: str = ""
    recall: tuple[str, ...] = ()
    seed: int | None = None
    refs: tuple[str, ...] = ()
    strength: float | None = None
    lora: str = ""
    audio: str = ""
    keyframe_prompt: str = ""
    line: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not self.caption.strip():
            raise StoryboardError(f"shot {self.id} needs a description, got none")
        if self.seconds is not None:
            check_seconds(self.seconds)
        if self.seed is not None:
            check_seed(self.seed)
        if self.strength is not None:
            check_strength(self.strength)
        if self.transition not in (None, "cut", "continue"):
            raise StoryboardError(
                f"the transition of a shot is 'cut' or 'continue', got {self.transition!r}"
            )
        check_references((*self.refs, *filter(None, (self.audio,))))
        check_loras(self.lora)

    @property
    def overrides(self) -> dict[str, object]:
        """The rarer settings of this shot that are set, by their key in the script."""
        every = {
            "camera": self.camera,
            "negative": self.negative,
            "refs": list(self.refs),
            "strength": self.strength,
            "lora": self.lora,
            "audio": self.audio,
        }
        return {key: value for key, value in every.items() if value not in ("", [], None)}


@dataclass(frozen=True, kw_only=True)
class Storyboard:
    """A whole script.

    `global_text` stands in every prompt of a video; `story`, what happens in the whole film, only
    in the tiled ones of `planning/storyboard_tiled.py`. `warnings` are sentences for the artist;
    they are not compared.
    """

    shots: tuple[Shot, ...]
    title: str = ""
    style: str = ""
    aspect: str = ""
    fps: float | None = None
    global_text: str = ""
    story: str = ""
    characters: tuple[Character, ...] = ()
    locations: tuple[Location, ...] = ()
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.shots:
            raise StoryboardError(NO_SHOTS)
        if self.fps is not None:
            check_fps(self.fps)
        if self.aspect:
            check_aspect(self.aspect)
        self._check_names()
        self._check_shots()

    def _check_names(self) -> None:
        taken: dict[str, str] = {}
        for kind, named in (("character", self.characters), ("location", self.locations)):
            for one in named:
                if one.name.casefold() in taken:
                    raise StoryboardError(
                        f"a name may be used once, but {kind} {one.name!r} is already a "
                        f"{taken[one.name.casefold()]}",
                        field=(f"{kind}s", one.name),
                    )
                taken[one.name.casefold()] = kind

    def _check_shots(self) -> None:
        characters = {one.name for one in self.characters}
        locations = {one.name for one in self.locations}
        earlier: dict[str, None] = {}
        for index, shot in enumerate(self.shots):
            if shot.id in earlier:
                raise StoryboardError(
                    f"shot ids must differ, got {shot.id!r} twice", field=("shots", index, "id")
                )
            if shot.location is not None and shot.location not in locations:
                raise StoryboardError(
                    f"shot {shot.id}: location {shot.location!r} is not defined; "
                    f"defined are {listed(sorted(locations))}",
                    field=("shots", index, "location"),
                )
            for name in shot.characters:
                if name not in characters:
                    raise StoryboardError(
                        f"shot {shot.id}: character {name!r} is not defined; "
                        f"defined are {listed(sorted(characters))}",
                        field=("shots", index, "characters"),
                    )
            for wanted in shot.recall:
                try:
                    find_recall(wanted, earlier, (*self.characters, *self.locations))
                except StoryboardError as error:
                    raise error.of_field(("shots", index, "recall")) from None
            earlier[shot.id] = None

    def character(self, name: str) -> Character:
        """The character of that name, in any case. Raises KeyError."""
        return _by_name(self.characters)[name.casefold()]

    def location(self, name: str) -> Location:
        """The location of that name, in any case. Raises KeyError."""
        return _by_name(self.locations)[name.casefold()]


def _by_name(named: Iterable) -> dict:
    return {one.name.casefold(): one for one in named}


def listed(words: Collection[str], most: int = 20) -> str:
    """Words for an error message: "a, b, c", "none", or the last `most` of many."""
    if not words:
        return "none"
    return ("..., " if len(words) > most else "") + ", ".join(list(words)[-most:])


def check_name(name: str, kind: str) -> None:
    """Refuse a character or location name that could not be tagged in a caption."""
    if len(name) > MAX_NAME or name != name.strip() or not NAME.fullmatch(name):
        raise StoryboardError(
            f"a {kind} name begins with a letter, holds letters, digits, spaces and . ' - _ "
            f"and has at most {MAX_NAME} characters, got {name!r}"
        )


def check_references(names: Iterable[str]) -> None:
    """Refuse a file name that could leave ComfyUI's input folder, as a StoryboardError."""
    for name in names:
        try:
            check_reference_name(name)
        except StoryboardError:
            raise
        except ValueError as error:
            raise StoryboardError(str(error)) from None


def check_loras(text: str) -> None:
    """Refuse a list of LoRAs that is not written like "coat 0.8, night"."""
    try:
        parse_loras(text)
    except ValueError as error:
        raise StoryboardError(str(error)) from None


def check_seconds(seconds: float) -> None:
    """Refuse a length of shot that is not above 0 and at most an hour."""
    if not (math.isfinite(seconds) and 0 < seconds <= MAX_SECONDS):
        raise StoryboardError(
            f"seconds per shot must be above 0 and at most {MAX_SECONDS:g}, got {seconds:g}"
        )


def check_fps(fps: float) -> None:
    """Refuse a frame rate that is not above 0 and at most 240 frames per second."""
    if not (math.isfinite(fps) and 0 < fps <= MAX_FPS):
        raise StoryboardError(f"fps must be above 0 and at most {MAX_FPS:g}, got {fps}")


def check_seed(seed: int) -> None:
    """Refuse a seed outside ComfyUI's range."""
    if not 0 <= seed <= MAX_SEED:
        raise StoryboardError(f"seed must be a whole number from 0 to {MAX_SEED}, got {seed}")


def check_strength(strength: float) -> None:
    """Refuse a reference strength outside 0 to 10."""
    if not (math.isfinite(strength) and 0 <= strength <= MAX_STRENGTH):
        raise StoryboardError(f"strength must be from 0 to {MAX_STRENGTH:g}, got {strength:g}")


def check_aspect(aspect: str) -> None:
    """Refuse a picture shape that is not written like 16:9 or 2.39:1."""
    sides = aspect.split(":") if _ASPECT.fullmatch(aspect) else []
    if len(sides) != 2 or min(map(float, sides)) <= 0:
        raise StoryboardError(
            f"aspect must be two numbers above 0 such as 16:9 or 2.39:1, got {aspect!r}"
        )


def find_recall(
    wanted: str, earlier: Collection[str], named: Iterable[Character | Location]
) -> str:
    """The earlier shot id or the name that `wanted` means, spelled as it was defined.

    `<Ana>`, `@Ana`, `#diner` and plain words are all accepted, in any case. Raises StoryboardError
    that lists what exists.
    """
    bare = wanted.strip()
    bare = bare[1:-1] if bare[:1] == "<" and bare[-1:] == ">" else bare.removeprefix("@")
    bare = bare.removeprefix("#").strip()
    names = {one.name.casefold(): one.name for one in named}
    if bare in earlier:
        return bare
    if bare.casefold() in names:
        return names[bare.casefold()]
    raise StoryboardError(
        f"recall must name an earlier shot or a character or location, got {wanted.strip()!r}; "
        f"earlier shots: {listed(earlier)}; names: {listed(names.values())}"
    )


def plain_caption(storyboard: Storyboard, shot: Shot) -> str:
    """The caption without the marks of its tags."""
    return plain_words(shot.caption, storyboard.characters)


def plain_words(text: str, characters: Iterable[Character]) -> str:
    """A text without the marks of its tags."""
    words, done = "", 0
    for tag in find_tags(text, characters):
        if tag.start >= done:
            words += text[done : tag.start] + tag.words
            done = tag.end
    return words + text[done:]


def video_prompt(storyboard: Storyboard, shot: Shot) -> str:
    """The prompt of a video model for one shot.

    Global text, then the words of `image_prompt`, then motion and camera. A line of plain prose
    in a script without anything else gives exactly its own text.
    """
    return joined(
        [
            plain_words(storyboard.global_text, storyboard.characters),
            *_picture_words(storyboard, shot),
            shot.motion,
            shot.camera,
        ]
    )


def image_prompt(storyboard: Storyboard, shot: Shot) -> str:
    """The prompt of an image model for one shot: nothing in it moves and no story is told.

    The shot's `keyframe_prompt` when it has one; else style, size, location, characters, caption.
    """
    return shot.keyframe_prompt or joined(_picture_words(storyboard, shot))


def _picture_words(storyboard: Storyboard, shot: Shot) -> list[str]:
    place = storyboard.location(shot.location).description if shot.location else ""
    people = [storyboard.character(name) for name in shot.characters]
    looks = [f"{one.name} ({one.description})" for one in people if one.description]
    words = [storyboard.style, shot.size, place, *looks, shot.caption]
    return [plain_words(one, storyboard.characters) for one in words]


def joined(parts: Iterable[str]) -> str:
    """Parts of a prompt with ", " between them, without a second comma or full stop in a row."""
    text = ""
    for part in (part.strip() for part in parts):
        if text:
            part = part.lstrip(",;:，；：、 ")
            part = ((" " if text[-1] in _PAUSES else ", ") + part) if part else ""
        text += part
    return text
