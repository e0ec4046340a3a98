"""The memory nodes and a film that remembers, through the host's executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Graph = dict[str, Any]
EVENT = "throughline.segment"
ENCODER = "tiny.safetensors"
CUTS = "[1.5s] A red room.\n[1s, cut] A garden.\n[1s, continue] It rains.\n[1.5s, cut] A red room."
"""At 8 fps four segments of 3, 2, 1 + 2 and 3 latent frames."""


@pytest.fixture
def encoder_folder(comfy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's only folder of memory encoders, with one tiny file."""
    import folder_paths

    from development.tiny_encoders import write_tiny_encoder

    folder = tmp_path / "memory_encoders"
    folder.mkdir()
    write_tiny_encoder(folder / ENCODER)
    known = folder_paths.folder_names_and_paths
    monkeypatch.setitem(known, "memory_encoders", ([str(folder)], {".safetensors"}))
    folder_paths.filename_list_cache.pop("memory_encoders", None)
    return folder


@pytest.fixture
def graph(film: Callable[..., Graph], encoder_folder: Path) -> Callable[..., Graph]:
    """`graph(memory={...}, **inputs)`: a film "s" with the memory of node "e"; `memory` are inputs
    of the memory encoder, with encoder=None for none."""

    def make(memory: dict[str, Any] | None = None, **inputs: Any) -> Graph:
        base = film(script=CUTS, memory=["e", 0], **inputs)
        given = {"encoder": ["l", 0], **encoder_inputs(), **(memory or {})}
        base["e"] = {
            "class_type": "ThroughlineMemoryEncoder",
            "inputs": {key: value for key, value in given.items() if value is not None},
        }
        base["l"] = {
            "class_type": "ThroughlineLoadMemoryEncoder",
            "inputs": {"encoder_name": ENCODER},
        }
        return base

    return make


def encoder_inputs() -> dict[str, Any]:
    """The memory encoder's widgets at their defaults."""
    return {
        "model": ["m", 0],
        "vae": ["m", 2],
        "form": "automatic",
        "rate": "2x2x2",
        "recent_frames": "automatic",
        "window": 0,
        "pin": "references and first shot",
        "captions": "",
        "width": 0,
        "height": 0,
    }


def done(events: list[tuple[str, Any]]) -> list[int]:
    """Numbers of the segments that were rendered."""
    return [data["segment"] for kind, data in events if kind == EVENT and data["status"] == "done"]


@pytest.fixture
def read(comfy_folders: dict[str, Path]) -> Callable[..., list[torch.Tensor]]:
    """`read(name)`: the latents of a run, in order."""
    from throughline.runs.run import open_run

    def latents(name: str = "film") -> list[torch.Tensor]:
        run = open_run(comfy_folders["output"] / "throughline" / name)
        return [run.latent(record.index) for record in run.segments]

    return latents


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(left, right, strict=True)]


# A film that remembers.


def test_a_film_remembers_and_is_reused(
    run_film: Any, film: Any, graph: Any, read: Any, comfy_folders: dict[str, Path]
) -> None:
    from throughline.runs.run import open_run

    run_film(film(script=CUTS))
    without = read()
    _, events = run_film(graph())
    assert done(events) == [2, 3, 4]  # the first segment remembers nothing and is kept
    assert same(without, read()) == [True, False, False, False]
    records = open_run(comfy_folders["output"] / "throughline" / "film").segments
    assert [record.start for record in records] == ["text", "memory", "tail", "memory"]
    _, events = run_film(graph())
    assert done(events) == []


@pytest.mark.parametrize(
    "kind",
    [
        {"stream": "segment"},
        {"stream": "chain"},
        {"address_dim": 8},
        {"stream": "chain", "address_dim": 8, "cross_attention": {0: 0.2, 1: 0.2}},
    ],
    ids=["segment", "chain", "addresses", "cross-attention"],
)
@pytest.mark.parametrize("kept", [1, 3])
def test_a_resumed_film_is_the_sequential_one(
    run_film: Any,
    graph: Any,
    read: Any,
    comfy_folders: dict[str, Path],
    encoder_folder: Path,
    kept: int,
    kind: dict[str, Any],
) -> None:
    from development.tiny_encoders import write_tiny_encoder

    write_tiny_encoder(encoder_folder / ENCODER, **kind)
    run_film(graph())
    whole = read()
    for file in (comfy_folders["output"] / "throughline" / "film" / "segments").iterdir():
        if int(file.name[:4]) > kept:
            file.unlink()
    _, events = run_film(graph())
    assert done(events) == list(range(kept + 1, 5))
    assert all(same(whole, read()))


def test_a_shot_recalls_what_its_own_words_find(
    run_film: Any, graph: Any, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is recalled stands at the shot's own time, one moment per latent frame."""
    from development.tiny_encoders import write_tiny_encoder
    from throughline.nodes import film_memory

    write_tiny_encoder(encoder_folder / ENCODER, address_dim=8)
    banks: list[Any] = []
    attach = film_memory.attach_memory

    def seen(model: Any, bank: Any, **options: Any) -> Any:
        banks.append((bank, options["segment_start_latent_frames"]))
        return attach(model, bank, **options)

    monkeypatch.setattr(film_memory, "attach_memory", seen)
    run_film(graph())
    assert [start for _, start in banks] == [3, 5, 8]
    bank, start = banks[-1]
    recalled = [entry for entry in bank.entries if entry.title == "recalled"]
    (entry,) = recalled
    (piece,) = entry.pieces
    assert (entry.start, entry.latent_frames, piece.form) == (start, 3, "recalled 2x2x2")
    held = [one.pieces[0] for one in bank.entries if one is not entry]
    assert [tuple(one.addresses.shape) for one in held] == [(one.tokens, 8) for one in held]
    assert piece.tokens == 3  # one cell covers the picture


@pytest.mark.parametrize("kind", [{}, {"address_dim": 8}], ids=["", "addresses"])
def test_the_add_on_of_an_encoder_is_read(
    run_film: Any, graph: Any, read: Any, encoder_folder: Path, kind: dict[str, Any]
) -> None:
    """A new one (zero) changes nothing, but counts as other weights; a trained one does."""
    from development.tiny_encoders import write_tiny_encoder

    films = []
    for scale in (None, 0.0, 0.5):
        added = None if scale is None else {1: scale}
        write_tiny_encoder(encoder_folder / ENCODER, cross_attention=added, **kind)
        _, events = run_film(graph())
        assert done(events) == ([1, 2, 3, 4] if scale is None else [2, 3, 4])
        films.append(read())
    without, new, trained = films
    for left, right in zip(without, new, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=0.0)
    changed = [float((a - b).abs().max()) for a, b in zip(without, trained, strict=True)]
    assert changed[0] == 0.0 and min(changed[1:]) > 1e-3


def test_two_add_ons_in_one_memory_are_refused(
    run_film: Any, graph: Any, encoder_folder: Path
) -> None:
    from development.tiny_encoders import write_tiny_encoder

    second = "second.safetensors"

    def both() -> Graph:
        made = graph({"second_encoder": ["l2", 0]})
        made["l2"] = {**made["l"], "inputs": {"encoder_name": second}}
        return made

    for name, rate in ((ENCODER, "2x2x2"), (second, "4x4x2")):
        write_tiny_encoder(encoder_folder / name, rate=rate, cross_attention={0: 0.2})
    with pytest.raises(run_film.error, match=f"{ENCODER} and {second}: use one of them"):
        run_film(both())
    write_tiny_encoder(encoder_folder / second, rate="4x4x2")
    assert done(run_film(both())[1]) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("memory", "inputs", "again"),
    [
        ({}, {"retakes": "1:1"}, [1, 2, 3, 4]),
        ({}, {"retakes": "3:1"}, [3, 4]),
        ({}, {"memory_strength": 0.5}, [2, 3, 4]),
        ({"recent_frames": "anchors only"}, {}, [2, 3, 4]),
        ({"captions": "unused"}, {}, []),
    ],
    ids=str,
)
def test_what_a_change_costs(
    run_film: Any, graph: Any, memory: Any, inputs: Any, again: list[int]
) -> None:
    run_film(graph())
    assert done(run_film(graph(memory, **inputs))[1]) == again


def test_anchors_only_depend_on_the_first_shot(run_film: Any, graph: Any) -> None:
    """Without training only shot 1 is remembered, so a retake of shot 2 leaves shot 4 alone."""
    anchors = {"encoder": None}
    run_film(graph(anchors))
    assert done(run_film(graph(anchors, retakes="2:1"))[1]) == [2, 3]


def test_other_weights_are_another_memory(run_film: Any, graph: Any, encoder_folder: Path) -> None:
    from development.tiny_encoders import write_tiny_encoder

    run_film(graph())
    write_tiny_encoder(encoder_folder / ENCODER, seed=1)
    assert done(run_film(graph())[1]) == [2, 3, 4]


FORMS = (
    "small pictures (no training)",
    "larger patches (no training)",
    "whole recent frames (no training)",
)


@pytest.mark.parametrize("form", FORMS)
def test_every_untrained_form_makes_a_film(run_film: Any, graph: Any, read: Any, form: str) -> None:
    memory = {"encoder": None, "form": form, "recent_frames": "remember"}
    _, events = run_film(graph(memory))
    assert done(events) == [1, 2, 3, 4]
    assert all(bool(torch.isfinite(latent).all()) for latent in read())
    changed = run_film(graph(memory, retakes="3:1"))[1]
    assert done(changed) == [3, 4]


@pytest.mark.parametrize("family", ["wan_t2v", "wan_i2v", "hunyuan_replace", "hunyuan_i2v"])
def test_every_family_remembers(
    run_film: Any, graph: Any, film: Any, read: Any, family: str
) -> None:
    memory = {"encoder": None, "recent_frames": "remember"}
    texts = {"clip": None, "positive": ["m", 3], "negative": ["m", 4]}
    made = graph(memory, run_name="with", **texts)
    plain = film(script=CUTS, run_name="without", **texts)
    for one in (made, plain):
        one["m"]["inputs"]["family"] = family
        run_film(one)
    assert same(read("with"), read("without")) == [True, False, False, False]


def test_each_segment_is_encoded_once(
    run_film: Any, graph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from throughline.adapters import pieces

    calls: list[int] = []
    encode = pieces.run_encoder

    def counted(loaded: Any, latents: torch.Tensor, *rest: Any) -> Any:
        calls.append(latents.shape[2])
        return encode(loaded, latents, *rest)

    monkeypatch.setattr(pieces, "run_encoder", counted)
    run_film(graph())
    assert calls == [3, 2, 3]  # whole segments, each when it is first remembered; the last never


def test_an_interrupt_ends_within_one_step_and_the_next_queue_continues(
    run_film: Any, graph: Any, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management
    import comfy.samplers

    from throughline.nodes import rendering

    steps = 4
    run_film(graph(run_name="whole", steps=steps))
    announce, network, calls = rendering.announce_segment, comfy.samplers.calc_cond_batch, []

    def count(*args: Any, **kwargs: Any) -> Any:
        result = network(*args, **kwargs)
        calls.append(1)
        return result

    def press(detail: dict[str, Any]) -> None:
        announce(detail)
        if (detail["segment"], detail["step"]) == (3, 2):
            comfy.model_management.interrupt_current_processing()

    with monkeypatch.context() as patch:
        patch.setattr(rendering, "announce_segment", press)
        patch.setattr(comfy.samplers, "calc_cond_batch", count)
        with pytest.raises(run_film.error):
            run_film(graph(steps=steps))
    assert len(calls) == steps * 2 + 2
    assert done(run_film(graph(steps=steps))[1]) == [3, 4]
    assert all(same(read("whole"), read("film")))


# Given memories.


def given_graph(graph: Callable[..., Graph], **memory: Any) -> Graph:
    """Two pictures and a finished run in a memory, without a film that reads it."""
    made = graph({"references": ["i", 0], "width": 32, "height": 32, **memory})
    made["i"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 48, "batch_size": 2, "color": 0x3070C0},
    }
    del made["s"]
    return made


def text_of(outputs: dict[str, Any], node: str) -> str:
    return str(outputs[node]["text"][0])


def test_the_encoder_says_what_is_remembered(run_film: Any, graph: Any) -> None:
    outputs, _ = run_film(given_graph(graph, captions="A face.\nA place."))
    said = text_of(outputs, "e")
    assert said.splitlines()[0] == f"trained encoder: {ENCODER}"
    assert "holds 2 entries, 2 tokens, 8 frames (1.0 s at 8 fps)" in said
    assert "every step reads 2 tokens more, as many as 0.5 latent frames" in said
    assert "a film remembers what it is given, its first shot, all earlier segments" in said
    assert "Warning, clip is not connected, so the encoder reads no captions" in said


def test_an_empty_memory_says_so(run_film: Any, graph: Any) -> None:
    empty = graph({"encoder": None})
    del empty["s"]
    said = text_of(run_film(empty)[0], "e")
    assert "holds 0 entries, 0 tokens" in said
    assert "a film remembers its first shot" in said


@pytest.mark.parametrize(("width", "complaint"), [(24, ""), (32, "32 wide, the encoder reads 24")])
def test_captions_of_another_width_are_left_out_and_said(
    run_film: Any, graph: Any, monkeypatch: pytest.MonkeyPatch, width: int, complaint: str
) -> None:
    from development import tiny_nodes
    from development.tiny_models import tiny_text_encoder

    class OtherText(tiny_nodes.TinyModels):
        def load(self, family: str, seed: int, layers: int) -> tuple[Any, ...]:
            made = super().load(family, seed, layers)
            return (made[0], tiny_text_encoder(width), *made[2:])

    import nodes

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "ThroughlineTestTinyModels", OtherText)
    outputs, _ = run_film(given_graph(graph, captions="A face.", clip=["m", 1]))
    said = text_of(outputs, "e")
    assert (complaint in said) if complaint else ("Warning" not in said)


def test_a_run_is_remembered(run_film: Any, graph: Any, film: Any) -> None:
    first = film(script=CUTS, run_name="first")
    run_film(first)
    made = graph({"run": ["s", 0], "encoder": ["l", 0]}, run_name="first")
    del made["s"]["inputs"]["memory"]
    said = text_of(run_film(made)[0], "e")
    assert [line for line in said.splitlines() if line.startswith("segment")] == [
        "segment 1: 2 tokens",
        "segment 2: 1 tokens",
        "segment 3: 2 tokens",
        "segment 4: 2 tokens",
    ]


def test_a_memory_in_a_sampler_of_the_host(run_film: Any, graph: Any) -> None:
    """Strength 0 is the model without it to the bit, 1 is not; two nodes read one copy."""

    def sampled(strength: float | None) -> torch.Tensor:
        made = given_graph(graph)
        model = ["m", 0]
        if strength is not None:
            made["a"] = {
                "class_type": "ThroughlineApplyMemory",
                "inputs": {"model": model, "memory": ["e", 0], "strength": strength, "shots": ""},
            }
            model = ["a", 0]
        made["t"] = {"class_type": "ThroughlineTestTinyLatent", "inputs": {}}
        made["k"] = {
            "class_type": "KSampler",
            "inputs": {
                "model": model,
                "positive": ["m", 3],
                "negative": ["m", 4],
                "latent_image": ["t", 0],
                "seed": 1,
                "steps": 2,
                "cfg": 2.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
            },
        }
        made["v"] = {"class_type": "SaveLatent", "inputs": {"samples": ["k", 0]}}
        made["v"]["inputs"]["filename_prefix"] = f"strength {strength}"
        outputs, _ = run_film(made)
        import folder_paths
        import safetensors.torch

        (saved,) = outputs["v"]["latents"]
        path = Path(folder_paths.get_output_directory()) / saved["subfolder"] / saved["filename"]
        return safetensors.torch.load_file(str(path))["latent_tensor"]

    plain = sampled(None)
    assert torch.equal(sampled(0.0), plain)
    assert not torch.allclose(sampled(1.0), plain, atol=1e-3)


def test_a_memory_on_a_model_recalls_by_the_text_of_the_shot(
    run_film: Any, graph: Any, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the length of the latent, at the end of what is remembered; without a text not at all."""
    from development.tiny_encoders import write_tiny_encoder
    from throughline.nodes import remembering

    write_tiny_encoder(encoder_folder / ENCODER, address_dim=8)
    banks: list[Any] = []
    attach = remembering.attach_memory

    def seen(model: Any, bank: Any, **options: Any) -> Any:
        banks.append((bank, options["segment_start_latent_frames"]))
        return attach(model, bank, **options)

    monkeypatch.setattr(remembering, "attach_memory", seen)

    def recalled(**more: Any) -> list[tuple[int, int]]:
        made = given_graph(graph, captions="A face.\nA place.", clip=["m", 1])
        inputs = {"model": ["m", 0], "memory": ["e", 0], "strength": 1.0, "shots": "", **more}
        made["a"] = {"class_type": "ThroughlineApplyMemory", "inputs": inputs}
        made["t"] = {"class_type": "ThroughlineTestTinyLatent", "inputs": {}}
        size = {"width": 64, "height": 64, "length": 5, "batch_size": 1}
        made["w"] = {"class_type": "EmptyHunyuanLatentVideo", "inputs": size}
        made["x"] = {"class_type": "PreviewAny", "inputs": {"source": ["a", 0]}}
        run_film(made)
        bank, start = banks.pop()
        found = [entry for entry in bank.entries if entry.title == "recalled"]
        assert start == max(entry.stop for entry in bank.entries if entry not in found)
        return [(entry.start - start, entry.latent_frames) for entry in found]

    assert recalled() == []
    assert recalled(positive=["m", 3]) == [(0, 6)]
    (latent,) = recalled(positive=["m", 3], latent=["t", 0])
    assert latent[0] == 0 and latent[1] != 6
    with pytest.raises(run_film.error, match="latent must be a video latent of 4 x 4 cells"):
        recalled(positive=["m", 3], latent=["w", 0])


def test_two_nodes_with_one_history_hold_one_copy(
    run_film: Any, graph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from throughline.nodes import remembering

    banks: list[Any] = []
    attach = remembering.attach_memory

    def seen(model: Any, bank: Any, **options: Any) -> Any:
        banks.append(bank)
        return attach(model, bank, **options)

    monkeypatch.setattr(remembering, "attach_memory", seen)
    made = given_graph(graph)
    made["e2"] = {**made["e"], "inputs": {**made["e"]["inputs"], "window": 9}}
    for name, source, strength in (("a", "e", 1.0), ("b", "e", 0.5), ("c", "e2", 1.0)):
        inputs = {"model": ["m", 0], "memory": [source, 0], "strength": strength, "shots": ""}
        made[name] = {"class_type": "ThroughlineApplyMemory", "inputs": inputs}
        made[f"show {name}"] = {"class_type": "PreviewAny", "inputs": {"source": [name, 0]}}
    run_film(made)
    assert len(banks) == 3
    pointers = {bank.entries[0].pieces[0].fine.weight.data_ptr() for bank in banks}
    assert len(pointers) == 1


@pytest.mark.parametrize("where", ["remembering", "retrieval"])
@pytest.mark.parametrize("added", [None, {0: 0.2}], ids=["without", "with"])
def test_other_nodes_read_the_add_on(
    run_film: Any,
    graph: Any,
    encoder_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    added: dict[int, float] | None,
) -> None:
    """A memory on a model, and the preview that asks it."""
    from development.tiny_encoders import write_tiny_encoder
    from throughline import nodes

    write_tiny_encoder(encoder_folder / ENCODER, cross_attention=added)
    read: list[bool] = []
    module = getattr(nodes, where)
    attach = module.attach_memory

    def seen(*args: Any, **options: Any) -> Any:
        attached = attach(*args, **options)
        stores = attached.model_options["transformer_options"]["throughline_memory"]
        read.append(stores[0].cross_attention is not None)
        return attached

    monkeypatch.setattr(module, "attach_memory", seen)
    made = given_graph(graph)
    inputs = {"model": ["m", 0], "memory": ["e", 0]}
    if where == "remembering":
        inputs |= {"strength": 1.0, "shots": ""}
        made["a"] = {"class_type": "ThroughlineApplyMemory", "inputs": inputs}
    else:
        inputs |= {"clip": ["m", 1], "steps": 1, "seed": 0}
        made["a"] = {"class_type": "ThroughlineMemoryPreview", "inputs": inputs}
    made["x"] = {"class_type": "PreviewAny", "inputs": {"source": ["a", 0]}}
    run_film(made)
    assert read and set(read) == {added is not None}


@pytest.mark.parametrize(("stream", "start"), [("chain", 2), ("segment", 3)])
def test_a_loop_by_hand_remembers(
    run_film: Any,
    graph: Any,
    encoder_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    stream: str,
    start: int,
) -> None:
    """One segment goes on from the history's last latent frame: in a chain at that one's time."""
    from development.tiny_encoders import write_tiny_encoder
    from throughline.nodes import film_memory

    write_tiny_encoder(encoder_folder / ENCODER, stream=stream)
    starts: list[int] = []
    attach = film_memory.attach_memory

    def seen(*args: Any, **options: Any) -> Any:
        starts.append(options["segment_start_latent_frames"])
        return attach(*args, **options)

    monkeypatch.setattr(film_memory, "attach_memory", seen)
    made = graph({"history": ["t", 0]})
    made["t"] = {"class_type": "ThroughlineTestTinyLatent", "inputs": {}}
    kept = ("model", "vae", "width", "height", "seed", "steps", "cfg", "sampler_name", "scheduler")
    inputs = {name: made["s"]["inputs"][name] for name in (*kept, "tail_latent_frames", "memory")}
    inputs |= {"positive": ["m", 3], "negative": ["m", 4], "previous": ["t", 0]}
    made["s"] = {"class_type": "ThroughlineSegment", "inputs": {**inputs, "segment_frames": 9}}
    made["o"] = {"class_type": "SaveLatent", "inputs": {"samples": ["s", 1]}}
    made["o"]["inputs"]["filename_prefix"] = "new"
    run_film(made)
    assert starts == [start]


# The preview.


@pytest.mark.parametrize("asks", [False, True])
def test_a_preview_shows_and_retrieves(
    run_film: Any, graph: Any, comfy_folders: dict[str, Path], asks: bool
) -> None:
    made = given_graph(graph, captions="A face.")
    made["p"] = {
        "class_type": "ThroughlineMemoryPreview",
        "inputs": {"memory": ["e", 0], "steps": 2, "seed": 0},
    }
    if asks:
        made["p"]["inputs"] |= {"model": ["m", 0], "clip": ["m", 1]}
    made["r"] = {"class_type": "PreviewAny", "inputs": {"source": ["p", 1]}}
    outputs, _ = run_film(made)
    report = text_of(outputs, "r").splitlines()
    assert report[0] == "2 entries, 2 tokens"
    assert [
        line.startswith(f"reference {i}: 1 tokens") for i, line in enumerate(report[1:], 1)
    ] == [
        True,
        True,
    ]
    assert all((", retrieved at " in line) == asks for line in report[1:])
    (shown,) = outputs["p"]["images"]
    from PIL import Image

    with Image.open(comfy_folders["temp"] / shown["filename"]) as picture:
        # two tiles with a gap around them; a tile is one or two cells of 128 wide, 144 high
        assert picture.size == (2 * (256 if asks else 128) + 12, 152)
        colour = picture.convert("RGB").getpixel((4 + 64, 4 + 64))
    assert colour == (0x30, 0x70, 0xC0)  # the real picture, as it came


def test_without_training_nothing_is_retrieved(run_film: Any, graph: Any) -> None:
    made = given_graph(graph, encoder=None)
    made["p"] = {
        "class_type": "ThroughlineMemoryPreview",
        "inputs": {"memory": ["e", 0], "model": ["m", 0], "steps": 2, "seed": 0},
    }
    made["r"] = {"class_type": "PreviewAny", "inputs": {"source": ["p", 1]}}
    assert "nothing is retrieved" in text_of(run_film(made)[0], "r")
