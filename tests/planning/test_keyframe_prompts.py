"""Prompts of keyframes, beside strings written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from throughline.planning.keyframe_prompts import (
    LONGEST_PROMPT,
    Reference,
    estimated_tokens,
    keyframe_prompt,
)
from throughline.planning.script import parse_storyboard
from throughline.planning.storyboard import image_prompt

SCRIPT = """style: 35mm film, muted teal
@Ana = woman, 30, short red hair
@Tom = tall man, grey beard
@Kit =
#diner = roadside diner at night
== Scene 1 #diner ==
[wide] <Ana> sits at the counter; <Ana> waits.
<Tom> enters, <Ana> looks up.
== Scene 2 ==
A wet street.
"""
ANA, TOM = Reference(characters=("Ana",)), Reference(characters=("Tom",))
DINER = Reference(location="diner")
BOTH = Reference(characters=("Ana", "Tom"), location="diner")
STREET = Reference()


@pytest.fixture
def board():
    return parse_storyboard(SCRIPT)


@pytest.mark.parametrize("template", ["numbered", "instruction", "plain"])
def test_without_references_every_model_gets_the_image_prompt(board, template) -> None:
    for shot in board.shots:
        assert keyframe_prompt(board, shot, template) == image_prompt(board, shot)


def test_plain_says_nothing_of_references(board) -> None:
    prompt = keyframe_prompt(board, board.shots[1], "plain", [ANA, TOM, DINER])
    assert prompt == image_prompt(board, board.shots[1])


def test_a_line_of_prose_is_its_own_prompt() -> None:
    board = parse_storyboard("@Mara =\nharbour, <Mara> left, camera 3 to 7")
    prompt = keyframe_prompt(board, board.shots[0], "plain", [Reference(characters=("Mara",))])
    assert prompt == "harbour, Mara left, camera 3 to 7"


@pytest.mark.parametrize(
    ("shot", "references", "expected"),
    [
        (
            0,
            [ANA],
            "Ana (woman, 30, short red hair) is in image 1. New shot: 35mm film, muted teal, wide, "
            "roadside diner at night, Ana sits at the counter; Ana waits.",
        ),
        (
            1,
            [ANA, TOM, DINER],
            "Tom (tall man, grey beard) is in image 2; Ana (woman, 30, short red hair) is in image "
            "1; the place is the one in image 3. New shot: 35mm film, muted teal, roadside diner "
            "at night, Tom enters, Ana looks up.",
        ),
        (
            1,
            [BOTH, STREET, ANA],
            "Tom (tall man, grey beard) is in image 1; Ana (woman, 30, short red hair) is in image "
            "1 and image 3; the place is the one in image 1; image 2 is of the same film. New "
            "shot: 35mm film, muted teal, roadside diner at night, Tom enters, Ana looks up.",
        ),
        (
            0,
            [DINER],
            "The place is the one in image 1. New shot: 35mm film, muted teal, wide, roadside "
            "diner at night, Ana (woman, 30, short red hair) sits at the counter; Ana waits.",
        ),
        (
            2,
            [ANA, TOM, BOTH],
            "Image 1, image 2 and image 3 are of the same film. New shot: 35mm film, muted teal, "
            "A wet street.",
        ),
    ],
)
def test_numbered(board, shot, references, expected) -> None:
    assert keyframe_prompt(board, board.shots[shot], "numbered", references) == expected


@pytest.mark.parametrize(
    ("shot", "references", "expected"),
    [
        (
            0,
            [BOTH],
            "Show a new shot of the same film: 35mm film, muted teal, wide, roadside diner at "
            "night, Ana (woman, 30, short red hair) sits at the counter; Ana waits. Keep Ana's "
            "face, hair and clothes and the place as in the given picture.",
        ),
        (
            2,
            [ANA],
            "Show a new shot of the same film: 35mm film, muted teal, A wet street. Keep the style "
            "and the colours as in the given picture.",
        ),
    ],
)
def test_instruction(board, shot, references, expected) -> None:
    assert keyframe_prompt(board, board.shots[shot], "instruction", references) == expected


def test_a_prompt_of_its_own_keeps_what_the_references_are(board) -> None:
    shot = replace(board.shots[1], keyframe_prompt="A toast")
    assert keyframe_prompt(board, shot, "plain", [ANA]) == "A toast"
    assert keyframe_prompt(board, shot, "numbered", [ANA]) == (
        "Ana (woman, 30, short red hair) is in image 1. New shot: A toast"
    )
    assert keyframe_prompt(board, shot, "instruction", [TOM]) == (
        "Show a new shot of the same film: A toast. Keep Tom's face, hair and clothes as in the "
        "given picture."
    )


def test_somebody_without_a_tag_in_the_caption_is_described_in_front(board) -> None:
    shot = replace(board.shots[2], characters=("Tom", "Kit"))
    assert keyframe_prompt(board, shot, "numbered", [STREET]) == (
        "Image 1 is of the same film. New shot: 35mm film, muted teal, Tom (tall man, grey beard), "
        "Kit, A wet street."
    )


def test_long_prompts_are_noticed() -> None:
    words = " ".join(["word"] * 384)  # 384 * 4 / 3 = 512
    assert estimated_tokens(words) == LONGEST_PROMPT
    assert estimated_tokens(words + ".") > LONGEST_PROMPT
