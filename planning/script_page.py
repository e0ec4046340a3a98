"""The lines of a script while an editor moves them, and the renumbering that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import line_edit
from .script import begins_a_shot, content_lines, read_outline
from .storyboard import Shot, StoryboardError, listed

_BYTE_ORDER_MARK = "\ufeff"


@dataclass(eq=False)
class Line:
    """A line and its end as they were typed.

    `shot` is its id before the edit, "" for a new shot and None for what is no shot.
    """

    words: str
    end: str = ""
    shot: str | None = None


class Page:
    """The lines of a script; `lines` are changed in place.

    Raises StoryboardError for a script with a mistake outside its shots.
    """

    def __init__(self, text: str) -> None:
        self.outline = read_outline(text)
        self._mark = _BYTE_ORDER_MARK if text.startswith(_BYTE_ORDER_MARK) else ""
        self.lines = []
        for whole in text.removeprefix(_BYTE_ORDER_MARK).splitlines(keepends=True):
            words = whole.splitlines()[0]
            self.lines.append(Line(words, whole[len(words) :]))
        self._old = list(self.lines)
        self._new_ids: dict[str, str] = {}
        for shot_id, span in self.outline.shots.items():
            self.lines[span.line - 1].shot = shot_id

    def text(self) -> str:
        """The script as it stands; only its last line may be without an end."""
        usual = next((line.end for line in self._old if line.end), "\n")
        ends = [line.end or usual for line in self.lines[:-1]] + [
            line.end for line in self.lines[-1:]
        ]
        words = (line.words + end for line, end in zip(self.lines, ends, strict=True))
        return self._mark + "".join(words)

    def put(self, line: Line, place: int) -> None:
        """Add a line before the line of that index."""
        if place == len(self.lines) and self.lines and not line.end:
            line.end = self.lines[-1].end
        self.lines.insert(place, line)

    def shot(self, shot_id: str) -> Line:
        """The line of a shot by its id before the edit."""
        if shot_id not in self.outline.shots:
            raise StoryboardError(
                f"there is no shot {shot_id!r:.80}; shots are {listed(self.outline.shots)}"
            )
        return self._old[self.outline.shots[shot_id].line - 1]

    def scene(self, number: int) -> Line:
        """The `== Scene ==` line of that number."""
        if number not in self.outline.scenes:
            raise StoryboardError(
                f"there is no scene line {number}; there are "
                f"{listed([str(scene) for scene in self.outline.scenes])}"
            )
        return self._old[self.outline.scenes[number].line - 1]

    def scenes(self) -> list[Line]:
        """Every `== Scene ==` line."""
        return [self.scene(number) for number in self.outline.scenes]

    def definition(self, name: str) -> Line | None:
        """The line that defines a name, None where a scene only mentions it."""
        span = self.outline.definitions.get(name.casefold())
        return None if span is None else self._old[span.line - 1]

    def place_for_shot(self, after: str, before: str, scene: int, moved: str = "") -> int:
        """Index before which a shot's line goes: next to a shot, at the end of a scene or, with
        nothing given, behind all shots. `moved` is the shot that goes there."""
        if sum(map(bool, (after, before, scene))) > 1:
            raise StoryboardError("a place is one of after, before and scene, got several")
        if after:
            return self.lines.index(self.shot(after)) + 1
        if before:
            return self.lines.index(self.shot(before))
        ids = [one for one in self.outline.shots if one != moved]
        if scene:
            ids = [one for one in ids if one.partition(".")[0] == str(scene)]
            if not ids and not moved.startswith(f"{scene}."):
                return self.lines.index(self.scene(scene)) + 1
        last = ids[-1] if ids else moved
        return self.lines.index(self.shot(last)) + 1 if last else len(self.lines)

    def begins_without_scene(self) -> bool:
        """Whether shots stand above the first `== Scene ==` line."""
        shots = [span.line for span in self.outline.shots.values()]
        headers = [span.line for span in self.outline.scenes.values()]
        return bool(shots) and (not headers or min(shots) < min(headers))

    def unused_scene(self, place: int) -> int:
        """A number for a scene line put before the line of that index."""
        first = min((span.line for span in self.outline.shots.values()), default=place + 1)
        unnumbered = self.begins_without_scene() and first <= place
        return max([*self.outline.scenes, int(unnumbered)], default=0) + 1

    def define(self, mark: str, words: str) -> Line:
        """Add a definition behind those of its kind, else where definitions usually stand."""
        spans = list(self.outline.definitions.values())
        same = [span.line for span in spans if span.text.startswith(mark)]
        others = [span.line for span in spans]
        settings = [span.line for span in self.outline.settings.values()]
        line = Line(mark + words)
        self.put(line, max(same or others or settings or [0]))
        return line

    def set(self, key: str, value: str) -> None:
        """Change, add or take out a setting's line."""
        span = self.outline.settings.get(key)
        if span is not None:
            line = self._old[span.line - 1]
            if value:
                line.words = line_edit.with_setting(line.words, value)
            else:
                self.lines.remove(line)
        elif value:
            places = [one.line for one in self.outline.settings.values()]
            self.put(Line(f"{key}: {value}"), max(places, default=0))

    def keep_shots(self) -> None:
        """Above the first shot a line such as "style: rain" would be read as a setting."""
        first = next((line for line in self.lines if line.shot is not None), None)
        said = None if first is None else next(content_lines(first.words), None)
        if first is None or said is None:
            return
        if not said.text.startswith("[") and not begins_a_shot(said.text):
            start = said.column - 1
            first.words = f"{first.words[:start]}[] {first.words[start:]}"

    def renumber(self, shots: Mapping[str, Shot]) -> None:
        """Make every `recall:` name the shot that it named before the edit.

        `shots` by their id before it. Raises StoryboardError where that shot is gone or has come to
        stand behind the one that recalls it.
        """
        ids = [line.shot for line in self.lines if line.shot is not None]
        for at, own in enumerate(ids):
            for recalled in shots[own].recall:
                if recalled in self.outline.shots and recalled not in ids[:at]:
                    raise StoryboardError(_unrecallable(own, recalled, recalled in ids))
        for new_id, span in read_outline(self.text()).shots.items():
            old = self.lines[span.line - 1].shot
            if old:
                self._new_ids[old] = new_id
        for line in self.lines:
            if line.shot is not None and shots[line.shot].recall:
                line.words = line_edit.with_recalls(line.words, self.new_id)

    def new_id(self, name: str) -> str:
        """A shot's id after the edit; other names stay."""
        return self._new_ids.get(name, name)


def _unrecallable(own: str, recalled: str, moved: bool) -> str:
    if moved:
        return f"shot {own or 'here'} recalls shot {recalled}, which must stay before it"
    return (
        f"shot {own or 'here'} recalls shot {recalled}, which would be gone: "
        f"take {recalled} out of its recall first"
    )
