"""Any text in any form is read or says where it cannot be; what was read reads back the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from throughline.planning.formats import (
    FORMS,
    JSON,
    SCRIPT,
    WRITTEN_FORMS,
    detect_form,
    export_storyboard,
    read_storyboard,
    write_storyboard,
)
from throughline.planning.storyboard import Character, Location, Shot, Storyboard, StoryboardError

MARKS = {
    "HoloCine": [
        "[global caption] ", "[per shot caption] ", " [shot cut] ", "[character1]", "[Character 2]",
        "[character1] is a man. ", "[character2] is a woman", " She wears a hat. ", "[other]",
        "This scene contains 2 shots. ", "Mr. Smith", "\nnum_frames=41", "\nshot_cut_frames=[5, 9]",
        "\nnum_frames: 241,\n", "shot_cut_frames=[37,]", "|",
    ],
    "LCT": [
        "[Global Prompt] ", "[Per-Shot Prompt]\n", "[SHOT CUT] ", "\n[SHOT CUT] ", "Character 1",
        "Character 1: a man; ", "Character 2: a woman\n", "[Story] ", "“", "”", '"', "a deck; ",
    ],
    "StoryDiffusion": [
        "[Ana] ", "[Tom] ", "[NC] ", "[Ana] a woman img, red hair\n", "[Tom] a man\n", " ;\n", ";",
        "\n[Ana] walks ;", "\n[Tom] sees [Ana] ;", "\n[NC] a street ;", "#panel", "\n\n", "img",
    ],
    "frame schedule": [
        '"0": "a cat', '", "24": "a dog', '",\n', '"', '"12"', ": ", '"48" :"a bird",', "{", "}",
        " --neg ugly", "`sin(t)`", '"max_f/2": "x"', "\\n", "// note\n", '"5": "",', '"9": 3,',
    ],
    "StoryMem": [
        '{"story_name": "A", "scenes": [', '{"scene_num": 1, ', '"video_prompts": ["a", "b"], ',
        '"cut": [true, "False"]', '"first_frame_prompt": ["x", null], ', "}, ", "]}", "}", "]", ",",
        '"cut": [true],', '{"scene_num": "2", "video_prompts": ["c"], "cut": [false]},', "/* x */",
    ],
    "JSON": [
        '{"version": 1, "shots": [', '{"caption": "a"', ', "seconds": 3', ', "seconds": -3', "}, ",
        "]}", "]", "}", ', "cut": false', ', "recall": ["1"]', ', "location": "x"', '"characters"',
        ': {"Ana": {"desc": "red"}}, ', "9" * 5000, "[" * 40, "NaN", '"\\ud800"',
    ],
}  # fmt: skip
ANYWHERE = ["a", "Ana walks", " ", "\n", "<Ana>", "@Ana", "<3", "雨", "{", "}", ";", ":", ",", ".",
            "\x00", "\x85", "\u2028", "\ufeff", "```\n", "```json\n", "//", "[wide] "]  # fmt: skip


def texts(form: str) -> st.SearchStrategy[str]:
    pieces = st.sampled_from([*MARKS[form] * 3, *ANYWHERE])
    whole = st.lists(pieces, max_size=14).map("".join)
    first = st.sampled_from(MARKS[form][:2])
    return st.builds(str.__add__, first, whole) | whole


def read(text: str, fps: float | None = None) -> Storyboard | None:
    """The storyboard, or None where the error names a line and column that the text has."""
    try:
        return read_storyboard(text, fps)
    except StoryboardError as error:
        lines = text.removeprefix("\ufeff").splitlines() or [""]
        assert error.line is not None and error.column is not None, error
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1
        assert str(error).startswith(f"script, line {error.line}, column {error.column}: ")
        return None


def reads_back(text: str) -> None:
    form = detect_form(text)
    assert form in FORMS
    story = read(text)
    if story is None:
        return
    written = write_storyboard(story, form)
    assert detect_form(written) == form
    assert read_storyboard(written) == story
    for other in WRITTEN_FORMS:
        if other != form:
            _is_written(story, other)


def _is_written(story: Storyboard, form: str) -> None:
    """A form takes every storyboard; what our own two forms take comes back as it was."""
    try:
        written = export_storyboard(story, form)
    except StoryboardError as error:
        assert form == SCRIPT and "cannot be written as text" in str(error)
        return
    if form in (SCRIPT, JSON) and not written.warnings:
        assert detect_form(written.text) == form
        assert read_storyboard(written.text) == story
    elif form in FORMS and all(any(map(str.isalnum, shot.caption)) for shot in story.shots):
        assert detect_form(written.text) == form
        again = read_storyboard(written.text)
        assert len(again.shots) == len(story.shots)
        assert read_storyboard(write_storyboard(again, form)) == again


@pytest.mark.parametrize("form", MARKS)
def test_any_text_of_a_form_is_read_or_says_where_not(form: str) -> None:
    @settings(max_examples=150, deadline=None)
    @given(texts(form))
    def check(text: str) -> None:
        reads_back(text)

    check()


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(ANYWHERE), max_size=9).map("".join))
@example("{" * 100_000)
@example('{"version": ' + "9" * 10_000 + "}")
@example("```\na\n```")
@example('// script\n"0": "a"')
def test_any_text_is_read_or_says_where_not(text: str) -> None:
    reads_back(text)


WORDS = st.text(alphabet="ab ,.;:雨'\"{}[]|/<>@#=\n", min_size=1, max_size=14).filter(str.strip)
SHOTS = st.builds(
    dict,
    caption=WORDS | st.just("<Ana> meets @Tom"),
    scene=st.integers(1, 3),
    location=st.sampled_from([None, None, "attic"]),
    size=st.just("") | WORDS,
    seconds=st.none() | st.floats(0.01, 60),
    transition=st.sampled_from([None, "cut", "continue"]),
    motion=st.just("") | WORDS,
    camera=st.just("") | WORDS,
    negative=st.just("") | WORDS,
    seed=st.none() | st.integers(0, 9),
    keyframe_prompt=st.just("") | WORDS,
    characters=st.sampled_from([(), ("Ana",)]),
    recall=st.sampled_from([(), ("Ana",)]),
)


@st.composite
def storyboards(draw: st.DrawFn) -> Storyboard:
    fields = draw(st.lists(SHOTS, min_size=1, max_size=4))
    text = st.just("") | WORDS
    return Storyboard(
        shots=tuple(Shot(id=f"shot {at}", **one) for at, one in enumerate(fields)),
        title=draw(text),
        style=draw(text),
        global_text=draw(text),
        story=draw(text),
        fps=draw(st.sampled_from([None, 12.0, 16.0])),
        characters=(
            Character(name="Ana", description=draw(text)),
            Character(name="Tom", description=draw(text)),
        ),
        locations=(Location(name="attic", description=draw(text)),),
    )


@settings(max_examples=150, deadline=None)
@given(storyboards())
def test_every_storyboard_is_written_in_every_form(story: Storyboard) -> None:
    for form in WRITTEN_FORMS:
        _is_written(story, form)
    assert read_storyboard(json.dumps(json.loads(write_storyboard(story, JSON)))) == story
