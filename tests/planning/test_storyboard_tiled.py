"""The tiled caption: what a scene shares, in front of every shot's own words."""

from __future__ import annotations

from throughline.planning.script import parse_storyboard
from throughline.planning.storyboard import video_prompt
from throughline.planning.storyboard_tiled import MOST_SHOTS_TOLD, global_caption, tiled_prompt

DINER = """\
style: noir
@Ana = woman, red hair
@Tom =
@Eve = in another scene
#diner = diner where @ana works
== 1 #diner ==
[wide] <Ana> sits {motion: slow pan}
<Tom> enters.
== 2 ==
<Eve> sleeps.
"""


def test_without_a_global_text_it_is_people_place_and_story_of_the_scene() -> None:
    story = parse_storyboard(DINER)
    first, second, alone = story.shots
    shared = "Ana: woman, red hair. diner where Ana works. Ana sits. Tom enters."
    assert global_caption(story, first) == global_caption(story, second) == shared
    assert tiled_prompt(story, first) == f"{shared} noir, wide, Ana sits, slow pan"
    assert tiled_prompt(story, second) == f"{shared} noir, Tom enters."
    # One shot alone tells its story itself.
    assert global_caption(story, alone) == "Eve: in another scene."
    assert tiled_prompt(story, alone) == "Eve: in another scene. noir, Eve sleeps."


def test_the_story_of_the_script_counts_before_that_of_the_shots() -> None:
    story = parse_storyboard("story: <Ana> waits\n" + DINER)
    assert global_caption(story, story.shots[0]) == (
        "Ana: woman, red hair. diner where Ana works. Ana waits."
    )
    # The story is for tiled prompts only.
    assert "waits" not in video_prompt(story, story.shots[0])


def test_a_global_text_is_the_caption_and_stands_in_front_anyway() -> None:
    story = parse_storyboard("global: a night with @Ana\n" + DINER)
    assert global_caption(story, story.shots[0]) == "a night with Ana"
    assert (
        tiled_prompt(story, story.shots[0])
        == video_prompt(story, story.shots[0])
        == (
            "a night with Ana, noir, wide, diner where Ana works, Ana (woman, red hair), Ana sits, "
            "slow pan"
        )
    )


def test_a_plain_line_alone_is_its_own_prompt() -> None:
    story = parse_storyboard("A dog runs.")
    assert global_caption(story, story.shots[0]) == ""
    assert tiled_prompt(story, story.shots[0]) == "A dog runs."


def test_a_long_scene_is_told_by_its_first_shots() -> None:
    story = parse_storyboard("\n".join(f"Shot {number}." for number in range(30)))
    told = " ".join(f"Shot {number}." for number in range(MOST_SHOTS_TOLD))
    assert global_caption(story, story.shots[20]) == told
    assert tiled_prompt(story, story.shots[20]) == f"{told} Shot 20."
