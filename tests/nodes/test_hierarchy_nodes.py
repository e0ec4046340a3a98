"""Hierarchies through the host's executor: encoded, planned, decoded, refined, committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from .hierarchy_graphs import (
    FRAMES,
    PLANNER,
    Graph,
    clip,
    decoded,
    encoded,
    loader,
    planned,
    sampled,
    saved,
)


@pytest.fixture
def files(comfy_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of heads and planners of this test: the parent of both."""
    import folder_paths

    for category in ("hierarchy_heads", "hierarchy_planners"):
        (tmp_path / category).mkdir()
        entry = ([str(tmp_path / category)], {".safetensors"})
        monkeypatch.setitem(folder_paths.folder_names_and_paths, category, entry)
        folder_paths.filename_list_cache.pop(category, None)
    return tmp_path


def write_planner(files: Path, name: str = PLANNER, **settings: Any) -> None:
    from development.tiny_hierarchy import write_tiny_planner

    write_tiny_planner(files / "hierarchy_planners" / name, **settings)


def latent(folders: dict[str, Path], name: str) -> torch.Tensor:
    """The newest latent that core saved under a name."""
    newest = max(folders["output"].glob(f"{name}_*.latent"))
    return load_file(newest)["latent_tensor"]


def made(events: list[tuple[str, Any]], run: str = "codes") -> list[int]:
    return [
        data["segment"]
        for kind, data in events
        if kind == "throughline.segment" and data["run"] == run and data["status"] == "done"
    ]


def test_level_0_gives_the_latent_back_and_coarser_ones_less_and_less(
    run_film: Any, comfy_folders: dict[str, Path]
) -> None:
    graph: Graph = {**encoded(latent=["k", 0]), "s": saved(["k", 0], "clip")}
    for level in range(3):
        graph[f"d{level}"] = decoded(["h", 0], level)
        graph[f"s{level}"] = saved([f"d{level}", 0], f"level{level}")
    outputs, _ = run_film(graph)
    truth = latent(comfy_folders, "clip")
    errors = [
        float((latent(comfy_folders, f"level{level}") - truth).square().mean())
        for level in range(3)
    ]
    assert errors[0] < 1e-8 < errors[1] < errors[2]
    assert outputs["d1"]["images"][0]["filename"]


def test_a_trained_head_makes_other_codes_of_the_same_clip(
    run_film: Any, files: Path, comfy_folders: dict[str, Path]
) -> None:
    from development.tiny_hierarchy import write_tiny_head

    write_tiny_head(files / "hierarchy_heads" / "head.safetensors")
    graph = {
        **encoded(latent=["k", 0], hierarchy_head=["c", 0]),
        "c": {
            "class_type": "ThroughlineLoadHierarchyHead",
            "inputs": {"head_name": "head.safetensors"},
        },
        "d0": decoded(["h", 0], 0),
        "d2": decoded(["h", 0], 2),
        "s": saved(["k", 0], "clip"),
        "s0": saved(["d0", 0], "level0"),
        "s2": saved(["d2", 0], "level2"),
    }
    run_film(graph)
    truth = latent(comfy_folders, "clip")
    assert torch.allclose(latent(comfy_folders, "level0"), truth, atol=1e-5)
    assert not torch.allclose(latent(comfy_folders, "level2"), truth, atol=0.1)


@pytest.mark.parametrize("family", ["wan_t2v", "wan_ti2v"])
def test_a_chunk_is_planned_refined_and_committed(
    family: str, run_film: Any, files: Path, comfy_folders: dict[str, Path]
) -> None:
    """M1 by hand: level 1 is planned behind a clip, a window of it goes through the unmodified
    model with a clean overlap, and what comes out stands in the film at level 0."""
    channels, name, side = (16, "Wan21", 64) if family == "wan_t2v" else (48, "Wan22", 128)
    write_planner(
        files,
        windows=(1, 2, 4),
        finest=1,
        code_channels=(4 * channels,) * 3,
        latent_format=name,
    )
    graph = {
        **encoded(latent=["k", 0]),
        **clip(6, family, side),
        "l": loader(),
        "p": planned(chunks=1),
        "g": {
            "class_type": "ThroughlineHierarchyGuide",
            "inputs": {
                "hierarchy": ["p", 0],
                "level": 1,
                "first_frame": 6,
                "latent_frames": 4,
                "overlap_frames": 2,
            },
        },
        "r": sampled(["g", 0], 9, 0.6),
        "c": {
            "class_type": "ThroughlineHierarchyCommit",
            "inputs": {
                "hierarchy": ["p", 0],
                "latent": ["r", 0],
                "first_frame": 6,
                "skip_frames": ["g", 1],
            },
        },
        "d": decoded(["c", 0], 0),
        "s": saved(["d", 0], "film"),
        "sk": saved(["k", 0], "clip"),
        "sg": saved(["g", 0], "guide"),
        "sr": saved(["r", 0], "refined"),
    }
    run_film(graph)
    film, first = latent(comfy_folders, "film"), latent(comfy_folders, "clip")
    guide, refined = latent(comfy_folders, "guide"), latent(comfy_folders, "refined")
    assert film.shape[2] == 10 and guide.shape[2] == 6
    assert torch.allclose(film[:, :, :6], first, atol=1e-5)
    assert torch.allclose(guide[:, :, :2], first[:, :, 4:], atol=1e-5)
    assert torch.allclose(refined[:, :, :2], first[:, :, 4:], atol=1e-4)
    assert torch.allclose(film[:, :, 6:], refined[:, :, 2:], atol=1e-5)
    assert not torch.allclose(refined[:, :, 2:], guide[:, :, 2:], atol=0.05)


def test_continuing_over_two_calls_equals_one_call(
    run_film: Any, files: Path, comfy_folders: dict[str, Path]
) -> None:
    write_planner(files)
    graph = {
        **encoded(),
        "l": loader(),
        "p": planned(chunks=3),
        "a": planned(chunks=1, run_name="first"),
        "b": planned(["a", 0], chunks=2, run_name="second"),
        "d": decoded(["p", 0]),
        "e2": decoded(["b", 0]),
        "s": saved(["d", 0], "once"),
        "s2": saved(["e2", 0], "twice"),
    }
    run_film(graph)
    once, twice = latent(comfy_folders, "once"), latent(comfy_folders, "twice")
    assert once.shape[2] == FRAMES + 12
    assert torch.equal(once, twice)
    parts = once[:, :, FRAMES:].split(4, dim=2)
    assert not any(torch.equal(a, b) for a, b in zip(parts, parts[1:], strict=False))


def test_another_take_of_a_chunk_plans_it_and_what_follows(
    run_film: Any, files: Path, comfy_folders: dict[str, Path]
) -> None:
    write_planner(files)

    def plan(retakes: str) -> tuple[list[int], torch.Tensor, str]:
        graph = {
            **encoded(),
            "l": loader(),
            "p": planned(chunks=4, retakes=retakes),
            "d": decoded(["p", 0]),
            "s": saved(["d", 0], "film"),
        }
        outputs, events = run_film(graph)
        return made(events), latent(comfy_folders, "film"), outputs["p"]["text"][0]

    first, film, report = plan("")
    assert first == [1, 2, 3, 4] and "4 made now, 0 reused" in report
    again, other, report = plan("3:1")
    assert again == [3, 4] and "2 made now, 2 reused" in report
    kept = FRAMES + 8
    assert torch.equal(other[:, :, :kept], film[:, :, :kept])
    assert not torch.equal(other[:, :, kept : kept + 4], film[:, :, kept : kept + 4])
    assert not torch.equal(other[:, :, kept + 4 :], film[:, :, kept + 4 :])
    back, film_again, _ = plan("")
    assert back == [] and torch.equal(film_again, film)


def test_what_would_be_planned_is_shown_first(run_film: Any, files: Path) -> None:
    write_planner(files)
    graph = {
        **encoded(),
        "l": loader(),
        "p": planned(chunks=2, when_queued="only show what would be rendered"),
    }
    outputs, events = run_film(graph)
    shown = outputs["p"]["text"][0].splitlines()
    assert shown[0] == "chunk 1, latent frames 7 to 10: to plan, not made yet"
    assert len(shown) == 2 and made(events) == []


def test_a_cold_start_needs_the_size_only(
    run_film: Any, files: Path, comfy_folders: dict[str, Path]
) -> None:
    write_planner(files)
    graph = {
        **encoded(size_only=True),
        "l": loader(),
        "p": planned(chunks=1),
        "d": decoded(["p", 0]),
        "s": saved(["d", 0], "film"),
    }
    run_film(graph)
    assert latent(comfy_folders, "film").shape[2] == 4


def test_conditions_change_the_chunks_that_see_them(
    run_film: Any, files: Path, comfy_folders: dict[str, Path]
) -> None:
    """Windows 1, 2, 4 look back 7 latent frames: what is told about the last chunk reaches it and
    nothing before it."""
    write_planner(files, condition=5, reads="poses")

    def plan(conditions: str) -> list[int]:
        graph = {**encoded(), "l": loader(), "p": planned(chunks=3, conditions=conditions)}
        return made(run_film(graph)[1])

    assert plan("0*19") == [1, 2, 3]
    assert plan("0*15, 1+4*4") == [3]
    assert plan("0*19") == []
    with pytest.raises(run_film.error, match="conditions must tell of 19 latent frames.*got 18"):
        plan("0*18")
    with pytest.raises(run_film.error, match="numbers from 0 to 4, got 5"):
        plan("0*18, 5")


def test_a_planner_that_reads_text_needs_the_prompt(
    run_film: Any, files: Path, comfy_folders: dict[str, Path]
) -> None:
    write_planner(files, condition=16, text=16, reads="text")
    graph = {**encoded(), "l": loader(), "p": planned(chunks=1)}
    with pytest.raises(run_film.error, match="reads the prompt: connect positive"):
        run_film(graph)


SCHEDULE = {
    "rollout": "coarse to fine",
    "windows": "1, 2, 4",
    "finest_level": 0,
    "tokens_per_frame": 256,
    "latent_frames": 12,
    "known_frames": 7,
    "shown_step": 4,
}


def schedule(**changes: Any) -> dict[str, Any]:
    inputs = {**SCHEDULE, **changes}
    return {"class_type": "ThroughlineRolloutSchedule", "inputs": inputs}


def test_a_schedule_shows_a_step_and_its_cost(run_film: Any, comfy_folders: Any) -> None:
    from PIL import Image

    outputs, _ = run_film({"r": schedule()})
    (picture,) = outputs["r"]["images"]
    path = comfy_folders["temp"] / picture["filename"]
    pixels = Image.open(path).convert("RGB")
    assert pixels.width == 1024
    colours = {colour for _, colour in pixels.getcolors(1 << 20)}
    assert {(86, 180, 233), (230, 159, 0)} <= colours


def test_the_schedule_of_the_planner_is_accepted_and_another_refused(
    run_film: Any, files: Path
) -> None:
    write_planner(files)
    own = {**encoded(), "l": loader(), "r": schedule(), "p": planned(chunks=1, rollout=["r", 0])}
    assert made(run_film(own)[1]) == [1]
    own["r"] = schedule(windows="1, 2, 4, 8")
    with pytest.raises(run_film.error, match=r"windows 1, 2, 4\), got .*windows 1, 2, 4, 8"):
        run_film(own)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"windows": "1, 4, 10"}, "windows must nest.*10 after 4"),
        ({"windows": "one"}, "whole numbers between commas"),
        ({"finest_level": 3}, "finest level must be one of the 3 levels"),
        ({"shown_step": 100}, "shown_step must be 1 to 21.*got 100"),
        ({"rollout": "FramePack", "finest_level": 1}, "only the rollout 'coarse to fine' can stop"),
        ({"rollout": "full resolution"}, "has one window, of level 0, got 1, 2, 4"),
    ],
)
def test_schedules_that_cannot_be_are_refused(
    changes: dict[str, Any], problem: str, run_film: Any
) -> None:
    with pytest.raises(run_film.error, match=problem):
        run_film({"r": schedule(**changes)})


BAD_PLANNERS = [
    ({"head": "0123456789ab"}, "trained on codes of head 0123456789ab, got a hierarchy of head"),
    ({"latent_format": "HunyuanVideo"}, "trained on latents of HunyuanVideo, got .* Wan21"),
    ({"code_channels": (32, 32, 32)}, "codes of .*32, 32, 32.* channels"),
    ({"windows": (1, 2, 4, 8), "code_channels": (64,) * 4}, "encode with as many levels"),
    ({"least_history": 20}, "needs 20 latent frames before what it plans, got 7"),
    ({"windows": (1, 3, 4)}, "planner.safetensors: windows must nest.*4 after 3"),
    ({"rollout": "spiral"}, "planner.safetensors: a rollout is one of .*got 'spiral'"),
    ({"reads": "tea leaves"}, "planner.safetensors: .*tea leaves"),
]


@pytest.mark.parametrize(("settings", "problem"), BAD_PLANNERS)
def test_planners_of_something_else_are_refused(
    settings: dict[str, Any], problem: str, run_film: Any, files: Path
) -> None:
    write_planner(files, **settings)
    with pytest.raises(run_film.error, match=problem):
        run_film({**encoded(), "l": loader(), "p": planned()})


def test_a_foreign_file_is_refused_by_name(run_film: Any, files: Path) -> None:
    from development.tiny_hierarchy import write_tiny_head

    write_tiny_head(files / "hierarchy_planners" / PLANNER)
    with pytest.raises(run_film.error, match="planner.safetensors: metadata 'format' must be"):
        run_film({**encoded(), "l": loader(), "p": planned()})


def test_a_head_of_another_vae_is_refused(run_film: Any, files: Path) -> None:
    from development.tiny_hierarchy import write_tiny_head

    write_tiny_head(files / "hierarchy_heads" / "h.safetensors", 48, latent_format="Wan22")
    graph = encoded(hierarchy_head=["c", 0])
    graph["c"] = {
        "class_type": "ThroughlineLoadHierarchyHead",
        "inputs": {"head_name": "h.safetensors"},
    }
    graph["d"] = decoded(["h", 0])
    with pytest.raises(run_film.error, match="trained on latents of Wan22, got .* Wan21"):
        run_film(graph)


def test_pictures_too_small_for_the_levels_are_refused(run_film: Any) -> None:
    graph = {**encoded(levels=5), "d": decoded(["h", 0])}
    with pytest.raises(run_film.error, match="use fewer levels or a larger picture"):
        run_film(graph)


@pytest.mark.parametrize(
    ("guide", "problem"),
    [
        ({"first_frame": 9, "overlap_frames": 4}, "latent frame 7 is not finished yet"),
        ({"first_frame": 3, "overlap_frames": 4}, "overlap_frames must be 3 or less"),
        ({"first_frame": 11}, "knows latent frames up to 11"),
        ({"latent_frames": 9}, "knows latent frames up to 11"),
        ({"level": 3}, "level must be 0 to 2.*got 3"),
    ],
)
def test_windows_that_cannot_be_guided_are_refused(
    guide: dict[str, Any], problem: str, run_film: Any, files: Path
) -> None:
    write_planner(files, finest=1)
    inputs = {"level": 1, "first_frame": 7, "latent_frames": 0, "overlap_frames": 0, **guide}
    graph = {
        **encoded(),
        "l": loader(),
        "p": planned(chunks=1),
        "g": {
            "class_type": "ThroughlineHierarchyGuide",
            "inputs": {"hierarchy": ["p", 0], **inputs},
        },
        "s": saved(["g", 0], "guide"),
    }
    with pytest.raises(run_film.error, match=problem):
        run_film(graph)


@pytest.mark.parametrize(
    ("commit", "problem"),
    [
        ({"skip_frames": 7}, "skip_frames must leave a latent frame of 7, got 7"),
        ({"first_frame": 8}, "must begin at 0 to 7, got 8"),
        ({"latent": ["e2", 0]}, "latent must be 8 x 8 cells as the hierarchy is, got 4 x 8"),
    ],
)
def test_what_cannot_be_committed_is_refused(
    commit: dict[str, Any], problem: str, run_film: Any
) -> None:
    inputs = {
        "hierarchy": ["h", 0],
        "latent": ["e", 0],
        "first_frame": 0,
        "skip_frames": 0,
        **commit,
    }
    graph = {
        **encoded(),
        "e2": {
            "class_type": "EmptyHunyuanLatentVideo",
            "inputs": {"width": 32, "height": 64, "length": 5, "batch_size": 1},
        },
        "c": {"class_type": "ThroughlineHierarchyCommit", "inputs": inputs},
        "d": decoded(["c", 0]),
    }
    with pytest.raises(run_film.error, match=problem):
        run_film(graph)


def test_planning_stops_at_once_and_keeps_what_is_finished(
    run_film: Any, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted when chunk 1 is done: not one more evaluation of the network comes to an end, and
    queueing again begins with chunk 2."""
    import comfy.model_management as management

    from throughline.nodes import hierarchy_planning

    write_planner(files)
    told, counted = hierarchy_planning._announce, []
    evaluated = hierarchy_planning.ChunkPlanner._evaluated

    def interrupting(plan: Any, node: str, segment: Any, status: str, reason: str = "") -> None:
        told(plan, node, segment, status, reason)
        if status == "done":
            management.interrupt_current_processing(True)

    def counting(planner: Any) -> None:
        evaluated(planner)
        counted.append(1)

    graph = {**encoded(), "l": loader(), "p": planned(chunks=3)}
    with monkeypatch.context() as patched:
        patched.setattr(hierarchy_planning, "_announce", interrupting)
        patched.setattr(hierarchy_planning.ChunkPlanner, "_evaluated", counting)
        with pytest.raises(run_film.error):
            run_film(graph)
    assert len(counted) == 7 * 2
    assert made(run_film(graph)[1]) == [2, 3]
