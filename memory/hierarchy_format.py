"""The files of heads, planners and packed contexts: safetensors that say what they were made for.

The metadata key `format` names the kind of file, `config` holds its sizes as JSON; a file whose
tensors are not those of its sizes is refused by name before anything is made of it. Heads and
planners go by a hash of their tensors: codes of two heads never mix, and a planner only reads codes
of the head that it was trained with.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .hierarchy_heads import HeadConfig, LearnedHead, build_head
from .hierarchy_planner import HierarchyPlanner, PlannerConfig
from .packed_context import PackedConfig, PackedEmbedder
from .weight_format import tensors_digest

HEAD_FORMAT, PLANNER_FORMAT = "throughline-hierarchy-head", "throughline-hierarchy-planner"
PACKED_FORMAT = "throughline-packed-context"
VERSION = 1
SHOWN_CHARACTERS = 60  # of a wrong value, so that an error stays one line

Config = TypeVar("Config")


@dataclass(frozen=True)
class HeadCard:
    """What the file of a head says: the latent format it was trained on (ComfyUI's class name, such
    as Wan21), its sizes, and texts."""

    config: HeadConfig
    latent_format: str
    title: str = ""
    license: str = ""


@dataclass(frozen=True)
class PlannerCard:
    """What the file of a planner says.

    `head` is the name of the head whose codes it plans and `latent_format` what that head reads.
    `rollout`, `windows` and `finest` are the schedule it was trained with, `steps` the denoising
    steps it is recommended with. `reads` says what the condition of a latent frame is made of:
    `nothing`, `poses` (see training/hierarchy_ring.py) or `text` (the shot's prompt).
    `least_history` are the latent frames that must be known before a chunk; 0: it starts cold.
    """

    config: PlannerConfig
    head: str
    latent_format: str
    rollout: str
    windows: tuple[int, ...]
    reads: str
    steps: int = 12
    least_history: int = 0
    title: str = ""
    license: str = ""

    @property
    def finest(self) -> int:
        """The finest level that it plans."""
        return self.config.finest


@dataclass(frozen=True)
class PackedCard:
    """What the file of a packed context says.

    `base` names the video model and `head` the head whose codes it reads; `windows` are those of
    the schedule it was trained with; `lora` is the file name of its LoRA, `lora_hash` that LoRA's
    digest.
    """

    config: PackedConfig
    base: str
    head: str
    windows: tuple[int, ...]
    lora: str = ""
    lora_hash: str = ""
    title: str = ""
    license: str = ""


def write_head_file(path: Path, tensors: Mapping[str, Tensor], card: HeadCard) -> None:
    """Write the state dict of a head."""
    _write(path, tensors, HEAD_FORMAT, card)


def write_planner_file(path: Path, tensors: Mapping[str, Tensor], card: PlannerCard) -> None:
    """Write the state dict of a planner."""
    _write(path, tensors, PLANNER_FORMAT, card)


def read_head_file(path: Path) -> tuple[LearnedHead, HeadCard]:
    """A head, ready to use, in float32; its name is the hash of the file's tensors.

    Raises ValueError that begins with the file's name: missing, not safetensors, truncated, of
    another kind or a newer version, sizes or tensors that do not fit.
    """
    tensors, card = _read(path, HEAD_FORMAT, HeadCard)
    head = build_head(card.config, tensors_digest(tensors, [repr(card.config)]))
    return _filled(path.name, head, tensors), card


def read_planner_file(path: Path) -> tuple[HierarchyPlanner, PlannerCard]:
    """A planner, ready to use, in float32. Raises ValueError as `read_head_file` does."""
    tensors, card = _read(path, PLANNER_FORMAT, PlannerCard)
    return _filled(path.name, HierarchyPlanner(card.config), tensors), card


def write_packed_file(path: Path, tensors: Mapping[str, Tensor], card: PackedCard) -> None:
    """Write the state dict of the embedders of a packed context."""
    _write(path, tensors, PACKED_FORMAT, card)


def read_packed_file(path: Path) -> tuple[PackedEmbedder, PackedCard]:
    """Embedders, ready to use, in float32. Raises ValueError as `read_head_file` does."""
    tensors, card = _read(path, PACKED_FORMAT, PackedCard)
    return _filled(path.name, PackedEmbedder(card.config), tensors), card


def _write(path: Path, tensors: Mapping[str, Tensor], kind: str, card: Any) -> None:
    said = dataclasses.asdict(card)
    config = {"config": said.pop("config"), "version": VERSION, **said}
    metadata = {
        "format": kind,
        "modelspec.title": card.title,
        "modelspec.license": card.license,
        "config": json.dumps(config),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    temporary = path.with_suffix(".partial")
    safetensors.torch.save_file(whole, str(temporary), metadata)
    temporary.chmod(0o644)  # safetensors makes it readable for its owner only
    temporary.replace(path)


def _read(path: Path, kind: str, card: type[Config]) -> tuple[dict[str, Tensor], Config]:
    name = path.name
    if path.suffix != ".safetensors":
        raise ValueError(f"{name}: only safetensors files are read")
    if not path.is_file():
        raise ValueError(f"{name}: no such file in {path.parent.name}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("format") != kind:
                came = str(metadata.get("format", "nothing"))[:SHOWN_CHARACTERS]
                raise ValueError(f"{name}: metadata 'format' must be {kind!r}, got {came}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{name}: is truncated or not a safetensors file ({error})") from error
    try:
        said = json.loads(metadata.get("config", "null"))
    except json.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        raise ValueError(f"{name}: metadata 'config' must be a JSON object")
    version = said.pop("version", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise ValueError(f"{name}: is of version {version}, this is {VERSION}: update Throughline")
    return tensors, _dataclass(name, card, said)


def _dataclass(name: str, kind: type[Config], said: Mapping[str, Any]) -> Config:
    """A dataclass out of JSON, every field of its declared type. Raises ValueError."""
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if foreign := said.keys() - fields.keys():
        raise ValueError(f"{name}: metadata 'config' has the foreign entry {min(foreign)}")
    values = {}
    for key, field in fields.items():
        if key in said:
            values[key] = _value(name, key, hints[key], said[key])
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"{name}: metadata 'config' must say {key}, got nothing")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _value(name: str, key: str, hint: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _dataclass(name, typing.cast(type, hint), value)
    if isinstance(hint, types.GenericAlias) and isinstance(value, list):
        if all(type(each) is int for each in value):
            return tuple(value)
    elif typing.get_origin(hint) is typing.Literal:
        if value in typing.get_args(hint):
            return value
    elif type(value) is hint:
        return value
    came = repr(value)[:SHOWN_CHARACTERS]
    raise ValueError(f"{name}: metadata 'config' entry {key} is of the wrong kind, got {came}")


Module = TypeVar("Module", bound=nn.Module)


def _filled(name: str, module: Module, tensors: Mapping[str, Tensor]) -> Module:
    """The module with these tensors, for inference. Raises ValueError when they do not fit."""
    expected = module.state_dict()
    for problem, keys in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has the foreign", tensors.keys() - expected.keys()),
    ):
        if keys:
            raise ValueError(f"{name}: {problem} tensor {min(keys)}")
    for key, wanted in expected.items():
        tensor = tensors[key]
        if tensor.shape != wanted.shape:
            raise ValueError(
                f"{name}: tensor {key} must be {list(wanted.shape)} by the file's metadata, got "
                f"{list(tensor.shape)}"
            )
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
            raise ValueError(f"{name}: tensor {key} must hold finite floating-point numbers")
    module.load_state_dict(dict(tensors))
    return module.float().train(False).requires_grad_(False)
