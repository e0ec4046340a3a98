"""The node ThroughlineRecall, through the host's own executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

SCRIPT = """\
@Ana = woman, red hair | ref: ana.png
@Tom = tall man
#diner = a roadside diner
#pier = a wooden pier
== 1 #diner ==
<Ana> sits alone at the counter with a cold coffee.
<Tom> shakes the rain off his coat.
== 2 #pier ==
Waves break below the planks.
== 3 #diner ==
<Ana> and <Tom> share the counter again.
"""


class Pictures:
    """A batch of pictures, each of one grey, and what a node received, for a test."""

    CATEGORY = "Throughline tests"
    FUNCTION = "make"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"count": ("INT", {"default": 1})}}

    def make(self, count: int) -> tuple[torch.Tensor]:
        greys = torch.linspace(0.2, 0.8, count).view(-1, 1, 1, 1)
        texture = torch.rand(1, 32, 48, 3, generator=torch.Generator().manual_seed(0))
        return ((greys + 0.1 * texture).clamp(0, 1),)


class Clips:
    """Both sides of a tiny CLIP, read from a file that core's loader opens."""

    CATEGORY = "Throughline tests"
    FUNCTION = "load"
    RETURN_TYPES = ("CLIP", "CLIP_VISION")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"folder": ("STRING", {}), "projection": ("STRING", {})}}

    def load(self, folder: str, projection: str) -> tuple[Any, Any]:
        from development.tiny_clips import load_clip, tiny_clip_vision, write_clip_l

        path = write_clip_l(Path(folder) / "clip_l.safetensors", projection)
        return load_clip(path), tiny_clip_vision()


class Sizes:
    """The height and width of each picture that arrives."""

    CATEGORY = "Throughline tests"
    FUNCTION = "tell"
    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"image": ("IMAGE",)}}

    def tell(self, image: torch.Tensor) -> dict[str, Any]:
        return {"ui": {"sizes": [list(image.shape)], "grey": [round(float(image.mean()), 2)]}}


@pytest.fixture
def run(
    run_graph: Callable[..., Any],
    comfy_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """`run(shot, script=..., **inputs)`: outputs of the nodes "recall" and "sizes"."""
    import nodes

    from development.tiny_nodes import NODE_CLASS_MAPPINGS

    given = {**NODE_CLASS_MAPPINGS, "TestPictures": Pictures, "TestSizes": Sizes}
    given["TestClips"] = Clips
    for name, node in given.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node)
    Image.new("RGB", (60, 90), (200, 60, 40)).save(comfy_folders["input"] / "ana.png")

    def graph(shot: str, script: str = SCRIPT, projection: str = "trained", **inputs: Any) -> Any:
        prompt: dict[str, Any] = {
            "board": {"class_type": "ThroughlineStoryboard", "inputs": {"script": script}},
            "recall": {
                "class_type": "ThroughlineRecall",
                "inputs": {
                    "storyboard": ["board", 0],
                    "shot": shot,
                    "how_many": 3,
                    "drift_gate": False,
                    **inputs,
                },
            },
            "sizes": {"class_type": "TestSizes", "inputs": {"image": ["recall", 0]}},
            "clips": {
                "class_type": "TestClips",
                "inputs": {"folder": str(comfy_folders["temp"]), "projection": projection},
            },
            "pictures": {"class_type": "TestPictures", "inputs": {"count": 3}},
            "keyframes": {
                "class_type": "ThroughlineKeyframesFromImages",
                "inputs": {
                    "storyboard": ["board", 0],
                    "images": ["pictures", 0],
                    "shot_ids": "1.1, 1.2, 2.1",
                },
            },
            "models": {
                "class_type": "ThroughlineTestTinyModels",
                "inputs": {"family": "wan22_i2v", "seed": 0, "layers": 0},
            },
        }
        return run_graph(prompt)[0]

    graph.error = run_graph.error
    return graph


def text_of(outputs: Any) -> str:
    return str(outputs["recall"]["text"][0])


def test_pictures_come_as_a_list_of_their_own_sizes(run: Callable[..., Any]) -> None:
    outputs = run("3.1", keyframes=["keyframes", 0])
    assert outputs["sizes"]["sizes"] == [[1, 32, 48, 3], [1, 90, 60, 3], [1, 32, 48, 3]]
    report = text_of(outputs)
    assert report.startswith("shot 3.1: Ana, Tom at diner\ncaptions are compared by their words")
    assert "1. 1.2" in report and "pinned, shows Tom" in report
    assert "2. Ana: ana.png" in report and "pinned, shows Ana" in report
    assert "3. 1.1" in report and "by score" in report
    assert "not recalled\n2.1" in report
    assert len(outputs["recall"]["images"]) == 1, "a sheet of the pictures stands on the node"


def test_a_text_encoder_compares_captions(run: Callable[..., Any]) -> None:
    outputs = run("3.1", keyframes=["keyframes", 0], clip=["models", 1])
    assert "captions are compared with captions by TinyTextModel: clip_vision is not" in text_of(
        outputs
    )


@pytest.mark.parametrize(
    ("projection", "words", "measured"),
    [
        ("trained", "captions are compared with pictures by CLIP (clip_l)", True),
        (
            "missing",
            "SD1ClipModel: clip_l: clip_l.safetensors has no text_projection.weight",
            False,
        ),
    ],
)
def test_clip_compares_with_pictures_or_says_why_not(
    run: Callable[..., Any], projection: str, words: str, measured: bool
) -> None:
    outputs = run(
        "3.1",
        projection=projection,
        keyframes=["keyframes", 0],
        clip=["clips", 0],
        clip_vision=["clips", 1],
    )
    report = text_of(outputs)
    assert words in report
    (line,) = [line for line in report.splitlines() if line.startswith("1. ")]
    picture = line.split("  ")
    assert ("-" not in [cell.strip() for cell in picture]) == measured


def test_own_pictures_with_captions(run: Callable[..., Any]) -> None:
    """Image 1 is that of shot 1.2, image 2 shows both, image 3 says nothing."""
    outputs = run(
        "3.1", images=["pictures", 0], captions="1.2\n<Tom> and <Ana> wave #diner\n", how_many=2
    )
    report = text_of(outputs)
    assert "1. 1.2" in report
    assert "2. Ana: ana.png" in report
    assert "not recalled\nimage 2" in report
    assert "\nimage 3" in report


def test_by_hand_also_later_shots_and_images(run: Callable[..., Any]) -> None:
    outputs = run(
        "1.1", keyframes=["keyframes", 0], images=["pictures", 0], also_recall="2.1, image 3, ana"
    )
    report = text_of(outputs)
    assert "1. 2.1" in report and "asked for: 2.1" in report
    assert "2. image 3" in report and "asked for: image 3" in report
    assert "3. Ana: ana.png" in report and "asked for: Ana" in report
    assert outputs["sizes"]["grey"][1] == pytest.approx(0.84, abs=0.02)


def test_where_there_is_nothing_nothing_is_sent_on(run: Callable[..., Any]) -> None:
    outputs = run("1.1", script="A lamp.\nA door.")
    assert "nothing: there is no earlier picture yet" in text_of(outputs)
    assert "sizes" not in outputs
    assert "images" not in outputs["recall"]


def test_the_drift_gate_says_who_was_left_out(run: Callable[..., Any]) -> None:
    """Three greys, 0.25, 0.55 and 0.85 in the mean: of the five measures luma alone moves."""
    inputs = {
        "script": "@Tom = a man\n<Tom> a\n<Tom> b\n<Tom> c\n<Tom> d",
        "images": ["pictures", 0],
        "captions": "1.1\n1.2\n1.3",
        "drift_threshold": 20.0,
    }
    report = text_of(run("1.4", drift_gate=True, **inputs))
    assert (
        "left out: 1.3 has drifted by 28 % from 1.1, the anchor of Tom (most in luma, +" in report
    )
    assert "left out: 1.2" not in report
    free = text_of(run("1.4", drift_gate=False, **inputs))
    assert "left out" not in free and "1.3" in free


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"shot": "9.9"}, "shot must be one of 1.1, 1.2, 2.1, 3.1, got '9.9'"),
        ({"also_recall": "Bob"}, "recall must name an earlier shot or a character"),
        (
            {"images": ["pictures", 0], "captions": "a\nb\nc\nd"},
            "captions must have at most one line per image, got 4 lines for 3 images",
        ),
        ({"captions": "a"}, "got 1 lines for 0 images"),
        (
            {"script": SCRIPT.replace("ana.png", "gone.png")},
            "'gone.png' must be in ComfyUI's input folder, got no such file",
        ),
        (
            {"script": SCRIPT.replace("ana.png", "text.png")},
            "'text.png' must be a picture, got a file of no picture format",
        ),
    ],
)
def test_wrong_input_names_itself(
    run: Callable[..., Any], comfy_folders: dict[str, Path], inputs: dict[str, Any], words: str
) -> None:
    (comfy_folders["input"] / "text.png").write_text("a portrait of Ana", encoding="utf-8")
    with pytest.raises(run.error, match=words):
        run(**{"shot": "3.1", **inputs})


def test_notes_of_the_files_stand_on_the_node(
    run: Callable[..., Any], comfy_folders: dict[str, Path]
) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime")]
    frames[0].save(comfy_folders["input"] / "two.gif", save_all=True, append_images=frames[1:])
    outputs = run("3.1", script=SCRIPT.replace("ana.png", "two.gif"))
    assert "reference 'two.gif' holds 2 pictures; the first is used" in text_of(outputs)
