"""The file format of memory weights: safetensors that say what they were trained for.

Keys begin with `memory_encoder.`; the rest is a state dict of memory/encoder.py (`kind` encoder) or
`packer.RATE.proj.*` of memory/packing.py (`kind` packing). An encoder may bring the decoupled
cross-attention add-on (design, section 1.6) for any blocks of the video model: `xattn.BLOCK.k`,
`.v` and `.o`, each a `.weight` and, where it was trained with one, a `.bias`.

The metadata, all text, name the video model and every rule that the weights were trained under; a
file that does not say them, or whose tensors are not what it says, is refused by name before
anything is sampled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import blake3
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .encoder import PAPER_WIDTHS, EncoderConfig, HistoryEncoder
from .positions import ROPE_MODES, RopeMode
from .rates import ROUNDINGS, Rate, Rounding

PREFIX = "memory_encoder."
FORMAT = "pfp-memory"
VERSION = 1

Kind = Literal["encoder", "packing"]
LowMode = Literal["pixel", "latent"]
Stream = Literal["chain", "segment"]
Value = TypeVar("Value")

REQUIRED = (
    "format version base in_channels inner_dim rate grid_round rope_mode causal lr_mode memory_t0 "
    "segment_latents fps"
).split()
"""Metadata that every file must have (design, section 5.3)."""

CROSS_ATTENTION = re.compile(r"xattn\.(0|[1-9]\d{0,3})\.[kvo]\.(?:weight|bias)")
"""Names of the add-on's tensors, the block counted through the video model."""

SHOWN_CHARACTERS = 60
"""Of a wrong value, so that an error stays one line."""


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """What a file says about its weights.

    `base` names the video model. `lr_mode` says whether the low-resolution branch was trained on
    small pictures or on averaged latents. `segment_latents` is the longest segment it was trained
    with and `fps` its frame rate. `stream` is `chain` where the encoder goes on from segment to
    segment of one take, `segment` where each starts anew. `lora` is the file name of the LoRA that
    was trained with it, `lora_hash` the hash of that LoRA's tensors; both may be empty. `rates` are
    those of a packing, else just `rate`. `digest` is a hash of the tensors and of what they mean.
    """

    name: str
    kind: Kind
    base: str
    in_channels: int
    inner_dim: int
    rate: Rate
    rounding: Rounding
    rope_mode: RopeMode
    lr_mode: LowMode
    segment_latents: int
    fps: float
    patch: tuple[int, int, int]
    widths: tuple[int, int, int, int]
    heads: int
    attention_cells: int
    caption_dim: int
    shortcut: bool
    address_dim: int
    stream: Stream
    lora: str
    lora_hash: str
    title: str
    license: str
    rates: tuple[Rate, ...]
    digest: str

    @property
    def config(self) -> EncoderConfig:
        """The sizes of the encoder that holds the weights."""
        return EncoderConfig(
            in_channels=self.in_channels,
            inner_dim=self.inner_dim,
            rate=self.rate,
            rounding=self.rounding,
            patch=self.patch,
            widths=self.widths,
            heads=self.heads,
            attention_cells=self.attention_cells,
            caption_dim=self.caption_dim,
            shortcut=self.shortcut,
            address_dim=self.address_dim,
        )


@dataclass(frozen=True)
class EncoderFile:
    """A card and the tensors under the names that the module gives them.

    `cross_attention` are those of the add-on (`xattn.BLOCK.k.weight`...), None without one.
    """

    card: EncoderCard
    tensors: Mapping[str, Tensor]
    cross_attention: Mapping[str, Tensor] | None = None


def read_encoder_file(path: Path) -> EncoderFile:
    """Read and check a file of memory weights.

    Raises ValueError that begins with the file's name: a file that is missing, not safetensors,
    truncated or of another project, metadata that are missing, foreign or of a newer version, and
    tensors that are missing, of another shape or not finite.
    """
    name = path.name
    tensors, metadata = read_tensors(path)
    foreign = foreign_encoder(tensors)
    if foreign is not None:
        raise ValueError(f"{name}: {foreign}")
    values = _Metadata(name, metadata)
    values.require()
    kind: Kind = values.choice("kind", ("encoder", "packing"), "encoder")
    state = {
        key.removeprefix(PREFIX): tensor
        for key, tensor in tensors.items()
        if key.startswith(PREFIX)
    }
    card = _card(name, kind, values, state)
    _check_tensors(name, state, _expected(card, state))
    cross = {key: tensor for key, tensor in state.items() if CROSS_ATTENTION.fullmatch(key)}
    own = {key: tensor for key, tensor in state.items() if key not in cross}
    return EncoderFile(card, own, cross or None)


def write_encoder_file(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> EncoderCard:
    """Write tensors, named as the module names them, and read them back as a check.

    `tensors` may hold the cross-attention add-on as well, under the names that it is read by.
    """
    named = {PREFIX + key: tensor.contiguous() for key, tensor in tensors.items()}
    said = {"format": FORMAT, "version": str(VERSION), **metadata}
    safetensors.torch.save_file(named, str(path), said)
    return read_encoder_file(path).card


def foreign_encoder(tensors: Mapping[str, Tensor]) -> str | None:
    """Which other project's encoder these are, and why Throughline does not load it; None for ours.

    AlayaWorld (alaya/memory/history_encoder.py) and CaR (wan/modules/memory_encoder.py) publish
    weights of this kind. Neither fits a model that has an adapter here: AlayaWorld's was trained
    with LTX-2.3 and scales both branches by one gate, its low-resolution branch with the bias of
    that model's projection; CaR's is a non-causal residual network for its own camera-controlled
    Wan 2.2 5B.
    """
    bare = {key.removeprefix("history_encoder."): tensor for key, tensor in tensors.items()}
    if {"hr_stage1.conv.weight", "hr_proj.weight"} <= bare.keys():
        channels = bare["hr_stage1.conv.weight"].shape[1]
        width = bare["hr_proj.weight"].shape[0]
        return (
            f"is an AlayaWorld history encoder for LTX-2.3 ({channels} latent channels, width "
            f"{width}); no model that memory can enter here is of that kind, and its gate scales "
            "both branches, unlike Throughline's. Use an encoder that was trained for your model"
        )
    if any(key.startswith(f"{PREFIX}hr_blocks.") for key in tensors):
        last = tensors.get(f"{PREFIX}proj_out.weight")
        wide = "" if last is None else f", width {last.shape[0]}"
        return (
            f"is a CaR memory encoder for its own Wan 2.2 5B with camera attention{wide}; its "
            "residual blocks are not causal and need that model. Use an encoder that was trained "
            "for your model"
        )
    return None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Raises ValueError naming the file."""
    name = path.name
    if path.suffix != ".safetensors":
        raise ValueError(f"{name}: only safetensors files are read")
    if not path.is_file():
        raise ValueError(f"{name}: no such file in {path.parent.name}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise ValueError(f"{name}: is truncated or not a safetensors file ({error})") from error


class _Metadata:
    """The text of a file's metadata, read with errors that name file, key, rule and value."""

    def __init__(self, name: str, metadata: Mapping[str, str]) -> None:
        self._name, self._metadata = name, metadata

    def require(self) -> None:
        if self._metadata.get("format") != FORMAT:
            raise self._wrong("format", f"must be {FORMAT!r}, this is no file of memory weights")
        missing = [key for key in REQUIRED if key not in self._metadata]
        if missing:
            raise ValueError(f"{self._name}: metadata must say {', '.join(missing)}, got nothing")
        if self.number("version", int, 1) > VERSION:
            raise self._wrong("version", f"must be {VERSION} or older: update Throughline")
        for key in ("causal", "memory_t0"):
            if self._metadata[key] != "1":
                raise self._wrong(key, "must be 1, the only way that is supported")

    def text(self, key: str, default: str = "") -> str:
        return self._metadata.get(key, default)

    def number(
        self, key: str, kind: Callable[[str], Value], least: float, default: str = ""
    ) -> Value:
        text = self._metadata.get(key, default)
        try:
            value = kind(text)
        except ValueError:
            raise self._wrong(key, "must be a number") from None
        if not (isinstance(value, int | float) and math.isfinite(value) and value >= least):
            raise self._wrong(key, f"must be {least:g} or more")
        return value

    def numbers(self, key: str, count: int, default: tuple[int, ...]) -> tuple[int, ...]:
        text = self._metadata.get(key)
        if text is None:
            return default
        if not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4})*", text) or text.count(",") + 1 != count:
            raise self._wrong(key, f"must be {count} whole numbers with commas")
        return tuple(map(int, text.split(",")))

    def choice(self, key: str, options: tuple[Value, ...], default: str = "") -> Value:
        text = self._metadata.get(key, default)
        for option in options:
            if option == text:
                return option
        raise self._wrong(key, f"must be one of {', '.join(map(str, options))}")

    def rate(self, key: str) -> Rate:
        try:
            return Rate.parse(self._metadata[key])
        except ValueError as error:
            raise self._wrong(key, str(error).partition(", got")[0]) from None

    def _wrong(self, key: str, rule: str) -> ValueError:
        came = repr(self._metadata[key])[:SHOWN_CHARACTERS] if key in self._metadata else "nothing"
        return ValueError(f"{self._name}: metadata {key!r} {rule}, got {came}")


def _card(name: str, kind: Kind, values: _Metadata, state: Mapping[str, Tensor]) -> EncoderCard:
    rate = values.rate("rate")
    patch = values.numbers("patch", 3, (1, 2, 2))
    widths = values.numbers("widths", 4, PAPER_WIDTHS)
    meaning = [
        f"{key}={values.text(key)}" for key in (*REQUIRED, "kind", "stream", "heads", "patch")
    ]
    card = EncoderCard(
        name=name,
        kind=kind,
        base=values.text("base"),
        in_channels=values.number("in_channels", int, 1),
        inner_dim=values.number("inner_dim", int, 1),
        rate=rate,
        rounding=values.choice("grid_round", ROUNDINGS),
        rope_mode=values.choice("rope_mode", ROPE_MODES),
        lr_mode=values.choice("lr_mode", ("pixel", "latent")),
        segment_latents=values.number("segment_latents", int, 1),
        fps=values.number("fps", float, 1e-3),
        patch=(patch[0], patch[1], patch[2]),
        widths=(widths[0], widths[1], widths[2], widths[3]),
        heads=values.number("heads", int, 1, "8"),
        attention_cells=values.number("attention_cells", int, 1, "8"),
        caption_dim=values.number("caption_dim", int, 0, "0"),
        shortcut="shortcut.weight" in state,
        address_dim=values.number("address_dim", int, 0, "0"),
        stream=values.choice("stream", ("chain", "segment"), "segment"),
        lora=values.text("lora"),
        lora_hash=values.text("lora_hash"),
        title=values.text("title"),
        license=values.text("license"),
        rates=(rate,) if kind == "encoder" else _packed_rates(name, state),
        digest=tensors_digest(state, meaning),
    )
    try:
        card.config  # noqa: B018 (checks that the sizes go together)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return card


def _packed_rates(name: str, state: Mapping[str, Tensor]) -> tuple[Rate, ...]:
    found = {match[1] for key in state if (match := re.fullmatch(r"packer\.([^.]+)\..*", key))}
    if not found:
        raise ValueError(f"{name}: a packing must hold packer.RATE.proj.weight, got no such tensor")
    try:
        return tuple(sorted(map(Rate.parse, found), key=lambda rate: rate.volume))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _expected(card: EncoderCard, state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the card's module has, and the add-on of `state`."""
    if card.kind == "encoder":
        module = HistoryEncoder(card.config, device=torch.device("meta"))
        own = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        return own | _expected_cross_attention(card, state)
    shapes: dict[str, tuple[int, ...]] = {}
    for rate in card.rates:
        kernel = (rate.time, card.patch[1] * rate.height, card.patch[2] * rate.width)
        shapes[f"packer.{rate}.proj.weight"] = (card.inner_dim, card.in_channels, *kernel)
        shapes[f"packer.{rate}.proj.bias"] = (card.inner_dim,)
    return shapes


def _expected_cross_attention(
    card: EncoderCard, state: Mapping[str, Tensor]
) -> dict[str, tuple[int, ...]]:
    """Every block that has one tensor of the add-on has all three weights; biases are optional."""
    found = {match[1] for key in state if (match := CROSS_ATTENTION.fullmatch(key))}
    shapes: dict[str, tuple[int, ...]] = {}
    for block in found:
        for layer, columns in (
            ("k", card.widths[-1]),
            ("v", card.widths[-1]),
            ("o", card.inner_dim),
        ):
            shapes[f"xattn.{block}.{layer}.weight"] = (card.inner_dim, columns)
            if f"xattn.{block}.{layer}.bias" in state:
                shapes[f"xattn.{block}.{layer}.bias"] = (card.inner_dim,)
    return shapes


def _check_tensors(
    name: str, state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    for problem, keys in (
        ("lacks", expected.keys() - state.keys()),
        ("has the foreign", state.keys() - expected.keys()),
    ):
        if keys:
            raise ValueError(f"{name}: {problem} tensor {PREFIX}{min(keys)}")
    for key, shape in expected.items():
        tensor = state[key]
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name}: tensor {PREFIX}{key} must be {list(shape)} by the file's metadata, got "
                f"{list(tensor.shape)}"
            )
        if not tensor.is_floating_point():
            raise ValueError(
                f"{name}: tensor {PREFIX}{key} must hold floating-point numbers, got {tensor.dtype}"
            )
        if not bool(torch.isfinite(tensor.float()).all()):
            raise ValueError(f"{name}: tensor {PREFIX}{key} must be finite, got NaN or infinity")


def tensors_digest(state: Mapping[str, Tensor], meaning: list[str]) -> str:
    """BLAKE3 over names, shapes, types and bytes of tensors and what they mean, 32 digits."""
    digest = blake3.blake3("\n".join(meaning).encode())
    for key, tensor in sorted(state.items()):
        digest.update(f"\n{key} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
