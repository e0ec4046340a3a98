"""The text form: what it reads, where it says that something is wrong, and that it round-trips."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from throughline.planning.script import parse_storyboard
from throughline.planning.script_writer import to_text
from throughline.planning.storyboard import Character, Location, Storyboard, StoryboardError

DINER = """\
title: The Last Diner
style: 35mm film, muted teal, soft tungsten
aspect: 16:9
fps: 23.976
global: a quiet thriller
@Ana = woman, 30, short red hair, green raincoat | ref: ana.png, looks/ana side.png
@Tom = tall man, 50, grey beard, brown suit | pin: no
#diner = 1950s roadside diner at night, rain on the windows | ref: diner.png

== Scene 1 #diner ==
// nobody else is here
[wide, 5s] <Ana> sits alone at the counter, coffee steaming.   // hold this
[close-up, 3s] Her hand turns an old key.  {motion: slow push-in}
[medium, 4s, continue] <Tom> enters, shaking off rain. {recall: 1.1, ana; seed: 7}
== Scene 2 ==
[cut, 2.5 s] @tom leaves. {camera: low; negative: text; refs: key.png; strength: 0.5; \
lora: noir.safetensors; audio: rain.wav}
"""


def test_every_part_of_a_script_is_read() -> None:
    story = parse_storyboard(DINER)
    assert (story.title, story.aspect, story.fps) == ("The Last Diner", "16:9", 23.976)
    assert story.style == "35mm film, muted teal, soft tungsten"
    assert story.global_text == "a quiet thriller"
    assert story.characters[0] == Character(
        name="Ana",
        description="woman, 30, short red hair, green raincoat",
        refs=("ana.png", "looks/ana side.png"),
    )
    assert story.characters[1].pin is False
    assert story.locations == (
        Location(
            name="diner",
            description="1950s roadside diner at night, rain on the windows",
            refs=("diner.png",),
        ),
    )
    assert [shot.id for shot in story.shots] == ["1.1", "1.2", "1.3", "2.1"]
    wide, close, medium, last = story.shots
    assert (wide.size, wide.seconds, wide.transition) == ("wide", 5.0, None)
    assert (wide.location, wide.characters, wide.line) == ("diner", ("Ana",), 12)
    assert wide.caption == "<Ana> sits alone at the counter, coffee steaming."
    assert (close.motion, close.characters) == ("slow push-in", ())
    assert (medium.transition, medium.recall, medium.seed) == ("continue", ("1.1", "Ana"), 7)
    assert (last.scene, last.location, last.seconds, last.transition) == (2, None, 2.5, "cut")
    assert last.characters == ("Tom",)
    assert last.overrides == {
        "camera": "low",
        "negative": "text",
        "refs": ["key.png"],
        "strength": 0.5,
        "lora": "noir.safetensors",
        "audio": "rain.wav",
    }
    assert story.warnings == ()


def test_plain_prose_is_a_script() -> None:
    prose = (
        "A lighthouse at dusk; waves break - slowly.\n\n"
        "The keeper (old, tired) climbs 99 stairs: one by one...\r\n"
        "He looks at http://example.org/map, and at 3 < 5 > 2 & a@b.org!\n"
        "灯塔在黄昏中。\n"
    )
    story = parse_storyboard(prose)
    assert [shot.caption for shot in story.shots] == [
        "A lighthouse at dusk; waves break - slowly.",
        "The keeper (old, tired) climbs 99 stairs: one by one...",
        "He looks at http://example.org/map, and at 3 < 5 > 2 & a@b.org!",
        "灯塔在黄昏中。",
    ]
    assert {(shot.seconds, shot.transition, shot.size) for shot in story.shots} == {
        (None,) * 2 + ("",)
    }
    assert story.warnings == ()


@pytest.mark.parametrize(
    ("bracket", "size", "seconds", "transition"),
    [
        ("[continue, 2s]", "", 2.0, "continue"),
        ("[2s, continue]", "", 2.0, "continue"),
        ("[CUT, Close-Up on hands, 1.5s]", "Close-Up on hands", 1.5, "cut"),
        ("[wide, low angle]", "wide, low angle", None, None),
        ("[35mm, 2-shot]", "35mm, 2-shot", None, None),
        ("[5 seconds]", "", 5.0, None),
        ("[wide，5秒]", "wide", 5.0, None),
        ("[3600s]", "", 3600.0, None),
        ("[]", "", None, None),
    ],
)
def test_brackets_in_any_order(
    bracket: str, size: str, seconds: float | None, transition: str | None
) -> None:
    shot = parse_storyboard(f"{bracket} rain").shots[0]
    assert (shot.size, shot.seconds, shot.transition) == (size, seconds, transition)
    assert shot.caption == "rain"


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, 1, "at least one shot"),
        ("// only this\n\n", 2, 1, "at least one shot"),
        ("title: x", 1, 1, "at least one shot"),
        ("a\n[0s] b", 2, 2, "above 0 and at most 3600, got 0s"),
        ("[-1s] a", 1, 2, "got -1s"),
        ("[wide, nan s] a", 1, 8, "got nan s"),
        ("[infs] a", 1, 2, "got infs"),
        ("[1e999s] a", 1, 2, "got 1e999s"),
        ("[3601s] a", 1, 2, "got 3601s"),
        ("[5] a", 1, 2, "in seconds, such as 5s, got '5'"),
        ("[nan] a", 1, 2, "got 'nan'"),
        ("[5 min] a", 1, 2, "got '5 min'"),
        ("[80 frames] a", 1, 2, "got '80 frames'"),
        ("[500ms] a", 1, 2, "got '500ms'"),
        ("[0:05] a", 1, 2, "got '0:05'"),
        ("[5s, 6s] a", 1, 6, "one length, got '6s'"),
        ("[cut, continue] a", 1, 7, "one of cut and continue"),
        ("[5s a", 1, 1, "needs its ']'"),
        ("[a [b] c", 1, 4, "inside the brackets"),
        ("  [5s]", 1, 7, "needs a description"),
        ("{seed: 1}", 1, 1, "needs a description"),
        ("a {seed: 1", 1, 3, "needs its '}'"),
        ("a {seed: 1} b", 1, 13, "at the end of a shot, got 'b'"),
        ("a {size: wide}", 1, 4, "motion, camera, seed, recall, refs"),
        ("a {wide}", 1, 4, "got 'wide'"),
        ("a {motion: }", 1, 11, "motion needs a value"),
        ("a {seed: 1; seed: 2}", 1, 13, "once per shot"),
        ("a {seed: 1.5}", 1, 10, "whole number from 0 to 18446744073709551615, got '1.5'"),
        ("a {seed: -1}", 1, 10, "got '-1'"),
        ("a {seed: 18446744073709551616}", 1, 10, "got 18446744073709551616"),
        ("a {strength: nan}", 1, 14, "strength must be a number, got 'nan'"),
        ("a {strength: 11}", 1, 14, "from 0 to 10, got 11"),
        ("a\nb {recall: 1.1, 9.9}", 2, 17, "got '9.9'; earlier shots: 1.1; names: none"),
        ("@Ana =\na {recall: 1.1}", 2, 12, "earlier shots: none; names: Ana"),
        ("@Ana = x\n@ANA = y\na", 2, 2, "'ANA' is already a character"),
        ("@Ana = x\n#ana = y\na", 2, 2, "'ana' is already a character"),
        ("@4 = x\na", 1, 2, "begins with a letter"),
        ("@Ana = x | age: 30\na", 1, 12, "accepts ref: ..., pin: ..., lora: ..., got 'age: 30'"),
        ("@Ana = x | pin: maybe\na", 1, 17, "pin must be yes or no"),
        ("@Ana = x | ref: ../ana.png\na", 1, 17, "got '../ana.png'"),
        ("a {refs: ok.png, /etc/passwd}", 1, 18, "no absolute paths, got '/etc/passwd'"),
        ("a {audio: C:x.wav}", 1, 11, "no drive letters"),
        ("a {lora: ..\\x.safetensors}", 1, 10, "no backslashes"),
        ("title: a\ntitle: b\nc", 2, 1, "line 1 sets it too"),
        ("aspect: wide\na", 1, 9, "16:9 or 2.39:1, got 'wide'"),
        ("aspect: 0:9\na", 1, 9, "got '0:9'"),
        ("fps: 0\na", 1, 6, "fps must be above 0 and at most 240, got 0"),
        ("fps: nan\na", 1, 6, "fps must be a number, got 'nan'"),
        ("a\n== Scene 1 ==\nb", 2, 4, "must differ, got 1 again"),
        ("== Scene 0 ==\nb", 1, 4, "1 or more, got 0"),
        ("a\x00b", 1, 2, "got U+0000"),
        ("a\nb \ud800", 2, 3, "got U+D800"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    text: str, line: int, column: int, words: str
) -> None:
    with pytest.raises(StoryboardError) as caught:
        parse_storyboard(text)
    assert isinstance(caught.value, ValueError)
    assert words in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert str(caught.value).startswith(f"script, line {line}, column {column}: ")


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("  <Bob> waits", "line 1, column 3: nobody is called 'Bob'; read as words"),
        ("== Scene 1 #attic ==\nrain", "line 1, column 13: #attic has no description"),
        ("rain\nstyle: noir", "line 2, column 1: 'style:' below the first shot"),
        ("== The attic ==\nrain", "'The attic' is not used"),
        ("@Ana =\n[ana] waits", "line 2, column 2: [ana] is read as a shot size"),
    ],
)
def test_what_is_doubtful_is_a_warning(text: str, warning: str) -> None:
    assert warning in " ".join(parse_storyboard(text).warnings)


def test_a_place_without_description_is_still_one_place() -> None:
    story = parse_storyboard("== Scene 1 #Attic ==\na\n== Scene 2 #attic ==\nb")
    assert [shot.location for shot in story.shots] == ["Attic", "Attic"]


def test_not_text_is_refused() -> None:
    with pytest.raises(StoryboardError, match="must be text, got NoneType"):
        parse_storyboard(None)  # type: ignore[arg-type]


PIECES = [
    "[wide, 5s] ", "[continue]", "[]", "[2s", "<Ana>", "@Ana", "@Bob ", "<Old Tom>'s", " sits",
    "{motion: pan; seed: 3}", '{motion: "a; {b}"}', '"', "{recall: 1.1}", "{", "}", " // note",
    "//", "http://x", "title: a", "story: b",
    "style: b", "fps: 12", "aspect: 4:3", "global: c", "@Ana = red", "@Old Tom=", " | ref: a.png",
    "| pin: no", "#attic = dusty", "== Scene 2 #attic ==", "==", "== 7", "#", "=", ":", ",", "、",
    "\n", "\n", "\n", "\r\n", "\u2028", "\t", " ", "5s", "nan", "雨", "ß", "İ", ";", "]", "[",
]  # fmt: skip
SCRIPTS = st.lists(st.sampled_from(PIECES), max_size=24).map("".join) | st.text(max_size=200)


def _parsed(text: str) -> Storyboard | None:
    try:
        return parse_storyboard(text)
    except StoryboardError as error:
        lines = text.removeprefix("\ufeff").splitlines()
        assert error.line is not None and error.column is not None
        assert 1 <= error.line <= max(1, len(lines)) and error.column >= 1
        if error.line <= len(lines):
            assert error.column <= len(lines[error.line - 1]) + 1
        return None


@settings(max_examples=400, deadline=None)
@given(SCRIPTS)
@example("[wide]// x")
@example("a {motion://x}")
@example("[] style: x")
@example("[][wide] x")
@example("@Ana = x | ref: a//b\ny")
def test_any_text_parses_or_says_where_it_does_not_and_round_trips(text: str) -> None:
    story = _parsed(text)
    if story is not None:
        written = to_text(story)
        assert parse_storyboard(written) == story
        assert to_text(parse_storyboard(written)) == written


@pytest.mark.parametrize(
    ("braces", "motion"),
    [
        ('{motion: "slow; then {fast} // \\"now\\""}', 'slow; then {fast} // "now"'),
        ('{motion: "a" ; seed: 3}', "a"),
        ('{motion: "two\\nlines"}', "two\nlines"),
        ('{motion: "slow" and fast}', '"slow" and fast'),
        ('{motion: a "slow" pan}', 'a "slow" pan'),
        ('{motion: "open}', '"open'),
        ('{motion: "\\q"}', '"\\q"'),
        ("{motion: ' ; '}".replace("'", '"'), " ; "),
    ],
)
def test_a_value_in_quotes_may_hold_every_sign(braces: str, motion: str) -> None:
    braces = braces.replace("//", "\\/\\/")
    story = parse_storyboard(f"a {braces}")
    assert (story.shots[0].caption, story.shots[0].motion) == ("a", motion)
    assert parse_storyboard(to_text(story)) == story


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ('a {motion: ""}', 12, "motion needs a value between its quotes"),
        ('a {motion: "\\u0000"}', 12, "motion must not hold control characters, got U+0000"),
        ('a {motion: "\\ud800"}', 12, "got U+D800"),
        ('a {seed: "x"}', 11, "whole number from 0"),
        ('a {motion: "x"; motion: "y"}', 17, "once per shot"),
        ('a {motion: "x;y}', 3, "needs its '}'"),
    ],
)
def test_what_is_wrong_in_quotes_is_named(text: str, column: int, words: str) -> None:
    if words.startswith("needs its"):
        text = text.removesuffix("}")
    with pytest.raises(StoryboardError) as caught:
        parse_storyboard(text)
    assert words in str(caught.value)
    assert (caught.value.line, caught.value.column) == (1, column)


def test_a_script_tells_its_story_and_keyframes() -> None:
    story = parse_storyboard("story: Ana leaves.\nA door. {keyframe: a red door}")
    assert story.story == "Ana leaves."
    assert story.shots[0].keyframe_prompt == "a red door"
    assert to_text(story) == "story: Ana leaves.\n\nA door. {keyframe: a red door}\n"


def test_the_whole_example_round_trips() -> None:
    story = parse_storyboard(DINER)
    assert parse_storyboard(to_text(story)) == story


def test_a_long_script_is_read_quickly() -> None:
    text = "\n".join(f"[2s] <Ana> shot {i} {{recall: 1.1}}" for i in range(3000))
    with pytest.raises(StoryboardError, match="earlier shots: none"):
        parse_storyboard(text)
    assert len(parse_storyboard("first\n" + text).shots) == 3001
