"""What the keyframe planner says of pictures that a script asks for by hand."""

from __future__ import annotations

from types import ModuleType

import pytest

from throughline.planning.keyframe_prompts import Reference


@pytest.mark.parametrize(
    ("recall", "missing"),
    [
        (("1.1", "Ana", "diner"), ()),  # a shot that is shown, who and where is on it
        (("1.3",), ()),  # drawn together
        (("1.2", "Ana", "Tom", "pier"), ("1.2", "Tom", "pier")),
    ],
)
def test_what_is_asked_for_and_not_shown_is_named(
    recall: tuple[str, ...], missing: tuple[str, ...], comfy: ModuleType
) -> None:
    from throughline.nodes.keyframe_report import not_shown
    from throughline.nodes.keyframe_ways import Arranged, Source

    source = Source(
        shot=0,
        name="1.1",
        digest="",
        height=64,
        width=64,
        text="Ana sits.",
        shows=Reference(characters=("Ana",), location="diner"),
        why="by score",
    )
    arranged = Arranged(sources=(source,), sizes=((64, 64),))
    assert not_shown(recall, ["1.3", "1.4"], arranged) == missing


def test_the_planner_warns_of_somebody_without_a_picture(comfy: ModuleType) -> None:
    """Before Ana is drawn for the first time there is no picture of her to recall."""
    from development.tiny_images import IMAGE_FAMILIES
    from throughline.nodes.keyframe_plan import keyframe_request, plan_story
    from throughline.nodes.keyframe_rendering import describe_story
    from throughline.planning.script import parse_storyboard

    from .planner_graphs import planner_graph

    tiny = IMAGE_FAMILIES["flux2_klein"]
    script = "@Ana = a woman\nA wall.\nAn empty room. {recall: Ana}\n<Ana> enters.\n"
    inputs = {
        **planner_graph()["p"]["inputs"],
        "model": tiny.model(),
        "vae": tiny.vae(),
        "clip": tiny.text_encoder(),
        "storyboard": parse_storyboard(script),
    }
    report = describe_story(plan_story(keyframe_request(inputs)), "1").splitlines()
    warnings = [line for line in report if "by hand" in line]
    assert warnings == ["  Warning, asked for by hand, but not shown: Ana"]
    assert report.index(warnings[0]) > report.index("1.2: to make, not made yet, seed 4")
