"""LCT's prompts: a global prompt and a prompt per shot, `[SHOT CUT]` in front of real cuts.

From the paper Long Context Tuning (arXiv 2503.10589), section 3.2.1 and Figure 2: the global
prompt is "[Character] [Environment] [Story]" with "Character 1: ...; Character 2: ...", prompts of
shots say "Character 1", and shots that go on without a cut have no `[SHOT CUT]`. The paper has no
file format: the headings are those of its Figure 2, one shot per line is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..storyboard import Storyboard, Transition
from ..storyboard_tiled import MOST_SHOTS_TOLD
from .places import Places, first_word
from .scenes import (
    ROUND,
    ReadScene,
    ReadShot,
    WrittenScene,
    numbered_words,
    numbers_in,
    renamed,
    storyboard_of,
    written_scenes,
)
from .written import Written, lost_fields, one_line, retagged, sentences, shots_named

_GLOBAL = re.compile(r"\[\s*global prompts?\s*\]:?", re.I)
_PER_SHOT = re.compile(r"\[\s*per[- ]shot prompts?\s*\]:?", re.I)
_CUT = re.compile(r"\[\s*SHOT CUT\s*\]", re.I)
_CUT_LINE = re.compile(r"^[^\S\n]*\[\s*SHOT CUT\s*\]", re.I | re.M)
_CHARACTER = re.compile(r"\bCharacter (\d{1,4})(?![\w@])", re.I | re.A)
_PIECES_APART = re.compile(r"[;；]|[\r\n]+")
_DESCRIBED = re.compile(r"<Character (\d+)>\s*[:：]\s*(.*)")
_LABELS = re.compile(r"\[\s*(?:characters?|environment|story)\s*\]:?", re.I)
_QUOTED = re.compile(r'\s*(?:“([^“”]*)”|"([^"]*)")\s*')
_SPEAKS = re.compile(r"(<?Character \d+>?)\s*[:：]")
_SAID = (
    "style",
    "global",
    "story",
    "size",
    "cut",
    "continue",
    "motion",
    "camera",
    "names",
    "places",
)


def looks_like(text: str) -> bool:
    """Whether a text has LCT's headings at its beginning, or a line with `[SHOT CUT]` in front."""
    head = _GLOBAL.search(text) or _PER_SHOT.search(text)
    if head and not text[: head.start()].strip():
        return True
    return _CUT_LINE.search(text) is not None


def _name(number: int) -> str:
    return f"Character {number}"


def read(text: str) -> Storyboard:
    """Raises StoryboardError with line and column."""
    places = Places(text)
    places.refuse_controls()
    begins = [head.start() for head in _GLOBAL.finditer(text)]
    if not begins or first_word(text, 0, len(text)) < begins[0]:
        begins.insert(0, 0)
    scenes = tuple(
        _read_scene(places, begin, end)
        for begin, end in zip(begins, [*begins[1:], len(text)], strict=True)
    )
    return storyboard_of(scenes, _name, None, ())


def _read_scene(places: Places, begin: int, end: int) -> ReadScene:
    head = _GLOBAL.match(places.text, first_word(places.text, begin, end), end)
    words_begin = head.end() if head else begin
    of_shots = list(_PER_SHOT.finditer(places.text, words_begin, end))
    if len(of_shots) > 1:
        raise places.error(
            of_shots[1].start(), "a scene of LCT needs one '[Per-Shot Prompt]', got it again"
        )
    first_cut = _CUT_LINE.search(places.text, words_begin, end)
    if of_shots:
        words_end, shots_begin = of_shots[0].start(), of_shots[0].end()
    elif first_cut:
        words_end = shots_begin = first_cut.start()
    else:
        raise places.error(end, "a scene of LCT needs '[Per-Shot Prompt]' and shots, got none")
    pieces = list(_read_shots(places, shots_begin, end))
    words, people = _read_words(places.text[words_begin:words_end])
    captions = [shot.caption for shot in pieces]
    words = _without_story(words, captions)
    for number in numbers_in([words, *people.values(), *captions]):
        people.setdefault(number, "")
    return ReadScene(words=words, people=people, shots=tuple(pieces))


def _read_words(text: str) -> tuple[str, dict[int, str]]:
    """The words of environment and story, and the characters' descriptions by number."""
    quotes = _QUOTED.fullmatch(text)
    bare = text if quotes is None else quotes.group(1) or quotes.group(2) or ""
    pieces = [_unquoted(_LABELS.sub(" ", piece)) for piece in _PIECES_APART.split(bare)]
    described = [index for index, piece in enumerate(pieces) if _DESCRIBED.fullmatch(piece)]
    people: dict[int, str] = {}
    kept: list[str] = []
    speaks_of: int | None = None
    for index, piece in enumerate(pieces):
        match = _DESCRIBED.fullmatch(piece)
        if match:
            speaks_of = int(match.group(1))
            people[speaks_of] = _listed(people.get(speaks_of, ""), match.group(2))
        elif speaks_of is not None and index < described[-1]:
            people[speaks_of] = _listed(people[speaks_of], piece)
        else:
            kept.append(piece)
    return sentences(kept), people


def _listed(*parts: str) -> str:
    return ", ".join(filter(None, (part.strip(" ,") for part in parts)))


def _without_story(words: str, captions: list[str]) -> str:
    """The words without the story that `write` tells from the shots where nobody told one."""
    return words.removesuffix(_story(captions)).rstrip()


def _story(captions: Sequence[str]) -> str:
    """What the shots show, without the signs that would make it a description of characters."""
    if len(captions) < 2:
        return ""  # one shot tells its story itself
    told = (_PIECES_APART.sub(",", caption) for caption in captions[:MOST_SHOTS_TOLD])
    return sentences(_SPEAKS.sub(r"\1,", caption) for caption in told)


def _unquoted(text: str) -> str:
    """Clean words without the quotation marks that the paper's figure sets around prompts."""
    text = numbered_words(text, _CHARACTER, _name)
    while match := _QUOTED.fullmatch(text):
        text = one_line(match.group(1) or match.group(2) or "")
    return text


def _read_shots(places: Places, begin: int, end: int) -> Iterator[ReadShot]:
    transition: Transition | None = None
    waiting: int | None = None
    offset = begin
    for line in places.text[begin:end].splitlines(keepends=True):
        cuts = list(_CUT.finditer(line))
        begins = [0, *(cut.end() for cut in cuts)]
        ends = [*(cut.start() for cut in cuts), len(line)]
        for index, (one, its_end) in enumerate(zip(begins, ends, strict=True)):
            if index:
                if waiting is not None:
                    raise places.error(waiting, "a shot needs a description, got none")
                transition, waiting = "cut", offset + one
            caption = _unquoted(line[one:its_end])
            if caption:
                at = places.at(offset + first_word(line, one, its_end))[0]
                yield ReadShot(caption=caption, transition=transition, line=at)
                transition, waiting = "continue", None
        offset += len(line)
    if waiting is not None or transition is None:
        raise places.error(end, "a shot needs a description, got none")


def write(storyboard: Storyboard) -> Written:
    """A global prompt and a line per shot for every scene; unmarked shots are cuts.

    Where neither `global:` nor `story:` is given, the shots tell the story of their scene.
    """
    warnings = [*lost_fields(storyboard, _SAID), *renamed(storyboard, _name)]
    scenes = list(written_scenes(storyboard, _name))
    if any(len(scene.shots) > MOST_SHOTS_TOLD for scene in scenes):
        warnings.append(f"LCT was trained on at most {MOST_SHOTS_TOLD} shots per scene")
    later = (shot for scene in scenes for shot in scene.shots[1:])
    unmarked = [shot.id for shot in later if shot.transition is None]
    if unmarked:
        warnings.append(f"{shots_named(unmarked)}: not marked, written as cuts")
    return Written("\n".join(_scene(storyboard, scene) for scene in scenes), tuple(warnings))


def _scene(storyboard: Storyboard, scene: WrittenScene) -> str:
    people = [
        f"{_name(number)}: {one_line(_PIECES_APART.sub(',', look))}"
        for number, look in scene.people.items()
    ]
    told = retagged(storyboard, storyboard.story, lambda name: name, ROUND)
    story = "" if storyboard.global_text else sentences([told]) or _story(scene.captions)
    words = " ".join(filter(None, (scene.words, story)))
    lines = ["[Global Prompt]", "; ".join(filter(None, (*people, words))), "[Per-Shot Prompt]"]
    first = scene.shots[0]
    for shot, caption in zip(scene.shots, scene.captions, strict=True):
        goes_on = shot.transition == "continue" or (shot is first and shot.transition is None)
        lines.append(("" if goes_on else "[SHOT CUT] ") + caption)
    return "\n".join(filter(None, lines)) + "\n"
