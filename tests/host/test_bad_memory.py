"""Bad memory inputs: the wrong encoder, a damaged file, an empty history. Nothing is sampled."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch

LOAD = "ThroughlineLoadMemoryEncoder"
ENCODE = "ThroughlineMemoryEncoder"
APPLY = "ThroughlineApplyMemory"
PREVIEW = "ThroughlineMemoryPreview"


def wire(name: str) -> tuple[str, str]:
    return ("wire", name)


GOOD: dict[str, dict[str, Any]] = {
    ENCODE: {"model": wire("wan_t2v"), "vae": wire("vae"), "encoder": wire("memory encoder")},
    APPLY: {"model": wire("wan_t2v"), "memory": wire("memory")},
    PREVIEW: {"memory": wire("memory")},
}


class Case(NamedTuple):
    id: str
    words: tuple[str, ...]
    node: str
    inputs: dict[str, Any]


def case(id: str, node: str, *words: str, **inputs: Any) -> Case:
    return Case(id, words, node, inputs)


CASES = (
    case("not an encoder", ENCODE, "encoder must come from a Load memory encoder", "str",
         encoder=wire("magic")),
    case("encoder of another width", ENCODE, "encoder tiny.safetensors", "width 64", "width 48",
         encoder=wire("wide encoder")),
    case("encoder of another base", ENCODE, "trained for hunyuanvideo", "of class WAN21",
         encoder=wire("hunyuan encoder")),
    case("encoder for other latents", ENCODE, "vae must make the model's latents", "48 channels",
         model=wire("wan_ti2v")),
    case("model without memory", ENCODE, "model must be one that memory can enter", "LTXV",
         model=wire("ltxv"), encoder=None),
    case("model of pictures", ENCODE, "model", "Flux", model=wire("picture model"), encoder=None),
    case("VAE of pictures", ENCODE, "vae must make the model's latents", "4 channels",
         vae=wire("picture vae")),
    case("second encoder alone", ENCODE, "second_encoder needs encoder", encoder=None,
         second_encoder=wire("memory encoder")),
    case("two streams", ENCODE, "must be of one kind and stream", "segment", "chain",
         second_encoder=wire("chain encoder")),
    case("trained form without an encoder", ENCODE, "form 'trained encoder' needs an encoder",
         form="trained encoder", encoder=None),
    case("form that reads no encoder", ENCODE, "does not read encoder tiny.safetensors",
         form="small pictures (no training)"),
    case("form over a wire", ENCODE, "form must be one of automatic, trained encoder", "'magic'",
         form=wire("magic")),
    case("recent frames over a wire", ENCODE, "recent_frames must be one of", "'magic'",
         recent_frames=wire("magic")),
    case("pin over a wire", ENCODE, "pin must be one of", "'magic'", pin=wire("magic")),
    case("rate over a wire", ENCODE, "a rate reads like 2x2x2", "'magic'", rate=wire("magic")),
    case("zero history", ENCODE, "history must not be empty", "(1, 16, 0, 4, 4)",
         history=wire("no latent frames")),
    case("NaN history", ENCODE, "history must be finite", history=wire("NaN latent")),
    case("two histories", ENCODE, "history must be one video latent", "(2, 16, 3, 4, 4)",
         history=wire("2 latents")),
    case("picture as history", ENCODE, "history must be one video latent", "(1, 4, 8, 8)",
         history=wire("picture latent")),
    case("history of another model", ENCODE, "the model's 16 latent channels", "got 48",
         history=wire("48 channels")),
    case("NaN reference", ENCODE, "references must be finite", references=wire("NaN image")),
    case("grey reference", ENCODE, "references must be pictures", "(1, 8, 8, 1)",
         references=wire("grey image")),
    case("reference of a strange size", ENCODE, "width must be a multiple of 8", "got 33",
         references=wire("image"), width=wire("33")),
    case("reference of another size", ENCODE, "history must be of one size", "48 x 48",
         "32 x 32", references=wire("image"), width=32, height=32, history=wire("larger latent")),
    case("not a run", ENCODE, "run must come from a Throughline sampler", "str",
         run=wire("magic")),
    case("run without a finished segment", ENCODE, "run 'small' must have a finished segment",
         run=wire("small run")),
    case("empty memory", APPLY, "memory must hold something", memory=wire("empty memory")),
    case("not a memory", APPLY, "memory must come from a memory encoder", "str",
         memory=wire("magic")),
    case("memory for another model", APPLY, "trained for throughline-demo",
         "of class HunyuanVideo", model=wire("hunyuan_replace")),
    case("memory of a model that has none", APPLY, "memory can enter", "LTXV",
         model=wire("ltxv")),
    case("strength", APPLY, "strength", "bigger than max of 1.0", strength=2.0),
    case("strength over a wire", APPLY, "strength of a memory must be 0 to 1", "-1.0",
         strength=wire("-1.0")),
    case("shots that do not read", APPLY, "shots must read like '1-3, 5'", "3-1", shots="3-1"),
    case("shots that are not there", APPLY, "shots must name shots that the memory holds (1)",
         "got 7, 8", shots="7-8"),
    case("preview of nothing", PREVIEW, "memory must hold something",
         memory=wire("empty memory")),
    case("preview of something else", PREVIEW, "memory must come from", "str",
         memory=wire("magic")),
    case("preview with another model", PREVIEW, "trained for throughline-demo",
         model=wire("hunyuan_replace")),
    case("preview with another text", PREVIEW, "clip must be 24 wide", "got 32",
         model=wire("wan_t2v"), clip=wire("encoder of another model")),
)  # fmt: skip


@pytest.mark.parametrize("bad", [pytest.param(one, id=one.id) for one in CASES])
def test_a_bad_input_is_refused_before_sampling(
    bad: Case, refusals: Any, comfy_folders: dict[str, Path], make_run: Callable[..., Path]
) -> None:
    make_run(comfy_folders["output"] / "throughline", "small", finished=0)
    message = refusals.message(bad.node, {**GOOD[bad.node], **bad.inputs})
    assert refusals.sampled == []
    missing = [word for word in bad.words if word not in message]
    assert not missing, f"{missing} not in: {message}"


def test_a_good_graph_reaches_the_sampler(refusals: Any) -> None:
    """So the count above would see a call."""
    inputs = {**GOOD[PREVIEW], "model": wire("wan_t2v")}
    assert "was called" in refusals.message(PREVIEW, inputs)
    assert len(refusals.sampled) == 1


# Files.


@pytest.fixture
def encoder_file(comfy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good file in ComfyUI's only folder of memory encoders."""
    import folder_paths

    from development.tiny_encoders import write_tiny_encoder

    path = tmp_path / "memory_encoders" / "tiny.safetensors"
    path.parent.mkdir()
    write_tiny_encoder(path)
    known = folder_paths.folder_names_and_paths
    monkeypatch.setitem(known, "memory_encoders", ([str(path.parent)], {".safetensors"}))
    folder_paths.filename_list_cache.pop("memory_encoders", None)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, str]], None]) -> None:
    """Change tensors and metadata of a file."""
    with safetensors.safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())
    change(tensors, metadata)
    safetensors.torch.save_file(tensors, str(path), metadata)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def poison(path: Path) -> None:
    gate = "memory_encoder.gate"
    rewrite(path, lambda tensors, _: tensors.update({gate: torch.full((48,), math.nan)}))


def forget(path: Path) -> None:
    rewrite(path, lambda _, metadata: metadata.pop("rate"))


def foreign(path: Path) -> None:
    safetensors.torch.save_file({"weight": torch.zeros(1)}, str(path), {"format": "pt"})


def alaya(path: Path) -> None:
    names = ("hr_stage1.conv.weight", "hr_proj.weight")
    safetensors.torch.save_file({name: torch.zeros(4096, 128) for name in names}, str(path))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (truncate, "is truncated or not a safetensors file"),
        (empty, "is truncated or not a safetensors file"),
        (poison, "memory_encoder.gate must be finite, got NaN or infinity"),
        (forget, "metadata must say rate, got nothing"),
        (foreign, "this is no file of memory weights, got 'pt'"),
        (alaya, "is an AlayaWorld history encoder for LTX-2.3"),
    ],
)
def test_a_bad_file_is_named(
    refusals: Any, encoder_file: Path, harm: Callable[[Path], None], words: str
) -> None:
    harm(encoder_file)
    message = refusals.message(LOAD, {"encoder_name": "tiny.safetensors"})
    assert "tiny.safetensors: " in message and words in message


@pytest.mark.parametrize("name", ["none.safetensors", "../tiny.safetensors", "/etc/passwd"])
def test_only_listed_files_are_read(refusals: Any, encoder_file: Path, name: str) -> None:
    assert name in refusals.message(LOAD, {"encoder_name": name})


def test_a_name_over_a_wire_stays_inside(refusals: Any, encoder_file: Path) -> None:
    message = refusals.message(LOAD, {"encoder_name": wire("../escape")})
    assert "encoder_name must be a file in models/memory_encoders, got '../escape'" in message
