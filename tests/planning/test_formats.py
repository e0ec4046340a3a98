"""Storyboards of other tools: what is read from them, where they are wrong, what is written."""

from __future__ import annotations

import json
from time import process_time

import pytest

from throughline.planning.formats import (
    FORMS,
    HOLOCINE,
    JSON,
    LCT,
    SCHEDULE,
    SCRIPT,
    STORYDIFFUSION,
    STORYMEM,
    WRITTEN_FORMS,
    detect_form,
    export_storyboard,
    read_storyboard,
    write_storyboard,
)
from throughline.planning.formats.holocine import snapped
from throughline.planning.script import parse_storyboard
from throughline.planning.storyboard import StoryboardError, image_prompt, video_prompt

STORY = """\
// The musician.
{
  "story_name": "The street musician",
  "story_overview": "A musician finds beauty; in everyday life.",
  "scenes": [
    {"scene_num": 1,
     "video_prompts": ["A man opens a guitar case.", "He plays by\\nthe window."],
     "first_frame_prompt": ["His face; over the case.", ""],
     "cut": [true, "False"],},
    {"scene_num": "3", "video_prompts": ["<Night> falls."], /* no marks */},
  ],
}
"""
MUSICIAN = STORY.removeprefix("// The musician.\n")
BALLROOM = """\
[global caption] The scene is set in a ballroom. [character1] is a woman with a sleek bob. She \
wears silver. [character2] is Mr. Grey, in a tuxedo. Couples dance. This scene contains 3 shots. \
[per shot caption] Medium shot of [character1] by a pillar. [shot cut] Close-up of \
[Character 2] watching her. |
[shot cut] [character2] bows to [character1].
num_frames=240
shot_cut_frames=[37, 75,]
"""
DECK = """\
[Global Prompt]
“Character 1: A young man with blonde hair; Character 2: A young woman; \
The deck of a ship. Character 2 meets Character 1.”
[Per-Shot Prompt]
[SHOT CUT] “Close-up of Character 1 looking back.”
Medium shot of Character 2.
[SHOT CUT] Wide shot.
"""
TAYLOR = """\
[Taylor] a woman img, wearing a white T-shirt
[Lecun] a man img,wearing a suit.

[Taylor] wakes up ; # Good morning
[NC] an empty street；
[Lecun] drives with [Taylor] .
"""
CATS = """\
"24": "a cat wakes up, `sin(t)`",
"0" :"a cat sleeps --neg blurry",
"96": "it runs",
"60": "",
"""
DINER = """\
title: The last diner
style: 35mm film
@Ana = woman, red hair | ref: ana.png
@Tom = tall man | lora: tom
#diner = diner at night
== Scene 1 #diner ==
[wide, 5s] <Ana> sits alone. {motion: slow pan; keyframe: "a diner; \\"open\\" {red}"}
[3s, continue] <Tom> enters. {seed: 7; recall: 1.1; negative: text}
== Scene 2 ==
[cut] @ana leaves.
"""
EXAMPLES = {
    STORYMEM: MUSICIAN,
    HOLOCINE: BALLROOM,
    LCT: DECK,
    STORYDIFFUSION: TAYLOR,
    SCHEDULE: CATS,
    SCRIPT: DINER,
    JSON: '{"version": 1, "shots": [{"id": "1.1", "caption": "A street."}]}',
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_found_and_what_is_read_reads_back_the_same(form: str) -> None:
    text = EXAMPLES[form]
    assert detect_form(text) == form
    story = read_storyboard(text)
    written = write_storyboard(story, form)
    assert detect_form(written) == form
    assert read_storyboard(written) == story
    assert detect_form(f"```json\n{text}\n```\n") == form
    assert read_storyboard(f"\ufeff```\n{text}\n```").shots == story.shots


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_a_script_and_json_that_lose_nothing(form: str) -> None:
    story = read_storyboard(EXAMPLES[form])
    for target in (SCRIPT, JSON):
        written = export_storyboard(story, target)
        assert written.warnings == ()
        assert read_storyboard(written.text) == story


PROSE = [
    "A lighthouse at dusk.\nThe keeper climbs the stairs.",
    'He says: "At 12": and nothing more.',
    '"12": "the number on the door" reads the sign, "go away", he thinks.',
    '"I am here," she says.\n"0": he writes it down.',
    '"0", "1", "2": the clock counts.',
    "0: a cat\n24: a dog",
    "[wide] A man walks.\n[close-up] His face.\n[wide] He leaves.",
    "[wide] A man walks;\n[close-up] his face;\n[wide] he leaves;",
    "[Ana] walks.\n[Ana] sits.",
    "A sign reads [shot cut] and falls.",
    "A scene: [global caption] is painted on the wall.",
    "Scenes: one, two.\nShots: {three}",
    "Character 1: a man waits; Character 2: a woman comes.",
    "// [global caption] a [per shot caption] b\nc",
    "The file is {open}.",
    "",
]


@pytest.mark.parametrize("text", PROSE)
def test_plain_prose_stays_prose(text: str) -> None:
    assert detect_form(text) == SCRIPT


def test_a_broken_text_keeps_its_likely_form_for_its_error() -> None:
    assert detect_form('{"scenes": [') == STORYMEM
    assert detect_form('{"0": "a') == SCHEDULE
    assert detect_form('{"version": 1') == JSON
    assert detect_form('"0": "a\n"24": "b') == SCHEDULE


def test_storymem() -> None:
    story = read_storyboard(MUSICIAN)
    assert story.title == "The street musician"
    assert story.story == "A musician finds beauty; in everyday life."
    assert [(shot.id, shot.scene, shot.seconds, shot.transition) for shot in story.shots] == [
        ("1.1", 1, 5.0, "cut"),
        ("1.2", 1, 5.0, "continue"),
        ("3.1", 3, 5.0, "cut"),
    ]
    assert [shot.caption for shot in story.shots][1:] == ["He plays by the window.", "Night falls."]
    assert [shot.keyframe_prompt for shot in story.shots] == ["His face; over the case.", "", ""]
    # StoryMem makes each shot from its own prompt alone; the overview is for people.
    assert [video_prompt(story, shot) for shot in story.shots] == [
        shot.caption for shot in story.shots
    ]


def test_a_comment_in_front_makes_json_a_script() -> None:
    with pytest.raises(StoryboardError, match="script, line 2, column 1"):
        read_storyboard(STORY)


def test_holocine() -> None:
    story = read_storyboard(BALLROOM)
    assert story.global_text == "The scene is set in a ballroom. Couples dance."
    assert [(one.name, one.description) for one in story.characters] == [
        ("character1", "a woman with a sleek bob. She wears silver"),
        ("character2", "Mr. Grey, in a tuxedo"),
    ]
    assert [shot.caption for shot in story.shots] == [
        "Medium shot of <character1> by a pillar.",
        "Close-up of <character2> watching her.",
        "<character2> bows to <character1>.",
    ]
    assert story.shots[2].characters == ("character2", "character1")
    assert [shot.line for shot in story.shots] == [1, 1, 2]
    # 240 and 75 are moved to 241 and 73 frames; HoloCine saves at 15 frames per second.
    assert story.fps == 15.0
    assert [round(shot.seconds * 15) for shot in story.shots if shot.seconds] == [37, 36, 168]
    assert read_storyboard(BALLROOM, 24.0).shots[0].seconds == 37 / 24


def test_cuts_of_holocine_are_snapped_and_spread_as_its_own_script_does() -> None:
    assert [snapped(frame) for frame in (0, 1, 2, 3, 4, 36, 37, 40, 75)] == [
        1, 1, 1, 1, 5, 37, 37, 41, 73,
    ]  # fmt: skip
    text = (
        "[per shot caption] a [shot cut] b [shot cut] c [shot cut] d [shot cut] e\nnum_frames=241"
    )
    seconds = [shot.seconds or 0.0 for shot in read_storyboard(text).shots]
    ends = [round(sum(seconds[: index + 1]) * 15) for index in range(5)]
    assert ends == [49, 97, 145, 193, 241]


def test_cuts_of_short_shots_stay_apart() -> None:
    text = write_storyboard(parse_storyboard("[0.1s] a\n[0.1s] b\n[0.1s] c"), HOLOCINE)
    assert text.endswith("a [shot cut] b [shot cut] c\nnum_frames=9\nshot_cut_frames=[1, 5]\n")
    assert len(read_storyboard(text).shots) == 3


def test_tags_of_nobody_are_words_in_a_foreign_text() -> None:
    text = '{"scenes": [{"video_prompts": ["<<Bob>> & @Eve <3"]}]}'
    assert read_storyboard(text).shots[0].caption == "Bob & Eve <3"


def test_several_scenes_of_holocine_are_places() -> None:
    text = (
        "[global caption] A bar. [per shot caption] a [shot cut] b\n"
        "[global caption] A street. [character1] is tall. [per shot caption] [character1] walks"
    )
    story = read_storyboard(text)
    assert [(shot.id, shot.location) for shot in story.shots] == [
        ("1.1", "scene 1"),
        ("1.2", "scene 1"),
        ("2.1", "scene 2"),
    ]
    assert [place.description for place in story.locations] == ["A bar.", "A street."]
    assert video_prompt(story, story.shots[2]) == ("A street. character1 (tall), character1 walks")
    assert read_storyboard(write_storyboard(story, HOLOCINE)) == story


def test_lct() -> None:
    story = read_storyboard(DECK)
    assert story.global_text == "The deck of a ship. <Character 2> meets <Character 1>."
    assert [(one.name, one.description) for one in story.characters] == [
        ("Character 1", "A young man with blonde hair"),
        ("Character 2", "A young woman"),
    ]
    assert [(shot.caption, shot.transition) for shot in story.shots] == [
        ("Close-up of <Character 1> looking back.", "cut"),
        ("Medium shot of <Character 2>.", "continue"),
        ("Wide shot.", "cut"),
    ]
    assert video_prompt(story, story.shots[1]) == (
        "The deck of a ship. Character 2 meets Character 1. Character 2 (A young woman), "
        "Medium shot of Character 2."
    )


def test_lct_without_headings_and_with_marks_in_one_line() -> None:
    story = read_storyboard("Character 1: a man\n[SHOT CUT] a [SHOT CUT] Character 1\nb")
    assert [(shot.caption, shot.transition) for shot in story.shots] == [
        ("a", "cut"),
        ("<Character 1>", "cut"),
        ("b", "continue"),
    ]
    assert story.characters[0].description == "a man"


def test_storydiffusion() -> None:
    story = read_storyboard(TAYLOR)
    assert [(one.name, one.description) for one in story.characters] == [
        ("Taylor", "a woman, wearing a white T-shirt"),
        ("Lecun", "a man,wearing a suit."),
    ]
    assert [(shot.caption, shot.characters) for shot in story.shots] == [
        ("<Taylor> wakes up", ("Taylor",)),
        ("an empty street", ()),
        ("<Lecun> drives with <Taylor> .", ("Lecun", "Taylor")),
    ]
    assert story.warnings == ("line 4, column 1: the caption behind '#' is not used",)


def test_a_frame_schedule() -> None:
    story = read_storyboard(CATS)
    assert story.fps == 16.0
    assert [(shot.caption, shot.seconds, shot.transition) for shot in story.shots] == [
        ("a cat sleeps", 1.5, None),
        ("a cat wakes up, `sin(t)`", 4.5, "continue"),
        ("it runs", None, "continue"),
    ]
    assert [shot.negative for shot in story.shots] == ["blurry", "", ""]
    assert [shot.line for shot in story.shots] == [2, 1, 3]
    assert [warning.partition(": ")[0] for warning in story.warnings] == [
        "line 1, column 1",
        "line 4, column 1",
    ]
    at_24 = read_storyboard("{" + CATS + "}", 24.0)
    assert (at_24.fps, at_24.shots[0].seconds) == (24.0, 1.0)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ('{"version": 1,\n "shots": [}', 2, 12, "cannot be read: expecting value"),
        ('{"version": 1,\n "shots": []} x', 2, 15, "nothing may follow the JSON, got 'x'"),
        ("{" + '"a": {' * 40, 1, 193, "more than 32 brackets"),
        ('{"version": 2}', 1, 2, "version must be 1"),
        ('{"version": 1}', 1, 1, "at least one shot"),
        ('{"version": 1, "shots": [{"caption": "a"},\n {"caption": " "}]}', 2, 3, "description"),
        ('{"version": 1, "shots": [\n{"caption": "a",\n "seed": -1}]}', 3, 2, "seed must be"),
        (
            '{"version": 1, "shots": [\n{"caption": "a",\n "overrides": {"refs": ["../a"]}}]}',
            3, 16, "inside ComfyUI's input folder",
        ),
        ('{"version": 1, "shots": [\n{"caption": "a",\n "mood": 1}]}', 3, 2, "got 'mood'"),
        (
            '{"version": 1, "shots": [{"caption": "a"},\n {"caption": "b",\n"recall": ["9"]}]}',
            3, 1, "recall must name an earlier shot",
        ),
        ('{"version": 1,\n"characters": {"A": {},\n"4": {}}}', 3, 1, "begins with a letter"),
        ('{"version": 1, "shots": [\n {"caption": "a", "location": "x"}]}', 2, 19, "not defined"),
        ('{"scenes": 3}', 1, 2, "scenes must be a list, got 3"),
        ('{"scenes": [\n 3]}', 2, 2, "a scene must be an object"),
        ('{"scenes": [{"video_prompts": ["a",\n""]}]}', 2, 1, "needs a description"),
        ('{"scenes": [{"video_prompts": ["a"],\n"cut": []}]}', 2, 1, "one entry per video prompt"),
        ('{"scenes": [{"video_prompts": ["a"], "cut": [\n1]}]}', 2, 1, "cut must be true or false"),
        ('{"scenes": [{"scene_num": 1, "video_prompts": ["a"]},\n{"scene_num": 1, '
         '"video_prompts": ["a"]}]}', 2, 2, "scene numbers must differ"),
        ('{"scenes": []}', 1, 2, "at least one shot"),
        ("[global caption] a", 1, 19, "needs one '[per shot caption]', got 0"),
        ("[per shot caption] a\n[shot cut] [shot cut] b", 2, 12, "a shot needs a description"),
        ("[per shot caption] a\n[per shot caption] b", 2, 1, "got 2"),
        ("[per shot caption] a [shot cut] b\nnum_frames=many", 2, 12, "a whole number"),
        ("[per shot caption] a [shot cut] b\nshot_cut_frames=37", 2, 17, "a list like"),
        ("[per shot caption] a\nshot_cut_frames=[37]", 2, 17, "1 shots need 0 cuts"),
        ("[per shot caption] a [shot cut] b\nnum_frames=1", 2, 12, "2 shots need 1 cuts"),
        ("[per shot caption] a\nnum_frames=999999", 2, 12, "a shot lasts at most 3600 s"),
        ("[per shot caption] a\x00", 1, 21, "got U+0000"),
        ("[Global Prompt] a", 1, 18, "needs '[Per-Shot Prompt]'"),
        ("[SHOT CUT] a\n[SHOT CUT]\n[SHOT CUT] b", 2, 11, "a shot needs a description"),
        ("[Per-Shot Prompt]\n\n", 2, 1, "a shot needs a description"),
        ("[Ana] a woman\n[ana] a man\n[Ana] walks ;", 2, 1, "may be used once"),
        ("[Ana] a woman\n[Ana] walks ;\n[NC] ;", 3, 1, "a shot needs a description"),
        ('"0": "a",\n"24": 3', 2, 1, "the prompt of a frame must be text, got 3"),
        ('"0": "a",\n"max_f/2": "b"', 2, 1, "a frame must be a whole number"),
        ('"0": "a"\n"24": "b"', 2, 1, "expected ',' or '\"', got '\"'"),
        ('"0": "a",\n"24": "b', 2, 7, "unterminated string"),
        ('"0": "a",\n"00": "b"', 2, 1, "frames must differ, got 0 again"),
        ('"0": "",\n"24": ""', 1, 1, "at least one shot"),
        ('"0": "a",\n"999999": "b"', 1, 1, "a shot lasts at most 3600 s"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(
    text: str, line: int, column: int, words: str
) -> None:
    with pytest.raises(StoryboardError) as caught:
        read_storyboard(text)
    assert words in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), 1e9])
def test_a_bad_rate_is_refused(fps: float) -> None:
    with pytest.raises(ValueError, match="fps must be above 0"):
        read_storyboard(CATS, fps)


def test_other_fields_of_storymem_are_said_not_to_be_used() -> None:
    story = read_storyboard('{"scenes": [\n{"video_prompts": ["a"], "mood": 1}], "by": "me"}')
    assert story.warnings == (
        "line 2, column 39: 'by' is not a field of StoryMem and is not used",
        "line 2, column 26: 'mood' is not a field of StoryMem and is not used",
    )


def test_a_wrong_count_of_shots_is_said() -> None:
    story = read_storyboard(
        "[global caption] A bar. This scene contains 5 shots. [per shot caption] a [shot cut] b"
    )
    assert story.warnings == ("line 1, column 17: it says 5 shots, but 2 follow, which count",)


def test_a_script_is_written_for_storymem() -> None:
    written = export_storyboard(parse_storyboard(DINER), STORYMEM)
    assert json.loads(written.text) == {
        "story_name": "The last diner",
        "story_overview": "",
        "scenes": [
            {
                "scene_num": 1,
                "video_prompts": [
                    "35mm film, wide, diner at night, Ana (woman, red hair), Ana sits alone. "
                    "slow pan",
                    "35mm film, diner at night, Tom (tall man), Tom enters.",
                ],
                "first_frame_prompt": ['a diner; "open" {red}', ""],
                "cut": [True, False],
            },
            {
                "scene_num": 2,
                "video_prompts": ["35mm film, Ana (woman, red hair), Ana leaves."],
                "cut": [True],
            },
        ],
    }
    assert written.warnings == (
        "no place in this form: references of characters",
        "no place in this form: lora of characters",
        "no place in this form: negative of shot 1.2",
        "no place in this form: recall of shot 1.2",
        "no place in this form: seed of shot 1.2",
        "seconds of shot 1.2: StoryMem makes every shot 5 s long",
        "characters and places become words of each prompt",
    )


def test_a_script_is_written_for_holocine() -> None:
    written = export_storyboard(parse_storyboard(DINER), HOLOCINE)
    assert written.text == (
        "[global caption] 35mm film. diner at night. [character1] is woman, red hair. "
        "[character2] is tall man. This scene contains 2 shots. [per shot caption] "
        "wide, [character1] sits alone. slow pan [shot cut] [character2] enters.\n"
        "num_frames=121\nshot_cut_frames=[73]\n\n"
        "[global caption] 35mm film. [character1] is woman, red hair. This scene contains 1 shot. "
        "[per shot caption] [character1] leaves.\n"
    )
    assert "names become numbers: Ana is [character1], Tom is [character2]" in written.warnings
    assert "no place in this form: continue of shot 1.2" in written.warnings


def test_a_script_is_written_for_lct_and_tells_its_story() -> None:
    assert write_storyboard(parse_storyboard(DINER), LCT) == (
        "[Global Prompt]\n"
        "Character 1: woman, red hair; Character 2: tall man; 35mm film. diner at night. "
        "wide, Character 1 sits alone. slow pan. Character 2 enters.\n"
        "[Per-Shot Prompt]\n"
        "wide, Character 1 sits alone. slow pan\n"
        "Character 2 enters.\n"
        "\n"
        "[Global Prompt]\n"
        "Character 1: woman, red hair; 35mm film.\n"
        "[Per-Shot Prompt]\n"
        "[SHOT CUT] Character 1 leaves.\n"
    )


def test_a_script_is_written_for_storydiffusion_and_as_a_schedule() -> None:
    story = parse_storyboard(DINER)
    assert write_storyboard(story, STORYDIFFUSION) == (
        "[Ana] woman, red hair\n[Tom] tall man\n\n"
        "wide, [Ana] sits alone. slow pan ;\n[Tom] enters. ;\n[Ana] leaves. ;\n"
    )
    written = export_storyboard(story, SCHEDULE)
    assert written.text == (
        '"0": "35mm film, wide, diner at night, Ana (woman, red hair), Ana sits alone. slow pan",\n'
        '"80": "35mm film, diner at night, Tom (tall man), Tom enters. --neg text",\n'
        '"128": "35mm film, Ana (woman, red hair), Ana leaves."\n'
    )
    assert written.warnings[-2:] == (
        "no length of their own: shot 2.1, written as 5 s",
        "208 frames at 16 per second: set max_frames to that number",
    )


def test_prompts_are_written_one_per_line() -> None:
    story = parse_storyboard(DINER)
    assert write_storyboard(story, "image prompts").splitlines() == [
        image_prompt(story, shot) for shot in story.shots
    ]
    assert write_storyboard(story, "video prompts").splitlines() == [
        video_prompt(story, shot) for shot in story.shots
    ]


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(
        StoryboardError, match="form must be one of script, JSON, .* got 'Fountain'"
    ):
        write_storyboard(parse_storyboard("a"), "Fountain")


def test_a_script_that_looks_like_another_form_says_that_it_is_none() -> None:
    story = parse_storyboard('// \n"0": "a",\n"24": "b"')
    text = write_storyboard(story, SCRIPT)
    assert text == '// script\n"0": "a",\n"24": "b"\n'
    assert read_storyboard(text) == story


def test_what_no_line_can_say_is_written_otherwise_and_named() -> None:
    story = read_storyboard(
        '{"version": 1, "title": "A // B", "shots": [{"id": "one", "caption": "a {b}\\nc"},'
        ' {"id": "two", "caption": "d", "recall": ["one"]}]}'
    )
    written = export_storyboard(story, SCRIPT)
    assert written.text == "title: A / B\n\na (b) c\nd {recall: 1.1}\n"
    assert written.warnings == (
        "title: line breaks, '//' or '|' are written otherwise",
        "shots one, two: shots are numbered again, by scene",
        "shot one: line breaks, braces or '//' are written otherwise in the caption",
    )


def test_four_hundred_lines_of_any_form_are_read_at_once() -> None:
    """Under 50 ms for a script on the slowest machine that we know; CPU time, best of five."""
    head = "style: noir\n@Ana = woman, red hair | ref: ana.png\n@Tom = tall man\n#bar = a bar\n"
    shot = "[wide, 3s, cut] <Ana> waits at the counter and <Tom> watches from the door. "
    script = head + "".join(
        (f"== Scene {index // 20 + 1} #bar ==\n" if index % 20 == 0 else "")
        + f"{shot}{{motion: slow pan; seed: {index}; recall: ana}}\n"
        for index in range(400)
    )
    story = parse_storyboard(script)
    assert len(story.shots) == 400
    texts = {form: write_storyboard(story, form) for form in FORMS} | {SCRIPT: script}
    seconds = {form: min(_reading_time(text) for _ in range(5)) for form, text in texts.items()}
    assert {form: time for form, time in seconds.items() if time > 0.05} == {}


def _reading_time(text: str) -> float:
    start = process_time()
    read_storyboard(text)
    return process_time() - start


def test_forms_to_write_are_those_to_read_and_prompts() -> None:
    assert WRITTEN_FORMS == (*FORMS, "image prompts", "video prompts", "tiled prompts")
