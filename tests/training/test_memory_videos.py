"""From videos with captions to stories, through the tiny model's own VAE and text encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from throughline.memory.rates import Rate
from throughline.training.memory_data import StoryFolder
from throughline.training.memory_model import WanMemoryModel
from throughline.training.pretrained import WanCodec, load_memory_model, part_class
from throughline.training.story_videos import (
    COMMON_FILE,
    CutSettings,
    TimedCaption,
    caption_at,
    encode_videos,
    fit_picture,
    low_pictures,
    read_captions,
    read_segments,
)

SETTINGS = CutSettings(frames=9, segments=3, height=32, width=48, fps=8.0, rates=("2x2x2", "4x4x2"))


class Pictures:
    """A codec that gives pictures back as they are."""

    text_tokens, spatial_stride, temporal_stride = 4, 8, 4

    def latents(self, clip: torch.Tensor) -> torch.Tensor:
        return clip

    def text(self, captions: list[str]) -> torch.Tensor:
        return torch.zeros(len(captions), 1, 1)


@pytest.fixture(scope="module")
def codec(tiny_wan_folder: Path) -> WanCodec:
    return WanCodec(tiny_wan_folder, torch.float32, torch.device("cpu"))


@pytest.fixture(scope="module")
def encoded(codec: WanCodec, tiny_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stories")
    encode_videos(lambda: codec, tiny_videos, folder, SETTINGS)
    return folder


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "a.json",
            '{"captions": [{"time": 2, "caption": "b"}, {"time": 0, "caption": "a"}]}',
            "ab",
        ),
        ("a.json", '[{"time": 0, "caption": "a"}, {"time": 2.0, "caption": "b"}]', "ab"),
        ("a.json", '{"caption": "a"}', "a"),
        ("a.txt", "[0:00] a\n\n[0:02] b\n", "ab"),
        ("a.txt", "[0] a\n[2.0] b", "ab"),
        ("a.txt", "a\n", "a"),
    ],
)
def test_captions_of_every_form(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_captions(tmp_path / "a.mp4")
    assert found == tuple(TimedCaption(2.0 * i, word) for i, word in enumerate(expected))


def test_hours_and_minutes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("[1:02:03.5] late\n[2:30] early", encoding="utf-8")
    times = [(each.time, each.caption) for each in read_captions(tmp_path / "a.mp4")]
    assert times == [(150.0, "early"), (3723.5, "late")]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("b.txt", "a", "has no captions: a.json or a.txt is missing"),
        ("a.txt", "\n", "holds no captions"),
        ("a.json", '{"captions": []}', "holds no captions"),
        ("a.json", '[{"at": 0, "caption": "a"}]', "captions read like"),
        ("a.txt", "[0:00] a\nb", "all lines have a time .* got b"),
    ],
)
def test_captions_that_do_not_read_are_named(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        read_captions(tmp_path / "a.mp4")


def test_the_caption_of_a_moment_is_the_last_that_began() -> None:
    captions = (TimedCaption(1.0, "a"), TimedCaption(4.0, "b"))
    said = [caption_at(captions, time) for time in (0.0, 1.0, 3.9, 4.0, 99.0)]
    assert said == ["a", "a", "a", "b", "b"]


def test_segments_are_whole_and_at_the_wanted_rate(tiny_videos: Path) -> None:
    """54 frames at 8 a second are 27 at 4 and 108 at 16."""
    video = tiny_videos / "one.mp4"
    film = {}
    for fps, count in ((8.0, 6), (4.0, 3), (16.0, 12), (5.0, 3)):
        segments = list(read_segments(video, replace(SETTINGS, fps=fps)))
        assert len(segments) == count
        assert {tuple(each.shape) for each in segments} == {(9, 32, 48, 3)}
        film[fps] = torch.cat(segments)
    every, half, double = film[8.0], film[4.0], film[16.0]
    assert torch.equal(half, every[::2])
    assert torch.equal(double[::2], every) and torch.equal(double[1::2], every)


def test_a_picture_covers_the_size_and_is_cut_around_its_middle() -> None:
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 30:] = 200
    fitted = fit_picture(picture, 32, 48)
    assert fitted.shape == (32, 48, 3) and fitted.dtype == torch.uint8
    assert (fitted[:, :22] == 0).all() and (fitted[:, 26:] == 200).all()
    same = np.random.default_rng(0).integers(0, 255, (32, 48, 3)).astype(np.uint8)
    assert np.array_equal(fit_picture(same, 32, 48).numpy(), same)


def test_stories_are_what_the_training_reads(encoded: Path) -> None:
    data = StoryFolder(encoded)
    assert len(data) == 4 and data.segments == 3  # two videos of six segments
    assert data.latent_shape == (16, 3, 4, 6) and data.text_dim == 20 and data.text_tokens == 512
    for story in data.stories:
        assert story["low.2x2x2"].shape == (3, 16, 2, 2, 4)  # 2x3 tokens make 1x2 cells
        assert story["low.4x4x2"].shape == (3, 16, 2, 2, 2)
        assert all(torch.isfinite(value).all() for value in story.values())
    captions = []
    for path in sorted(encoded.glob("story_*.safetensors")):
        with safe_open(path, "pt") as file:
            captions.append(json.loads(file.metadata()["captions"]))
    # segments are 1.125 s long: their middles stand at 0.56, 1.69, 2.81, 3.94, ...
    walks, harbour, man, garden = "a woman walks", "the harbour", "a man", "the garden"
    assert captions == [[walks] * 3, [harbour] * 3, [man, man, garden], [garden] * 3]
    common = load_file(encoded / COMMON_FILE)
    assert common["grey"].shape == (16, 3, 4, 6) and common["empty_text"].shape == (512, 20)


def test_latents_are_in_the_models_space(codec: WanCodec, tiny_videos: Path) -> None:
    clip = next(iter(read_segments(tiny_videos / "one.mp4", SETTINGS)))
    pixels = clip.permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        raw = codec.vae.encode(pixels).latent_dist.mode()
    config = codec.vae.config
    given = codec.latents(pixels)
    for channel in (0, 15):
        expected = (raw[:, channel] - config.latents_mean[channel]) / config.latents_std[channel]
        assert torch.allclose(given[:, channel], expected, atol=1e-5)


def test_text_is_what_diffusers_pipeline_gives(codec: WanCodec) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    pipeline = WanPipeline(
        tokenizer=codec.tokenizer,
        text_encoder=codec.text_encoder,
        vae=codec.vae,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=None,
    )
    captions = ["a woman walks in  the harbour ", "the garden", ""]
    with torch.no_grad():
        own = pipeline._get_t5_prompt_embeds(captions, max_sequence_length=512)
    given = codec.text(captions)
    assert given.shape == (3, 7, 20)
    assert torch.allclose(given, own[:, :7], atol=1e-5) and (own[:, 7:] == 0).all()
    assert (given[1, 3:] == 0).all() and given[1, :3].abs().max() > 0


def test_small_pictures_are_those_that_the_nodes_make(comfy: ModuleType) -> None:
    """What is trained here is what adapters/low_resolution.py does in ComfyUI."""
    from throughline.adapters.low_resolution import shrunk_pictures
    from throughline.memory.encoder import EncoderConfig

    clip = torch.rand(1, 3, 9, 32, 80, generator=torch.Generator().manual_seed(0))
    for text in ("2x2x2", "4x4x2"):
        rate = Rate.parse(text)
        config = EncoderConfig(in_channels=3, inner_dim=8, rate=rate)
        frames = clip[0, :, [0, 8]].permute(1, 2, 3, 0)
        own = shrunk_pictures(frames, config, 8).permute(3, 0, 1, 2)[None]
        assert torch.allclose(low_pictures(clip, rate, Pictures(), (2, 2)), own, atol=1e-6)


def test_encoding_goes_on_where_it_stopped(
    encoded: Path, tiny_videos: Path, tmp_path: Path
) -> None:
    made = 0

    def counting() -> Pictures:
        nonlocal made
        made += 1
        return Pictures()

    encode_videos(counting, tiny_videos, tmp_path, SETTINGS)
    paths = sorted(tmp_path.glob("story_*.safetensors"))
    assert [path.name for path in paths] == sorted(p.name for p in encoded.glob("story_*"))
    encode_videos(counting, tiny_videos, tmp_path, SETTINGS)
    assert made == 1  # nothing was left to do: no VAE, no text encoder
    times = {path: path.stat().st_mtime_ns for path in paths}
    content = load_file(paths[3])
    # as after a kill within the second video
    paths[3].unlink()
    (tmp_path / "video_00001.json").unlink()
    encode_videos(counting, tiny_videos, tmp_path, SETTINGS)
    assert made == 2
    again = load_file(paths[3])
    assert all(torch.equal(again[name], value) for name, value in content.items())
    assert all(path.stat().st_mtime_ns == times[path] for path in paths[:3])


def test_processes_share_the_videos(tiny_videos: Path, tmp_path: Path) -> None:
    encode_videos(Pictures, tiny_videos, tmp_path, SETTINGS, process=1, processes=2)
    assert {path.name[:11] for path in tmp_path.glob("story_*")} == {"story_00001"}
    assert not (tmp_path / COMMON_FILE).exists()
    encode_videos(Pictures, tiny_videos, tmp_path, SETTINGS, process=0, processes=2)
    assert len(list(tmp_path.glob("story_*"))) == 4 and (tmp_path / COMMON_FILE).exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frames": 10}, r"4n\+1 frames, got 10"),
        ({"height": 40}, "height must be a multiple of 16, got 40"),
        ({"width": 0}, "width must be a multiple of 16, got 0"),
    ],
)
def test_settings_that_do_not_divide_are_named(
    codec: WanCodec, tiny_videos: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        encode_videos(lambda: codec, tiny_videos, tmp_path, replace(SETTINGS, **change))


def test_wrong_folders_are_named(
    codec: WanCodec, encoded: Path, tiny_videos: Path, tmp_path: Path
) -> None:
    make: Callable[[], WanCodec] = lambda: codec  # noqa: E731
    with pytest.raises(ValueError, match="holds no videos"):
        encode_videos(make, tmp_path, tmp_path / "stories", SETTINGS)
    with pytest.raises(ValueError, match="was encoded from .* give another --stories"):
        encode_videos(make, tiny_videos, encoded, replace(SETTINGS, fps=12.0))


def test_the_class_in_the_folder_says_what_trains_it(tiny_wan_folder: Path, tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    model = load_memory_model(tiny_wan_folder, "transformer", torch.bfloat16, cpu)
    assert isinstance(model, WanMemoryModel) and model.text_dim == 20
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert part_class(tiny_wan_folder, "text_encoder") == "UMT5EncoderModel"
    with pytest.raises(ValueError, match="lacks transformer/config.json"):
        load_memory_model(tmp_path, "transformer", torch.float32, cpu)
    with pytest.raises(ValueError, match="holds a AutoencoderKLWan; what can be trained is Wan"):
        load_memory_model(tiny_wan_folder, "vae", torch.float32, cpu)
    (tmp_path / "vae").mkdir()
    config = '{"_class_name": "AutoencoderKLHunyuanVideo"}'
    (tmp_path / "vae" / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(ValueError, match="holds a AutoencoderKLHunyuanVideo; .* --stories"):
        WanCodec(tmp_path, torch.float32, cpu)


def test_both_stages_on_a_real_folder(
    tiny_wan_folder: Path, tiny_videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From videos to the folder that the nodes load, by the commands themselves."""
    pytest.importorskip("accelerate")
    from throughline.memory.weight_format import read_encoder_file
    from throughline.training import encoder_training, memory_training

    arguments = ["--model", str(tiny_wan_folder), "--videos", str(tiny_videos)]
    arguments += ["--out", str(tmp_path), "--size", "32x48", "--fps", "8", "--steps", "2"]
    arguments += ["--segment-frames", "9", "--story-segments", "5", "--widths", "4,4,8,8"]
    arguments += ["--mixed-precision", "no", "--cpu", "--rates", "2x2x2"]
    with pytest.raises(ValueError, match="begins with Stage I's result"):
        memory_training.main([*arguments, "--rank", "3"])
    assert encoder_training.main([*arguments, "--rank", "2"]) == 0
    assert memory_training.main([*arguments, "--rank", "3", "--gradient-checkpointing"]) == 0
    assert "frames encoder 2x2x2" in capsys.readouterr().out

    stem = tiny_wan_folder.name.lower()
    card = read_encoder_file(
        tmp_path / "film" / "memory_encoders" / f"{stem}_2x2x2.safetensors"
    ).card
    assert (card.base, card.inner_dim, card.in_channels, card.fps) == (stem, 48, 16, 8.0)
    assert card.segment_latents == 3 and card.config.widths == (4, 4, 8, 8)
    name = "diffusion_model.blocks.0.self_attn.q.lora_A.weight"
    for stage, rank in (("retrieval", 2), ("film", 2 + 3)):
        lora = load_file(tmp_path / stage / "loras" / f"{stem}_memory.safetensors")
        assert lora[name].shape == (rank, 48)
    with pytest.raises(ValueError, match="lora_rank 3, this is 4: give the same"):
        memory_training.main([*arguments, "--rank", "4"])


def test_a_missing_library_says_how_to_get_it() -> None:
    from throughline.training.libraries import library

    assert library("json") is json
    with pytest.raises(ImportError, match="needs no_such_library .*: pip install no_such_library"):
        library("no_such_library")
