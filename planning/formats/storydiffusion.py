"""ComfyUI_StoryDiffusion's two text boxes, roles and scenes, one under the other.

    [Taylor] a woman, wearing a white T-shirt
    [Lecun] a man, wearing a suit

    [Taylor] wakes up in the bed ;
    [NC] an empty street ;

Learnt from the repository smthemex/ComfyUI_StoryDiffusion: the node's default texts and
`pre_text2infer` in `model_loader_utils.py`: a name in square brackets is replaced by its role, a
scene with two names shows both, `[NC]` is a scene without anybody, and what follows a `#` is the
caption of a comic panel and no prompt. Its README ends every scene with ";".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ..storyboard import Character, Shot, Storyboard, find_tags, joined
from ..tags import NAME
from .places import Places, first_word
from .scenes import ROUND
from .written import Written, lost_fields, one_line, retagged, untagged

NOBODY = "NC"
"""The name of nobody: "no character"."""

_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_ENDS_A_SCENE = ";；"
_TRIGGER = re.compile(r"\bimg\b(?=\s*[,，.]|\s*$)")  # PhotoMaker's trigger word, "a woman img, ..."
_SIGNS = ROUND | {ord("#"): ""}
_SAID = ("size", "motion", "camera", "names")


def looks_like(text: str) -> bool:
    """Whether a text is a block of roles and then scenes that name them and end with ";".

    Every scene but the last must end so: "[wide] A man walks" is a shot of a script.
    """
    roles, scenes = _split(Places(text))
    if not scenes or not all(_marked(line, roles) for _, line in scenes):
        return False
    ends = [_ends_like_a_scene(line) for _, line in scenes]
    return all(ends[:-1]) and any(ends)


def _ends_like_a_scene(line: str) -> bool:
    return line.partition("#")[0].rstrip().endswith(tuple(_ENDS_A_SCENE))


def _marked(line: str, roles: Mapping[str, tuple[int, str]]) -> bool:
    names = [name.strip() for name in _BRACKETS.findall(line)]
    return bool(names) and all(name == NOBODY or name in roles for name in names)


def _split(places: Places) -> tuple[dict[str, tuple[int, str]], list[tuple[int, str]]]:
    """Roles by name, and scenes, each with its place and line.

    Roles are the first lines that begin with a new name and do not end like a scene.
    """
    roles: dict[str, tuple[int, str]] = {}
    scenes: list[tuple[int, str]] = []
    at = 0
    for raw in places.text.splitlines(keepends=True):
        offset, line = first_word(places.text, at, at + len(raw)), raw.strip()
        at += len(raw)
        if not line:
            continue
        match = _BRACKETS.match(line)
        name = match.group(1).strip() if match else ""
        is_role = match is not None and not scenes and name not in (NOBODY, *roles)
        if is_role and NAME.fullmatch(name) and not _ends_like_a_scene(line):
            roles[name] = (offset, line)
        else:
            scenes.append((offset, line))
    return roles, scenes


def read(text: str) -> Storyboard:
    """Raises StoryboardError with line and column."""
    places = Places(text)
    places.refuse_controls()
    roles, scenes = _split(places)
    characters = tuple(_roles(places, roles))
    spelling = {one.name.casefold(): one.name for one in characters}
    warnings: list[str] = []
    shots = tuple(
        _scene(places, number, offset, line, spelling, warnings)
        for number, (offset, line) in enumerate(scenes, start=1)
    )
    if not shots:
        raise places.error(len(text), "StoryDiffusion needs scenes below the roles, got none")
    return Storyboard(
        characters=characters,
        shots=tuple(_with_people(shot, characters) for shot in shots),
        warnings=tuple(warnings),
    )


def _roles(places: Places, roles: Mapping[str, tuple[int, str]]) -> Iterator[Character]:
    taken: set[str] = set()
    for name, (offset, line) in roles.items():
        if name.casefold() in taken:
            raise places.error(offset, f"a name may be used once, got {name!r} again")
        taken.add(name.casefold())
        words = line[line.index("]") + 1 :].partition("#")[0]
        description = untagged(_TRIGGER.sub("", words)).translate(ROUND)
        with_commas = re.sub(r"\s+([,，.])", r"\1", description).rstrip(_ENDS_A_SCENE + " ")
        try:
            yield Character(name=name, description=with_commas)
        except ValueError as error:
            raise places.error(offset, str(error)) from None


def _scene(
    places: Places,
    number: int,
    offset: int,
    line: str,
    spelling: Mapping[str, str],
    warnings: list[str],
) -> Shot:
    words, _, panel = line.partition("#")
    if panel.strip(_ENDS_A_SCENE + " "):
        warnings.append(places.warning(offset, "the caption behind '#' is not used"))
    parts = _BRACKETS.split(untagged(words))
    for index, name in enumerate(parts):
        if index % 2 and name.strip() != NOBODY and name.strip().casefold() not in spelling:
            raise places.error(
                offset, f"nobody is called {name!r}; roles are {', '.join(spelling.values())}"
            )
    caption = "".join(
        _tag(part.strip(), spelling) if index % 2 else part.translate(ROUND)
        for index, part in enumerate(parts)
    )
    caption = one_line(caption).rstrip(_ENDS_A_SCENE + " ")
    if not caption:
        raise places.error(offset, "a shot needs a description, got none")
    return Shot(id=f"1.{number}", caption=caption, line=places.at(offset)[0])


def _tag(name: str, spelling: Mapping[str, str]) -> str:
    return "" if name == NOBODY else f"<{spelling[name.casefold()]}>"


def _with_people(shot: Shot, characters: tuple[Character, ...]) -> Shot:
    tagged = [tag.name for tag in find_tags(shot.caption, characters) if tag.name]
    return Shot(
        id=shot.id,
        caption=shot.caption,
        characters=tuple(dict.fromkeys(tagged)),
        line=shot.line,
    )


def write(storyboard: Storyboard) -> Written:
    """A role per character, a blank line, and a scene per shot."""
    warnings = list(lost_fields(storyboard, _SAID))
    roles = [
        f"[{one.name}] {_words(storyboard, one.description)}".rstrip(_ENDS_A_SCENE + " ")
        for one in storyboard.characters
    ]
    scenes = []
    for shot in storyboard.shots:
        words = _words(storyboard, joined([shot.size, shot.caption, shot.motion, shot.camera]))
        scenes.append((words if "[" in words else f"[{NOBODY}] {words}") + " ;")
    if roles:
        warnings.append("PhotoMaker wants its trigger word in every role: 'a woman img, ...'")
    text = "\n".join(roles) + ("\n\n" if roles else "") + "\n".join(scenes) + "\n"
    return Written(text, tuple(warnings))


def _words(storyboard: Storyboard, text: str) -> str:
    return retagged(storyboard, text, lambda name: f"[{name}]", _SIGNS)
