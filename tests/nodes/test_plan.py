"""Plan film and Populate segments through the host's executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Graph = dict[str, Any]
SCRIPT = "[3s] A red room.\n[2s, continue] The camera turns.\n[3s, cut] A garden.\n[2s] It rains."
SAMPLER = {
    "steps": 2,
    "cfg": 2.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "switch_sigma": 0.9,
    "retakes": "",
    "when_queued": "render",
    "negative_prompt": "blur",
}


def graph(family: str = "wan_t2v", fill: str | None = None, **changes: Any) -> Graph:
    """Models "m", plan "p", and with `fill` (a family) its models "n" and the filler "f". `changes`
    are inputs of the plan, those that begin with `fill_` of the filler."""
    models = {"model": ["m", 0], "clip": ["m", 1], "vae": ["m", 2]}
    plan = {
        **models,
        **SAMPLER,
        "script": SCRIPT,
        "width": 32,
        "height": 32,
        "seconds_per_shot": 1.0,
        "fps": 8.0,
        "unmarked_shots": "continue",
        "segment_frames": 33,
        "seed": 3,
        "run_name": "plan",
        "planner": "draft, then keep the anchors",
        "layout": "two at the end",
        "seed_from": "the end",
    }
    plan |= {name: value for name, value in changes.items() if not name.startswith("fill_")}
    made = {
        "m": _models(family),
        "p": {"class_type": "ThroughlineMacroPlan", "inputs": plan},
    }
    if fill is not None:
        inputs = {
            **SAMPLER,
            "plan": ["p", 0],
            "model": ["n", 0],
            "clip": ["n", 1],
            "vae": ["n", 2],
            "filler": "between the anchors",
            "seed": 11,
            "run_name": "populated",
            **{name[5:]: value for name, value in changes.items() if name.startswith("fill_")},
        }
        made["n"] = _models(fill)
        made["f"] = {"class_type": "ThroughlinePopulateSegments", "inputs": inputs}
    for node in made.values():
        node["inputs"] = {k: v for k, v in node["inputs"].items() if v is not None}
    return made


def _models(family: str) -> dict[str, Any]:
    inputs = {"family": family, "seed": 0, "layers": 0}
    return {"class_type": "ThroughlineTestTinyModels", "inputs": inputs}


def made(events: list[tuple[str, Any]], run: str) -> list[int]:
    return [
        data["segment"]
        for kind, data in events
        if kind == "throughline.segment" and data["run"] == run and data["status"] == "done"
    ]


@pytest.fixture
def read(comfy_folders: dict[str, Path]) -> Callable[[str], list[torch.Tensor]]:
    """`read(name)`: the latents of a run, in order."""
    from throughline.runs.run import open_run

    def latents(name: str) -> list[torch.Tensor]:
        run = open_run(comfy_folders["output"] / "throughline" / name)
        return [run.latent(record.index) for record in run.segments]

    return latents


def test_a_plan_is_made_and_read_again(run_film: Any, read: Any) -> None:
    outputs, events = run_film(graph())
    assert made(events, "plan") == [1, 2, 3, 4]
    first = read("plan")
    assert [latent.shape[2] for latent in first] == [4, 4, 4, 4]
    assert "4 segments planned, 4 made now" in outputs["p"]["text"][0]
    _, events = run_film(graph(run_name="plan"))
    assert made(events, "plan") == []


def test_planned_segments_start_from_the_anchors_of_the_one_before(
    run_film: Any, read: Any, comfy: Any
) -> None:
    from development.tiny_models import tiny_wan_vae
    from throughline.adapters.hand_off import hand_over
    from throughline.planning.frames import FrameGrid
    from throughline.planning.layout import preset_layouts
    from throughline.planning.macro import hand_off

    run_film(graph())
    first, second, third, _ = read("plan")
    layout = preset_layouts(6)["two at the end"]
    anchors = dict(zip((0, 1, 4, 5), first.split(1, dim=2), strict=True))
    with torch.inference_mode():
        handed = hand_over(tiny_wan_vae(), anchors, hand_off(layout, FrameGrid(4)))
    assert torch.equal(second[:, :, :2], handed)
    assert not torch.equal(third[:, :, :2], second[:, :, -2:])  # a cut


def test_redoing_a_plan_costs_it_and_what_continues_it(run_film: Any, read: Any) -> None:
    run_film(graph())
    before = read("plan")
    _, events = run_film(graph(retakes="1:1"))
    assert made(events, "plan") == [1, 2]
    after = read("plan")
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [False, False, True, True]
    _, events = run_film(graph())
    assert made(events, "plan") == []  # the first take is still there


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("wan_t2v", {"planner": "sparse (MMPL weights)"}),
        ("wan_causal", {"planner": "sparse (MMPL weights)", "sampler_name": "uni_pc"}),
        ("wan_causal", {"sampler_name": "ar_video", "cfg": 1.0}),
        ("wan22_i2v", {}),
        ("wan_i2v", {}),
        ("wan_vace", {}),
        ("wan_ti2v", {}),
        ("wan_ti2v", {"planner": "sparse (MMPL weights)"}),
    ],
)
def test_planners_of_each_family(
    run_film: Any, read: Any, family: str, changes: dict[str, Any]
) -> None:
    run_film(graph(family, **changes))
    latents = read("plan")
    assert all(bool(torch.isfinite(latent).all()) for latent in latents)
    assert [latent.shape[2] for latent in latents] == [4, 4, 4, 4]


def test_from_the_middle_segments_are_shorter(run_film: Any, read: Any) -> None:
    layout = {"layout": "wide middle and two at the end", "seed_from": "the middle"}
    outputs, _ = run_film(graph(segment_frames=21, **layout))
    assert "segments planned" in outputs["p"]["text"][0]
    assert len(read("plan")) == 4


@pytest.mark.parametrize("family", ["wan_t2v", "wan_i2v", "wan22_i2v", "wan_flf2v", "wan_vace"])
def test_a_plan_is_filled_by_each_family(run_film: Any, read: Any, family: str) -> None:
    from throughline.planning.layout import preset_layouts

    outputs, events = run_film(graph(fill=family))
    assert made(events, "populated") == [1, 2, 3, 4]
    for anchors, latent in zip(read("plan"), read("populated"), strict=True):
        layout = preset_layouts(latent.shape[2])["two at the end"]
        assert torch.equal(latent[:, :, list(layout.known_to_fillers)], anchors)
    assert "4 segments, 4 filled now" in outputs["f"]["text"][0]


def test_a_causal_model_fills_block_by_block(run_film: Any, read: Any) -> None:
    causal = "block by block (causal weights)"
    changes = {"script": SCRIPT.partition("\n")[0]}
    run_film(graph(fill="wan_causal", fill_filler=causal, fill_sampler_name="lcm", **changes))
    ((anchors,), (first,)) = read("plan"), read("populated")
    assert torch.equal(first[:, :, [0, 1, -2, -1]], anchors)
    assert bool(torch.isfinite(first).all())
    run_film(graph(fill="wan_causal", fill_filler="sparse (MMPL weights)", **changes))
    assert not torch.equal(read("populated")[0], first)


def test_a_model_can_be_led_to_anchors_that_it_is_not_shown(run_film: Any, read: Any) -> None:
    run_film(graph(fill="wan_i2v"))
    shown = read("populated")
    _, events = run_film(graph(fill="wan_i2v", fill_filler="continue to the anchors"))
    assert made(events, "plan") == [] and made(events, "populated") == [1, 2, 3, 4]
    for anchors, latent, other in zip(read("plan"), read("populated"), shown, strict=True):
        assert torch.equal(latent[:, :, [0, 1, -2, -1]], anchors)
        assert not torch.equal(latent[:, :, 2:-2], other[:, :, 2:-2])


def test_the_sparse_filler_goes_on_from_the_plan(run_film: Any, read: Any) -> None:
    sparse = "sparse (MMPL weights)"
    run_film(graph(fill="wan_t2v", planner=sparse, fill_filler=sparse, fill_seed=3))
    for anchors, latent in zip(read("plan"), read("populated"), strict=True):
        assert latent.shape[2] == anchors.shape[2] + latent.shape[2] - 4
        assert torch.equal(latent[:, :, [0, 1, -2, -1]], anchors)


def test_a_model_of_another_vae_sees_the_anchors_as_pictures(run_film: Any, read: Any) -> None:
    with pytest.raises(Exception, match="connect the plan's VAE to plan_vae"):
        run_film(graph(fill="wan_t2v", fill_vae=["v", 2]) | {"v": _other_vae()})
    _, events = run_film(
        graph(fill="wan_t2v", fill_vae=["v", 2], fill_plan_vae=["m", 2]) | {"v": _other_vae()}
    )
    assert made(events, "populated") == [1, 2, 3, 4]
    plan, filled = read("plan"), read("populated")
    assert not torch.equal(filled[0][:, :, :2], plan[0][:, :, :2])


@pytest.mark.parametrize(("planner", "filler"), [("wan_t2v", "wan_ti2v"), ("wan_ti2v", "wan_t2v")])
def test_families_of_other_vaes_exchange_pictures(
    run_film: Any, read: Any, planner: str, filler: str
) -> None:
    """16 channels of 8 px against 48 of 16 px: the anchors are decoded by one and encoded by the
    other, as a clip with grey where nothing is known."""
    from development.tiny_models import tiny_wan_vae
    from development.tiny_vae import tiny_wan22_vae
    from throughline.adapters.filler import encode_known, pasted_clip
    from throughline.planning.layout import preset_layouts

    vaes = {"wan_t2v": tiny_wan_vae, "wan_ti2v": tiny_wan22_vae}
    changes = {"script": SCRIPT.partition("\n")[0], "width": 64, "height": 32}
    with pytest.raises(Exception, match="connect the plan's VAE to plan_vae"):
        run_film(graph(planner, fill=filler, **changes))
    run_film(graph(planner, fill=filler, fill_plan_vae=["m", 2], **changes))
    ((anchors,), (filled,)) = read("plan"), read("populated")
    assert (anchors.shape[1], filled.shape[1]) == ((16, 48) if filler == "wan_ti2v" else (48, 16))
    places = preset_layouts(filled.shape[2])["two at the end"].known_to_fillers
    known = dict(zip(places, anchors.split(1, dim=2), strict=True))
    with torch.inference_mode():
        clip = pasted_clip(vaes[planner](), known, filled.shape[2])
        wanted = encode_known(vaes[filler](), clip, places)
    assert clip.shape[1:] == (32, 64, 3)
    for place in places:
        assert torch.equal(filled[:, :, place : place + 1], wanted[place])


@pytest.mark.parametrize(("planner", "filler"), [("wan_ti2v", "wan_ti2v"), ("wan_t2v", "wan_vace")])
def test_families_of_one_vae_exchange_latents(
    run_film: Any, read: Any, planner: str, filler: str
) -> None:
    from throughline.planning.layout import preset_layouts

    run_film(graph(planner, fill=filler))
    for anchors, latent in zip(read("plan"), read("populated"), strict=True):
        places = preset_layouts(latent.shape[2])["two at the end"].known_to_fillers
        assert torch.equal(latent[:, :, list(places)], anchors)
        assert bool(torch.isfinite(latent).all())


def _other_vae() -> dict[str, Any]:
    inputs = {"family": "wan_t2v", "seed": 7, "layers": 0}
    return {"class_type": "ThroughlineTestTinyModels", "inputs": inputs}


def test_redoing_a_fill_costs_that_one(run_film: Any, read: Any) -> None:
    run_film(graph(fill="wan_t2v"))
    before = read("populated")
    _, events = run_film(graph(fill="wan_t2v", fill_retakes="3:1"))
    assert made(events, "plan") == [] and made(events, "populated") == [3]
    same = [torch.equal(a, b) for a, b in zip(before, read("populated"), strict=True)]
    assert same == [True, True, False, True]


def test_another_prompt_plans_and_fills_what_it_reaches(run_film: Any) -> None:
    run_film(graph(fill="wan_t2v"))
    changed = SCRIPT.replace("It rains", "It snows")
    _, events = run_film(graph(fill="wan_t2v", script=changed))
    assert made(events, "plan") == [4] and made(events, "populated") == [4]
    _, events = run_film(graph(fill="wan_t2v", script=changed, retakes="1:1"))
    assert made(events, "plan") == [1, 2] and made(events, "populated") == [1, 2]


def test_a_filled_film_has_the_frames_that_the_plan_says(
    run_film: Any, comfy_folders: dict[str, Path]
) -> None:
    """81 + 76 (S - 1) for whole segments; here 25 + 16 for each of the two chains."""
    from throughline.planning.frames import FrameGrid
    from throughline.runs.film import segment_frames
    from throughline.runs.run import open_run

    outputs, _ = run_film(graph(fill="wan_t2v"))
    run = open_run(comfy_folders["output"] / "throughline" / "populated")
    counts = segment_frames(run, FrameGrid(4))
    assert [len(chain) for chain in run.chains] == [2, 2]
    assert f"{sum(counts)} frames" in outputs["f"]["text"][0].splitlines()[1]


def test_queueing_to_look_writes_nothing(run_film: Any, comfy_folders: dict[str, Path]) -> None:
    outputs, _ = run_film(graph(when_queued="only show what would be rendered"))
    assert outputs["p"]["text"][0].count("to render, not made yet") == 4
    assert not (comfy_folders["output"] / "throughline").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layout": "end only"}, "two anchors in a row"),
        ({"script": "[0.4s] short."}, "segment 1 of 1 latent frames is too short"),
        ({"segment_frames": 20}, "segment_frames: this model takes"),
        ({"family": "wan_i2v", "planner": "sparse (MMPL weights)"}, "model must be a Wan model"),
        ({"family": "hunyuan_15", "planner": "sparse (MMPL weights)"}, "to plan sparsely, got"),
        ({"fill": "wan_causal"}, "model must be able to fill a plan, got causal Wan"),
        (
            {"fill": "wan_t2v", "fill_filler": "block by block (causal weights)"},
            "model must be causal Wan .* for filler 'block by block",
        ),
        (
            {"fill": "wan_vace", "fill_filler": "block by block (causal weights)"},
            "to plan sparsely, got",
        ),
        ({"fill": "wan_t2v", "fill_run_name": "plan"}, "that of a run of plan"),
        ({"fill": "wan_t2v", "fill_retakes": "9:1"}, "retakes name segments 1 to 4 only, got 9"),
    ],
)
def test_bad_input_is_named_before_sampling(
    run_film: Any, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(Exception, match=said):
        run_film(graph(**changes))


def test_a_run_that_is_no_plan_is_refused(comfy: Any) -> None:
    from throughline.nodes.populating import plan_population

    with pytest.raises(ValueError, match="plan must come from a Plan film node, got dict"):
        plan_population({"plan": {}})
