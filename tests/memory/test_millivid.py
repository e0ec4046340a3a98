"""The authors' networks of MilliVid against a second writing of the documented constants."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from development.tiny_millivid import (
    RELEASED,
    TINY,
    autoencoder_shapes,
    random_state,
    video_shapes,
    write_converted,
)
from throughline.memory.millivid_autoencoder import MilliVidAutoencoder
from throughline.memory.millivid_format import (
    autoencoder_sizes,
    kind_of,
    read_millivid_file,
    video_sizes,
)
from throughline.memory.millivid_layers import frequencies
from throughline.memory.millivid_video import (
    CodeBlock,
    MilliVidVideo,
    denoise,
    patches_of,
    positions,
    sample_times,
    signal_and_noise,
)

from .slow_millivid import Token, decode, encode, video

GRID = 8
CLOSE = 1e-5
"""The issue's bound on the difference to a direct computation."""


def autoencoder(**changes: object) -> tuple[MilliVidAutoencoder, dict[str, Tensor]]:
    state = random_state(autoencoder_shapes())
    settings = {"grid": GRID, "patch_order": "channel first", "pooled": False, **changes}
    module = MilliVidAutoencoder(autoencoder_sizes(state, **settings))  # type: ignore[arg-type]
    module.load_state_dict(state)
    return module, state


def video_model(framepack: bool = False) -> tuple[MilliVidVideo, dict[str, Tensor]]:
    state = random_state(video_shapes(framepack=framepack), seed=1)
    module = MilliVidVideo(video_sizes(state))
    module.load_state_dict(state)
    return module, state


def pictures(count: int = 1) -> Tensor:
    side = GRID * TINY.patch
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_the_encoder_is_the_documented_one() -> None:
    module, state = autoencoder()
    frames = pictures(2)
    fast = module.encode(frames)
    for index, frame in enumerate(frames):
        slow = encode(state, frame, TINY.levels, TINY.depth, TINY.patch)
        for level, codes in enumerate(slow):
            assert codes.std() > 0.1
            assert (fast[level][index] - codes).abs().max() < CLOSE


@torch.no_grad()
@pytest.mark.parametrize("level", range(TINY.levels))
def test_the_decoder_is_the_documented_one(level: int) -> None:
    module, state = autoencoder()
    generator = torch.Generator().manual_seed(3)
    codes = torch.rand(module.sizes.tokens[level], TINY.channels, generator=generator) * 2 - 1
    slow = decode(state, level, codes, module.sizes.sides, TINY.depth, TINY.patch)
    assert slow.std() > 0.1
    assert (module.decode(level, codes[None])[0] - slow).abs().max() < CLOSE


def block(level: int, frames: range, time: float, told: bool, seed: int) -> CodeBlock:
    side = 4 >> level
    generator = torch.Generator().manual_seed(seed)
    return CodeBlock(
        level=level,
        frames=torch.tensor(list(frames)),
        codes=torch.randn(1, len(frames), side * side, TINY.channels, generator=generator),
        actions=torch.tensor([(7 * f) % 3 for f in frames]) if told else None,
        time=time,
    )


def tokens_of(one: CodeBlock) -> list[Token]:
    side = math.isqrt(one.codes.shape[2])
    return [
        Token(
            one.codes[0, index, cell],
            one.level,
            int(frame),
            cell // side,
            cell % side,
            None if one.actions is None else int(one.actions[index]),
            one.time,
        )
        for index, frame in enumerate(one.frames)
        for cell in range(side * side)
    ]


@torch.no_grad()
@pytest.mark.parametrize("told", [True, False])
def test_the_video_model_is_the_documented_one(told: bool) -> None:
    """A step as the schedule makes it: a target in the middle, context before, beside and after."""
    module, state = video_model()
    target = block(1, range(20, 22), 0.37, told, 0)
    context = [
        block(0, range(19, 20), 0.0, told, 1),
        block(2, range(20, 24), 0.0, told, 2),
        block(2, range(15, 19), 0.0, told, 3),
    ]
    fast = module(target, context)
    every = [token for one in (target, *context) for token in tokens_of(one)]
    slow = torch.stack(video(state, every, TINY.depth))[: target.tokens]
    assert slow.std() > 0.1
    assert (fast.flatten(0, 2) - slow).abs().max() < CLOSE
    assert (module(target, context[::-1]) - fast).abs().max() < CLOSE  # order means nothing


@torch.no_grad()
def test_frames_count_from_the_first_that_a_step_sees() -> None:
    module, _ = video_model()
    near = module(block(0, range(3, 5), 0.5, True, 0), [block(1, range(0, 3), 0.0, True, 1)])
    far = module(
        block(0, range(3003, 3005), 0.5, True, 0), [block(1, range(3000, 3003), 0.0, True, 1)]
    )
    assert torch.equal(near, far)  # 3000 frames are a multiple of the actions' period


def test_the_released_sizes_and_names_are_those_that_were_counted() -> None:
    shapes = autoencoder_shapes(RELEASED)
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with torch.device("meta"):
        module = MilliVidAutoencoder(autoencoder_sizes(empty, 16, "channel first", False))
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == shapes
    assert sum(weight.numel() for weight in module.encoder.parameters()) == 85_637_408
    assert sum(weight.numel() for weight in module.decoder.parameters()) == 128_160_768
    assert module.sizes.tokens == (256, 64, 16, 4)
    shapes = video_shapes(RELEASED)
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with torch.device("meta"):
        video_module = MilliVidVideo(video_sizes(empty))
    assert {n: tuple(value.shape) for n, value in video_module.state_dict().items()} == shapes
    assert sum(weight.numel() for weight in video_module.parameters()) == 129_566_240


def test_frequencies_and_positions_are_the_documented_ones() -> None:
    assert torch.allclose(frequencies(128), 1e4 ** (-torch.arange(128) / 127), rtol=1e-6)
    assert torch.allclose(frequencies(192)[[0, -1]], torch.tensor([1.0, 1e-4]))
    places = positions(torch.tensor([0, 5]), 2, 768)
    assert places.shape == (2, 4, 768)
    one = places[1, 2]  # frame 5, row 1, column 0
    for part, (value, wave) in enumerate(
        [(5, math.sin), (5, math.cos), (1, math.sin), (1, math.cos), (0, math.sin), (0, math.cos)]
    ):
        for index in (0, 60, 127):
            expected = wave(value * 1e4 ** (-index / 127))
            assert float(one[part * 128 + index]) == pytest.approx(expected, abs=1e-6)
    assert not positions(torch.tensor([3]), 1, 26)[..., 24:].any()  # 26 = 6 x 4 and a tail of zeros


def test_the_noise_schedule_has_the_documented_values() -> None:
    assert signal_and_noise(0.0) == pytest.approx((0.99999985, 5.53e-4), rel=1e-3)
    assert signal_and_noise(0.0)[0] == pytest.approx(0.99999985, abs=1e-8)
    assert signal_and_noise(0.5) == pytest.approx((0.70711, 0.70711), abs=1e-5)
    assert signal_and_noise(1.0) == pytest.approx(signal_and_noise(0.0)[::-1])
    for time in (0.0, 0.1, 0.7, 1.0):
        alpha, sigma = signal_and_noise(time)
        assert abs(2 * math.log(alpha / sigma)) <= 15.0 + 1e-9
        assert alpha**2 + sigma**2 == pytest.approx(1.0)


def test_sampling_visits_both_ends_and_finds_the_data() -> None:
    """With the true velocity of one picture every step expects that picture."""
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(2, 3, 4, 5, generator=generator).double() for _ in range(2))
    seen: list[float] = []

    def velocity(noisy: Tensor, time: float) -> Tensor:
        seen.append(time)
        alpha, sigma = signal_and_noise(time)
        expected = (noisy - alpha * data) / sigma
        return alpha * expected - sigma * data

    counted: list[int] = []
    clean = denoise(noise, velocity, 50, lambda step, _: counted.append(step))
    assert seen == list(sample_times(50)) and (seen[0], seen[-1]) == (1.0, 0.0)
    assert seen[1] - seen[0] == pytest.approx(-1 / 49)
    assert counted == list(range(1, 51))
    assert (clean - data).abs().max() < 1e-6
    with pytest.raises(ValueError, match="steps must be 1 or more, got 0"):
        denoise(noise, velocity, 0, lambda step, _: None)


@torch.no_grad()
def test_every_level_is_a_code_of_its_own() -> None:
    """Frames are coded one by one; only the kept level's codes reach the picture."""
    module, _ = autoencoder()
    frames = pictures(3)
    codes = module.encode(frames)
    again = module.encode(frames[[2, 0, 1]])
    for one, other in zip(codes, again, strict=True):
        assert (one[[2, 0, 1]] - other).abs().max() < CLOSE
        assert one.abs().max() < 1.0
    with pytest.raises(ValueError, match=r"cells, by level, got 16"):
        module.decode(0, codes[1])
    with pytest.raises(ValueError, match="must be 32x32 pixels in 3 colours, got 32x16 in 3"):
        module.encode(frames[:, :, :16])


@torch.no_grad()
def test_the_order_of_pixels_in_a_patch_turns_weights_into_each_other() -> None:
    """Weights of one order, their pixels put in the other, are the same autoencoder."""
    first, state = autoencoder()
    last, _ = autoencoder(patch_order="channel last")
    side = TINY.patch
    order = torch.arange(3 * side**2).view(3, side, side).permute(1, 2, 0).reshape(-1)
    moved = dict(state)
    moved["encoder.patchify.weight"] = state["encoder.patchify.weight"][:, order]
    for part in ("weight", "bias"):
        moved[f"decoder.unpatchify.{part}"] = state[f"decoder.unpatchify.{part}"][order]
    last.load_state_dict(moved)
    frames = pictures()
    for level, (one, other) in enumerate(
        zip(first.encode(frames), last.encode(frames), strict=True)
    ):
        assert (one - other).abs().max() < CLOSE
        assert (first.decode(level, one) - last.decode(level, one)).abs().max() < CLOSE


@torch.no_grad()
def test_pooled_codes_are_averages_of_level_0() -> None:
    learned, _ = autoencoder()
    pooled, _ = autoencoder(pooled=True)
    frames = pictures()
    finest = learned.encode(frames)[0]
    levels = pooled.encode(frames)
    assert torch.equal(levels[0], finest)
    image = finest[0].view(GRID, GRID, -1)
    mean = (image[0, 0] + image[0, 1] + image[1, 0] + image[1, 1]) / 4
    assert torch.allclose(levels[1][0, 0], mean, atol=1e-6)
    assert torch.allclose(levels[3][0].mean(0), finest[0].mean(0), atol=1e-6)


@torch.no_grad()
def test_framepack_reads_the_past_in_larger_patches() -> None:
    module, state = video_model(framepack=True)
    assert module.sizes.patched_levels == 4
    codes = torch.arange(16.0).view(1, 1, 16, 1).repeat(1, 1, 1, TINY.channels)
    patched = patches_of(codes, 1)
    assert patched.shape == (1, 1, 4, 4 * TINY.channels)
    assert patched[0, 0, 1, :4].tolist() == [2.0, 3.0, 6.0, 7.0]  # channel 0 of the second patch
    assert torch.equal(patches_of(codes, 0), codes)
    target, past = block(0, range(4, 5), 0.5, True, 0), block(0, range(0, 4), 0.0, True, 1)
    packed = CodeBlock(1, past.frames, patches_of(past.codes, 1), past.actions, 0.0)
    velocity = module(target, [packed])
    with torch.no_grad():
        module.dit.patchify[1].weight.mul_(2.0)
    assert (module(target, [packed]) - velocity).abs().max() > 1e-3
    assert "dit.patchify.3.weight" in state


def test_a_file_is_what_its_tensors_and_config_say(tmp_path: Path) -> None:
    path = write_converted(
        tmp_path / "ae.safetensors",
        random_state(autoencoder_shapes()),
        kind="autoencoder",
        grid=GRID,
        patch_order="channel first",
        pooled=False,
    )
    file = read_millivid_file(path)
    assert (file.kind, file.rollout, file.windows) == ("autoencoder", None, ())
    assert file.sizes == autoencoder()[0].sizes
    assert kind_of(["unet.weight"]) is None


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({}, {"windows": [3, 12]}, "video.safetensors: config 'windows' must hold 4 numbers"),
        ({}, {"windows": [3, 12, "48", 192]}, "must be a list of whole numbers from 1"),
        ({}, {"rollout": "FramePack"}, "where every level has its own first projection"),
        ({}, {"rollout": "backwards"}, "config 'rollout' must be one of coarse to fine"),
        ({}, {"kind": "autoencoder"}, "must be 'video' for these tensors, got 'autoencoder'"),
        ({"extra": (3,)}, {}, "has the foreign tensor extra"),
        ({"dit.patchify.bias": None}, {}, "lacks tensor dit.patchify.bias"),
        ({"dit.patchify.bias": (5,)}, {}, r"dit.patchify.bias must hold .* of shape \[24\]"),
        ({"dit.unpatchify.linear.weight": None}, {}, "holds no MilliVid weights"),
        ({"dit.dit.dit.blocks.0.attn.q_norm.weight": None}, {}, "q_norm.weight of 1 axes"),
        ({"dit.dit.dit.blocks.0.attn.q_norm.weight": (7,)}, {}, "must divide by its heads"),
    ],
)
def test_wrong_files_say_what_is_wrong(
    tmp_path: Path,
    change: dict[str, tuple[int, ...] | None],
    config: dict[str, object],
    message: str,
) -> None:
    state = random_state(video_shapes())
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = torch.ones(shape)
    said = {"kind": "video", "rollout": "coarse to fine", "windows": [1, 4, 16, 64], **config}
    path = write_converted(tmp_path / "video.safetensors", state, **said)
    with pytest.raises(ValueError, match=message):
        read_millivid_file(path)
