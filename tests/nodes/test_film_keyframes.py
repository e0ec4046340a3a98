"""A film from keyframes, through the host's executor: what starts, ends and sees which picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

Graph = dict[str, Any]
EVENT = "throughline.segment"

SCRIPT = "[1s, cut] A red room.\n[1s, continue] The camera turns.\n[1s, cut] A garden."
"""At 8 fps each shot is one segment of 2 new latent frames."""


def keyframed(film: Callable[..., Graph], seeds: str, shot_ids: str = "", **changes: Any) -> Graph:
    """The film of SCRIPT with a random picture per shot."""
    graph = film(**{"storyboard": ["b", 0], "keyframes": ["k", 0], **changes})
    graph["b"] = {"class_type": "ThroughlineStoryboard", "inputs": {"script": SCRIPT, "fps": 0.0}}
    graph["p"] = {"class_type": "ThroughlineTestTinyPictures", "inputs": {"seeds": seeds}}
    graph["k"] = {
        "class_type": "ThroughlineKeyframesFromImages",
        "inputs": {"storyboard": ["b", 0], "images": ["p", 0], "shot_ids": shot_ids},
    }
    return graph


def with_family(graph: Graph, family: str) -> Graph:
    graph["m"]["inputs"]["family"] = family
    return graph


def rendered(events: list[tuple[str, Any]]) -> list[int]:
    return [d["segment"] for kind, d in events if kind == EVENT and d["status"] == "done"]


@pytest.fixture
def runs(comfy_folders: dict[str, Path]) -> Path:
    return comfy_folders["output"] / "throughline"


@pytest.fixture
def read(runs: Path) -> Callable[..., list[torch.Tensor]]:
    """`read(name)`: the latents of a run, in order."""
    from throughline.runs.run import open_run

    def latents(name: str = "film") -> list[torch.Tensor]:
        run = open_run(runs / name)
        return [run.latent(record.index) for record in run.segments]

    return latents


@pytest.fixture(scope="module")
def pictures_of(comfy: ModuleType) -> Callable[[int], torch.Tensor]:
    """`pictures_of(seed)`: the picture in the film's size, as core's image nodes scale it."""
    import comfy.utils

    from development.tiny_nodes import TinyPictures

    def picture(seed: int) -> torch.Tensor:
        (pixels,) = TinyPictures().make(str(seed))
        scaled = comfy.utils.common_upscale(pixels.movedim(-1, 1), 32, 32, "bilinear", "center")
        return scaled.movedim(1, -1)

    return picture


@pytest.mark.parametrize("family", ["wan_t2v", "wan_vace"])
def test_shots_begin_and_end_with_their_keyframes(
    family: str,
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    runs: Path,
    read: Callable[..., list[torch.Tensor]],
    pictures_of: Callable[[int], torch.Tensor],
    tiny_vae_like: Any,
) -> None:
    from throughline.adapters.keyframe_latents import end_latent, start_latent
    from throughline.runs.run import open_run

    outputs, _ = run_film(with_family(keyframed(film, "1, 2, 3"), family))
    assert outputs["s"]["text"] == [
        "film: 3 segments, 3 rendered, 0 reused from disk\n"
        "keyframes used: 2 as start frame, 1 as end frame"
    ]
    segments = open_run(runs / "film").segments
    assert [record.start for record in segments] == ["keyframe", "tail", "keyframe"]
    first, second, third = read()
    assert torch.equal(first[:, :, :1], start_latent(tiny_vae_like, pictures_of(1)))
    assert torch.equal(first[:, :, -1:], end_latent(tiny_vae_like, pictures_of(2)))
    assert torch.equal(second[:, :, :1], first[:, :, -1:])
    assert torch.equal(third[:, :, :1], start_latent(tiny_vae_like, pictures_of(3)))


@pytest.fixture(scope="module")
def tiny_vae_like(comfy: ModuleType) -> Any:
    """The VAE that the node of tiny models gives at seed 0."""
    from development.tiny_models import tiny_wan_vae

    return tiny_wan_vae(seed=0)


def test_another_keyframe_renders_the_segments_that_use_it(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
) -> None:
    run_film(keyframed(film, "1, 2, 3"))
    before = read()
    _, events = run_film(keyframed(film, "1, 2, 4"))
    assert rendered(events) == [3]
    _, events = run_film(keyframed(film, "1, 5, 4"))
    assert rendered(events) == [1, 2]  # the end of the first, which the second continues
    _, events = run_film(keyframed(film, "1, 2, 3"))
    assert rendered(events) == []
    assert all(torch.equal(a, b) for a, b in zip(before, read(), strict=True))
    _, events = run_film(keyframed(film, "1, 3", "1.1, 1.3"))
    assert rendered(events) == [1, 2]


def test_only_start_frames(run_film: Callable[..., Any], film: Callable[..., Graph]) -> None:
    outputs, _ = run_film(keyframed(film, "1, 2, 3", keyframe_use="start frames"))
    assert outputs["s"]["text"][0].splitlines()[1:] == [
        "keyframes used: 2 as start frame, 0 as end frame",
        "Warning, keyframes of shots 1.2 are not used: they continue the shot before; choose "
        "'start and end frames' to let that end on them",
    ]
    _, events = run_film(keyframed(film, "1, 7, 3", keyframe_use="start frames"))
    assert rendered(events) == []


def test_a_family_that_cannot_end_on_a_picture_says_so(
    run_film: Callable[..., Any], film: Callable[..., Graph]
) -> None:
    outputs, _ = run_film(
        with_family(
            keyframed(film, "1, 2", "1.1, 1.2", sampler_name="ar_video", cfg=1.0), "wan_causal"
        )
    )
    assert outputs["s"]["text"][0].splitlines()[1:] == [
        "keyframes used: 1 as start frame, 0 as end frame",
        "Warning, keyframes of shots 1.2 are not used: they continue the shot before, and causal "
        "Wan does not end on a picture",
        "Warning, shots 1.3 have no keyframe and start from their text",
    ]


def test_a_film_made_in_pieces_is_the_same_film(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    runs: Path,
    read: Callable[..., list[torch.Tensor]],
) -> None:
    """Resumed, and in another order: the last shot first, as a second machine would make it."""
    run_film(keyframed(film, "1, 2, 3"))
    whole = read()
    files = sorted((runs / "film" / "segments").iterdir())
    for lost in (files[:2], files[2:], files):
        for file in lost:
            file.unlink()
        _, events = run_film(keyframed(film, "1, 2, 3"))
        assert len(rendered(events)) == len(lost)
        assert all(torch.equal(a, b) for a, b in zip(whole, read(), strict=True))


def test_what_would_be_rendered_is_only_shown(
    run_film: Callable[..., Any], film: Callable[..., Graph], runs: Path
) -> None:
    outputs, _ = run_film(
        keyframed(film, "1, 2, 3", when_queued="only show what would be rendered")
    )
    (text,) = outputs["s"]["text"]
    assert text.count("to render, not made yet") == 3
    assert text.splitlines()[-1] == "keyframes used: 2 as start frame, 1 as end frame"
    assert not (runs / "film").exists()


def test_keyframes_bring_their_storyboard(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
) -> None:
    """Without a storyboard the film is that of the keyframes, whatever the script says."""
    run_film(keyframed(film, "1, 2, 3"))
    _, events = run_film(keyframed(film, "1, 2, 3", storyboard=None, script="// nothing to read"))
    assert rendered(events) == []
    assert len(read()) == 3


# Context.


def test_bernini_and_phantom_see_the_other_keyframes(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
) -> None:
    plain = with_family(keyframed(film, "1, 2, 3"), "wan_t2v")
    run_film(plain)
    before = read()
    for name in ("Bernini", "Phantom"):
        graph = keyframed(film, "1, 2, 3", keyframe_use=f"start, end and context ({name})")
        outputs, events = run_film(with_family(graph, "wan_t2v"))
        assert rendered(events) == [1, 2, 3]
        assert outputs["s"]["text"][0].endswith(f", up to 3 as context through {name}")
        after = read()
        for known, (one, other) in zip((1, 1, 1), zip(before, after, strict=True), strict=True):
            assert not torch.equal(one[:, :, known:], other[:, :, known:])


def test_a_memory_remembers_the_keyframes(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
) -> None:
    def graph(seeds: str, use: str) -> Graph:
        made = keyframed(film, seeds, memory=["e", 0], keyframe_use=use)
        made["e"] = {
            "class_type": "ThroughlineMemoryEncoder",
            "inputs": {
                "model": ["m", 0],
                "vae": ["m", 2],
                "form": "small pictures (no training)",
                "rate": "2x2x1",
                "recent_frames": "anchors only",
                "window": 0,
                "pin": "references only",
                "captions": "",
                "width": 0,
                "height": 0,
            },
        }
        return with_family(made, "wan_t2v")

    outputs, _ = run_film(graph("1, 2, 3", "start, end and context"))
    assert (
        outputs["s"]["text"][0].splitlines()[1].endswith(", up to 3 as context through the memory")
    )
    before = read()
    _, events = run_film(graph("1, 2, 4", "start, end and context"))
    assert rendered(events) == [1, 2, 3]  # every segment sees every keyframe
    first, changed = before[0], read()[0]
    assert torch.equal(first[:, :, :1], changed[:, :, :1])
    assert not torch.equal(first[:, :, 1:-1], changed[:, :, 1:-1])


# What is refused, before anything is sampled.


@pytest.fixture
def plan(comfy: ModuleType) -> Callable[..., Any]:
    """`plan(family, **inputs)`: a film of SCRIPT with a keyframe per shot, planned."""
    from development.tiny_models import FAMILIES, tiny_wan_vae
    from throughline.nodes.film import film_request, plan_film
    from throughline.nodes.keyframe_value import Keyframes
    from throughline.planning.script import parse_storyboard

    def make(family: str = "wan22_i2v", **changes: Any) -> Any:
        tiny, storyboard = FAMILIES[family], parse_storyboard(SCRIPT)
        inputs: dict[str, Any] = {
            "model": tiny.model(),
            "vae": tiny_wan_vae(),
            "positive": tiny.conditioning(1),
            "negative": tiny.conditioning(2),
            "storyboard": storyboard,
            "keyframes": Keyframes(
                storyboard=storyboard,
                shot_ids=("1.1", "1.2", "1.3"),
                images=torch.zeros(3, 20, 30, 3),
            ),
            "script": "",
            "negative_prompt": "",
            "width": 32,
            "height": 32,
            "seconds_per_shot": 1.0,
            "fps": 8.0,
            "unmarked_shots": "continue",
            "segment_frames": 13,
            "tail_latent_frames": 1,
            "seed": 1,
            "steps": 1,
            "cfg": 1.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "run_name": "film",
            "retakes": "",
        }
        return plan_film(film_request({**inputs, **changes}))

    return make


def test_keyframes_of_another_storyboard(plan: Callable[..., Any]) -> None:
    from throughline.planning.script import parse_storyboard

    with pytest.raises(ValueError) as error:
        plan(storyboard=parse_storyboard(SCRIPT.replace("A garden", "A lake")))
    assert str(error.value) == (
        "keyframes must belong to the film's storyboard, shot 1.3 is 'A lake.' and its keyframe "
        "was made for 'A garden.': connect the same storyboard to both nodes"
    )
    with pytest.raises(ValueError, match="it has no shot '1.3': connect the same storyboard"):
        plan(storyboard=parse_storyboard("\n".join(SCRIPT.splitlines()[:2])))
    assert plan(storyboard=parse_storyboard(SCRIPT.replace("1s", "2s"))).segments


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"keyframes": "a picture"},
            "keyframes must come from a Keyframe planner or Keyframes from images node, got str",
        ),
        (
            {"keyframe_use": "all of it"},
            "keyframe_use must be one of start frames, start and end frames, start, end and "
            "context, start, end and context (Bernini), start, end and context (Phantom), got "
            "'all of it'",
        ),
        (
            {"start_image": torch.zeros(1, 32, 32, 3)},
            "start_image and a keyframe of shot 1.1 cannot both start the film: disconnect "
            "start_image, or leave the keyframe of that shot out",
        ),
        (
            {"start_latent": {"samples": torch.zeros(1, 16, 1, 4, 4)}},
            "start_latent and a keyframe of shot 1.1 cannot both start the film: disconnect "
            "start_latent, or leave the keyframe of that shot out",
        ),
        (
            {"keyframe_use": "start, end and context"},
            "keyframe_use 'start, end and context' needs memory: connect a memory encoder, or "
            "choose 'start, end and context (Bernini)' or 'start, end and context (Phantom)' with "
            "such weights",
        ),
        (
            {"keyframe_use": "start, end and context (Bernini)"},
            "keyframe_use 'start, end and context (Bernini)' needs Bernini weights, which load as "
            "Wan T2V, got Wan I2V",
        ),
        ({"shot_prompts": "x"}, "shot_prompts must be one of each shot alone, "),
    ],
)
def test_wrong_inputs_are_named(
    changes: dict[str, Any], words: str, plan: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError) as error:
        plan(**changes)
    assert str(error.value).startswith(words)


def test_keyframes_that_are_not_finite(plan: Callable[..., Any]) -> None:
    from dataclasses import replace

    good = plan().request.keyframes
    images = good.images.clone()
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="^keyframes must be finite, shot 1.2 has NaN or infinity"):
        plan(keyframes=replace(good, images=images))


def test_a_start_image_and_keyframes_of_later_shots(plan: Callable[..., Any]) -> None:
    from throughline.nodes.keyframe_value import Keyframes
    from throughline.planning.script import parse_storyboard

    keyframes = Keyframes(
        storyboard=parse_storyboard(SCRIPT), shot_ids=("1.3",), images=torch.zeros(1, 8, 8, 3)
    )
    made = plan(keyframes=keyframes, start_image=torch.zeros(1, 32, 32, 3))
    assert [one.start for one in made.segments] == ["image", "tail", "keyframe"]


def test_settings_that_a_planner_followed_are_not_called_without_effect(
    plan: Callable[..., Any],
) -> None:
    from throughline.nodes.keyframe_value import Keyframes
    from throughline.planning.script import parse_storyboard

    storyboard = parse_storyboard("A room.\n[cut] A garden. {recall: 1.1}")
    for run_name, warnings in (
        ("keys", ()),
        ("", ("recall of shot 1.2 has no effect here",)),
    ):
        keyframes = Keyframes(
            storyboard=storyboard,
            shot_ids=("1.1", "1.2"),
            images=torch.zeros(2, 8, 8, 3),
            run_name=run_name,
        )
        assert plan(storyboard=storyboard, keyframes=keyframes).warnings == warnings


def test_prompts_may_begin_with_the_scene(plan: Callable[..., Any]) -> None:
    from throughline.planning.script import parse_storyboard
    from throughline.planning.storyboard_tiled import tiled_prompt

    storyboard = parse_storyboard(SCRIPT)
    alone = plan(shot_prompts="each shot alone").segments
    assert [one.prompt for one in alone] == [one.prompt for one in plan().segments]
    tiled = plan(shot_prompts="scene caption in front").segments
    assert [one.prompt for one in tiled] == [
        tiled_prompt(storyboard, shot) for shot in storyboard.shots
    ]
    assert all(one.prompt != other.prompt for one, other in zip(alone, tiled, strict=True))


def test_an_image_model_is_refused_by_name(plan: Callable[..., Any]) -> None:
    from development.tiny_images import IMAGE_FAMILIES

    with pytest.raises(ValueError, match="^model must be able to continue a video, got Flux"):
        plan(model=IMAGE_FAMILIES["flux"].model())


# Keyframes from images.


@pytest.fixture
def from_images(comfy: ModuleType) -> Callable[..., Any]:
    from throughline.nodes.keyframe_images import keyframes_from_images
    from throughline.planning.script import parse_storyboard

    def make(images: Any, shot_ids: str = "", storyboard: Any = None) -> Any:
        return keyframes_from_images(storyboard or parse_storyboard(SCRIPT), images, shot_ids)

    return make


def test_pictures_in_the_order_of_the_shots(from_images: Callable[..., Any]) -> None:
    batch = torch.rand(3, 8, 12, 4, generator=torch.Generator().manual_seed(1))
    keyframes = from_images([batch])
    assert keyframes.shot_ids == ("1.1", "1.2", "1.3")
    assert torch.equal(keyframes.images, batch[..., :3])
    assert torch.equal(from_images([batch[:1], batch[1:]]).images, keyframes.images)


def test_pictures_of_named_shots(from_images: Callable[..., Any]) -> None:
    batch = torch.rand(2, 8, 12, 3, generator=torch.Generator().manual_seed(1))
    keyframes = from_images([batch], " 1.3, 1.1 ,")
    assert keyframes.shot_ids == ("1.1", "1.3")
    assert torch.equal(keyframes.of("1.3"), batch[:1])
    assert torch.equal(keyframes.of("1.1"), batch[1:])
    assert keyframes.of("1.2") is None


def test_pictures_of_several_sizes_take_the_first_ones(from_images: Callable[..., Any]) -> None:
    """A grey picture stays grey, and a wide one is cropped in the middle, not squeezed."""
    wide = torch.zeros(1, 8, 40, 3)
    wide[:, :, 16:24] = 0.5
    keyframes = from_images([torch.full((2, 8, 8, 3), 0.25), wide])
    assert keyframes.images.shape == (3, 8, 8, 3)
    assert keyframes.images[2].eq(0.5).all()


@pytest.mark.parametrize(
    ("count", "shot_ids", "words"),
    [
        (
            2,
            "",
            "images must be one for each of the 3 shots, got 2: name the shots that they belong to "
            "in shot_ids",
        ),
        (2, "1.1", "images must be one for each of the 1 shots, got 2"),
        (1, "2.1", "shot_ids must name shots of the storyboard (1.1, 1.2, 1.3), got '2.1'"),
        (2, "1.1, 1.1", "shot_ids must name each shot once, got '1.1' twice"),
    ],
)
def test_pictures_that_do_not_fit_the_shots(
    count: int, shot_ids: str, words: str, from_images: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError) as error:
        from_images([torch.zeros(count, 8, 8, 3)], shot_ids)
    assert str(error.value) == words


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            [torch.zeros(8, 8, 3)],
            "images must be pictures, height, width, 3 colours, got (8, 8, 3)",
        ),
        ([torch.full((3, 8, 8, 3), float("inf"))], "images must be finite, got NaN or infinity"),
    ],
)
def test_what_is_no_picture(images: Any, words: str, from_images: Callable[..., Any]) -> None:
    with pytest.raises(ValueError) as error:
        from_images(images)
    assert str(error.value) == words


def test_a_storyboard_that_is_none(from_images: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="^storyboard must come from a Storyboard node, got str"):
        from_images([torch.zeros(1, 8, 8, 3)], storyboard="a script")


def test_the_node_says_which_shots_have_none(
    run_film: Callable[..., Any], film: Callable[..., Graph]
) -> None:
    outputs, _ = run_film(keyframed(film, "1", "1.2"))
    assert outputs["k"]["text"] == ["1 of 3 shots, none for 1.1, 1.3"]
