"""The storyboard nodes, directly and through the host's validation and executor."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


def graph(**inputs: Any) -> dict[str, Any]:
    return {"1": {"class_type": "ThroughlineStoryboard", "inputs": inputs}}


@pytest.fixture
def storyboard_node(comfy: ModuleType) -> ModuleType:
    from throughline.nodes import storyboard

    return storyboard


def test_the_example_script_is_read_without_a_warning(storyboard_node: ModuleType) -> None:
    story = storyboard_node.read_script(storyboard_node.EXAMPLE_SCRIPT, 0.0)
    assert [shot.id for shot in story.shots] == ["1.1", "1.2", "1.3"]
    assert story.warnings == ()
    assert story.fps is None


def test_an_fps_above_zero_replaces_that_of_the_script(storyboard_node: ModuleType) -> None:
    assert storyboard_node.read_script("fps: 12\na", 0.0).fps == 12.0
    assert storyboard_node.read_script("fps: 12\na", 24.0).fps == 24.0


@pytest.mark.parametrize("fps", [-1.0, 241.0, float("nan"), float("inf")])
def test_a_bad_fps_is_named(storyboard_node: ModuleType, fps: float) -> None:
    with pytest.raises(ValueError, match=f"fps must be above 0 and at most 240, got {fps:g}"):
        storyboard_node.read_script("a", fps)


def test_the_table_stands_on_the_node(run_graph: Callable) -> None:
    script = "title: Rain\n[wide, 5s] <Bob> waits.\n" + "x" * 80
    outputs, _ = run_graph(graph(script=script))
    assert outputs["1"]["text"] == [
        "Read as: script\n"
        "Rain: 2 shots, 5 s and 1 without a length of their own\n"
        "1.1 · 5 s · wide · Bob waits.\n"
        "1.2 · " + "x" * 59 + "…\n"
        "Warning, line 2, column 12: nobody is called 'Bob'; read as words",
    ]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("a\n[0s] b", "script, line 2, column 2: seconds per shot must be above 0"),
        ("", "script, line 1, column 1: the script must have at least one shot"),
        ('"0": "a",\n"x": "b"', "script, line 2, column 1: a frame must be a whole number"),
        ('{"version": 1, "shots": [\n{"caption": 3}]}', "script, line 2, column 2: caption of"),
    ],
)
def test_a_bad_script_is_refused_before_anything_runs(
    run_graph: Callable, script: str, words: str
) -> None:
    with pytest.raises(run_graph.error) as caught:
        run_graph(graph(script=script))
    assert words in str(caught.value)
    assert not caught.value.events


def test_a_linked_script_is_refused_when_it_has_come(run_graph: Callable) -> None:
    prompt = graph(script=["2", 0])
    prompt["2"] = {"class_type": "PrimitiveString", "inputs": {"value": "[5min] a"}}
    with pytest.raises(run_graph.error, match="script, line 1, column 2: a length is written in"):
        run_graph(prompt)


SCHEDULE = '"0": "a cat --neg blurry",\n"48": "a dog",\n'


def test_a_text_of_another_tool_is_read_as_it_is_and_the_node_says_so(run_graph: Callable) -> None:
    outputs, _ = run_graph(graph(script=SCHEDULE))
    assert outputs["1"]["text"] == [
        "Read as: frame schedule\n"
        "2 shots, 3 s and 1 without a length of their own, 16 fps\n"
        "1.1 · 3 s · a cat\n"
        "1.2 · continue · a dog",
    ]


def test_frames_of_a_schedule_are_frames_of_the_film(storyboard_node: ModuleType) -> None:
    story = storyboard_node.read_script(SCHEDULE, 24.0)
    assert (story.fps, story.shots[0].seconds) == (24.0, 2.0)


def export(form: str, script: str) -> dict[str, Any]:
    prompt = graph(script=script)
    inputs = {"storyboard": ["1", 0], "storyboard_form": form}
    prompt["2"] = {"class_type": "ThroughlineExportStoryboard", "inputs": inputs}
    return prompt


def test_the_exporter_shows_the_text_and_above_it_what_is_lost(run_graph: Callable) -> None:
    script = "title: Rain\n@Ana = tall\n[2s] <Ana> waits. {seed: 3}"
    outputs, _ = run_graph(export("StoryDiffusion", script))
    assert outputs["2"]["text"] == [
        "Warning, no place in this form: title\n"
        "Warning, no place in this form: seconds of shot 1.1\n"
        "Warning, no place in this form: seed of shot 1.1\n"
        "Warning, PhotoMaker wants its trigger word in every role: 'a woman img, ...'\n"
        "\n"
        "[Ana] tall\n\n[Ana] waits. ;\n",
    ]


@pytest.mark.parametrize("form", ["script", "image prompts", "tiled prompts"])
def test_nothing_stands_above_a_text_that_says_everything(run_graph: Callable, form: str) -> None:
    outputs, _ = run_graph(export(form, "A street in the rain."))
    assert outputs["2"]["text"] == ["A street in the rain.\n"]


def test_the_exporter_hands_on_text_and_warnings(storyboard_node: ModuleType) -> None:
    story = storyboard_node.read_script("title: Rain\nA street.", 0.0)
    output = storyboard_node.ThroughlineExportStoryboard.execute(story, "video prompts")
    assert output.args == ("A street.\n", "")
    output = storyboard_node.ThroughlineExportStoryboard.execute(story, "LCT")
    assert output.args[1] == "no place in this form: title"
    with pytest.raises(ValueError, match="must come from a Storyboard node, got str"):
        storyboard_node.ThroughlineExportStoryboard.execute("A street.", "LCT")
