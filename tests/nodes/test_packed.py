"""The packed context node on a tiny Wan, through the host's own executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WINDOWS = "1, 2, 4"
FILE = "tiny_packed.safetensors"


@pytest.fixture
def graph() -> Callable[..., dict[str, Any]]:
    """`graph(**inputs)`: a tiny Wan "m", 9 latent frames of noise as a hierarchy "h", the schedule
    "r", the node "p", and two steps of KSampler "k" that saves its latent."""

    def make(**changes: Any) -> dict[str, Any]:
        inputs = {
            "model": ["m", 0],
            "hierarchy": ["h", 0],
            "packed_name": "none (untrained)",
            "first_frame": 9,
            "known_frames": 8,
            "strength": 1.0,
            "rollout": ["r", 0],
        }
        inputs = {name: value for name, value in (inputs | changes).items() if value is not None}
        return {
            "m": {
                "class_type": "ThroughlineTestTinyModels",
                "inputs": {"family": "wan_t2v", "seed": 0, "layers": 0},
            },
            "e": {
                "class_type": "EmptyHunyuanLatentVideo",
                "inputs": {"width": 64, "height": 64, "length": 33, "batch_size": 1},
            },
            "n": {
                "class_type": "KSampler",
                "inputs": {**sampling(), "model": ["m", 0], "latent_image": ["e", 0]},
            },
            "h": {
                "class_type": "ThroughlineHierarchyEncode",
                "inputs": {"model": ["m", 0], "latent": ["n", 0], "levels": 3, "size_only": False},
            },
            "r": {
                "class_type": "ThroughlineRolloutSchedule",
                "inputs": {
                    "rollout": "coarse to fine",
                    "windows": WINDOWS,
                    "finest_level": 0,
                    "tokens_per_frame": 16,
                    "latent_frames": 16,
                    "known_frames": 8,
                    "shown_step": 1,
                },
            },
            "p": {"class_type": "ThroughlinePackedContext", "inputs": inputs},
            "k": {
                "class_type": "KSampler",
                "inputs": {**sampling(), "model": ["p", 0], "latent_image": ["p", 1]},
            },
            "s": {
                "class_type": "SaveLatent",
                "inputs": {"samples": ["k", 0], "filename_prefix": "made"},
            },
        }

    return make


def sampling() -> dict[str, Any]:
    return {
        "seed": 1,
        "steps": 2,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "positive": ["m", 3],
        "negative": ["m", 4],
        "denoise": 1.0,
    }


def made_latent(outputs: dict[str, Any]) -> torch.Tensor:
    import folder_paths
    import safetensors.torch

    folder = Path(folder_paths.get_output_directory())
    file = outputs["s"]["latents"][0]["filename"]
    return safetensors.torch.load_file(folder / file)["latent_tensor"]


def report(outputs: dict[str, Any]) -> str:
    return outputs["p"]["text"][0]


def test_a_model_samples_with_what_the_schedule_shows(run_film: Any, graph: Any) -> None:
    outputs, _ = run_film(graph())
    said = report(outputs)
    assert said.splitlines()[0].startswith("makes latent frames 9 to 10 (coarse to fine, windows")
    # the second step of the chunk at 8: level 0 frame 8, then what lies around it
    assert "sees level 0, latent frames 8 to 9: 16 tokens" in said
    assert "Untrained: this model was never taught to read these tokens" in said
    latent = made_latent(outputs)
    assert latent.shape == (1, 16, 1, 8, 8)
    alone, _ = run_film(graph(strength=0.0))
    assert float((made_latent(alone) - latent).abs().max()) > 1e-3


def test_a_trained_file_says_its_schedule_and_model(
    run_film: Any, graph: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    from development.tiny_models import FAMILIES
    from throughline.memory.hierarchy_format import PackedCard, write_packed_file
    from throughline.memory.packed_context import PackedConfig, PackedEmbedder

    width = FAMILIES["wan_t2v"].model().model.diffusion_model.dim
    config = PackedConfig((64, 64, 64), width)
    card = PackedCard(config, "the tiny Wan", "pooled", (1, 2, 4), "packed.safetensors")
    state = {
        name: torch.randn(value.shape, generator=torch.Generator().manual_seed(3)) * 0.2
        for name, value in PackedEmbedder(config).state_dict().items()
    }
    write_packed_file(tmp_path / "packed" / FILE, state, card)
    folders = {
        **folder_paths.folder_names_and_paths,
        "packed_context": ([str(tmp_path / "packed")], {".safetensors"}),
    }
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", folders)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    outputs, _ = run_film(graph(packed_name=FILE, rollout=None))
    ending = "trained for the tiny Wan\nbelongs to the LoRA packed.safetensors"
    assert report(outputs).endswith(ending)
    assert "windows 1, 2, 4" in report(outputs)
    untrained, _ = run_film(graph())
    assert float((made_latent(untrained) - made_latent(outputs)).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout": None}, "rollout must be connected where no file says how it was trained"),
        ({"first_frame": 7}, r"first_frame must be 8 \(known_frames\) and a multiple of 1 more"),
        ({"known_frames": 20}, "first_frame must be 20"),
    ],
)
def test_bad_inputs_are_refused_by_name(
    run_film: Any, graph: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(run_film.error, match=message):
        run_film(graph(**changes))


@pytest.mark.parametrize(
    ("rollout", "windows", "message"),
    [
        ("full resolution", "4", "rollout must be coarse to fine here, got full resolution"),
        ("coarse to fine", "1, 4", "rollout must have a window per level of the hierarchy, 3"),
    ],
)
def test_another_schedule_is_refused(
    run_film: Any, graph: Any, rollout: str, windows: str, message: str
) -> None:
    made = graph()
    made["r"]["inputs"] |= {"rollout": rollout, "windows": windows}
    with pytest.raises(run_film.error, match=message):
        run_film(made)
