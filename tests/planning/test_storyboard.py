"""Values, prompts, file names and the JSON form of a storyboard."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughline.planning.references import check_reference_name, reference_names
from throughline.planning.script import parse_storyboard
from throughline.planning.script_writer import to_text
from throughline.planning.storyboard import (
    Character,
    Location,
    Shot,
    Storyboard,
    StoryboardError,
    image_prompt,
    plain_caption,
    video_prompt,
)
from throughline.planning.storyboard_json import from_json, to_json

NAMED = """\
style: noir.
global: a quiet thriller
@Ana = woman, red hair | ref: ana.png
@Tom Lee =
@小明 = boy
#diner = diner at night, | ref: diner.png, ana.png
== 1 #diner ==
[wide] <ana> and @Tom Lee, then <Ana> again {motion: slow pan; camera: low angle; refs: key.png}
@小明走进房间。
"""


def prompts(text: str) -> list[str]:
    story = parse_storyboard(text)
    return [video_prompt(story, shot) for shot in story.shots]


@pytest.mark.parametrize(
    "line", ["A dog runs.", "a, b, c,", "...and then?", "3 < 5", "[odd", "tail;", "犬が走る。"]
)
def test_a_plain_line_is_its_own_prompt(line: str) -> None:
    story = Storyboard(shots=(Shot(id="1.1", caption=line),))
    assert video_prompt(story, story.shots[0]) == line
    assert image_prompt(story, story.shots[0]) == line


def test_a_prompt_holds_each_part_once_in_order() -> None:
    assert prompts(NAMED)[0] == (
        "a quiet thriller, noir. wide, diner at night, Ana (woman, red hair), "
        "Ana and Tom Lee, then Ana again, slow pan, low angle"
    )
    story = parse_storyboard(NAMED)
    assert image_prompt(story, story.shots[0]) == (
        "noir. wide, diner at night, Ana (woman, red hair), Ana and Tom Lee, then Ana again"
    )


def test_names_end_where_a_script_has_no_spaces() -> None:
    story = parse_storyboard(NAMED)
    assert story.shots[1].characters == ("小明",)
    assert plain_caption(story, story.shots[1]) == "小明走进房间。"


@pytest.mark.parametrize(
    ("caption", "plain", "who"),
    [
        ("<Ana>'s hand", "Ana's hand", ("Ana",)),
        ("@Anabel waits", "Anabel waits", ()),
        ("@Ana-Lee waits", "Ana-Lee waits", ("Ana",)),
        ("@tom lee, @TOM", "Tom Lee, TOM", ("Tom Lee",)),
        ("<Bob> & <3 <lora:x:1> a@ana.org", "Bob & <3 <lora:x:1> a@ana.org", ()),
    ],
)
def test_tags_become_words(caption: str, plain: str, who: tuple[str, ...]) -> None:
    story = parse_storyboard(f"@Ana =\n@Tom Lee =\n{caption}")
    assert plain_caption(story, story.shots[0]) == plain
    assert story.shots[0].characters == who


def test_pictures_are_listed_once_as_written() -> None:
    assert reference_names(parse_storyboard(NAMED)) == ("ana.png", "diner.png", "key.png")


@pytest.mark.parametrize("name", ["ana.png", "looks/ana side.png", "a..b.png", "小明.png", ".hid"])
def test_names_inside_the_folder_are_kept(name: str) -> None:
    assert check_reference_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "..", "../a.png", "a/../../b.png", "a/..", "/etc/passwd", "//host/a", "~/a.png",
        "C:\\a.png", "c:a.png", "..\\a.png", "a\\b.png", "a.png:stream", "a/./b.png", "a//b.png",
        "a.png [output]", "a.png [temp]", "a\x00.png", ".. /a.png", "dir./a.png", "a.png ", "...",
        "\\\\host\\share",
    ],
)  # fmt: skip
def test_names_outside_the_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="inside ComfyUI's input folder") as caught:
        check_reference_name(name)
    assert repr(name) in str(caught.value)


def test_the_json_form_is_the_documented_one() -> None:
    assert to_json(parse_storyboard(NAMED))["shots"][0] == {
        "id": "1.1",
        "scene": 1,
        "location": "diner",
        "size": "wide",
        "seconds": None,
        "cut": None,
        "characters": ["Ana", "Tom Lee"],
        "caption": "<ana> and @Tom Lee, then <Ana> again",
        "keyframe_prompt": None,
        "motion": "slow pan",
        "recall": [],
        "seed": None,
        "overrides": {"camera": "low angle", "refs": ["key.png"]},
    }


WORDS = st.text(alphabet="abc ,.;雨'", min_size=1, max_size=12).filter(str.strip)
FILES = st.lists(st.sampled_from(["a.png", "b/c.png", "雨.png"]), max_size=2).map(tuple)
SHOTS = st.builds(
    dict,
    caption=WORDS | st.just("<Ana> at the door of @ana"),
    size=st.just("") | WORDS,
    seconds=st.none() | st.floats(0.001, 3600),
    transition=st.sampled_from([None, "cut", "continue"]),
    motion=st.just("") | WORDS,
    camera=st.just("") | WORDS,
    negative=st.just("") | WORDS,
    seed=st.none() | st.integers(0, 2**64 - 1),
    refs=FILES,
    strength=st.none() | st.floats(0, 10),
    lora=st.sampled_from(["", "x.safetensors", "coat 0.8, night -1"]),
    audio=st.sampled_from(["", "rain.wav"]),
    keyframe_prompt=st.just("") | WORDS,
    location=st.sampled_from([None, "attic"]),
    recall=st.sampled_from([(), ("Ana",), ("attic", "Ana")]),
)


@st.composite
def storyboards(draw: st.DrawFn) -> Storyboard:
    shots = [
        Shot(id=f"1.{number}", **fields)
        for number, fields in enumerate(draw(st.lists(SHOTS, min_size=1, max_size=4)), start=1)
    ]
    return Storyboard(
        shots=tuple(shots),
        title=draw(st.just("") | WORDS),
        fps=draw(st.none() | st.floats(0.5, 240)),
        characters=(
            Character(
                name="Ana",
                description=draw(WORDS),
                pin=draw(st.booleans()),
                lora=draw(st.sampled_from(["", "ana 0.9, hat"])),
            ),
        ),
        locations=(Location(name="attic", refs=draw(FILES)),),
    )


@settings(max_examples=150, deadline=None)
@given(storyboards())
def test_json_round_trips(story: Storyboard) -> None:
    assert from_json(json.loads(json.dumps(to_json(story)))) == story


@settings(max_examples=150, deadline=None)
@given(storyboards())
def test_the_writer_never_loses_anything_silently(story: Storyboard) -> None:
    try:
        text = to_text(story)
    except StoryboardError as error:
        assert "cannot be written as text" in str(error)
    else:
        assert parse_storyboard(text) == story


def changed(path: str, value: object) -> dict[str, Any]:
    top: dict[str, Any] = json.loads(json.dumps(to_json(parse_storyboard(NAMED))))
    *way, last = path.split("/")
    inner: Any = top
    for step in way:
        inner = inner[int(step)] if step.isdigit() else inner[step]
    inner[last] = value
    return top


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("version", 2, "version must be 1, which this pack reads, got 2"),
        ("shots", [], "at least one shot"),
        ("shots", {}, "shots of the storyboard must be a list"),
        ("shots/0/seconds", 0, "above 0 and at most 3600, got 0"),
        ("shots/0/seconds", float("nan"), "got nan"),
        ("shots/0/seconds", "5", "seconds of shot 1 must be a number, got '5'"),
        ("shots/0/cut", "yes", "cut of shot 1 must be true or false"),
        ("shots/0/seed", -1, "seed must be a whole number from 0"),
        ("shots/0/seed", True, "seed of shot 1 must be a whole number"),
        ("shots/0/caption", "", "shot 1.1 needs a description"),
        ("shots/0/caption", "\ud800", "caption of shot 1 must be text"),
        ("shots/1/id", "1.1", "shot ids must differ, got '1.1' twice"),
        ("shots/0/location", "attic", "location 'attic' is not defined; defined are diner"),
        ("shots/0/characters", ["Bob"], "character 'Bob' is not defined"),
        ("shots/0/recall", ["1.2"], "earlier shots: none; names: Ana, Tom Lee, 小明, diner"),
        ("shots/0/mood", "sad", "shot 1 accepts the fields"),
        ("shots/0/overrides/cfg", 3, "the overrides of shot 1 accepts the fields"),
        ("shots/0/overrides/strength", float("inf"), "strength must be from 0 to 10, got inf"),
        ("shots/0/overrides/refs", ["../a"], "inside ComfyUI's input folder"),
        ("characters/Ana/age", 30, "Ana accepts the fields desc, refs, pin, lora, got 'age'"),
        ("characters/4", {}, "begins with a letter"),
        ("characters/DINER", {}, "a name may be used once"),
        ("fps", 1e400, "fps must be above 0 and at most 240, got inf"),
        ("extra", 1, "the storyboard accepts the fields"),
    ],
)
def test_bad_json_is_refused_by_field(path: str, value: object, words: str) -> None:
    with pytest.raises(StoryboardError) as caught:
        from_json(changed(path, value))
    assert words in str(caught.value)
    way = tuple(int(step) if step.isdigit() and step != "4" else step for step in path.split("/"))
    # Of two that share a name the second is at fault, and places come behind people.
    assert caught.value.field == (("locations", "diner") if "DINER" in path else way)


@pytest.mark.parametrize("value", [None, [], "x", 3, {}, {1: 2}])
def test_other_json_is_refused(value: object) -> None:
    with pytest.raises(StoryboardError, match="must be"):
        from_json(value)


def test_values_are_frozen_and_hashable() -> None:
    story = parse_storyboard(NAMED)
    assert hash(story) == hash(parse_storyboard("\n\n" + NAMED))
    with pytest.raises(dataclasses.FrozenInstanceError):
        story.title = "x"  # type: ignore[misc]
