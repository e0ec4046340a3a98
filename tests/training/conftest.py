"""A tiny video model with random weights in the layout of a real one, and films to train it on."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

WORDS = "a the harbour garden woman man walks stands in red blue coat".split()
FRAMES, HEIGHT, WIDTH, FPS = 9, 32, 48, 8.0  # of a segment: three latent frames, 2x3 tokens each


@pytest.fixture(scope="session")
def tiny_wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of Wan2.1-T2V-1.3B-Diffusers, each of its own class, tiny, saved by the class."""
    pytest.importorskip("diffusers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries' imports
        from diffusers import (
            AutoencoderKLWan,
            FlowMatchEulerDiscreteScheduler,
            WanTransformer3DModel,
        )
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    folder = tmp_path_factory.mktemp("model") / "Tiny-Wan-Diffusers"
    torch.manual_seed(0)
    WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=16,
        out_channels=16,
        text_dim=20,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        rope_max_seq_len=64,
    ).save_pretrained(folder / "transformer")
    AutoencoderKLWan(base_dim=4, z_dim=16, num_res_blocks=1).save_pretrained(folder / "vae")
    text = UMT5Config(
        vocab_size=32,
        d_model=20,
        d_kv=8,
        d_ff=24,
        num_layers=1,
        num_heads=2,
        tie_word_embeddings=True,
    )
    UMT5EncoderModel(text).save_pretrained(folder / "text_encoder")
    vocabulary = {word: number for number, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "tokenizer")
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="session")
def tiny_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films of six segments: one with captions as .json, one as .txt."""
    iio = pytest.importorskip("imageio.v3")
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("one", "two")):
        frames = moving_pictures(6 * FRAMES, seed=number)
        iio.imwrite(folder / f"{name}.mp4", frames, plugin="pyav", codec="mpeg4", fps=FPS)
    (folder / "one.json").write_text(
        '{"captions": [{"time": 0.0, "caption": "a woman walks"},'
        ' {"time": 3.0, "caption": "the harbour"}]}',
        encoding="utf-8",
    )
    (folder / "two.txt").write_text("[0:00] a man\n[0:02.5] the garden\n", encoding="utf-8")
    return folder


def moving_pictures(frames: int, seed: int) -> np.ndarray:
    """A bright square that moves over a gradient, `t h w 3` in uint8."""
    generator = np.random.default_rng(seed)
    colour = generator.integers(64, 255, 3)
    pictures = np.zeros((frames, HEIGHT, WIDTH, 3), np.uint8)
    pictures[..., 0] = np.linspace(0, 120, WIDTH, dtype=np.uint8)
    for index in range(frames):
        left = (3 * index) % (WIDTH - 12)
        pictures[index, 8:20, left : left + 12] = colour
    return pictures
