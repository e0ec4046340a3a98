"""`dev.py convert millivid`: the authors' format, written here with tiny weights, read exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from development.converting import run
from development.environment import Problem
from development.tiny_millivid import (
    TINY,
    autoencoder_shapes,
    random_state,
    video_shapes,
    write_release,
)
from throughline.memory.millivid_autoencoder import MilliVidAutoencoder
from throughline.memory.millivid_format import read_millivid_file
from throughline.memory.millivid_video import CodeBlock, MilliVidVideo

from ..memory.slow_millivid import Token, video

CLOSE = 1e-5


def convert(*arguments: Any) -> None:
    assert run(["millivid", *map(str, arguments)]) == 0


@torch.no_grad()
def test_converted_files_compute_what_the_constants_say(tmp_path: Path) -> None:
    states = {
        "autoencoder_128000": random_state(autoencoder_shapes()),
        "millivid_192k": random_state(video_shapes(), seed=1),
    }
    files = [write_release(tmp_path / f"{name}.ckpt", state) for name, state in states.items()]
    convert(*files, "--out", tmp_path / "models")
    file = read_millivid_file(tmp_path / "models" / "autoencoder_128000.safetensors")
    autoencoder = MilliVidAutoencoder(file.sizes)  # type: ignore[arg-type]
    autoencoder.load_state_dict(file.tensors)
    assert autoencoder.sizes.grid == 16 and autoencoder.sizes.patch_order == "channel first"
    for name, tensor in states["autoencoder_128000"].items():
        assert torch.equal(file.tensors[name], tensor)
    codes = torch.rand(4, TINY.channels, generator=torch.Generator().manual_seed(0)) * 2 - 1
    file = read_millivid_file(tmp_path / "models" / "millivid_192k.safetensors")
    assert (file.rollout, file.windows) == ("coarse to fine", (3, 12, 48, 192))
    network = MilliVidVideo(file.sizes)  # type: ignore[arg-type]
    network.load_state_dict(file.tensors)
    blocks = [
        CodeBlock(3, torch.tensor([8]), codes.view(1, 1, 4, -1), torch.tensor([2]), 0.6),
        CodeBlock(3, torch.tensor([5]), codes.flip(0).view(1, 1, 4, -1), torch.tensor([1]), 0.0),
    ]
    tokens = [
        Token(code, 3, frame, cell // 2, cell % 2, action, time)
        for frame, action, time, rows in ((8, 2, 0.6, codes), (5, 1, 0.0, codes.flip(0)))
        for cell, code in enumerate(rows)
    ]
    direct = torch.stack(video(states["millivid_192k"], tokens, TINY.depth))[:4]
    assert direct.std() > 0.1
    assert (network(blocks[0], blocks[1:])[0, 0] - direct).abs().max() < CLOSE


def test_the_variants_say_what_they_are(tmp_path: Path) -> None:
    plain = random_state({f"module.{name}": shape for name, shape in video_shapes().items()})
    packed = random_state(video_shapes(framepack=True))
    first = write_release(tmp_path / "small.ckpt", plain)
    convert(first, "--out", tmp_path / "a", "--windows", "1,4,16,64", "--dtype", "bf16")
    file = read_millivid_file(tmp_path / "a" / "small.safetensors")
    assert file.windows == (1, 4, 16, 64)
    assert file.tensors["dit.patchify.weight"].dtype == torch.bfloat16
    convert(first, "--out", tmp_path / "b", "--full-resolution")
    file = read_millivid_file(tmp_path / "b" / "small.safetensors")
    assert (file.rollout, file.windows) == ("full resolution", (14,))
    convert(write_release(tmp_path / "packed.ckpt", packed), "--out", tmp_path / "c")
    assert read_millivid_file(tmp_path / "c" / "packed.safetensors").rollout == "FramePack"
    pooled = write_release(tmp_path / "pooled.ckpt", random_state(autoencoder_shapes()))
    convert(pooled, "--out", tmp_path / "d", "--pooled")
    assert read_millivid_file(tmp_path / "d" / "pooled.safetensors").sizes.pooled  # type: ignore[union-attr]


@pytest.mark.parametrize("order", ["channel first", "channel last"])
def test_the_order_of_pixels_is_seen_in_smooth_filters(tmp_path: Path, order: str) -> None:
    """Filters as trained decoders have them: smooth over a patch, of any size in each colour."""
    state = random_state(autoencoder_shapes())
    side, width = TINY.patch, TINY.width
    ramp = torch.linspace(0.0, 1.0, side)
    smooth = ramp.view(1, side, 1, 1) + 2 * ramp.view(1, 1, side, 1)
    filters = smooth * torch.randn(3, 1, 1, width, generator=torch.Generator().manual_seed(0))
    if order == "channel last":
        filters = filters.permute(1, 2, 0, 3)
    state["decoder.unpatchify.weight"] = filters.reshape(-1, width).contiguous()
    convert(write_release(tmp_path / "ae.ckpt", state), "--out", tmp_path / "models")
    file = read_millivid_file(tmp_path / "models" / "ae.safetensors")
    assert file.sizes.patch_order == order  # type: ignore[union-attr]


def test_what_is_no_checkpoint_of_theirs_is_refused_by_name(tmp_path: Path) -> None:
    out = tmp_path / "models"
    good = write_release(tmp_path / "good.ckpt", random_state(video_shapes()))
    foreign = write_release(tmp_path / "foreign.ckpt", {"unet.weight": torch.ones(2)})
    bare = tmp_path / "bare.ckpt"
    torch.save({"generator": {"a": torch.ones(1)}}, bare)
    half = random_state(video_shapes())
    del half["dit.dit.dit.blocks.1.mlp.fc2.bias"]
    broken = write_release(tmp_path / "broken.ckpt", half)
    evil = tmp_path / "evil.ckpt"
    torch.save({"model": {"a": _Evil()}}, evil)
    for file, message in (
        (foreign, "foreign.ckpt is no autoencoder and no video model of MilliVid: it holds unet"),
        (bare, "bare.ckpt must hold the key 'model' as MilliVid's files do, got"),
        (broken, r"broken.ckpt: lacks tensor dit.dit.dit.blocks.1.mlp.fc2.bias"),
        (evil, "evil.ckpt is no file of weights that can be read safely"),
        (tmp_path / "none.ckpt", "none.ckpt is no file"),
    ):
        with pytest.raises(Problem, match=message):
            convert(good, file, "--out", out)
        assert not out.exists()  # nothing is written unless every file can be read
    with pytest.raises(Problem, match="config 'windows' must hold 4 numbers here, got 2"):
        convert(good, "--out", out, "--windows", "3,12")
    convert(good, "--out", out)
    with pytest.raises(Problem, match=r"good.safetensors exists already"):
        convert(good, "--out", out)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))
