"""Changes a script as an editor does, one edit at a time: text in, text out.

Only the lines that must change do; comments, blank lines and the spacing of all others are kept
byte for byte. What comes out is read again and must be the storyboard with exactly that change,
else the edit is refused with the reason. Shot ids count within their scene, so an edit that moves
shots also renumbers what the script recalls.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import singledispatch

from . import edits, line_edit
from .edits import Edit
from .lists import LISTED
from .script import SETTINGS, begins_a_shot, parse_storyboard
from .script_page import Line, Page
from .storyboard import (
    Character,
    Location,
    Shot,
    Storyboard,
    StoryboardError,
    check_name,
    find_tags,
    listed,
)

_MISREAD = (
    "this cannot be written into the script: it would be read as something else. Signs that mean "
    "something there are { } ; | and // after a space"
)
_READ_INTO_VALUES = ("size", "seconds", "transition", "seed", "strength", "recall", "refs")
_MARKS = {"character": "@", "location": "#"}


def edit_script(text: str, edit: Edit) -> str:
    """The script with one change.

    Raises StoryboardError (a ValueError) for a script that cannot be read, with its place, and for
    an edit that it cannot have; that one has no place, since nothing was changed.
    """
    page = Page(text)
    before = _read(text, page)
    for word in vars(edit).values():
        if isinstance(word, str) and len(word.splitlines()) > 1:
            raise StoryboardError(f"everything in a script is one line, got {word!r:.80}")
    try:
        expected = _apply(edit, page, _said(before, page))
        page.keep_shots()
        page.renumber(expected.shots)
        after = parse_storyboard(page.text())
    except StoryboardError as error:
        raise StoryboardError(error.problem) from None
    if not expected.met_by(after, page):
        raise StoryboardError(_MISREAD)
    return page.text()


def _read(text: str, page: Page) -> Storyboard:
    """The storyboard; that of a script without shots has one that is not the script's."""
    return parse_storyboard(text if page.outline.shots else text + "\n[] none")


@dataclass
class _Said:
    """What a script says. `shots` by their id before the edit, "" for a new one. `free`: a field
    of a shot that may have any value."""

    shots: dict[str, Shot]
    characters: list[Character]
    locations: list[Location]
    settings: dict[str, object]
    free: tuple[str, str] | None = None

    def met_by(self, after: Storyboard, page: Page) -> bool:
        """Whether the edited script says exactly that, its shots in the order of the page."""
        ids = [line.shot for line in page.lines if line.shot is not None]
        if len(ids) != len(after.shots) or {*ids} != {*self.shots}:
            return False
        for old, shot in zip(ids, after.shots, strict=True):
            wanted = self.shots[old]
            if self.free is not None and self.free[0] == old:
                wanted = _changed(wanted, self.free[1], getattr(shot, self.free[1]))
            elif wanted.recall:
                wanted = replace(wanted, recall=tuple(map(page.new_id, wanted.recall)))
            if _meaning(wanted) != _meaning(shot):
                return False
        return (
            {*self.characters} == {*after.characters}
            and _described(self.locations) == _described(after.locations)
            and self.settings == _settings(after)
        )

    def named(self, name: str) -> Character | Location:
        """The character or location of that name, in any case."""
        everything: list[Character | Location] = [*self.characters, *self.locations]
        for one in everything:
            if one.name.casefold() == name.casefold():
                return one
        names = listed([one.name for one in everything])
        raise StoryboardError(f"nobody and no place is called {name!r:.80}; names are {names}")

    def put(self, one: Character | Location, old: Character | Location | None = None) -> None:
        """Add a definition, in the place of `old` where there is one."""
        if old is not None:
            self.drop(old)
        if isinstance(one, Character):
            self.characters.append(one)
        else:
            self.locations.append(one)

    def drop(self, one: Character | Location) -> None:
        self.characters = [other for other in self.characters if other is not one]
        self.locations = [other for other in self.locations if other is not one]


def _said(storyboard: Storyboard, page: Page) -> _Said:
    return _Said(
        {shot.id: shot for shot in storyboard.shots if shot.id in page.outline.shots},
        list(storyboard.characters),
        list(storyboard.locations),
        _settings(storyboard),
    )


def _settings(storyboard: Storyboard) -> dict[str, object]:
    attributes = {"global": "global_text"}
    return {key: getattr(storyboard, attributes.get(key, key)) for key in SETTINGS}


def _meaning(shot: Shot) -> Shot:
    """The shot without what follows from its place in the script and from the definitions."""
    return replace(shot, id="1.1", scene=1, location=None, characters=())


def _changed(shot: Shot, field: str, value: object) -> Shot:
    given: dict = {field: value}
    return replace(shot, **given)


def _described(locations: Iterable[Location]) -> set[Location]:
    """The locations without those that a scene only mentions."""
    return {one for one in locations if one.description or one.refs}


@singledispatch
def _apply(edit: object, page: Page, said: _Said) -> _Said:
    """Change the page's lines; returns what the script must say then."""
    raise TypeError(f"not an edit: {edit!r}")


@_apply.register
def _insert_shot(edit: edits.InsertShot, page: Page, said: _Said) -> _Said:
    said.shots[""] = Shot(id="new", caption=edit.caption.strip())
    words = edit.caption.strip()
    line = Line(words if begins_a_shot(words) else f"[] {words}", shot="")
    page.put(line, page.place_for_shot(edit.after, edit.before, edit.scene))
    return said


@_apply.register
def _duplicate_shot(edit: edits.DuplicateShot, page: Page, said: _Said) -> _Said:
    line = page.shot(edit.shot)
    said.shots[""] = said.shots[edit.shot]
    page.put(Line(line.words, line.end, shot=""), page.lines.index(line) + 1)
    return said


@_apply.register
def _delete_shot(edit: edits.DeleteShot, page: Page, said: _Said) -> _Said:
    page.lines.remove(page.shot(edit.shot))
    del said.shots[edit.shot]
    return said


@_apply.register
def _move_shot(edit: edits.MoveShot, page: Page, said: _Said) -> _Said:
    line = page.shot(edit.shot)
    place = page.place_for_shot(edit.after, edit.before, edit.scene, moved=edit.shot)
    old = page.lines.index(line)
    if place not in (old, old + 1):
        del page.lines[old]
        page.put(line, place - 1 if place > old else place)
    return said


@_apply.register
def _change_shot(edit: edits.ChangeShot, page: Page, said: _Said) -> _Said:
    line, value = page.shot(edit.shot), edit.value.strip()
    if edit.field not in edits.SHOT_FIELDS:
        raise StoryboardError(
            f"a shot has the fields {listed(edits.SHOT_FIELDS)}, got {edit.field!r:.80}"
        )
    if edit.field == "caption":
        return _with_caption(said, line, value)
    if edit.field in line_edit.BRACKET_FIELDS:
        line.words = line_edit.with_bracket_field(line.words, edit.field, value)
    else:
        line.words = line_edit.with_override(line.words, edit.field, value)
    field = "keyframe_prompt" if edit.field == "keyframe" else edit.field
    if field not in _READ_INTO_VALUES:
        said.shots[edit.shot] = _changed(said.shots[edit.shot], field, value)
    else:
        said.free = (edit.shot, field)
    return said


@_apply.register
def _tag_character(edit: edits.TagCharacter, page: Page, said: _Said) -> _Said:
    line, one = page.shot(edit.shot), said.named(edit.name)
    if not isinstance(one, Character):
        raise StoryboardError(f"only characters are tagged in a shot, {one.name!r} is a place")
    caption = said.shots[edit.shot].caption
    if edit.tagged:
        tagged = line_edit.tagged_caption(caption, one.name, said.characters)
    else:
        tagged = line_edit.retagged_caption(caption, one.name, said.characters, lambda _: one.name)
    return _with_caption(said, line, tagged)


def _with_caption(said: _Said, line: Line, caption: str) -> _Said:
    assert line.shot is not None
    said.shots[line.shot] = replace(said.shots[line.shot], caption=caption)
    line.words = line_edit.with_caption(line.words, caption)
    return said


@_apply.register
def _insert_scene(edit: edits.InsertScene, page: Page, said: _Said) -> _Said:
    place = page.lines.index(page.shot(edit.before)) if edit.before else len(page.lines)
    if edit.place:
        check_name(edit.place, "location")
    header = line_edit.with_place(f"== Scene {page.unused_scene(place)} ==", edit.place)
    if place and page.lines[place - 1].words.strip():
        page.put(Line(""), place)
        place += 1
    page.put(Line(header), place)
    return said


@_apply.register
def _remove_scene(edit: edits.RemoveScene, page: Page, said: _Said) -> _Said:
    page.lines.remove(page.scene(edit.scene))
    return said


@_apply.register
def _change_place(edit: edits.ChangePlace, page: Page, said: _Said) -> _Said:
    if edit.place:
        check_name(edit.place, "location")
    if edit.scene == 1 and page.begins_without_scene():
        line = Line("== Scene 1 ==")
        page.put(line, page.place_for_shot("", next(iter(page.outline.shots)), 0))
    else:
        line = page.scene(edit.scene)
    line.words = line_edit.with_place(line.words, edit.place)
    return said


@_apply.register
def _define(edit: edits.Define, page: Page, said: _Said) -> _Said:
    if edit.what not in _MARKS:
        raise StoryboardError(f"what is defined is {listed(_MARKS)}, got {edit.what!r:.80}")
    check_name(edit.name, edit.what)
    description = edit.description.strip()
    one: Character | Location
    if edit.what == "character":
        one = Character(name=edit.name, description=description)
    else:
        one = Location(name=edit.name, description=description)
    said.put(one)
    page.define(_MARKS[edit.what], f"{edit.name} = {description}".rstrip())
    return said


@_apply.register
def _rename(edit: edits.Rename, page: Page, said: _Said) -> _Said:
    old = said.named(edit.name)
    check_name(edit.to, "character" if isinstance(old, Character) else "location")
    before = list(said.characters)
    said.put(replace(old, name=edit.to), old)
    definition = page.definition(old.name)
    if definition is not None:
        definition.words = line_edit.with_name(definition.words, edit.to)
    if isinstance(old, Location):
        for line in page.scenes():
            if line_edit.place_of(line.words).casefold() == old.name.casefold():
                line.words = line_edit.with_place(line.words, edit.to)

    def called(name: str) -> str:
        return edit.to if name.casefold() == old.name.casefold() else name

    for shot_id, shot in said.shots.items():
        line = page.shot(shot_id)
        caption = _renamed_caption(shot.caption, old.name, edit.to, before, said.characters)
        if caption != shot.caption:
            _with_caption(said, line, caption)
        if old.name in shot.recall:
            line.words = line_edit.with_recalls(line.words, called)
            recall = tuple(map(called, shot.recall))
            said.shots[shot_id] = replace(said.shots[shot_id], recall=recall)
    return said


def _renamed_caption(
    caption: str,
    name: str,
    to: str,
    before: Iterable[Character],
    after: Iterable[Character],
) -> str:
    """The caption with the tags of one character renamed, with the sign that each has where the
    new name can be told from the words behind it, else as `<name>`."""
    wanted = [to if tag.name == name else tag.name for tag in find_tags(caption, before)]
    kept = line_edit.retagged_caption(
        caption, name, before, lambda tag: f"<{to}>" if tag.startswith("<") else f"@{to}"
    )
    if [tag.name for tag in find_tags(kept, after)] == wanted:
        return kept
    return line_edit.retagged_caption(caption, name, before, lambda _: f"<{to}>")


@_apply.register
def _change_definition(edit: edits.ChangeDefinition, page: Page, said: _Said) -> _Said:
    one, value = said.named(edit.name), edit.value.strip()
    accepted = edits.CHARACTER_FIELDS if isinstance(one, Character) else edits.LOCATION_FIELDS
    if edit.field not in accepted:
        raise StoryboardError(
            f"{one.name!r} has the fields {listed(accepted)}, got {edit.field!r:.80}"
        )
    line = page.definition(one.name) or page.define("#", f"{one.name} =")
    if edit.field == "description":
        line.words = line_edit.with_description(line.words, value)
        said.put(replace(one, description=value), one)
        return said
    line.words = line_edit.with_extra(line.words, edit.field, value)
    if edit.field == "ref":
        names = [name.strip() for name in LISTED.split(value)] if value else []
        said.put(replace(one, refs=tuple(names)), one)
    elif isinstance(one, Character):
        if edit.field == "pin":
            said.put(replace(one, pin=value.lower() != "no"), one)
        else:
            said.put(replace(one, lora=value), one)
    return said


@_apply.register
def _remove_definition(edit: edits.RemoveDefinition, page: Page, said: _Said) -> _Said:
    one = said.named(edit.name)
    line = page.definition(one.name)
    if line is None:
        raise StoryboardError(f"{one.name!r} is only mentioned by a scene, there is no line of it")
    page.lines.remove(line)
    said.drop(one)
    return said


@_apply.register
def _change_setting(edit: edits.ChangeSetting, page: Page, said: _Said) -> _Said:
    key, value = edit.setting, edit.value.strip()
    if key not in SETTINGS:
        raise StoryboardError(f"a script has the settings {listed(SETTINGS)}, got {key!r:.80}")
    page.set(key, value)
    said.settings[key] = value
    if key == "fps":
        said.settings[key] = _number(value) if value else None
    return said


def _number(value: str) -> float | str:
    """The number, or the words that are none: reading the script says what is wrong with them."""
    try:
        return float(value)
    except ValueError:
        return value
