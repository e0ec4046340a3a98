"""Plan segment, and pictures as anchors, through the host's executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

Graph = dict[str, Any]
SAMPLER = {
    "planner": "draft, then keep the anchors",
    "layout": "two at the end",
    "negative_prompt": "blur",
    "width": 32,
    "height": 32,
    "fps": 8.0,
    "seed": 3,
    "steps": 2,
    "cfg": 2.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "retakes": "",
    "when_queued": "render",
}
MODELS = {"model": ["m", 0], "clip": ["m", 1], "vae": ["m", 2]}
SCRIPT = "[2s] A red room.\n[2s, continue] It turns.\n[2s, cut] A garden.\n[2s, continue] It rains."
ALONE = "pictures alone"


def tiny(family: str) -> dict[str, Any]:
    inputs = {"family": family, "seed": 0, "layers": 0}
    return {"class_type": "ThroughlineTestTinyModels", "inputs": inputs}


def pictures(seeds: str) -> dict[str, Any]:
    return {"class_type": "ThroughlineTestTinyPictures", "inputs": {"seeds": seeds}}


def micro(run: str = "one", **changes: Any) -> dict[str, Any]:
    """A Plan segment node; None disconnects an input."""
    inputs = {**MODELS, **SAMPLER, "prompt": "A red room.", "segment_frames": 25, "run_name": run}
    inputs |= changes
    given = {name: value for name, value in inputs.items() if value is not None}
    return {"class_type": "ThroughlineMicroPlan", "inputs": given}


def macro(**changes: Any) -> dict[str, Any]:
    """A Plan film node of four segments of 25 frames; the third cuts."""
    inputs = {
        **MODELS,
        **SAMPLER,
        "script": SCRIPT,
        "seconds_per_shot": 1.0,
        "unmarked_shots": "continue",
        "segment_frames": 25,
        "seed_from": "the end",
        "run_name": "film",
        **changes,
    }
    return {"class_type": "ThroughlineMacroPlan", "inputs": inputs}


def fill(plan: str, **changes: Any) -> dict[str, Any]:
    inputs = {
        **MODELS,
        **{name: value for name, value in SAMPLER.items() if name in FILLED},
        "plan": [plan, 0],
        "filler": "between the anchors",
        "run_name": "filled",
        **changes,
    }
    return {"class_type": "ThroughlinePopulateSegments", "inputs": inputs}


FILLED = {
    "negative_prompt",
    "seed",
    "steps",
    "cfg",
    "sampler_name",
    "scheduler",
    "retakes",
    "when_queued",
}


def made(events: list[tuple[str, Any]], run: str, status: str = "done") -> list[int]:
    return [
        data["segment"]
        for kind, data in events
        if kind == "throughline.segment" and data["run"] == run and data["status"] == status
    ]


def sampled(events: list[tuple[str, Any]], run: str) -> set[int]:
    """Segments of which a sampler told a step."""
    told = (data for kind, data in events if kind == "throughline.segment" and data["step"])
    return {data["segment"] for data in told if data["run"] == run}


@pytest.fixture
def read(comfy_folders: dict[str, Path]) -> Callable[[str], list[torch.Tensor]]:
    """`read(name)`: the latents of a run, in order."""
    from throughline.runs.run import open_run

    def latents(name: str) -> list[torch.Tensor]:
        run = open_run(comfy_folders["output"] / "throughline" / name)
        return [run.latent(record.index) for record in run.segments]

    return latents


@pytest.fixture(scope="module")
def vae(comfy: ModuleType) -> Any:
    from development.tiny_models import tiny_wan_vae

    return tiny_wan_vae()


@pytest.fixture(scope="module")
def picture_of(comfy: ModuleType) -> Callable[[int], torch.Tensor]:
    """`picture_of(seed)`: the tiny picture in the film's size, as core's image nodes scale it."""
    import comfy.utils

    def picture(seed: int) -> torch.Tensor:
        made = torch.rand((1, 40, 48, 3), generator=torch.Generator().manual_seed(seed))
        moved = made.movedim(-1, 1)
        return comfy.utils.common_upscale(moved, 32, 32, "bilinear", "center").movedim(1, -1)

    return picture


def standing(vae: Any, picture: torch.Tensor, frames: int) -> torch.Tensor:
    """The latent of a picture that stands still."""
    with torch.inference_mode():
        return vae.encode(picture.expand(frames, -1, -1, -1)).float()


def test_a_segment_is_planned_filled_and_read_again(run_film: Any, read: Any) -> None:
    graph = {"m": tiny("wan_t2v"), "p": micro(), "f": fill("p")}
    outputs, events = run_film(graph)
    assert made(events, "one") == [1] and made(events, "filled") == [1]
    assert "1 segments planned, 1 made now" in outputs["p"]["text"][0]
    (anchors,), (filled,) = read("one"), read("filled")
    assert anchors.shape[2] == 4 and filled.shape[2] == 7
    assert torch.equal(filled[:, :, [0, 1, -2, -1]], anchors)
    assert "25 frames, 3.1 s" in outputs["f"]["text"][0]
    _, events = run_film(graph)
    assert made(events, "one") == made(events, "filled") == []
    _, events = run_film({"m": tiny("wan_t2v"), "p": micro(retakes="1:1")})
    assert made(events, "one") == [1] and not torch.equal(read("one")[0], anchors)


def test_a_segment_begins_with_its_start_image(
    run_film: Any, read: Any, vae: Any, picture_of: Callable[[int], torch.Tensor]
) -> None:
    run_film({"m": tiny("wan_t2v"), "i": pictures("5"), "p": micro(start_image=["i", 0])})
    assert torch.equal(read("one")[0][:, :, :1], standing(vae, picture_of(5), 1))


def test_a_segment_goes_on_from_the_plan_before(run_film: Any, read: Any, vae: Any) -> None:
    from throughline.adapters.hand_off import hand_over
    from throughline.planning.frames import FrameGrid
    from throughline.planning.layout import preset_layouts
    from throughline.planning.macro import hand_off

    after = micro("two", previous=["p", 0], prompt="It turns.")
    graph = {"m": tiny("wan_t2v"), "p": micro(), "q": after}
    _, events = run_film(graph)
    assert made(events, "one") == made(events, "two") == [1]
    anchors = dict(zip((0, 1, 5, 6), read("one")[0].split(1, dim=2), strict=True))
    with torch.inference_mode():
        step = hand_off(preset_layouts(7)["two at the end"], FrameGrid(4))
        handed = hand_over(vae, anchors, step)
    assert torch.equal(read("two")[0][:, :, :2], handed)
    _, events = run_film({**graph, "p": micro(retakes="1:1")})
    assert made(events, "one") == made(events, "two") == [1]  # what it starts from has changed


@pytest.mark.parametrize("latent_frames", [2, 3])
def test_a_latent_starts_a_segment(run_film: Any, read: Any, vae: Any, latent_frames: int) -> None:
    """One of two latent frames is a clip's beginning, a longer one is taken where it ends."""
    latent: Any = ["l", 0]
    graph = {
        "m": tiny("wan_t2v"),
        "l": {"class_type": "ThroughlineTestTinyLatent", "inputs": {}},
        "p": micro(start_latent=latent),
    }
    if latent_frames == 2:
        cut = {"samples": latent, "dim": "t", "index": 0, "amount": 2}
        graph["c"] = {"class_type": "LatentCut", "inputs": cut}
        graph["p"] = micro(start_latent=["c", 0])
    run_film(graph)
    start = read("one")[0][:, :, :2]
    zeros = torch.zeros(1, 16, 4, 4, 4)
    with torch.inference_mode():
        shown = vae.decode(zeros)
        handed = vae.encode(shown.reshape(-1, *shown.shape[-3:])[8:13].clamp(0.0, 1.0)).float()
    assert torch.equal(start, zeros[:, :, :2] if latent_frames == 2 else handed)


def test_pictures_are_anchors_and_nothing_is_sampled(
    run_film: Any, read: Any, vae: Any, picture_of: Callable[[int], torch.Tensor]
) -> None:
    graph = {
        "m": tiny("wan_t2v"),
        "a": pictures("1"),
        "b": pictures("2"),
        "c": pictures("3"),
        "p": micro(start_image=["a", 0], middle_image=["b", 0], end_image=["c", 0], planner=ALONE),
    }
    _, events = run_film(graph)
    assert made(events, "one") == [1] and sampled(events, "one") == set()
    (anchors,) = read("one")
    wanted = [
        standing(vae, picture_of(1), 1),
        standing(vae, picture_of(2), 9)[:, :, -1:],
        standing(vae, picture_of(3), 9)[:, :, -1:],
    ]
    assert torch.equal(anchors, torch.cat(wanted, dim=2))
    _, events = run_film({**graph, "c": pictures("4")})
    assert made(events, "one") == [1]  # another picture is another plan


@pytest.mark.parametrize("family", ["wan_t2v", "wan_i2v", "wan_flf2v", "wan_vace"])
def test_each_filler_passes_an_artists_pictures(run_film: Any, read: Any, family: str) -> None:
    """Start, middle and end of 7 latent frames: 0, 4 and 6."""
    graph = {
        "m": tiny(family),
        "a": pictures("1"),
        "b": pictures("2, 3"),
        "p": macro(
            script="[3s] A red room.",
            start_image=["a", 0],
            anchor_images=["b", 0],
            anchor_places="1:end, 1:middle",
        ),
        "f": fill("p"),
    }
    _, events = run_film(graph)
    assert sampled(events, "film") == set() and sampled(events, "filled") == {1}
    (anchors,), (filled,) = read("film"), read("filled")
    middle, last = 4, filled.shape[2] - 1
    assert torch.equal(filled[:, :, [0, middle, last]], anchors)
    assert bool(torch.isfinite(filled).all())


def test_the_next_segment_begins_with_the_picture_that_the_one_before_ends_on(
    run_film: Any, read: Any, vae: Any, picture_of: Callable[[int], torch.Tensor]
) -> None:
    graph = {
        "m": tiny("wan_t2v"),
        "a": pictures("1"),
        "b": pictures("2"),
        "p": macro(start_image=["a", 0], anchor_images=["b", 0], anchor_places="1:end"),
        "f": fill("p"),
    }
    outputs, events = run_film(graph)
    assert made(events, "film") == [1, 2, 3, 4] and sampled(events, "film") == {2, 3, 4}
    anchors = read("film")
    assert torch.equal(anchors[1][:, :, :2], standing(vae, picture_of(2), 5))
    assert "4 segments, 4 filled now" in outputs["f"]["text"][0]
    _, events = run_film({**graph, "b": pictures("7")})
    assert made(events, "film") == made(events, "filled") == [1, 2]  # a cut follows


def test_keyframes_of_shots_that_continue_end_the_segment_before(
    run_film: Any, read: Any, vae: Any, picture_of: Callable[[int], torch.Tensor]
) -> None:
    uses = "start and end frames"
    graph = {
        "m": tiny("wan_i2v"),
        "b": {"class_type": "ThroughlineStoryboard", "inputs": {"script": SCRIPT, "fps": 0.0}},
        "i": pictures("1, 2, 3, 4"),
        "k": {
            "class_type": "ThroughlineKeyframesFromImages",
            "inputs": {"storyboard": ["b", 0], "images": ["i", 0], "shot_ids": ""},
        },
        "p": macro(storyboard=["b", 0], keyframes=["k", 0], keyframe_use=uses),
    }
    _, events = run_film(graph)
    assert sampled(events, "film") == {2, 4}
    anchors = read("film")
    end = standing(vae, picture_of(2), 9)[:, :, -1:]
    assert torch.equal(anchors[0], torch.cat([standing(vae, picture_of(1), 1), end], dim=2))
    assert torch.equal(anchors[1][:, :, :2], standing(vae, picture_of(2), 5))
    assert torch.equal(anchors[2][:, :, :1], standing(vae, picture_of(3), 1))
    with pytest.raises(Exception, match=r"needs pictures of every segment, segment 2 \(1.2\) has"):
        run_film({**graph, "p": macro(**{**graph["p"]["inputs"], "planner": ALONE})})
    both = {"anchor_images": ["j", 0], "anchor_places": "1:end"}
    with pytest.raises(Exception, match="segment 1 ends on the keyframe of shot 1.2 and on a"):
        run_film({**graph, "j": pictures("9"), "p": macro(**{**graph["p"]["inputs"], **both})})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": " "}, "prompt must say what the segment shows, got none"),
        ({"segment_frames": 20}, "segment_frames: this model takes 4n\\+1 frames, got 20"),
        ({"start_image": ["i", 0], "segment_frames": 1}, "more than the 1 frames it starts from"),
        ({"end_image": ["i", 0]}, "has pictures and nothing to start from"),
        ({"start_image": ["i", 0], "end_image": ["i", 1]}, "end_image must be one picture, got 2"),
        ({"start_image": ["i", 0], "planner": ALONE}, "needs pictures of every segment"),
    ],
)
def test_bad_input_is_named_before_sampling(
    run_film: Any, changes: dict[str, Any], said: str
) -> None:
    linked = {name: ["j", 0] if value == ["i", 1] else value for name, value in changes.items()}
    graph = {"m": tiny("wan_t2v"), "i": pictures("1"), "j": pictures("2, 3"), "p": micro(**linked)}
    with pytest.raises(Exception, match=said):
        run_film(graph)


def test_a_plan_is_the_only_start(run_film: Any) -> None:
    graph = {
        "m": tiny("wan_t2v"),
        "i": pictures("1"),
        "p": micro(),
        "q": micro("two", previous=["p", 0], start_image=["i", 0]),
    }
    with pytest.raises(Exception, match="previous must be the only start"):
        run_film(graph)
    other = {**graph, "q": micro("two", previous=["p", 0], width=48)}
    with pytest.raises(Exception, match="previous must have the shape"):
        run_film(other)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"anchor_places": "1:end"}, "got 1 places for 0 pictures"),
        ({"anchor_images": ["i", 0]}, "got 0 places for 1 pictures"),
        (
            {"anchor_images": ["i", 0], "anchor_places": "9:end"},
            "anchor_places name segments 1 to 4 only, got 9",
        ),
    ],
)
def test_pictures_and_places_must_fit(run_film: Any, changes: dict[str, Any], said: str) -> None:
    graph = {"m": tiny("wan_t2v"), "i": pictures("1"), "p": macro(**changes)}
    with pytest.raises(Exception, match=said):
        run_film(graph)
