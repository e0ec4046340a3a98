"""Files of memory weights: what is read back, and everything that is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from throughline.memory.encoder import EncoderConfig, HistoryEncoder
from throughline.memory.packing import PatchPacker
from throughline.memory.rates import Rate
from throughline.memory.weight_format import read_encoder_file, write_encoder_file

METADATA = {
    "base": "throughline-demo",
    "in_channels": "4",
    "inner_dim": "12",
    "rate": "2x2x2",
    "grid_round": "ceil",
    "rope_mode": "history_negative",
    "causal": "1",
    "lr_mode": "pixel",
    "memory_t0": "1",
    "segment_latents": "6",
    "fps": "8",
    "widths": "4,4,8,8",
    "heads": "2",
    "caption_dim": "5",
    "stream": "chain",
    "title": "a tiny encoder",
}
CONFIG = EncoderConfig(
    in_channels=4, inner_dim=12, rate=Rate(2, 2, 2), widths=(4, 4, 8, 8), heads=2, caption_dim=5
)


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    """The tensors of a tiny encoder, all of them random."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {key: value.shape for key, value in HistoryEncoder(CONFIG).state_dict().items()}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(tensors=..., without="rate", rate="1x1x1")`: a raw file with changed metadata."""

    def make(
        tensors: dict[str, torch.Tensor] | None = None, without: str = "", **said: str
    ) -> Path:
        path = tmp_path / "tiny.safetensors"
        every = {"format": "pfp-memory", "version": "1", **METADATA, **said}
        every.pop(without, None)
        named = state() if tensors is None else tensors
        named = {f"memory_encoder.{key}": value for key, value in named.items()}
        safetensors.torch.save_file(named, str(path), every)
        return path

    return make


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    card = write_encoder_file(path, state(), METADATA)
    file = read_encoder_file(path)
    assert file.card == card
    assert (card.name, card.kind, card.base, card.stream) == (
        "tiny.safetensors",
        "encoder",
        "throughline-demo",
        "chain",
    )
    assert (card.fps, card.segment_latents, card.lr_mode) == (8.0, 6, "pixel")
    assert card.config == CONFIG
    assert file.tensors.keys() == state().keys()
    assert all(torch.equal(file.tensors[key], value) for key, value in state().items())
    HistoryEncoder(card.config).load_state_dict(file.tensors)


def test_the_digest_is_of_weights_and_meaning(write: Callable[..., Path]) -> None:
    def digest(*args: object, **said: str) -> str:
        return read_encoder_file(write(*args, **said)).card.digest

    plain = digest()
    assert digest() == plain
    assert digest(title="another title") == plain
    assert digest(state(1)) != plain
    assert digest(lr_mode="latent") != plain


def add_on(*blocks: int, bias: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    """The cross-attention add-on of these blocks: width 12 of the model, 8 of the encoder."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {}
    for block in blocks:
        for layer, columns in (("k", 8), ("v", 8), ("o", 12)):
            shapes[f"xattn.{block}.{layer}.weight"] = (12, columns)
            if bias:
                shapes[f"xattn.{block}.{layer}.bias"] = (12,)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.mark.parametrize("bias", [False, True])
def test_an_add_on_is_kept_apart(tmp_path: Path, bias: bool) -> None:
    path, added = tmp_path / "tiny.safetensors", add_on(3, 0, 12, bias=bias)
    card = write_encoder_file(path, state() | added, METADATA)
    file = read_encoder_file(path)
    assert file.tensors.keys() == state().keys()
    HistoryEncoder(card.config).load_state_dict(file.tensors)
    assert file.cross_attention is not None
    assert file.cross_attention.keys() == added.keys()
    assert all(torch.equal(file.cross_attention[key], value) for key, value in added.items())


def test_an_add_on_counts_in_the_digest(write: Callable[..., Path]) -> None:
    plain = read_encoder_file(write())
    assert plain.cross_attention is None
    adds = (add_on(0), add_on(0, seed=1), add_on(1), add_on(0, 1))
    digests = [read_encoder_file(write(state() | more)).card.digest for more in adds]
    assert len({plain.card.digest, *digests}) == 5


def test_packing_has_its_own_kind(write: Callable[..., Path]) -> None:
    packers = {rate: PatchPacker(4, 12, Rate.parse(rate)) for rate in ("2x2x2", "4x4x4")}
    tensors = {
        f"packer.{rate}.{key}": value
        for rate, packer in packers.items()
        for key, value in packer.state_dict().items()
    }
    card = read_encoder_file(write(tensors, kind="packing")).card
    assert card.kind == "packing"
    assert card.rates == (Rate(2, 2, 2), Rate(4, 4, 4))


BAD_METADATA = [
    ({"format": "gguf"}, "'format' must be 'pfp-memory', this is no file of memory weights"),
    ({"version": "2"}, "'version' must be 1 or older: update Throughline, got '2'"),
    ({"version": "one"}, "'version' must be a number, got 'one'"),
    ({"causal": "0"}, "'causal' must be 1"),
    ({"memory_t0": "0"}, "'memory_t0' must be 1"),
    ({"rate": "2x2"}, "'rate' a rate reads like 2x2x2 (height x width x time), got '2x2'"),
    ({"grid_round": "near"}, "'grid_round' must be one of floor, ceil, got 'near'"),
    ({"rope_mode": "x"}, "'rope_mode' must be one of history_negative, history_first, got 'x'"),
    ({"lr_mode": "none"}, "'lr_mode' must be one of pixel, latent, got 'none'"),
    ({"stream": "film"}, "'stream' must be one of chain, segment, got 'film'"),
    ({"kind": "decoder"}, "'kind' must be one of encoder, packing, got 'decoder'"),
    ({"inner_dim": "0"}, "'inner_dim' must be 1 or more, got '0'"),
    ({"fps": "nan"}, "'fps' must be 0.001 or more, got 'nan'"),
    ({"widths": "4,4"}, "'widths' must be 4 whole numbers with commas, got '4,4'"),
    ({"heads": "3"}, "width 8 must divide by 3 heads"),
    ({"rate": "3x3x1"}, "the height stride of an encoder must be a power of 2, got 6"),
]


@pytest.mark.parametrize(("said", "complaint"), BAD_METADATA, ids=lambda v: str(v)[:40])
def test_wrong_metadata_are_named(
    write: Callable[..., Path], said: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ValueError) as caught:
        read_encoder_file(write(**said))
    assert str(caught.value).startswith("tiny.safetensors: ")
    assert complaint in str(caught.value)


def test_missing_metadata_are_named(write: Callable[..., Path]) -> None:
    with pytest.raises(
        ValueError, match=r"tiny.safetensors: metadata must say rope_mode, got noth"
    ):
        read_encoder_file(write(without="rope_mode"))


def test_a_file_without_metadata_is_no_memory_file(tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    safetensors.torch.save_file({"decoder.conv_in.weight": torch.zeros(1)}, str(path))
    with pytest.raises(ValueError, match=r"vae.safetensors: metadata 'format' .* got nothing"):
        read_encoder_file(path)


def changed(**tensors: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The tiny encoder's tensors with some replaced, added or (None) left out."""
    named = {key.replace("__", "."): value for key, value in tensors.items()}
    every: dict[str, torch.Tensor | None] = {**state(), **named}
    return {key: value for key, value in every.items() if value is not None}


BAD_TENSORS = [
    (changed(gate=None), "lacks tensor memory_encoder.gate"),
    (changed(extra=torch.zeros(1)), "has the foreign tensor memory_encoder.extra"),
    (changed(gate=torch.zeros(13)), r"gate must be [12] by the file's metadata, got [13]"),
    (changed(gate=torch.full((12,), math.nan)), "gate must be finite, got NaN or infinity"),
    (changed(gate=torch.zeros(12, dtype=torch.int32)), "gate must hold floating-point numbers"),
    (
        changed(**add_on(2), xattn__2__o__weight=None),
        "lacks tensor memory_encoder.xattn.2.o.weight",
    ),
    (
        changed(xattn__7__k__bias=torch.zeros(12)),
        "lacks tensor memory_encoder.xattn.7.k.weight",
    ),
    (
        changed(**add_on(0), xattn__0__v__weight=torch.zeros(12, 12)),
        "xattn.0.v.weight must be [12, 8] by the file's metadata, got [12, 12]",
    ),
    (
        changed(**add_on(0), xattn__0__o__weight=torch.zeros(8, 12)),
        "xattn.0.o.weight must be [12, 12] by the file's metadata, got [8, 12]",
    ),
    (
        changed(**add_on(0, bias=True), xattn__0__o__bias=torch.zeros(8)),
        "xattn.0.o.bias must be [12] by the file's metadata, got [8]",
    ),
    (
        changed(**add_on(1), xattn__1__k__weight=torch.full((12, 8), math.nan)),
        "xattn.1.k.weight must be finite, got NaN or infinity",
    ),
    (
        changed(**add_on(1), xattn__1__q__weight=torch.zeros(12, 12)),
        "has the foreign tensor memory_encoder.xattn.1.q.weight",
    ),
    (changed(xattn__01__k__weight=torch.zeros(12, 8)), "foreign tensor memory_encoder.xattn.01.k"),
]


@pytest.mark.parametrize(("tensors", "complaint"), BAD_TENSORS, ids=[c for _, c in BAD_TENSORS])
def test_wrong_tensors_are_named(
    write: Callable[..., Path], tensors: dict[str, torch.Tensor], complaint: str
) -> None:
    with pytest.raises(ValueError) as caught:
        read_encoder_file(write(tensors))
    assert str(caught.value).startswith("tiny.safetensors: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize("kept", [4, 200, -100])
def test_a_truncated_file_is_named(write: Callable[..., Path], kept: int) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"^tiny.safetensors: is truncated or not a safetensors"):
        read_encoder_file(path)


def test_only_safetensors_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^e.pt: only safetensors files are read"):
        read_encoder_file(tmp_path / "e.pt")
    with pytest.raises(ValueError, match=r"^e.safetensors: no such file in "):
        read_encoder_file(tmp_path / "e.safetensors")


@pytest.mark.parametrize("prefix", ["", "history_encoder."])
def test_alayaworld_is_recognised(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "alaya.safetensors"
    tensors = {
        "output_gate": torch.zeros(1),
        "hr_stage1.conv.weight": torch.zeros(64, 128, 3, 3, 3),
    }
    tensors["hr_proj.weight"] = torch.zeros(4096, 512, 1, 1, 1)
    safetensors.torch.save_file({prefix + k: v for k, v in tensors.items()}, str(path))
    with pytest.raises(ValueError, match=r"^alaya.*AlayaWorld.*LTX-2.3 \(128 lat.*width 4096\)"):
        read_encoder_file(path)


def test_car_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "car.safetensors"
    names = ("hr_blocks.0.resnet.conv1.weight", "proj_out.weight")
    tensors = {f"memory_encoder.{name}": torch.zeros(3072, 2) for name in names}
    safetensors.torch.save_file(tensors, str(path))
    with pytest.raises(ValueError, match=r"^car.safetensors: is a CaR memory encoder.*width 3072"):
        read_encoder_file(path)
