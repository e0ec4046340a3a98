"""Keyframes of video models: what they remember, and LoRAs of single shots."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from .planner_graphs import SCRIPT, Graph, planner_graph, recalled

ENCODER = "tiny.safetensors"


@pytest.fixture
def encoder_folder(comfy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's only folder of memory encoders, with one tiny file."""
    import folder_paths

    from development.tiny_encoders import write_tiny_encoder

    folder = tmp_path / "memory_encoders"
    folder.mkdir()
    write_tiny_encoder(folder / ENCODER, caption_dim=24)
    known = folder_paths.folder_names_and_paths
    monkeypatch.setitem(known, "memory_encoders", ([str(folder)], {".safetensors"}))
    folder_paths.filename_list_cache.pop("memory_encoders", None)
    return folder


def with_memory(memory: dict[str, Any] | None = None, **changes: Any) -> Graph:
    """The planner with a memory encoder "e"; `memory` are inputs of that, encoder=None for none."""
    graph = planner_graph(**{"memory": ["e", 0], **changes})
    given = {
        "model": ["m", 0],
        "vae": ["m", 2],
        "encoder": ["l", 0],
        "form": "automatic",
        "rate": "2x2x2",
        "recent_frames": "automatic",
        "window": 0,
        "pin": "references only",
        "captions": "",
        "width": 0,
        "height": 0,
        **(memory or {}),
    }
    graph["e"] = {
        "class_type": "ThroughlineMemoryEncoder",
        "inputs": {key: value for key, value in given.items() if value is not None},
    }
    graph["l"] = {
        "class_type": "ThroughlineLoadMemoryEncoder",
        "inputs": {"encoder_name": ENCODER},
    }
    return graph


def done(events: list[tuple[str, Any]]) -> list[int]:
    kinds = [data for kind, data in events if kind == "throughline.segment"]
    return [data["segment"] for data in kinds if data["status"] == "done"]


def text_of(outputs: dict[str, Any]) -> str:
    return str(outputs["p"]["text"][0])


@pytest.fixture
def read(comfy_folders: dict[str, Path]) -> Callable[..., list[torch.Tensor]]:
    """`read(name)`: the latents of a run, in order."""
    from throughline.runs.run import open_run

    def latents(name: str = "frames") -> list[torch.Tensor]:
        run = open_run(comfy_folders["output"] / "throughline" / name)
        return [run.latent(record.index) for record in run.segments]

    return latents


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(left, right, strict=True)]


def test_a_trained_encoder_remembers_the_references(
    run_film: Any, encoder_folder: Path, read: Any
) -> None:
    outputs, _ = run_film(planner_graph())
    assert "nothing was trained for" in text_of(outputs)
    without = read()
    outputs, events = run_film(with_memory())
    assert done(events) == [2, 3, 4]  # the first one sees nothing and is kept
    assert same(without, read()) == [True, False, False, False]
    assert "nothing was trained for" not in text_of(outputs)
    tokens = [int(found) for found in re.findall(r": (\d+) tokens", text_of(outputs))]
    assert tokens == [1, 2, 3]  # 2 x 2 tokens a picture, one cell of 2x2x2 each
    assert recalled(text_of(outputs))["3.1"] == ["1.1", "1.2", "2.1"]  # oldest first
    _, events = run_film(with_memory())
    assert done(events) == []


def test_what_the_memory_was_given_is_seen_by_every_keyframe(
    run_film: Any, encoder_folder: Path, read: Any
) -> None:
    run_film(with_memory())
    before = read()
    graph = with_memory({"references": ["i", 0]})
    graph["i"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": 0x336699},
    }
    _, events = run_film(graph)
    assert done(events) == [1, 2, 3, 4] and not any(same(before, read()))
    graph["i"]["inputs"]["color"] = 0x993333
    _, events = run_film(graph)
    assert done(events) == [1, 2, 3, 4]
    graph["p"]["inputs"]["reference_mode"] = "none"
    _, events = run_film(graph)
    assert done(events) == [2, 3, 4]  # the first one is that of the start, alone
    assert torch.equal(read()[0], before[0])


def test_a_shots_strength_is_that_of_its_memory(
    run_film: Any, encoder_folder: Path, read: Any
) -> None:
    run_film(planner_graph(reference_mode="none", run_name="alone"))
    run_film(with_memory())
    full = read()
    script = SCRIPT.replace("looks up.", "looks up. {strength: 0}")
    outputs, events = run_film(with_memory(script=script))
    assert done(events) == [4] and "strength of shot" not in text_of(outputs)
    assert torch.equal(read()[3], read("alone")[3])
    _, events = run_film(with_memory(script=script.replace("strength: 0", "strength: 0.5")))
    assert done(events) == [4]
    assert not torch.equal(read()[3], full[3]) and not torch.equal(read()[3], read("alone")[3])
    outputs, _ = run_film(planner_graph("flux", script, width=64, height=64, run_name="images"))
    assert "Warning, strength of shot 3.1 has no effect here" in text_of(outputs)


def with_low_noise(graph: Graph, family: str = "wan_t2v", seed: int = 1) -> Graph:
    graph["w"] = {
        "class_type": "ThroughlineTestTinyModels",
        "inputs": {"family": family, "seed": seed, "layers": 0},
    }
    graph["p"]["inputs"] |= {"low_noise_model": ["w", 0], "switch_sigma": 0.9}
    return graph


def test_two_experts_draw_a_keyframe_one_after_the_other(
    run_film: Any, encoder_folder: Path, read: Any
) -> None:
    script, steps = "A red room.\nA garden.", {"steps": 4, "sampler_name": "euler"}
    run_film(with_memory(script=script, **steps))
    alone = read()
    _, events = run_film(with_low_noise(with_memory(script=script, **steps), seed=0))
    assert done(events) == [1, 2]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(alone, read(), strict=True))
    _, events = run_film(with_low_noise(with_memory(script=script, **steps), seed=1))
    assert done(events) == [1, 2]
    assert not any(torch.allclose(a, b, atol=1e-4) for a, b in zip(alone, read(), strict=True))
    outputs, events = run_film(with_low_noise(with_memory(script=script, **steps), seed=1))
    assert done(events) == []
    kinds = [data for kind, data in events if kind == "throughline.segment"]
    assert {data["steps"] for data in kinds} == {4}


def test_a_second_expert_of_another_family_is_refused(run_film: Any) -> None:
    with pytest.raises(run_film.error, match="low_noise_model must be the other expert of the"):
        run_film(with_low_noise(planner_graph(), "wan_i2v"))
    with pytest.raises(run_film.error, match="is the second expert of a video model, got one bes"):
        run_film(with_low_noise(planner_graph("flux", width=64, height=64)))


def test_a_memory_of_another_size_is_refused(run_film: Any, encoder_folder: Path) -> None:
    graph = with_memory({"references": ["i", 0]})
    graph["i"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 0},
    }
    with pytest.raises(run_film.error, match="memory must be of the keyframes' size, 32 x 32 pix"):
        run_film(graph)


def low_rank(layer: str, out: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    name = f"diffusion_model.{layer}"
    return {
        f"{name}.lora_up.weight": torch.randn(out, 2, generator=generator),
        f"{name}.lora_down.weight": torch.randn(2, 48, generator=generator),
    }


@pytest.fixture
def loras(comfy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's only LoRA folder: "wan" and "flux" for the tiny models."""
    import folder_paths

    folder = tmp_path / "loras"
    folder.mkdir()
    entry = ([str(folder)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", entry)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    save_file(low_rank("blocks.0.self_attn.q", 48, 1), folder / "wan.safetensors")
    save_file(low_rank("double_blocks.0.img_attn.qkv", 144, 2), folder / "flux.safetensors")
    return folder


def with_lora(file: str, **changes: Any) -> Graph:
    graph = planner_graph(**{"loras": ["c", 0], **changes})
    graph["c"] = {
        "class_type": "ThroughlineShotLoRA",
        "inputs": {"lora_name": f"{file}.safetensors", "name": "", "strength": 1.0, "used_in": ""},
    }
    return graph


LORA_SCRIPT = "A red room.\nA garden. {lora: LORA 0.7}\nA lake."


@pytest.mark.parametrize("family", ["wan_t2v", "flux"])
def test_a_shots_lora_costs_that_shot_alone(
    run_film: Any, loras: Path, read: Any, family: str
) -> None:
    file = family[:4].rstrip("_")
    given = {"family": family, "script": LORA_SCRIPT.replace("LORA", file), "width": 64}
    given |= {"height": 64, "reference_mode": "none"}
    outputs, _ = run_film(planner_graph(**given))
    assert "Warning, lora of shot 1.2 has no effect here" in text_of(outputs)
    before = read()
    outputs, events = run_film(with_lora(file, **given))
    assert done(events) == [2] and "has no effect" not in text_of(outputs)
    assert same(before, read()) == [True, False, True]
    _, events = run_film(with_lora(file, **given))
    assert done(events) == []


def test_shots_of_one_group_must_have_the_same_loras(run_film: Any, loras: Path) -> None:
    script = LORA_SCRIPT.replace("LORA", "flux")
    given = {"family": "flux", "script": script, "width": 64, "height": 64}
    given |= {"reference_mode": "joint K/V", "cfg": 1.0}
    words = "loras must be the same for shots that are drawn together, .* 1.1 to 1.2: set group_si"
    with pytest.raises(run_film.error, match=words):
        run_film(with_lora("flux", **given, group_size=2))
    _, events = run_film(with_lora("flux", **given, group_size=1))
    assert done(events) == [1, 2, 3]
