"""MilliVid's rollout with the authors' networks: what each step is given, and what it writes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from development.tiny_millivid import (
    TINY,
    TinySizes,
    autoencoder_shapes,
    random_state,
    video_shapes,
    write_converted,
)

STATE = {"kind": "video", "rollout": "coarse to fine", "windows": [3, 12, 48, 192]}
HISTORY, CHUNK = 255, 192


def load(comfy: ModuleType, path: Path, sizes: TinySizes = TINY, **config: Any) -> Any:
    from throughline.adapters.millivid import load_video

    packed = config.get("rollout") == "FramePack"
    state = random_state(video_shapes(sizes, framepack=packed), seed=1)
    return load_video(write_converted(path / "video.safetensors", state, **{**STATE, **config}))


def codes_of(frames: int, sides: tuple[int, ...] = (8, 4, 2, 1)) -> Any:
    from throughline.memory.millivid_codes import VideoCodes

    generator = torch.Generator().manual_seed(0)
    return VideoCodes(
        [torch.randn(frames, side * side, TINY.channels, generator=generator) for side in sides]
    )


def seen_by_steps(
    video: Any, codes: Any, monkeypatch: pytest.MonkeyPatch, chunk: int, cfg: float = 1.0
) -> list[tuple[Any, list[Any]]]:
    """What the network is given, one evaluation per step; it answers with zeros."""
    from throughline.adapters.millivid import StepSettings, roll_out

    calls: list[tuple[Any, list[Any]]] = []

    def forward(target: Any, context: list[Any]) -> Tensor:
        calls.append((target, list(context)))
        return torch.zeros_like(target.codes)

    monkeypatch.setattr(video.network, "forward", forward)
    start = codes.stop
    codes.extend(chunk)
    actions = torch.arange(codes.stop) % 3
    for _, make in roll_out(video, codes, start, actions, StepSettings(1, cfg, 7)):
        make(lambda number, clean: None)
    return calls


def spans(blocks: list[Any]) -> list[tuple[int, int, int]]:
    """(level, first, after the last) of each block, relative to the chunk."""
    return [
        (one.level, int(one.frames[0]) - HISTORY, int(one.frames[-1]) + 1 - HISTORY)
        for one in blocks
    ]


def test_the_network_is_given_the_worked_example(
    comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Section 3.4 of the shared design, frames relative to the chunk."""
    video, codes = load(comfy, tmp_path), codes_of(HISTORY, (2, 1, 1, 1))
    calls = seen_by_steps(video, codes, monkeypatch, CHUNK)
    assert len(calls) == 85
    expected = [
        ((3, 0, 192), [(0, -3, 0), (1, -15, -3), (2, -63, -15), (3, -255, -63)]),
        ((2, 0, 48), [(0, -3, 0), (1, -15, -3), (2, -63, -15), (3, 0, 192)]),
        ((1, 0, 12), [(0, -3, 0), (1, -15, -3), (2, 0, 48), (3, -63, -15), (3, 48, 192)]),
        (
            (0, 0, 3),
            [(0, -3, 0), (1, 0, 12), (2, -15, -3), (2, 12, 48), (3, -63, -15), (3, 48, 192)],
        ),
        (
            (0, 3, 6),
            [
                (0, 0, 3),
                (1, -3, 0),
                (1, 3, 12),
                (2, -15, -3),
                (2, 12, 48),
                (3, -63, -15),
                (3, 48, 192),
            ],
        ),
    ]
    for (target, context), (wanted, around) in zip(calls, expected, strict=False):
        assert spans([target]) == [wanted]
        assert spans(context) == around
    for target, context in calls:
        assert target.time == 1.0 and all(one.time == 0.0 for one in context)
        for one in (target, *context):
            assert torch.equal(one.actions, one.frames % 3)  # the action that led to each frame


def test_a_step_writes_its_target_and_nothing_else(
    comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network's answer of zeros at pure noise leaves sigma * 0 - ... = alpha * noise."""
    from throughline.memory.millivid_video import signal_and_noise

    video = load(comfy, tmp_path, windows=[1, 2, 4, 8])
    codes = codes_of(15)
    before = [codes.read(level, 0, 15).clone() for level in range(4)]
    calls = seen_by_steps(video, codes, monkeypatch, 8)
    assert len(calls) == 15
    alpha, _ = signal_and_noise(1.0)
    for target, _ in calls:
        first, after = int(target.frames[0]), int(target.frames[-1]) + 1
        written = codes.read(target.level, first, after)
        assert torch.allclose(written, alpha * target.codes[0])
    for level in range(4):
        assert torch.equal(codes.read(level, 0, 15), before[level])
        assert codes.read(level, 15, 23).abs().min() > 0  # each cell was a target


def test_guidance_compares_with_noise_and_no_action(
    comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, codes = load(comfy, tmp_path, windows=[1, 2, 4, 8]), codes_of(15)
    calls = seen_by_steps(video, codes, monkeypatch, 8, cfg=1.5)
    assert len(calls) == 30
    (told, clean), (plain, noised) = calls[0], calls[1]
    assert told.actions is not None and plain.actions is None
    assert torch.equal(told.codes, plain.codes)
    for one, other in zip(clean, noised, strict=True):
        assert (other.time, other.actions) == (1.0, None)
        assert (
            abs(float(torch.corrcoef(torch.stack([one.codes, other.codes]).flatten(1))[0, 1])) < 0.4
        )


@pytest.mark.parametrize(
    ("rollout", "windows", "chunk", "count"),
    [("full resolution", [4], 2, 2), ("FramePack", [1, 2, 4, 8], 1, 5)],
)
def test_the_baselines_see_what_they_were_trained_with(
    comfy: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rollout: str,
    windows: list[int],
    chunk: int,
    count: int,
) -> None:
    video, codes = load(comfy, tmp_path, rollout=rollout, windows=windows), codes_of(15)
    ((target, context),) = seen_by_steps(video, codes, monkeypatch, chunk)
    assert target.codes.shape == (1, chunk, 64, TINY.channels)
    assert len(context) + 1 == count
    if rollout == "FramePack":
        assert [one.codes.shape[2:] for one in context] == [
            (64, 4),
            (16, 16),
            (4, 64),
            (1, 256),
        ]


def test_a_video_model_needs_its_autoencoder(comfy: ModuleType, tmp_path: Path) -> None:
    from throughline.adapters.millivid import check_pair, load_autoencoder, load_video

    video = load(comfy, tmp_path)
    other = TinySizes(channels=6)
    path = write_converted(
        tmp_path / "ae.safetensors",
        random_state(autoencoder_shapes(other)),
        kind="autoencoder",
        grid=8,
        patch_order="channel first",
        pooled=False,
    )
    with pytest.raises(
        ValueError, match=r"4 channels and 4 levels, got an autoencoder .* of 6 and"
    ):
        check_pair(video, load_autoencoder(path))
    with pytest.raises(ValueError, match="autoencoder must be one of MilliVid's, got the video"):
        load_autoencoder(tmp_path / "video.safetensors")
    with pytest.raises(ValueError, match="video_model must be one of MilliVid's, got the autoenc"):
        load_video(path)
    with pytest.raises(ValueError, match="video.safetensors: windows must nest"):
        load(comfy, tmp_path, windows=[3, 4, 8, 16])


@torch.no_grad()
def test_pictures_become_codes_and_pictures_again(comfy: ModuleType, tmp_path: Path) -> None:
    """More frames than go through at a time, on ComfyUI's device; as the bare network does it."""
    from throughline.adapters.millivid import FRAMES_AT_ONCE, load_autoencoder

    path = write_converted(
        tmp_path / "ae.safetensors",
        random_state(autoencoder_shapes()),
        kind="autoencoder",
        grid=8,
        patch_order="channel first",
        pooled=False,
    )
    autoencoder = load_autoencoder(path)
    frames = torch.rand(FRAMES_AT_ONCE + 3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    codes = autoencoder.encode(frames)
    bare = autoencoder.network.encode(frames)
    for level, (one, other) in enumerate(zip(codes, bare, strict=True)):
        assert torch.allclose(one, other, atol=1e-5)
        pictures = autoencoder.decode(level, one)
        assert pictures.shape == (len(frames), 32, 32, 3)
        assert 0.0 <= pictures.min() and pictures.max() <= 1.0
