"""The MilliVid node with tiny converted checkpoints, through the host's own executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

VIDEO, AUTOENCODER = "tiny_video.safetensors", "tiny_autoencoder.safetensors"
HISTORY, SEGMENT = 15, 16
"""Of windows 1, 2, 4, 8: a chunk is 8 frames, and a segment on disk two of them."""


@pytest.fixture
def models(comfy_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A models folder with both files; ComfyUI's own list of it."""
    import folder_paths

    from development.tiny_millivid import (
        autoencoder_shapes,
        random_state,
        video_shapes,
        write_converted,
    )

    folder = tmp_path / "millivid"
    said = {"grid": 8, "patch_order": "channel first", "pooled": False}
    write_converted(
        folder / AUTOENCODER, random_state(autoencoder_shapes()), kind="autoencoder", **said
    )
    write_converted(
        folder / VIDEO,
        random_state(video_shapes(), seed=1),
        kind="video",
        rollout="coarse to fine",
        windows=[1, 2, 4, 8],
    )
    known = {**folder_paths.folder_names_and_paths, "millivid": ([str(folder)], {".safetensors"})}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return folder


@pytest.fixture
def graph(models: Path, comfy_folders: dict[str, Path]) -> Callable[..., dict[str, Any]]:
    """`graph(**inputs)`: a clip of noise pictures on disk "c", the node "v"."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for index in range(3):
        noise = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(comfy_folders["input"] / f"{index}.png")

    def make(**changes: Any) -> dict[str, Any]:
        inputs = {
            "video_model_name": VIDEO,
            "autoencoder_name": AUTOENCODER,
            "context": ["c", 0],
            "context_actions": "forward 9, left 9",
            "actions": "right 5, forward 3",
            "frames": 20,
            "seed": 4,
            "steps": 2,
            "cfg": 1.0,
            "run_name": "walk",
            "retakes": "",
        }
        return {
            **{
                f"p{index}": {"class_type": "LoadImage", "inputs": {"image": f"{index}.png"}}
                for index in range(3)
            },
            **{
                f"r{index}": {
                    "class_type": "RepeatImageBatch",
                    "inputs": {"image": [f"p{index}", 0], "amount": 6},
                }
                for index in range(3)
            },
            "b": {"class_type": "ImageBatch", "inputs": {"image1": ["r0", 0], "image2": ["r1", 0]}},
            "c": {"class_type": "ImageBatch", "inputs": {"image1": ["b", 0], "image2": ["r2", 0]}},
            "v": {
                "class_type": "ThroughlineMilliVidRollout",
                "inputs": {**inputs, **changes},
            },
            "i": {"class_type": "PreviewImage", "inputs": {"images": ["v", 0]}},
        }

    return make


@pytest.fixture
def codes(comfy_folders: dict[str, Path]) -> Callable[[str], list[torch.Tensor]]:
    """The codes of each finished segment of a run."""

    def read(name: str) -> list[torch.Tensor]:
        from throughline.nodes.rendering import runs_root
        from throughline.runs.run import open_run

        run = open_run(runs_root() / name)
        return [run.latent(index) for index, one in enumerate(run.segments) if one.finished]

    return read


def statuses(events: list[tuple[str, Any]]) -> list[tuple[int, str]]:
    told = [data for name, data in events if name == "throughline.segment"]
    return [(data["segment"], data["status"]) for data in told if data["status"] != "running"]


def test_a_walk_is_made_and_continued_bit_for_bit(run_film: Any, graph: Any, codes: Any) -> None:
    """Two segments in one go, in two goes, and with other actions later on."""
    outputs, events = run_film(graph(frames=32, run_name="whole"))
    assert statuses(events) == [(1, "done"), (2, "done")]
    assert len(outputs["i"]["images"]) == 32
    whole = codes("whole")
    assert [one.shape for one in whole] == [(1, 4, SEGMENT, 1, 64 + 16 + 4 + 1)] * 2
    run_film(graph(frames=10))
    _, events = run_film(graph(frames=32))
    assert statuses(events) == [(1, "reused"), (2, "done")]
    assert all(torch.equal(one, other) for one, other in zip(codes("walk"), whole, strict=True))
    other = "right 5, forward 3, right 5, forward 3, left 16"
    _, events = run_film(graph(frames=32, actions=other))
    assert statuses(events) == [(1, "reused"), (2, "done")]
    changed = codes("walk")
    assert torch.equal(changed[0], whole[0]) and not torch.equal(changed[1], whole[1])
    _, events = run_film(graph(frames=32, actions=other, retakes="1:1"))
    assert statuses(events) == [(1, "done"), (2, "done")]  # what follows a retake follows from it


@torch.no_grad()
def test_the_walk_is_what_the_schedule_and_the_networks_make(
    run_film: Any, graph: Any, codes: Any, models: Path
) -> None:
    """The whole first chunk a second time, frame by frame from a table of cells."""
    from throughline.adapters.millivid import load_autoencoder, load_video, step_noise
    from throughline.memory.millivid_video import CodeBlock, signal_and_noise
    from throughline.planning.rollout import CoarseToFine, Span, Windows

    run_film(graph(frames=8, steps=3))
    network = load_video(models / VIDEO).network
    pictures = torch.stack([p for p in load_pictures() for _ in range(6)][-HISTORY:])
    levels = load_autoencoder(models / AUTOENCODER).encode(pictures)
    cells = {(level, frame): levels[level][frame] for level in range(4) for frame in range(HISTORY)}
    acts = ([0] * 9 + [1] * 9)[-HISTORY:] + [2] * 5 + [0] * 3

    def block(span: Span, time: float, found: torch.Tensor | None = None) -> CodeBlock:
        frames = range(span.start, span.stop)
        found = (
            torch.stack([cells[span.level, f] for f in frames])[None] if found is None else found
        )
        told = torch.tensor([acts[f] for f in frames])
        return CodeBlock(span.level, torch.tensor(list(frames)), found, told, time)

    for step in CoarseToFine(Windows((1, 2, 4, 8))).steps(HISTORY):
        target = step.target
        context = [block(span, 0.0) for span in step.context]
        x = step_noise(4, target, "target", (1, target.frames, 4 ** (3 - target.level), 4))
        for time, after in ((1.0, 0.5), (0.5, 0.0), (0.0, None)):
            alpha, sigma = signal_and_noise(time)
            velocity = network(block(target, time, x), context)
            clean, noise = alpha * x - sigma * velocity, alpha * velocity + sigma * x
            if after is not None:
                x = signal_and_noise(after)[0] * clean + signal_and_noise(after)[1] * noise
        cells |= {(target.level, target.start + f): clean[0, f] for f in range(target.frames)}
    made = codes("walk")[0][0, :, :8, 0].permute(1, 2, 0).split((64, 16, 4, 1), dim=1)
    for level, found in enumerate(made):
        slow = torch.stack([cells[level, HISTORY + frame] for frame in range(8)])
        assert slow.std() > 0.1
        assert (found - slow).abs().max() < 1e-5


def load_pictures() -> list[torch.Tensor]:
    import folder_paths
    import numpy as np
    from PIL import Image

    folder = Path(folder_paths.get_input_directory())
    return [
        torch.from_numpy(np.array(Image.open(folder / f"{index}.png"))).movedim(-1, 0) / 255
        for index in range(3)
    ]


def test_a_clip_or_a_curve_does_as_well(run_film: Any, graph: Any, codes: Any) -> None:
    """VIDEO in place of IMAGE; a curve that lies at 0, a half and 1 turns as its text does."""
    outputs, _ = run_film(graph(run_name="image"))
    assert len(outputs["i"]["images"]) == 20
    made = graph(run_name="clip", context=["d", 0])
    made["d"] = {"class_type": "CreateVideo", "inputs": {"images": ["c", 0], "fps": 20.0}}
    run_film(made)
    assert all(torch.equal(a, b) for a, b in zip(codes("image"), codes("clip"), strict=True))
    made = graph(run_name="curve", frames=3, steering=["e", 0], actions="")
    points = {"points": [[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]], "interpolation": "linear"}
    made["e"] = {"class_type": "CurveEditor", "inputs": {"curve": points}}
    run_film(made)
    run_film(graph(run_name="text", frames=3, actions="left 1, forward 1, right 14"))
    assert torch.equal(codes("curve")[0], codes("text")[0])


@pytest.mark.parametrize(
    ("rollout", "windows", "length"),
    [("full resolution", [6], 18), ("FramePack", [1, 2, 4, 8], 16)],
)
def test_the_baselines_make_level_0_only(
    run_film: Any,
    graph: Any,
    models: Path,
    codes: Any,
    rollout: str,
    windows: list[int],
    length: int,
) -> None:
    """Whole rounds in a segment, continued bit for bit; the sheet has one row."""
    from development.tiny_millivid import random_state, video_shapes, write_converted

    state = random_state(video_shapes(framepack=rollout == "FramePack"), seed=2)
    said = {"kind": "video", "rollout": rollout, "windows": windows}
    write_converted(models / VIDEO, state, **said)
    run_film(graph(frames=length + 2, run_name="whole"))
    run_film(graph(frames=length))
    run_film(graph(frames=length + 2))
    assert [one.shape for one in codes("walk")] == [(1, 4, length, 1, 64)] * 2
    assert all(torch.equal(a, b) for a, b in zip(codes("walk"), codes("whole"), strict=True))


def test_the_sheet_has_a_row_per_level(run_film: Any, graph: Any, models: Path, codes: Any) -> None:
    from throughline.adapters.millivid import load_autoencoder

    made = graph(frames=16)
    made["s"] = {"class_type": "SaveImage", "inputs": {"images": ["v", 1], "filename_prefix": "l"}}
    outputs, _ = run_film(made)
    import folder_paths
    import numpy as np
    from PIL import Image

    folder = Path(folder_paths.get_output_directory())
    saved = np.array(Image.open(folder / outputs["s"]["images"][0]["filename"]))
    assert saved.shape == (4 * 32, 8 * 32, 3)
    coarsest = codes("walk")[0][0, :, :, 0, -1:].permute(1, 2, 0)
    picture = load_autoencoder(models / AUTOENCODER).decode(3, coarsest[2:3])[0]
    shown = saved[:32, 32:64].astype("float32") / 255
    assert abs(shown - picture.numpy()).max() < 2 / 255


def test_progress_counts_evaluations_and_shows_every_level(
    run_film: Any, graph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.utils

    told: list[tuple[int, int, Any]] = []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, preview, node_id=None: told.append((value, total, preview)),
    )
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_PERCENT", 0.0)
    run_film(graph(frames=16))
    ours = [one for one in told if one[1] == 2 * 15 * 2]  # chunks, steps, evaluations
    assert [value for value, _, _ in ours] == list(range(1, 61))
    shown = [preview for _, _, preview in ours if preview is not None]
    assert len(shown) == 30  # the last evaluation of every step
    assert all((kind, picture.size) == ("JPEG", (32, 32)) for kind, picture, _ in shown)
    assert shown[0][1].tobytes() != shown[1][1].tobytes()


def test_an_interrupt_ends_within_one_evaluation_and_keeps_what_is_finished(
    run_film: Any, graph: Any, codes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management

    from throughline.memory.millivid_video import MilliVidVideo

    run_film(graph(frames=32, run_name="whole"))
    forward, calls = MilliVidVideo.forward, []

    def press(self: Any, *blocks: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 60 + 7:  # in the second segment
            comfy.model_management.interrupt_current_processing()
        return forward(self, *blocks)

    with monkeypatch.context() as patch:
        patch.setattr(MilliVidVideo, "forward", press)
        with pytest.raises(run_film.error):
            run_film(graph(frames=32))
    assert len(calls) == 67
    assert len(codes("walk")) == 1
    _, events = run_film(graph(frames=32))
    assert statuses(events) == [(1, "reused"), (2, "done")]
    assert all(torch.equal(a, b) for a, b in zip(codes("walk"), codes("whole"), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_model_name": AUTOENCODER}, "video_model must be one of MilliVid's, got the auto"),
        ({"autoencoder_name": VIDEO}, "autoencoder must be one of MilliVid's, got the video model"),
        ({"context": ["b", 0], "context_actions": "left 12"}, "context must be 15 frames or more"),
        ({"context_actions": "forward 17"}, "must say one action per frame of context, 18, got 17"),
        ({"context_actions": "hop 18"}, "context_actions must be actions such as"),
        ({"actions": "forward nine"}, "actions must be actions such as 'forward 18, left 9"),
        ({"actions": " "}, "actions must say what the viewer does"),
        ({"retakes": "3:1"}, "retakes must name segments 1 to 2, got 3"),
        ({"retakes": "first"}, "retakes must read like"),
        ({"run_name": "../walk"}, "run_name"),
        ({"video_model_name": "../away.safetensors"}, "away.safetensors"),
    ],
)
def test_bad_inputs_are_refused_by_name(
    run_film: Any, graph: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(run_film.error, match=message):
        run_film(graph(**changes))


def test_nothing_is_sampled_for_bad_inputs(
    run_film: Any, graph: Any, models: Path, codes: Any
) -> None:
    """A file that is none of theirs, by its own name; the run folder is not even made."""
    import folder_paths
    import safetensors.torch

    from throughline.nodes.rendering import runs_root

    safetensors.torch.save_file({"unet": torch.ones(2)}, models / "other.safetensors")
    folder_paths.filename_list_cache.clear()
    with pytest.raises(run_film.error, match=r"other.safetensors: holds no MilliVid weights"):
        run_film(graph(video_model_name="other.safetensors"))
    assert not (runs_root() / "walk").exists()
