"""Keyframes of every family of image models, drawn in the real host by tiny models."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from .planner_graphs import Graph, planner_graph, recalled

SIDE = 128
STEPS = 2

REFERENCE_FAMILIES = {
    "flux": ("Flux.1 Kontext", "instruction", 4),
    "flux2_dev": ("Flux.2 dev", "numbered", 6),
    "flux2_klein": ("Flux.2 klein", "numbered", 4),
    "qwen_edit_2509": ("Qwen-Image-Edit 2509", "numbered", 3),
    "qwen_edit_2511": ("Qwen-Image-Edit 2511", "numbered", 3),
    "omnigen2": ("OmniGen2", "numbered", 5),
}


class Watch:
    """Notes what the model reads: shape, prompt guidance and reference tokens of each forward."""

    CATEGORY = "Throughline tests"
    FUNCTION = "watch"
    RETURN_TYPES = ("MODEL",)
    SEEN: ClassVar[list[list[int]]] = []
    GUIDANCE: ClassVar[list[float]] = []

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": ("MODEL",)}}

    def watch(self, model: Any) -> tuple[Any]:
        clone = model.clone()
        network = model.model.diffusion_model
        if hasattr(network, "ref_image_patch_embedder"):  # OmniGen2 keeps no list of its own
            network.flat_and_pad_to_seq = _noting(network.flat_and_pad_to_seq)
        else:
            clone.set_model_post_input_patch(_note)
        clone.set_model_unet_function_wrapper(_note_guidance)
        return (clone,)


def _note(values: dict[str, Any]) -> dict[str, Any]:
    Watch.SEEN.append(list(values["transformer_options"].get("reference_image_num_tokens", [])))
    return values


def _noting(method: Callable[..., Any]) -> Callable[..., Any]:
    def noting(*arguments: Any) -> Any:
        result = method(*arguments)
        Watch.SEEN.append(list(result[4][0]))  # l_effective_ref_img_len of the first in the batch
        return result

    return noting


def _note_guidance(apply: Any, given: dict[str, Any]) -> Any:
    guidance = given["c"].get("guidance")
    if guidance is not None:
        Watch.GUIDANCE.append(float(guidance[0]))
    return apply(given["input"], given["timestep"], **given["c"])


@pytest.fixture
def watched(run_film: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`watched(family, **inputs)`: (report, what the model saw, events) of a planner at 128 px."""
    import nodes

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "PlannerWatch", Watch)

    def run(family: str, **changes: Any) -> tuple[str, list[list[int]], Any]:
        Watch.SEEN.clear()
        Watch.GUIDANCE.clear()
        graph: Graph = planner_graph(
            family, **{"width": SIDE, "height": SIDE, "steps": STEPS, "cfg": 1.0, **changes}
        )
        graph["w"] = {"class_type": "PlannerWatch", "inputs": {"model": ["m", 0]}}
        graph["p"]["inputs"]["model"] = ["w", 0]
        outputs, events = run_film(graph)
        seen = [[tokens for tokens in forward if tokens] for forward in Watch.SEEN]
        return str(outputs["p"]["text"][0]), seen, events

    return run


def prompts(runs: Path, name: str = "frames") -> list[str]:
    from throughline.runs.run import open_run

    return [record.prompt for record in open_run(runs / name).segments]


@pytest.fixture
def runs(comfy_folders: dict[str, Path]) -> Path:
    return comfy_folders["output"] / "throughline"


def tokens_said(report: str) -> list[int]:
    """The tokens of every shot that sees something."""
    return [int(found) for found in re.findall(r": (\d+) tokens", report)]


@pytest.mark.parametrize("family", REFERENCE_FAMILIES)
def test_references_are_what_the_report_says(
    watched: Callable[..., Any], runs: Path, family: str
) -> None:
    from throughline.runs.run import open_run

    name, template, most = REFERENCE_FAMILIES[family]
    report, seen, _ = watched(family, group_size=1, least_side=16)
    assert name in report and "reference list" in report
    shown = recalled(report)
    assert [len(names) for names in shown.values()] == [0, 1, 2, min(3, most)]
    per_shot = [sum(tokens) for tokens in seen[::STEPS]]
    assert [tokens for tokens in per_shot if tokens] == tokens_said(report)
    assert [len(tokens) for tokens in seen[::STEPS]] == [0, 1, 2, min(3, most)]
    first, *_, last = prompts(runs)
    assert first == "a diner at night, Ana (a woman in a green coat), Ana sits at the counter."
    expected = {
        "numbered": "Ana (a woman in a green coat) is in image ",
        "instruction": "Show a new shot of the same film: a diner at night, Ana (",
    }
    assert last.startswith(expected[template])
    run = open_run(runs / "frames")
    assert all(run.latent(i).ndim == 5 and run.latent(i).shape[2] == 1 for i in range(4))
    assert torch.isfinite(run.latent(3)).all()


@pytest.mark.parametrize("family", ["flux2_dev", "qwen_edit_2509"])
def test_what_is_on_disk_is_reused(watched: Callable[..., Any], family: str) -> None:
    watched(family)
    report, seen, _ = watched(family, levels=4)  # the same sizes at this target
    assert seen == [] and "0 made now, 4 on disk" in report


def test_references_stand_beside_the_negative_prompt_where_the_model_wants_it(
    watched: Callable[..., Any],
) -> None:
    _, seen, _ = watched("omnigen2", cfg=2.0, script="A room.\nA hall.", references=1)
    assert sum(1 for tokens in seen if tokens) >= STEPS


@pytest.mark.parametrize(
    ("family", "most"),
    [("flux2_dev", 6), ("flux2_klein", 4), ("qwen_edit_2509", 3), ("omnigen2", 5)],
)
def test_more_references_than_a_model_takes_are_refused_by_name(
    watched: Callable[..., Any], run_film: Any, family: str, most: int
) -> None:
    name = REFERENCE_FAMILIES[family][0]
    words = f"references must be at most {most} for {name}, got {most + 1}"
    with pytest.raises(run_film.error, match=words):
        watched(family, references=most + 1)
    assert Watch.SEEN == []


def test_an_atlas_is_one_reference(watched: Callable[..., Any], runs: Path) -> None:
    report, seen, _ = watched("flux", reference_mode="atlas", references=3, least_side=16)
    assert [len(tokens) for tokens in seen[::STEPS]] == [0, 1, 1, 1]
    assert [sum(tokens) for tokens in seen[::STEPS]][1:] == tokens_said(report)
    assert len(recalled(report)["3.1"]) == 3
    assert "atlas" in report


def test_without_references_nothing_is_shown(watched: Callable[..., Any], runs: Path) -> None:
    report, seen, _ = watched("qwen_edit_2509", reference_mode="none", cfg=1.0)
    assert not any(seen) and all(not names for names in recalled(report).values())
    assert prompts(runs)[3] == "a diner at night, Ana (a woman in a green coat), Ana looks up."


def test_guidance_reaches_models_that_have_it_built_in(watched: Callable[..., Any]) -> None:
    watched("flux", guidance=2.5, script="A room.")
    assert Watch.GUIDANCE and set(Watch.GUIDANCE) == {2.5}
    watched("flux", guidance=0.0, script="A room.")
    assert set(Watch.GUIDANCE) == {3.5}  # core's own (comfy/model_base.py: Flux)


def test_guidance_is_in_the_keys(watched: Callable[..., Any]) -> None:
    watched("flux", guidance=2.5, script="A room.")
    _, seen, _ = watched("flux", guidance=3.0, script="A room.")
    assert len(seen) == STEPS


JOINT = {"reference_mode": "joint K/V", "group_size": 2, "least_side": 16}


def calls_of(events: Any) -> list[int]:
    return [d["segment"] for k, d in events if k == "throughline.segment" and d["status"] == "done"]


def test_the_joint_mode_makes_groups(watched: Callable[..., Any], runs: Path) -> None:
    from throughline.runs.run import open_run

    report, seen, events = watched("flux", **JOINT)
    assert "Flux.1-dev (joint), joint" in report
    assert calls_of(events) == [1, 2, 3, 4]
    shown = recalled(report)
    assert shown["1.1"] == shown["1.2"] == []
    assert sorted(shown["2.1"]) == sorted(shown["3.1"]) == ["1.1", "1.2"]
    run = open_run(runs / "frames")
    latents = [run.latent(i) for i in range(4)]
    assert all(latent.shape == (1, 16, 1, SIDE // 8, SIDE // 8) for latent in latents)
    assert len({latent.numpy().tobytes() for latent in latents}) == 4
    _, _, events = watched("flux", **JOINT, retakes="1:1")
    assert calls_of(events) == [1, 2, 3, 4]  # its group, and the group that saw it
    _, _, events = watched("flux", **JOINT, retakes="4:1")
    assert calls_of(events) == [3, 4]
    _, _, events = watched("flux", **JOINT)
    assert calls_of(events) == []


def test_half_a_group_on_disk_is_made_whole_and_bit_equal(
    watched: Callable[..., Any], runs: Path
) -> None:
    from throughline.runs.run import open_run

    watched("flux", **JOINT)
    run = open_run(runs / "frames")
    before = [run.latent(i) for i in range(4)]
    file = run.path / str(run.segments[3].file)
    file.unlink()
    _, _, events = watched("flux", **JOINT, seed=3, weight_recency=0.21)
    assert calls_of(events) == [4]
    run = open_run(runs / "frames")
    assert all(torch.equal(run.latent(i), before[i]) for i in range(4))


def test_a_vae_of_another_model_is_refused(watched: Callable[..., Any], run_film: Any) -> None:
    graph = planner_graph("flux", width=SIDE, height=SIDE)
    graph["o"] = {**graph["m"], "inputs": {**graph["m"]["inputs"], "family": "flux2_dev"}}
    graph["p"]["inputs"]["vae"] = ["o", 2]
    with pytest.raises(
        run_film.error, match=r"vae must make the latents of Flux.1 Kontext \(16 channels\)"
    ):
        run_film(graph)


def test_sizes_that_do_not_divide_are_refused(watched: Callable[..., Any], run_film: Any) -> None:
    with pytest.raises(run_film.error, match="height must be a multiple of 16 for Flux.2 dev"):
        watched("flux2_dev", height=136)


def test_a_memory_is_for_video_models(run_film: Any) -> None:
    graph = planner_graph("flux", width=SIDE, height=SIDE, memory=["e", 0])
    graph["v"] = {
        "class_type": "ThroughlineTestTinyModels",
        "inputs": {"family": "wan_t2v", "seed": 0, "layers": 0},
    }
    graph["e"] = {
        "class_type": "ThroughlineMemoryEncoder",
        "inputs": {
            "model": ["v", 0],
            "vae": ["v", 2],
            "form": "automatic",
            "rate": "2x2x2",
            "recent_frames": "automatic",
            "window": 0,
            "pin": "references only",
            "captions": "",
            "width": 0,
            "height": 0,
        },
    }
    with pytest.raises(run_film.error, match="memory is for video models that draw pictures"):
        run_film(graph)
