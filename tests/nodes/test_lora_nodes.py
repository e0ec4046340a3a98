"""ThroughlineShotLoRA and ThroughlineLoadMemoryLoRA through the host's executor."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

Graph = dict[str, Any]

SCRIPT = (
    "@Ana = a woman | lora: face 0.7\n"
    "[3s] A red room.\n[1s, continue] The camera turns.\n"
    "[1.5s, cut] A garden. {lora: coat 0.5}\nIt rains."
)
"""At 8 fps with segments of 4 latent frames and a tail of 1: 2 + 1 + 1 + 1 segments; the last one
continues the garden."""


def tensors(seed: int = 0, layer: str = "blocks.0.self_attn.q") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    name = f"diffusion_model.{layer}"
    return {
        f"{name}.lora_up.weight": torch.randn(48, 2, generator=generator),
        f"{name}.lora_down.weight": torch.randn(2, 48, generator=generator),
    }


@pytest.fixture
def loras(comfy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's only LoRA folder, with coat.safetensors and face.safetensors."""
    import folder_paths

    folder = tmp_path / "loras"
    folder.mkdir()
    entry = ([str(folder)], {".safetensors", ".pt"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", entry)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    save_file(tensors(1), folder / "coat.safetensors")
    save_file(tensors(2), folder / "face.safetensors")
    return folder


@pytest.fixture
def read(comfy_folders: dict[str, Path]) -> Callable[[], list[torch.Tensor]]:
    """The latents of the run "film", in order."""
    from throughline.runs.run import open_run

    def latents() -> list[torch.Tensor]:
        run = open_run(comfy_folders["output"] / "throughline" / "film")
        return [run.latent(record.index) for record in run.segments]

    return latents


@pytest.fixture
def with_loras(film: Callable[..., Graph]) -> Callable[..., Graph]:
    """`with_loras(script, coat={...}, face={...})`: two Shot LoRA nodes, one after the other."""

    def shot_lora(file: str, changes: Graph) -> Graph:
        plain = {"lora_name": f"{file}.safetensors", "name": "", "strength": 1.0, "used_in": ""}
        return {"class_type": "ThroughlineShotLoRA", "inputs": {**plain, **changes}}

    def graph(script: str = SCRIPT, coat: Graph | None = None, face: Graph | None = None) -> Graph:
        second = shot_lora("face", {**(face or {}), "loras": ["coat", 0]})
        nodes = {"coat": shot_lora("coat", coat or {}), "face": second}
        return {**nodes, **film(script=script, loras=["face", 0])}

    return graph


def rendered(events: list[tuple[str, Any]]) -> list[int]:
    return [
        data["segment"]
        for kind, data in events
        if kind == "throughline.segment" and data["status"] == "done"
    ]


def equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(left, right, strict=True)]


# Per shot and per character.


def test_shots_without_a_lora_are_equal_to_the_bit(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    with_loras: Callable[..., Graph],
    read: Callable[[], list[torch.Tensor]],
    loras: Path,
) -> None:
    """Segment 4 is the garden with the coat, 5 continues it; 1 to 3 come from the run without."""
    outputs, _ = run_film(film(script=SCRIPT))
    assert "Warning, lora of shot 1.3 has no effect here" in outputs["s"]["text"][0]
    assert "Warning, lora of character Ana has no effect here" in outputs["s"]["text"][0]
    bare = read()
    outputs, events = run_film(with_loras())
    assert "Warning" not in outputs["s"]["text"][0]
    assert rendered(events) == [4, 5]
    assert equal(bare, read()) == [True, True, True, False, False]
    fresh = with_loras()
    fresh["s"]["inputs"]["run_name"] = "film2"
    _, events = run_film(fresh)
    assert rendered(events) == [1, 2, 3, 4, 5]


def test_a_film_made_at_once_equals_one_made_in_turns(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    with_loras: Callable[..., Graph],
    read: Callable[[], list[torch.Tensor]],
    loras: Path,
) -> None:
    """The LoRA comes first here, so that what it leaves behind would show in segments 2 to 5."""
    script = SCRIPT.replace(" {lora: coat 0.5}", "").replace("room.", "room. {lora: coat}")
    run_film(with_loras(script))
    mixed = read()
    run_film(film(script=script))
    assert equal(mixed, read()) == [False, False, False, True, True]


def test_a_changed_lora_costs_its_segments(
    run_film: Callable[..., Any],
    with_loras: Callable[..., Graph],
    read: Callable[[], list[torch.Tensor]],
    loras: Path,
) -> None:
    run_film(with_loras())
    first = read()
    _, events = run_film(with_loras(SCRIPT.replace("coat 0.5", "coat 0.6")))
    assert rendered(events) == [4, 5]
    _, events = run_film(with_loras(coat={"strength": 0.3}))
    assert rendered(events) == [] and all(equal(first, read()))
    _, events = run_film(with_loras(SCRIPT.replace("A red", "<Ana> in a red")))
    assert rendered(events) == [1, 2, 3]
    save_file(tensors(3), loras / "face.safetensors")
    _, events = run_film(with_loras(SCRIPT.replace("A red", "<Ana> in a red")))
    assert rendered(events) == [1, 2, 3]
    save_file(tensors(4), loras / "coat.safetensors")
    _, events = run_film(with_loras(SCRIPT.replace("A red", "<Ana> in a red")))
    assert rendered(events) == [4, 5]


def test_a_shot_has_several_and_the_graph_places_one(
    run_film: Callable[..., Any],
    with_loras: Callable[..., Graph],
    read: Callable[[], list[torch.Tensor]],
    loras: Path,
) -> None:
    """The same film, said by the script and said by the node."""
    run_film(with_loras(SCRIPT.replace("coat 0.5", "coat 0.5, face 0.25")))
    said = read()
    _, events = run_film(with_loras(face={"strength": 0.25, "used_in": "1.3"}))
    assert rendered(events) == [] and all(equal(said, read()))
    _, events = run_film(with_loras())
    assert rendered(events) == [4, 5] and equal(said, read())[3] is False


@pytest.fixture
def base_loads(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows whenever core loads a video model."""
    import comfy.model_management
    import comfy.model_patcher

    comfy.model_management.unload_all_models()
    loads: list[str] = []
    load = comfy.model_patcher.ModelPatcher.load

    def counted(patcher: Any, *arguments: Any, **options: Any) -> Any:
        if type(patcher.model).__name__ == "WAN21":
            loads.append(patcher.model)
        return load(patcher, *arguments, **options)

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "load", counted)
    return loads


ALTERNATING = (
    "A. {lora: coat}\n[cut] B.\n[cut] C. {lora: coat 0.5, face}\n[cut] D.\nE. {lora: face}"
)


def test_a_film_loads_its_base_once(
    run_film: Callable[..., Any],
    with_loras: Callable[..., Graph],
    base_loads: list[str],
    loras: Path,
) -> None:
    """Five segments, of which each has other LoRAs than the one before."""
    _, events = run_film(with_loras(ALTERNATING))
    assert rendered(events) == [1, 2, 3, 4, 5]
    assert len(base_loads) == 1


def test_a_lora_set_to_none_is_no_lora(
    run_film: Callable[..., Any],
    film: Callable[..., Graph],
    with_loras: Callable[..., Graph],
    loras: Path,
) -> None:
    plain = SCRIPT.replace(" {lora: coat 0.5}", "").replace(" | lora: face 0.7", "")
    run_film(film(script=plain))
    none = {"lora_name": "none"}
    _, events = run_film(with_loras(plain, coat=none, face=none))
    assert rendered(events) == []


# Refused before anything is sampled.


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def poison(file: Path) -> None:
    bad = {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors(1).items()}
    save_file(bad, file)


def misfit(file: Path) -> None:
    save_file(tensors(1, layer="blocks.9.self_attn.q"), file)


def stray(file: Path) -> None:
    save_file({**tensors(1), "notes": torch.zeros(1)}, file)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut, ("coat.safetensors", "damaged")),
        (poison, ("coat.safetensors", ".weight must be finite")),
        (misfit, ("coat.safetensors", "blocks.9", "does not fit the loaded model (WAN21)")),
        (stray, ("coat.safetensors", "notes is no part of a LoRA")),
    ],
)
def test_a_bad_file_is_refused_before_sampling(
    harm: Callable[[Path], None],
    words: tuple[str, ...],
    run_film: Callable[..., Any],
    with_loras: Callable[..., Graph],
    loras: Path,
    comfy_folders: dict[str, Path],
) -> None:
    harm(loras / "coat.safetensors")
    with pytest.raises(run_film.error) as caught:
        run_film(with_loras())
    assert [word for word in words if word not in str(caught.value)] == []
    assert not (comfy_folders["output"] / "throughline").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"script": SCRIPT.replace("coat 0.5", "cot")}, "line 4, column 1: shot 1.3: no LoRA is"),
        ({"coat": {"used_in": "9.9"}}, "must name shots, characters or locations, got '9.9'"),
        ({"coat": {"name": "face"}}, "two LoRAs are called 'face'"),
        ({"coat": {"name": "a, b"}}, "holds no comma"),
        ({"coat": {"lora_name": "../secret.safetensors"}}, "secret.safetensors"),
        ({"coat": {"low_noise_lora": "gone.safetensors"}}, "gone.safetensors"),
    ],
)
def test_bad_words_are_refused_before_sampling(
    changes: Graph,
    words: str,
    run_film: Callable[..., Any],
    with_loras: Callable[..., Graph],
    loras: Path,
    comfy_folders: dict[str, Path],
) -> None:
    with pytest.raises(run_film.error) as caught:
        run_film(with_loras(**changes))
    assert words in str(caught.value)
    assert not (comfy_folders["output"] / "throughline").exists()


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "old.pt", "gone"])
def test_files_stay_inside_the_folders(name: str, loras: Path) -> None:
    """Also over a wire, where the host does not check the choice."""
    from throughline.adapters.lora_folders import load_lora_file

    save_file(tensors(), loras.parent / "secret.safetensors")
    (loras / "old.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match="must be a safetensors file in ComfyUI's folder"):
        load_lora_file(name)


def test_a_peft_folder_is_chosen_by_its_weights(loras: Path) -> None:
    """With the config that lies beside them; a change of it makes the node run again."""
    import json

    from throughline.adapters.lora_folders import load_lora_file, lora_names, lora_stamp

    folder, name = loras / "ana", "ana/adapter_model.safetensors"
    folder.mkdir()
    layer = "base_model.model.blocks.0.attn1.to_q"
    factors = {"lora_A": torch.ones(2, 48), "lora_B": torch.ones(48, 2)}
    state = {f"{layer}.{part}.weight": tensor for part, tensor in factors.items()}
    save_file(state, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert name in lora_names()
    assert load_lora_file(name).layers[layer]["alpha"] == 8.0
    before = lora_stamp(name)
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 16}))
    assert lora_stamp(name) != before
    assert load_lora_file(name).layers[layer]["alpha"] == 16.0


def test_something_else_on_the_wire_is_refused(loras: Path) -> None:
    from throughline.nodes.film_loras import plan_loras
    from throughline.nodes.lora import LoadMemoryLoRA, ShotLoRA
    from throughline.planning.script import parse_storyboard

    with pytest.raises(ValueError, match="loras must come from a Shot LoRA node, got str"):
        plan_loras("coat", parse_storyboard("A street."), None, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="loras must come from a Shot LoRA node, got list"):
        ShotLoRA.execute("none", "", 1.0, "", loras=["coat"])
    with pytest.raises(ValueError, match="encoder must come from a Load memory encoder node"):
        LoadMemoryLoRA.execute(None, "coat.safetensors", 0.0, "mind")


# The LoRA of a history encoder.


def memory_graph(strength: float = 1.0) -> Graph:
    return {
        "m": {
            "class_type": "ThroughlineTestTinyModels",
            "inputs": {"family": "wan22_i2v", "seed": 0, "layers": 0},
        },
        "l": {
            "class_type": "ThroughlineLoadMemoryLoRA",
            "inputs": {"model": ["m", 0], "lora_name": "coat.safetensors", "strength": strength},
        },
        "p": {"class_type": "PreviewAny", "inputs": {"source": ["l", 1]}},
    }


def test_a_memory_lora_without_its_encoder_is_loud(
    run_film: Callable[..., Any], loras: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(tensors(1), loras / "coat.safetensors", {"memory_encoder": "mind.safetensors"})
    with caplog.at_level(logging.WARNING):
        outputs, _ = run_film(memory_graph())
    text = outputs["l"]["text"][0]
    assert text.startswith(
        "Warning: coat.safetensors was trained together with the history encoder"
    )
    assert "mind.safetensors" in text and outputs["p"]["text"] == [text]
    assert [record.getMessage() for record in caplog.records if "mind" in record.getMessage()]


def test_an_ordinary_lora_is_no_cause_for_alarm(
    run_film: Callable[..., Any], loras: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        outputs, _ = run_film(memory_graph())
    assert outputs["l"]["text"] == [
        "coat.safetensors is not marked as trained with a history encoder."
    ]
    assert not [record for record in caplog.records if "coat" in record.getMessage()]


def test_the_pair_is_told_by_content(loras: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Renamed files are still a pair; another LoRA of the same name is none."""
    from throughline.adapters.lora_folders import load_lora_file
    from throughline.adapters.lora_pairing import pair
    from throughline.memory.lora_digest import lora_digest

    (loras / "coat.safetensors").rename(loras / "renamed.safetensors")
    lora, digest = load_lora_file("renamed.safetensors"), lora_digest(tensors(1))
    card = SimpleNamespace(title="mind", lora="coat.safetensors", lora_hash=digest)
    assert pair(lora, 1.0, card).text == "renamed.safetensors belongs to the encoder 'mind'."
    assert "was trained at strength 1 and is at 0" in pair(lora, 0.0, card).text
    other = load_lora_file("face.safetensors")
    assert "'mind' was trained with coat.safetensors" in pair(other, 1.0, card).text
    nameless = SimpleNamespace(title="mind", lora="", lora_hash="")
    assert "names no LoRA" in pair(lora, 1.0, nameless).text
    save_file(tensors(5), loras / "edited.safetensors", {"lora_hash": digest})
    edited = load_lora_file("edited.safetensors")
    assert "changed after training" in pair(edited, 1.0, None).text


def test_an_encoder_asks_the_model_for_its_lora(comfy: Any, loras: Path) -> None:
    """What a node that uses an encoder can say where no memory LoRA was loaded at all."""
    from development.tiny_models import FAMILIES
    from throughline.adapters.lora_pairing import missing_lora
    from throughline.memory.lora_digest import lora_digest
    from throughline.nodes.lora import LoadMemoryLoRA

    model = FAMILIES["wan22_i2v"].model()
    card = SimpleNamespace(title="mind", lora="coat.safetensors", lora_hash=lora_digest(tensors(1)))
    assert "trained with the LoRA coat.safetensors" in str(missing_lora(model, card))
    other, _ = LoadMemoryLoRA.execute(model, "face.safetensors", 1.0).args
    assert missing_lora(other, card) is not None
    patched, report = LoadMemoryLoRA.execute(other, "coat.safetensors", 1.0).args
    assert missing_lora(patched.clone(), card) is None
    assert model.patches == {} and model.get_attachment("throughline_memory_loras") is None
    off, _ = LoadMemoryLoRA.execute(model, "coat.safetensors", 0.0).args
    assert off is model and missing_lora(off, card) is not None
    assert missing_lora(model, SimpleNamespace(title="x", lora="", lora_hash="")) is None


# Together with a memory.


@pytest.fixture
def remembering(
    film: Callable[..., Graph], comfy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Graph]:
    """`remembering(**inputs)`: a film "s" with the memory of a tiny encoder whose LoRA is the coat;
    the model comes through the node "l" of its memory LoRA with `lora="..."`."""
    import folder_paths

    from development.tiny_encoders import write_tiny_encoder
    from throughline.memory.lora_digest import lora_digest

    folder = tmp_path / "memory_encoders"
    folder.mkdir()
    pair = {"lora": "coat.safetensors", "lora_hash": lora_digest(tensors(1)), "title": "tiny"}
    write_tiny_encoder(folder / "tiny.safetensors", **pair)
    known = folder_paths.folder_names_and_paths
    monkeypatch.setitem(known, "memory_encoders", ([str(folder)], {".safetensors"}))

    def make(lora: str = "", **inputs: Any) -> Graph:
        graph = film(memory=["e", 0], **inputs)
        graph["n"] = {
            "class_type": "ThroughlineLoadMemoryEncoder",
            "inputs": {"encoder_name": "tiny.safetensors"},
        }
        graph["e"] = {
            "class_type": "ThroughlineMemoryEncoder",
            "inputs": {
                "model": ["m", 0],
                "vae": ["m", 2],
                "encoder": ["n", 0],
                "form": "automatic",
                "rate": "2x2x2",
                "recent_frames": "automatic",
                "window": 0,
                "pin": "references and first shot",
                "captions": "",
                "width": 0,
                "height": 0,
            },
        }
        if lora:
            graph["l"] = {
                "class_type": "ThroughlineLoadMemoryLoRA",
                "inputs": {
                    "model": ["m", 0],
                    "lora_name": lora,
                    "strength": 1.0,
                    "encoder": ["n", 0],
                },
            }
            graph["s"]["inputs"]["model"] = ["l", 0]
        return graph

    return make


def test_a_film_says_that_the_memory_lora_is_missing(
    run_film: Callable[..., Any], remembering: Callable[..., Graph], loras: Path, caplog: Any
) -> None:
    """Without any memory LoRA, with another one, and with the right one."""
    outputs, _ = run_film(remembering(script="A room."))
    assert "Warning, The encoder 'tiny' was trained with the LoRA coat" in outputs["s"]["text"][0]
    assert "was trained with the LoRA coat" in caplog.text
    outputs, _ = run_film(remembering("face.safetensors", script="A room."))
    assert "Warning, The encoder" in outputs["s"]["text"][0]
    assert outputs["l"]["text"][0].startswith("Warning: The encoder 'tiny' was trained with coat")
    outputs, _ = run_film(remembering("coat.safetensors", script="A room."))
    assert "Warning" not in outputs["s"]["text"][0]
    assert outputs["l"]["text"] == ["coat.safetensors belongs to the encoder 'tiny'."]


def test_a_film_that_remembers_loads_its_base_once(
    run_film: Callable[..., Any],
    remembering: Callable[..., Graph],
    with_loras: Callable[..., Graph],
    base_loads: list[str],
    loras: Path,
) -> None:
    graph = {**with_loras(ALTERNATING), **remembering(script=ALTERNATING, loras=["face", 0])}
    _, events = run_film(graph)
    assert rendered(events) == [1, 2, 3, 4, 5]
    assert len(base_loads) == 1


def test_a_shot_lora_in_a_film_that_remembers(
    run_film: Callable[..., Any],
    remembering: Callable[..., Graph],
    with_loras: Callable[..., Graph],
    read: Callable[[], list[torch.Tensor]],
    loras: Path,
) -> None:
    """The last two segments have the LoRA; the others are equal to the bit."""
    script = SCRIPT.replace("It rains.", "It rains. {lora: face}")
    run_film(remembering(script=script))
    bare = read()
    graph = {**with_loras(script), **remembering(script=script, loras=["face", 0])}
    _, events = run_film(graph)
    assert rendered(events) == [4, 5]
    assert equal(bare, read()) == [True, True, True, False, False]
