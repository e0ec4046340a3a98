"""HoloCine's prompts: `[global caption] ... [per shot caption] a [shot cut] b`, one per scene.

Learnt from the repository yihao-meng/HoloCine: its README ("Prompt Format") and
`HoloCine_inference_full_attention.py` (`prepare_multishot_inputs`, `enforce_4t_plus_1`). There
`num_frames` and `shot_cut_frames` are arguments beside the prompt; here they are lines below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..storyboard import MAX_SECONDS, Shot, Storyboard
from .places import Places, first_word
from .scenes import (
    ReadScene,
    ReadShot,
    WrittenScene,
    numbered_words,
    numbers_in,
    renamed,
    storyboard_of,
    written_scenes,
)
from .written import Written, default_lengths, frame_counts, lost_fields, one_line, sentence

FPS = 15.0
"""Frames per second that HoloCine's `run_inference` saves with."""

FRAMES = 241
"""The length that HoloCine was trained on, and takes where `num_frames` is not given (README)."""

PROMPT_TOKENS = 512
"""What Wan's text encoder reads of a prompt; a word is at least one token."""

_HEADS = re.compile(r"\[\s*(global caption|per shot caption)\s*\]", re.I)
_SHOT_CUT = re.compile(r"\[\s*shot cut\s*\]", re.I)
_CHARACTER = re.compile(r"\[ ?character ?(\d{1,4}) ?\]", re.I | re.A)
_COUNT = re.compile(r"\s*This scene contains (\d{1,4}) shots?\b\.?", re.I | re.A)
_FRAMES_LINE = re.compile(r"\s*(num_frames|shot_cut_frames)\s*[=:]\s*(.*?)\s*,?\s*", re.I)
_NUMBERS = re.compile(r"\[\s*(?:\d{1,7}\s*(?:,\s*\d{1,7}\s*)*,?\s*)?\]", re.A)
_NUMBER = re.compile(r"\d{1,7}", re.A)
# "Mr. Smith" ends no sentence.
_SENTENCES_APART = re.compile(
    r"(?<=[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)\s+"
)
_DESCRIBED = re.compile(r"<character(\d+)> is (.+)")
_GOES_ON = re.compile(r"(?:He|She|They|His|Her|Their)\b")
_SAID = ("style", "global", "size", "cut", "motion", "camera", "names", "places", "seconds")


def looks_like(text: str) -> bool:
    """Whether a text begins with one of HoloCine's headings."""
    return _HEADS.match(text.lstrip()) is not None


def snapped(frame: int) -> int:
    """The nearest frame count of the form 4t+1, rounded as HoloCine's own script does."""
    return 4 * round((frame - 1) / 4) + 1


def _name(number: int) -> str:
    return f"character{number}"


def _mark(number: int) -> str:
    return f"[character{number}]"


def read(text: str, fps: float | None) -> Storyboard:
    """Frames become seconds at `fps`, else at HoloCine's own 15 frames per second.

    Raises StoryboardError with line and column.
    """
    places = Places(text)
    places.refuse_controls()
    heads = [head for head in _HEADS.finditer(text) if _is_global(head)]
    begins = [head.start() for head in heads]
    if not begins or first_word(text, 0, len(text)) < begins[0]:
        begins.insert(0, 0)
    warnings: list[str] = []
    scenes = tuple(
        _read_scene(places, begin, end, fps or FPS, warnings)
        for begin, end in zip(begins, [*begins[1:], len(text)], strict=True)
    )
    timed = any(shot.seconds is not None for scene in scenes for shot in scene.shots)
    return storyboard_of(scenes, _name, (fps or FPS) if timed else None, warnings)


def _is_global(head: re.Match[str]) -> bool:
    return head.group(1).lower().startswith("global")


def _read_scene(places: Places, begin: int, end: int, fps: float, warnings: list[str]) -> ReadScene:
    end, given = _read_frame_lines(places, begin, end)
    heads = list(_HEADS.finditer(places.text, begin, end))
    of_shots = [head for head in heads if not _is_global(head)]
    if len(of_shots) != 1:
        at = of_shots[1].start() if of_shots else end
        raise places.error(
            at, f"a scene of HoloCine needs one '[per shot caption]', got {len(of_shots)}"
        )
    words_begin = heads[0].end() if _is_global(heads[0]) else begin
    words, people, count = _read_words(places.text[words_begin : of_shots[0].start()])
    pieces = list(_read_captions(places, of_shots[0].end(), end))
    if count is not None and count != len(pieces):
        text = f"it says {count} shots, but {len(pieces)} follow, which count"
        warnings.append(places.warning(words_begin, text))
    captions = [caption for _, caption in pieces]
    for number in numbers_in([words, *people.values(), *captions]):
        people.setdefault(number, "")
    frames = _shot_frames(places, end, given, len(pieces), fps)
    return ReadScene(
        words=words,
        people=people,
        shots=tuple(
            ReadShot(
                caption=caption,
                transition="cut",
                seconds=None if count is None else count / fps,
                line=places.at(offset)[0],
            )
            for (offset, caption), count in zip(pieces, frames, strict=True)
        ),
    )


def _read_words(text: str) -> tuple[str, dict[int, str], int | None]:
    """A scene's words, the characters that sentences of their own describe, and how many shots
    the words speak of."""
    words, count = numbered_words(text, _CHARACTER, _name), None
    while found := _COUNT.search(words):
        count = int(found.group(1))
        words = one_line(words[: found.start()] + " " + words[found.end() :])
    people: dict[int, str] = {}
    kept: list[str] = []
    speaks_of: int | None = None
    for one in filter(None, _SENTENCES_APART.split(words)):
        described = _DESCRIBED.fullmatch(one)
        if described:
            speaks_of = int(described.group(1))
            before, text = people.get(speaks_of), described.group(2).rstrip(". ")
            people[speaks_of] = ", ".join(filter(None, (before, text)))
        elif speaks_of is not None and _GOES_ON.match(one):
            before = sentence(people[speaks_of])
            people[speaks_of] = " ".join(filter(None, (before, one.rstrip(". "))))
        else:
            speaks_of = None
            kept.append(one)
    return sentence(" ".join(kept)), people, count


def _read_captions(places: Places, begin: int, end: int) -> Iterator[tuple[int, str]]:
    """Where each shot's words begin, and the words."""
    cuts = list(_SHOT_CUT.finditer(places.text, begin, end))
    begins = [begin, *(cut.end() for cut in cuts)]
    ends = [*(cut.start() for cut in cuts), end]
    for one, its_end in zip(begins, ends, strict=True):
        offset = first_word(places.text, one, its_end)
        # "|" stands between shots in prompts that are shared for other HoloCine nodes.
        caption = numbered_words(places.text[offset:its_end], _CHARACTER, _name).rstrip("| ")
        if not caption:
            raise places.error(offset, "a shot needs a description, got none")
        yield offset, caption


def _read_frame_lines(
    places: Places, begin: int, end: int
) -> tuple[int, dict[str, tuple[int, str]]]:
    """Where the prompt ends, and place and text of `num_frames` and `shot_cut_frames` below it."""
    given: dict[str, tuple[int, str]] = {}
    lines = places.text[begin:end].splitlines(keepends=True)
    while lines:
        match = _FRAMES_LINE.fullmatch(lines[-1])
        if lines[-1].strip() and match is None:
            break
        end -= len(lines.pop())
        if match:
            key = match.group(1).lower()
            if key in given:
                raise places.error(end + match.start(1), f"{key} may be given once, got it twice")
            given[key] = (end + match.start(2), match.group(2))
    return end, given


def _shot_frames(
    places: Places, end: int, given: dict[str, tuple[int, str]], count: int, fps: float
) -> list[int | None]:
    """Frames of each shot, cuts snapped to 4t+1 and spread evenly where they are not given."""
    if not given:
        return [None] * count
    offset, total_text = given.get("num_frames", (end, str(FRAMES)))
    if not _NUMBER.fullmatch(total_text):
        raise places.error(offset, f"num_frames must be a whole number, got {total_text!r:.80}")
    total = snapped(int(total_text))
    cuts = [snapped(round(index * (total / count))) for index in range(1, count)]
    if "shot_cut_frames" in given:
        offset, text = given["shot_cut_frames"]
        if not _NUMBERS.fullmatch(text):
            raise places.error(
                offset, f"shot_cut_frames must be a list like [37, 73], got {text!r:.80}"
            )
        cuts = [snapped(int(number)) for number in _NUMBER.findall(text)]
    cuts = sorted({cut for cut in cuts if 0 < cut < total})
    if len(cuts) != count - 1:
        raise places.error(
            offset,
            f"{count} shots need {count - 1} cuts that differ once they are rounded to 4t+1 and "
            f"lie below {total} frames, got {len(cuts)}",
        )
    frames = [one - before for before, one in zip([0, *cuts], [*cuts, total], strict=True)]
    if max(frames) > MAX_SECONDS * fps:
        raise places.error(
            offset, f"a shot lasts at most {MAX_SECONDS:g} s, got {max(frames)} frames at {fps:g}"
        )
    return list(frames)


def write(storyboard: Storyboard) -> Written:
    """A prompt per scene; frames stand below it where a shot of it has a length."""
    said = (*_SAID, "fps") if storyboard.fps == FPS else _SAID
    warnings = [*lost_fields(storyboard, said), *renamed(storyboard, _mark)]
    scenes = []
    for scene in written_scenes(storyboard, _mark):
        prompt = _prompt(scene)
        if len(prompt.split()) > PROMPT_TOKENS:
            warnings.append(
                f"scene {scene.shots[0].scene} has {len(prompt.split())} words; HoloCine reads "
                f"{PROMPT_TOKENS} tokens"
            )
        lines = [prompt]
        if any(shot.seconds is not None for shot in scene.shots):
            warnings += default_lengths(scene.shots)
            lines += _frame_lines(scene.shots, storyboard.fps or FPS, warnings)
        scenes.append("\n".join(lines) + "\n")
    return Written("\n".join(scenes), tuple(warnings))


def _prompt(scene: WrittenScene) -> str:
    people = [
        sentence(f"{_mark(number)} is {look}") for number, look in scene.people.items() if look
    ]
    count = len(scene.shots)
    contains = f"This scene contains {count} shot{'' if count == 1 else 's'}."
    words = " ".join(filter(None, (scene.words, *people, contains)))
    captions = " [shot cut] ".join(scene.captions)
    return f"[global caption] {words} [per shot caption] {captions}"


def _frame_lines(shots: tuple[Shot, ...], fps: float, warnings: list[str]) -> Iterator[str]:
    ends: list[int] = []
    at = 0
    for frames in frame_counts(shots, fps):
        at += frames
        ends.append(max(snapped(at), ends[-1] + 4 if ends else 1))
    if ends[-1] > FRAMES:
        warnings.append(
            f"scene {shots[0].scene} has {ends[-1]} frames at {fps:g} per second; HoloCine was "
            f"trained on {FRAMES}"
        )
    yield f"num_frames={ends[-1]}"
    if len(ends) > 1:
        yield f"shot_cut_frames=[{', '.join(map(str, ends[:-1]))}]"
