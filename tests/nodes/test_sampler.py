"""ThroughlineARSegmentSampler and ThroughlineSegment through the host's executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Graph = dict[str, Any]
EVENT = "throughline.segment"


def statuses(events: list[tuple[str, Any]]) -> list[tuple[int, str]]:
    """(segment number, status) without the steps in between."""
    return [
        (data["segment"], data["status"])
        for kind, data in events
        if kind == EVENT and not (data["status"] == "running" and data["step"])
    ]


def rendered(events: list[tuple[str, Any]]) -> list[int]:
    return [number for number, status in statuses(events) if status == "done"]


def reused(events: list[tuple[str, Any]]) -> list[int]:
    return [number for number, status in statuses(events) if status == "reused"]


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


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(left, right, strict=True)]


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder with the time and content of its last change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# A whole film.


def test_a_film_is_made(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    runs: Path,
    read: Callable[..., list[torch.Tensor]],
) -> None:
    from throughline.runs.run import open_run

    outputs, events = run_film(film())
    assert statuses(events) == [
        (number, status) for number in range(1, 6) for status in ("running", "done")
    ]
    assert outputs["s"]["text"] == ["film: 5 segments, 5 rendered, 0 reused from disk"]
    run = open_run(runs / "film")
    assert [len(chain) for chain in run.chains] == [3, 2]
    assert [record.seed for record in run.segments] == [3, 4, 5, 6, 7]
    assert [record.known_latent_frames for record in run.segments] == [0, 1, 1, 0, 1]
    latents = read()
    for before, record, latent in zip(latents, run.segments[1:], latents[1:], strict=False):
        if record.start == "tail":
            assert torch.equal(latent[:, :, :1], before[:, :, -1:])
    for record in run.segments:
        assert record.preview and (runs / "film" / record.preview).stat().st_size > 100
        hops = {"std_ratio", "detail_ratio", "motion_ratio"}
        assert (record.start == "tail") == bool(hops & set(record.statistics))


def test_a_second_queue_reuses_everything(
    run_film: Callable[..., Any], film: Callable[..., Graph], runs: Path
) -> None:
    run_film(film())
    before = files(runs / "film" / "segments")
    outputs, events = run_film(film())
    assert statuses(events) == [(number, "reused") for number in range(1, 6)]
    assert outputs["s"]["text"] == ["film: 5 segments, 0 rendered, 5 reused from disk"]
    assert files(runs / "film" / "segments") == before
    _, third = run_film(film())
    assert statuses(third) == []  # the host sees that neither the graph nor the run changed


def test_the_outputs_feed_other_nodes(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    comfy_folders: dict[str, Path],
    read: Callable[..., list[torch.Tensor]],
) -> None:
    import safetensors.torch

    graph = film()
    graph["l"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": ["s", 1], "filename_prefix": "last"},
    }
    graph["i"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["s", 2], "filename_prefix": "sheet"},
    }
    run_film(graph)
    (saved,) = comfy_folders["output"].glob("last*.latent")
    last = safetensors.torch.load_file(saved)["latent_tensor"]
    assert torch.equal(last, read()[-1])
    assert len(list(comfy_folders["output"].glob("sheet*.png"))) == 1


def test_a_prompt_per_shot_reaches_the_model(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
) -> None:
    run_film(film())
    run_film(film(script=film()["s"]["inputs"]["script"].replace("It rains", "It snows")))
    run_film(film(run_name="other", negative_prompt="noise"))
    assert not any(same(read(), read("other")))


def test_one_conditioning_for_all(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
) -> None:
    texts = {"clip": None, "positive": ["m", 3], "negative": ["m", 4]}
    run_film(film(**texts))
    _, events = run_film(film(**texts, script=film()["s"]["inputs"]["script"].upper()))
    assert rendered(events) == [1, 2, 3, 4, 5]  # the script is part of each segment's key
    assert len(read()) == 5


@pytest.mark.parametrize("sampler_name", ["dpm_2", "uni_pc", "euler_ancestral"])
def test_other_samplers(
    sampler_name: str, run_film: Callable[..., Any], film: Callable[..., Graph]
) -> None:
    _, events = run_film(film(sampler_name=sampler_name))
    assert rendered(events) == [1, 2, 3, 4, 5]


def test_a_start_image(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    runs: Path,
    read: Callable[..., list[torch.Tensor]],
) -> None:
    from throughline.runs.run import open_run

    def graph(colour: int) -> Graph:
        graph = film(start_image=["i", 0])
        graph["i"] = {
            "class_type": "EmptyImage",
            "inputs": {"width": 48, "height": 40, "batch_size": 1, "color": colour},
        }
        return graph

    run_film(graph(0xFF8800))
    first = open_run(runs / "film").segments[0]
    assert (first.start, first.known_latent_frames) == ("image", 1)
    red = read()
    _, events = run_film(graph(0x0000FF))
    assert (rendered(events), reused(events)) == ([1, 2, 3], [4, 5])  # the cut is its own chain
    assert same(red, read()) == [False, False, False, True, True]


def test_a_film_continues_a_latent(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
) -> None:
    graph = film()
    graph["t"] = {
        "class_type": "ThroughlineARSegmentSampler",
        "inputs": {
            **film(run_name="second", tail_latent_frames=2)["s"]["inputs"],
            "start_latent": ["s", 1],
        },
    }
    run_film(graph)
    before, after = read("film")[-1], read("second")[0]
    assert torch.equal(after[:, :, :2], before[:, :, -2:])


# What a change costs.


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"retakes": "2:1"}, [2, 3]),
        ({"retakes": "3:1, 5:2"}, [3, 5]),
        ({"seed": 4}, [1, 2, 3, 4, 5]),
        ({"steps": 3}, [1, 2, 3, 4, 5]),
        ({"cfg": 1.5}, [1, 2, 3, 4, 5]),
        ({"sampler_name": "heun"}, [1, 2, 3, 4, 5]),
        ({"scheduler": "karras"}, [1, 2, 3, 4, 5]),
        ({"negative_prompt": "noise"}, [1, 2, 3, 4, 5]),
        ({"width": 48}, [1, 2, 3, 4, 5]),
    ],
    ids=str,
)
def test_what_is_rendered_after_a_change(
    changes: Graph,
    again: list[int],
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
) -> None:
    run_film(film())
    before = read()
    _, events = run_film(film(**changes))
    assert rendered(events) == again
    assert reused(events) == [number for number in range(1, 6) if number not in again]
    unchanged = [
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(before, read(), strict=True)
    ]
    assert [index + 1 for index, equal in enumerate(unchanged) if not equal] == again


def test_another_model_renders_everything(
    run_film: Callable[..., Any], film: Callable[..., Graph]
) -> None:
    run_film(film())
    graph = film()
    graph["m"]["inputs"]["seed"] = 1
    _, events = run_film(graph)
    assert rendered(events) == [1, 2, 3, 4, 5]


def test_a_setting_of_the_host_between_model_and_sampler(
    run_film: Callable[..., Any], film: Callable[..., Graph]
) -> None:
    def shifted(shift: float) -> Graph:
        graph = film(model=["p", 0])
        graph["p"] = {
            "class_type": "ModelSamplingSD3",
            "inputs": {"model": ["m", 0], "shift": shift},
        }
        return graph

    run_film(shifted(3.0))
    _, events = run_film(shifted(4.0))
    assert rendered(events) == [1, 2, 3, 4, 5]
    _, events = run_film(shifted(3.0))
    assert reused(events) == [1, 2, 3, 4, 5]  # the takes made before come back for free


def test_an_earlier_take_comes_back(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
) -> None:
    run_film(film())
    first = read()
    run_film(film(retakes="2:1"))
    _, events = run_film(film())
    assert rendered(events) == []
    assert all(same(first, read()))


def test_more_shots_extend_the_film(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
) -> None:
    script = film()["s"]["inputs"]["script"]
    run_film(film())
    before = read()
    _, events = run_film(film(script=script + "\n[1s, continue] The sun comes out."))
    assert (reused(events), rendered(events)) == ([1, 2, 3, 4, 5], [6])
    assert all(same(before, read()[:5]))


def test_a_damaged_segment_is_made_again_the_same(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    runs: Path,
    read: Callable[..., list[torch.Tensor]],
) -> None:
    run_film(film())
    before = read()
    (second,) = (runs / "film" / "segments").glob("0002-*")
    second.write_bytes(second.read_bytes()[:-100])
    graph = film()
    _, events = run_film({**graph, "s": {**graph["s"], "_meta": {"title": "again"}}})
    if not events_of(events):  # the manifest did not change, so the host may skip the node
        run_film(film(when_queued="only show what would be rendered"))
        _, events = run_film(film())
    assert rendered(events) == [2] and reused(events) == [1, 3, 4, 5]
    assert all(same(before, read()))
    assert progress_of(events) in (None, (6, 6))


def events_of(events: list[tuple[str, Any]]) -> list[Any]:
    return [data for kind, data in events if kind == EVENT]


def progress_of(events: list[tuple[str, Any]]) -> tuple[int, int] | None:
    values = [(data["value"], data["max"]) for kind, data in events if kind == "progress"]
    return values[-1] if values else None


# Only showing.


def test_only_showing_writes_nothing(
    run_film: Callable[..., Any], film: Callable[..., Graph], runs: Path
) -> None:
    show = "only show what would be rendered"
    outputs, events = run_film(film(when_queued=show))
    assert outputs["s"]["text"] == [
        "segment 1 (1.1): to render, not made yet\n"
        "segment 2 (1.1): to render, not made yet\n"
        "segment 3 (1.2): to render, not made yet\n"
        "segment 4 (1.3): to render, not made yet\n"
        "segment 5 (1.4): to render, not made yet"
    ]
    assert [event["status"] for event in events_of(events)] == ["waiting"] * 5
    assert not runs.exists()
    run_film(film())
    before = files(runs)
    outputs, _ = run_film(film(when_queued=show, retakes="4:1"))
    assert outputs["s"]["text"] == [
        "segment 1 (1.1): finished\n"
        "segment 2 (1.1): finished\n"
        "segment 3 (1.2): finished\n"
        "segment 4 (1.3): to render, seed '6' -> '1000009'; take '0' -> '1'\n"
        "segment 5 (1.4): to render, continues segment 4, which is made again"
    ]
    assert files(runs) == before


def test_only_showing_stops_what_comes_after(
    run_film: Callable[..., Any], film: Callable[..., Graph], comfy_folders: dict[str, Path]
) -> None:
    graph = film(when_queued="only show what would be rendered")
    graph["l"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": ["s", 1], "filename_prefix": "last"},
    }
    run_film(graph)
    assert not list(comfy_folders["output"].glob("last*"))


# Interruption.


@pytest.mark.parametrize(("segment", "step"), [(1, 1), (3, 4), (4, 2), (5, 6)])
def test_an_interrupt_ends_within_one_step_and_the_next_queue_continues(
    segment: int,
    step: int,
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import comfy.model_management
    import comfy.samplers

    from throughline.nodes import rendering

    steps = 6
    run_film(film(run_name="whole", steps=steps))
    announce, finished_calls = rendering.announce_segment, []
    network = comfy.samplers.calc_cond_batch

    def count(*args: Any, **kwargs: Any) -> Any:
        result = network(*args, **kwargs)
        finished_calls.append(1)
        return result

    def press(detail: dict[str, Any]) -> None:
        announce(detail)
        if (detail["segment"], detail["step"]) == (segment, step):
            comfy.model_management.interrupt_current_processing()

    with monkeypatch.context() as patch:
        patch.setattr(rendering, "announce_segment", press)
        patch.setattr(comfy.samplers, "calc_cond_batch", count)
        with pytest.raises(run_film.error) as error:  # type: ignore[attr-defined]
            run_film(film(steps=steps))
    events = error.value.events
    assert len(finished_calls) == steps * (segment - 1) + step  # none after the press
    assert rendered(events) == list(range(1, segment))
    assert [data["reason"] for data in events_of(events)][-1] == "interrupted"
    finished = files(runs / "film" / "segments")
    assert len(finished) == segment - 1
    _, events = run_film(film(steps=steps))
    assert reused(events) == list(range(1, segment))
    assert rendered(events) == list(range(segment, 6))
    now = files(runs / "film" / "segments")
    assert {name: now[name] for name in finished} == finished
    assert all(same(read("whole"), read("film")))


def test_a_failing_segment_keeps_the_finished_ones(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from throughline.nodes import rendering

    make, made = rendering.sample_segment, [0]

    def fail(*args: Any, **kwargs: Any) -> torch.Tensor:
        made[0] += 1
        if made[0] == 3:
            raise ValueError("sampling must give finite latents, got NaN")
        return make(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(rendering, "sample_segment", fail)
        with pytest.raises(run_film.error, match="finite latents") as error:  # type: ignore[attr-defined]
            run_film(film())
    assert statuses(error.value.events)[-1] == (3, "failed")
    assert len(files(runs / "film" / "segments")) == 2
    _, events = run_film(film())
    assert (reused(events), rendered(events)) == ([1, 2], [3, 4, 5])


# Progress.


@pytest.fixture
def progress(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What the host's progress bars tell, unthrottled."""
    import comfy.utils

    told: list[tuple[int, int]] = []

    def hook(value: int, total: int, preview: Any, node_id: Any = None) -> None:
        told.append((value, total))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_PERCENT", 0.0)
    return told


def of_total(progress: list[tuple[int, int]], total: int) -> list[int]:
    return [value for value, wanted in progress if wanted == total]


def test_progress_reaches_its_total(
    run_film: Callable[..., Any], film: Callable[..., Graph], progress: list[tuple[int, int]]
) -> None:
    run_film(film(steps=3))
    values = of_total(progress, 15)
    assert values == sorted(values) and sorted(set(values)) == list(range(1, 16))


def test_progress_counts_what_is_left_only(
    run_film: Callable[..., Any], film: Callable[..., Graph], progress: list[tuple[int, int]]
) -> None:
    run_film(film(steps=3))
    progress.clear()
    run_film(film(steps=3, retakes="5:1"))
    assert sorted(set(of_total(progress, 3))) == [1, 2, 3]


@pytest.mark.parametrize("preview", ["none", "latent2rgb"])
def test_causal_wan_reports_its_blocks_as_steps(
    preview: str,
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    progress: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import latent_preview

    latent_preview.set_preview_method(preview)
    monkeypatch.setattr(
        latent_preview, "default_preview_method", latent_preview.args.preview_method
    )
    try:
        graph = film(sampler_name="ar_video", cfg=1.0, steps=3)
        graph["m"]["inputs"]["family"] = "wan_causal"
        _, events = run_film(graph)
    finally:
        latent_preview.set_preview_method("none")
    assert rendered(events) == [1, 2, 3, 4, 5]
    values = of_total(progress, 15)
    assert values == sorted(values) and values[-1] == 15
    steps = [data["step"] for data in events_of(events) if data["segment"] == 1]
    assert max(steps) == 3


# Thumbnails.


@pytest.mark.parametrize(
    ("cells", "decoded"),
    [((8, 8), (8, 8)), ((64, 36), (64, 36)), ((90, 160), (36, 64)), ((160, 1), (64, 1))],
)
def test_a_thumbnail_is_decoded_small(
    cells: tuple[int, int], decoded: tuple[int, int], comfy: Any
) -> None:
    """The cost and memory of a thumbnail are bounded, whatever the film's size."""
    import io

    from PIL import Image

    from throughline.nodes.rendering import preview_jpeg
    from throughline.planning.segments import Segment

    seen: list[tuple[int, ...]] = []

    class Vae:
        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(latent.shape))
            assert latent.eq(2.0).all()  # the middle new latent frame
            return torch.full((1, 1, 8 * latent.shape[3], 8 * latent.shape[4], 3), 1.5)

    values: dict[str, Any] = {"index": 0, "shot": 0, "shot_id": "1", "chain": 0, "start": "tail"}
    segment = Segment(
        **values, latent_frames=5, known_latent_frames=1, prompt="", negative="", seed=0
    )
    latent = torch.arange(5.0).sub(1.0).view(1, 1, 5, 1, 1).expand(1, 16, 5, *cells)
    with Image.open(io.BytesIO(preview_jpeg(Vae(), latent, segment))) as picture:  # type: ignore[arg-type]
        assert max(picture.size) <= 256
        assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert seen == [(1, 16, 1, *decoded)]


# Graphs that loop by themselves.


def segment_node(seed: int, frames: int, previous: str | None) -> Graph:
    inputs: Graph = {
        "model": ["m", 0],
        "vae": ["m", 2],
        "positive": ["m", 3],
        "negative": ["m", 4],
        "width": 32,
        "height": 32,
        "segment_frames": frames,
        "tail_latent_frames": 1,
        "seed": seed,
        "steps": 2,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "switch_sigma": 0.9,
    }
    if previous:
        inputs["previous"] = [previous, 0]
    return {"class_type": "ThroughlineSegment", "inputs": inputs}


def test_segments_by_hand_are_the_same_film(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    read: Callable[..., list[torch.Tensor]],
    comfy_folders: dict[str, Path],
) -> None:
    import safetensors.torch

    graph = film(clip=None, positive=["m", 3], negative=["m", 4], script="[1.5s] a\nb\n[1s] c")
    run_film(graph)
    latents = read()
    frames = [4 * (latent.shape[2] - 1) + 1 for latent in latents]
    by_hand: Graph = {"m": graph["m"]}
    for index, count in enumerate(frames):
        by_hand[f"g{index}"] = segment_node(3 + index, count, f"g{index - 1}" if index else None)
        for output, name in enumerate(("whole", "new")):
            by_hand[f"{name}{index}"] = {
                "class_type": "SaveLatent",
                "inputs": {"samples": [f"g{index}", output], "filename_prefix": f"{name}{index}"},
            }
    run_film(by_hand)

    def saved(name: str) -> torch.Tensor:
        (path,) = comfy_folders["output"].glob(f"{name}_*.latent")
        return safetensors.torch.load_file(path)["latent_tensor"]

    for index, latent in enumerate(latents):
        assert torch.equal(saved(f"whole{index}"), latent)
        assert torch.equal(saved(f"new{index}"), latent[:, :, 1 if index else 0 :])
