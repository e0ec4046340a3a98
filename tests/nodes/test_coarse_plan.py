"""A film that is planned coarsely first, through the host's executor with tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from throughline.memory.hierarchy import PooledHead
from throughline.memory.hierarchy_format import PlannerCard, write_planner_file
from throughline.memory.hierarchy_planner import HierarchyPlanner, PlannerConfig

Graph = dict[str, Any]
EVENT = "throughline.segment"
NOISY, CONTROL = "noisy start", "control video (VACE)"
TEXT_WIDTH, CHANNELS, LEVELS = 24, 16, 2


def rendered(events: list[tuple[str, Any]]) -> list[int]:
    return [d["segment"] for kind, d in events if kind == EVENT and d["status"] == "done"]


def planned(
    graph: Graph, family: str = "wan22_i2v", guide_as: str = NOISY, planner: str | None = None
) -> Graph:
    """The film's graph with a coarse plan, from the planner of a file or the model's own."""
    graph["m"]["inputs"]["family"] = family
    inputs: dict[str, Any] = {"start_noise": 0.65, "guide_as": guide_as}
    if planner is not None:
        graph["p"] = {
            "class_type": "ThroughlineLoadHierarchyPlanner",
            "inputs": {"planner_name": planner},
        }
        inputs["hierarchy_planner"] = ["p", 0]
    graph["c"] = {"class_type": "ThroughlineCoarsePlan", "inputs": inputs}
    graph["s"]["inputs"]["coarse_plan"] = ["c", 0]
    return graph


@pytest.fixture
def read(comfy_folders: dict[str, Path]) -> Callable[..., list[torch.Tensor]]:
    from throughline.runs.run import open_run

    def latents(name: str = "film") -> list[torch.Tensor]:
        run = open_run(comfy_folders["output"] / "throughline" / name)
        return [run.latent(record.index) for record in run.segments]

    return latents


@pytest.fixture
def planner_file(comfy_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny planner of pooled codes that reads text, in models/hierarchy_planners."""
    import folder_paths

    folder = comfy_folders["output"] / "planners"
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "hierarchy_planners", ([str(folder)], {".safetensors"})
    )
    torch.manual_seed(0)
    codes = PooledHead(CHANNELS, LEVELS).code_channels
    config = PlannerConfig(codes, finest=1, condition=8, text=TEXT_WIDTH, width=24, heads=2)
    network = HierarchyPlanner(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    card = PlannerCard(config, "pooled", "Wan21", "coarse to fine", (1, 4), "text", steps=2)
    write_planner_file(folder / "tiny.safetensors", network.state_dict(), card)
    return "tiny.safetensors"


@pytest.mark.parametrize(
    ("family", "guide_as", "size"),
    [
        ("wan_t2v", NOISY, 32),
        ("wan_ti2v", NOISY, 64),
        ("wan_vace", NOISY, 32),
        ("wan_vace", CONTROL, 32),
    ],
)
def test_a_film_follows_the_models_own_plan(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
    family: str,
    guide_as: str,
    size: int,
) -> None:
    sizes = {"width": size, "height": size}
    outputs, events = run_film(planned(film(**sizes), family, guide_as))
    assert rendered(events) == [1, 2, 3, 4, 5]
    (text,) = outputs["s"]["text"]
    half = size // 2
    assert f"segments 1 to 3 follow one clip of 4 latent frames at {half} x {half} pixels" in text
    assert "segments 4 to 5 follow one clip of 3 latent frames" in text
    latents = read()
    for index in (1, 2, 4):  # what is handed on stays as it is
        assert torch.equal(latents[index][:, :, :1], latents[index - 1][:, :, -1:])
    plain = film(**sizes, run_name="plain")
    plain["m"]["inputs"]["family"] = family
    run_film(plain)
    assert not any(torch.equal(a, b) for a, b in zip(latents, read("plain"), strict=True))


def test_a_lost_segment_comes_out_the_same_under_the_same_plan(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    comfy_folders: dict[str, Path],
    read: Callable[..., list[torch.Tensor]],
) -> None:
    run_film(planned(film()))
    before = read()
    folder = comfy_folders["output"] / "throughline" / "film" / "segments"
    for path in folder.glob("0002-*"):
        path.unlink()
    _, events = run_film(planned(film()))
    assert rendered(events) == [2]
    assert all(torch.equal(a, b) for a, b in zip(before, read(), strict=True))


def test_a_text_costs_the_segments_that_share_its_plan(
    run_film: Callable[..., Any], film: Callable[..., Graph]
) -> None:
    graph = planned(film())
    run_film(graph)
    script = graph["s"]["inputs"]["script"]
    _, events = run_film(planned(film(script=script.replace("The camera turns", "It stops"))))
    assert rendered(events) == [1, 2, 3]  # segments 4 and 5 are another chain
    _, events = run_film(planned(film(script=script.replace("It rains", "It snows"))))
    assert rendered(events) == [4, 5]


def test_a_retake_keeps_the_plan(run_film: Callable[..., Any], film: Callable[..., Graph]) -> None:
    run_film(planned(film()))
    _, events = run_film(planned(film(retakes="2:1")))
    assert rendered(events) == [2, 3]


def test_an_interrupt_while_the_plan_is_made_costs_nothing_finished(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import comfy.model_management
    import comfy.samplers

    run_film(planned(film(run_name="whole")))
    network, calls = comfy.samplers.calc_cond_batch, []

    def press(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 9:  # a clip and three segments of two steps, then the second clip
            comfy.model_management.interrupt_current_processing()
        return network(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(comfy.samplers, "calc_cond_batch", press)
        with pytest.raises(run_film.error) as error:  # type: ignore[attr-defined]
            run_film(planned(film()))
    assert len(calls) == 9 and rendered(error.value.events) == [1, 2, 3]
    _, events = run_film(planned(film()))
    assert rendered(events) == [4, 5]
    assert all(torch.equal(a, b) for a, b in zip(read("whole"), read(), strict=True))


def test_progress_counts_the_plans_own_steps(
    run_film: Callable[..., Any], film: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    from throughline.nodes import rendering

    told: list[tuple[int, int]] = []

    class Bar(rendering.comfy.utils.ProgressBar):  # type: ignore[name-defined,misc]
        def update_absolute(self, value: int, total: Any = None, preview: Any = None) -> None:
            super().update_absolute(value, total, preview)
            told.append((self.current, self.total))

    with monkeypatch.context() as patch:
        patch.setattr(rendering.comfy.utils, "ProgressBar", Bar)
        run_film(planned(film()))
    values = [value for value, _ in told]
    assert values == sorted(values) and set(values) == {*range(1, 15)}  # 7 calls of 2 steps
    assert told[-1] == (14, 14)


def test_a_planner_sees_what_was_made_and_its_film_resumes(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    comfy_folders: dict[str, Path],
    read: Callable[..., list[torch.Tensor]],
    planner_file: str,
) -> None:
    graph = planned(film(), planner=planner_file)
    outputs, events = run_film(graph)
    assert rendered(events) == [1, 2, 3, 4, 5]
    assert "each segment is planned with up to 4 latent frames ahead" in outputs["s"]["text"][0]
    before = read()
    folder = comfy_folders["output"] / "throughline" / "film" / "segments"
    for path in folder.glob("0004-*"):
        path.unlink()
    _, events = run_film(planned(film(), planner=planner_file))
    assert rendered(events) == [4]
    assert all(torch.equal(a, b) for a, b in zip(before, read(), strict=True))
    # the plan of segment 4, after a cut, looks back at segment 3; that of segment 2 does not
    _, events = run_film(planned(film(retakes="3:1"), planner=planner_file))
    assert rendered(events) == [3, 4, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "wan_causal"}, "begins from noise alone"),
        ({"guide_as": CONTROL}, "needs a Wan VACE model, got Wan I2V"),
    ],
)
def test_a_model_that_cannot_follow_is_refused(
    run_film: Callable[..., Any], film: Callable[..., Graph], change: dict[str, str], message: str
) -> None:
    sampler = {"sampler_name": "ar_video", "cfg": 1.0} if "family" in change else {}
    with pytest.raises(Exception, match=message):
        run_film(planned(film(**sampler), **change))


def test_inputs_that_do_not_fit_are_refused_by_name(planner_file: str) -> None:
    from throughline.adapters.hierarchy_weights import load_planner, pooled_head
    from throughline.adapters.weight_folders import weight_path
    from throughline.nodes.coarse_plan_value import read_coarse_plan
    from throughline.nodes.film_hierarchy import plan_hierarchy

    planner = load_planner(weight_path("hierarchy_planners", planner_file, "planner_name"))
    assert read_coarse_plan(planner, None, 1.0, NOISY).planner is not None
    with pytest.raises(ValueError, match=r"start_noise must be above 0 and at most 1, got 0"):
        read_coarse_plan(None, None, 0.0, NOISY)
    with pytest.raises(ValueError, match=r"guide_as must be one of .*, got 'depth'"):
        read_coarse_plan(None, None, 0.5, "depth")
    with pytest.raises(ValueError, match="hierarchy_head goes with hierarchy_planner"):
        read_coarse_plan(None, pooled_head(CHANNELS, LEVELS), 0.5, NOISY)
    with pytest.raises(ValueError, match="hierarchy_planner must come from .* got int"):
        read_coarse_plan(1, None, 0.5, NOISY)
    with pytest.raises(ValueError, match="hierarchy_head must be connected .* got int"):
        read_coarse_plan(planner, 1, 0.5, NOISY)
    with pytest.raises(ValueError, match="coarse_plan must come from a Coarse plan node, got str"):
        plan_hierarchy("plan", 0, (), None, None, None, None, (4, 32, 32))  # type: ignore[arg-type]
