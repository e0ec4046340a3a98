"""Interleaved keyframes on diffusers' Flux: the hybrid mask, the training, the LoRA it gives."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from throughline.training.interleaved_model import InterleavedFlux, pack, picture_ids, unpack
from throughline.training.keyframe_films import (
    KeyframeFilms,
    PictureSize,
    encode_films,
    write_film,
)

CHANNELS, WIDTH, TEXT, POOLED = 16, 64, 20, 12
FILMS, PAIRS, HEIGHT, COLUMNS, TOKENS = 2, 3, 4, 6, 5


def tiny_flux(seed: int = 0, **changes: Any) -> Any:
    """FluxTransformer2DModel with random weights large enough to matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries' imports
        from diffusers import FluxTransformer2DModel

    config = {
        "patch_size": 1,
        "in_channels": 4 * CHANNELS,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "joint_attention_dim": TEXT,
        "pooled_projection_dim": POOLED,
        "guidance_embeds": True,
        "axes_dims_rope": (8, 12, 12),
    }
    model = FluxTransformer2DModel(**{**config, **changes})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def inputs(seed: int = 0, films: int = FILMS, pairs: int = PAIRS) -> list[Tensor]:
    """Noisy latents, levels, text and pooled text."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(films, pairs, CHANNELS, HEIGHT, COLUMNS, generator=generator),
        torch.rand(films, pairs, generator=generator),
        torch.randn(films, pairs, TOKENS, TEXT, generator=generator),
        torch.randn(films, pairs, POOLED, generator=generator),
    ]


@torch.no_grad()
def sequence_reference(model: Any, given: list[Tensor], order: str, guidance: float) -> Tensor:
    """The slow way: each film one sequence [text 1 | picture 1 | text 2 ...] with an explicit mask
    in the single blocks and each token modulated by its own pair's noise level."""
    from diffusers.models.embeddings import apply_rotary_emb

    latents, levels, text, pooled = given
    ids = torch.cat([torch.zeros(TOKENS, 3), picture_ids(HEIGHT // 2, COLUMNS // 2)])
    rotary = model.pos_embed(ids)
    length = len(ids)
    out = torch.empty_like(latents)
    for film in range(len(latents)):
        states, embeddings = [], []
        for pair in range(latents.shape[1]):
            picture = model.x_embedder(pack(latents[film, pair][None]))
            words = model.context_embedder(text[film, pair][None])
            embedding = model.time_text_embed(
                levels[film, pair][None] * 1000,
                torch.tensor([guidance * 1000]),
                pooled[film, pair][None],
            )
            for block in model.transformer_blocks:
                words, picture = block(picture, words, embedding, rotary)
            states.append(torch.cat([words, picture], dim=1))
            embeddings.append(embedding)
        pairs = len(states)
        owner = torch.arange(pairs).repeat_interleave(length)
        mask = owner[:, None] >= owner if order == "causal" else torch.ones(len(owner), len(owner))
        whole = tuple(part.repeat(pairs, 1) for part in rotary)
        x = torch.cat(states, dim=1)
        for block in model.single_transformer_blocks:
            parts = [
                block.norm(part, emb=embedding)
                for part, embedding in zip(x.split(length, dim=1), embeddings, strict=True)
            ]
            normed = torch.cat([part for part, _ in parts], dim=1)
            gate = torch.cat([g[:, None].expand(-1, length, -1) for _, g in parts], dim=1)
            attn = block.attn
            q, k, v = (
                layer(normed).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                for layer in (attn.to_q, attn.to_k, attn.to_v)
            )
            q, k = (
                apply_rotary_emb(norm(y), whole, sequence_dim=2)
                for norm, y in ((attn.norm_q, q), (attn.norm_k, k))
            )
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            weights = scores.masked_fill(mask == 0, float("-inf")).softmax(dim=-1)
            mixed = (weights @ v).transpose(1, 2).flatten(2)
            feed = block.act_mlp(block.proj_mlp(normed))
            x = x + gate * block.proj_out(torch.cat([mixed, feed], dim=2))
        for pair, part in enumerate(x.split(length, dim=1)):
            picture = model.norm_out(part[:, TOKENS:], embeddings[pair])
            out[film, pair] = unpack(model.proj_out(picture), HEIGHT, COLUMNS)[0]
    return out


@pytest.mark.parametrize("order", ["full", "causal"])
def test_pairs_in_the_batch_are_one_sequence_with_a_mask(order: Any) -> None:
    flux, given = tiny_flux(), inputs()
    with torch.no_grad():
        found = InterleavedFlux(flux, 2.5, order)(*given)
    wanted = sequence_reference(flux, given, order, 2.5)
    assert float(wanted.std()) > 0.1
    assert torch.allclose(found, wanted, atol=1e-5, rtol=0)


def test_a_single_pair_is_what_diffusers_computes() -> None:
    flux, given = tiny_flux(), inputs(pairs=1)
    latents, levels, text, pooled = (x[:, 0] for x in given)
    with torch.no_grad():
        own = flux(
            hidden_states=pack(latents),
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=levels,
            guidance=torch.full((FILMS,), 3.5),
            img_ids=picture_ids(HEIGHT // 2, COLUMNS // 2).float(),
            txt_ids=torch.zeros(TOKENS, 3),
            return_dict=False,
        )[0]
        found = InterleavedFlux(flux, 3.5)(*given)
    assert torch.allclose(found[:, 0], unpack(own, HEIGHT, COLUMNS), atol=1e-6, rtol=0)
    assert torch.equal(unpack(pack(latents), HEIGHT, COLUMNS), latents)


def test_earlier_pairs_never_see_later_ones_in_the_causal_order() -> None:
    model, given = InterleavedFlux(tiny_flux(), 3.5, "causal"), inputs()
    changed = [x.clone() for x in given]
    changed[0][:, 2] += 1.0
    changed[1][:, 2] = 0.9
    with torch.no_grad():
        before, after = model(*given), model(*changed)
    assert torch.equal(before[:, :2], after[:, :2])
    assert float((before[:, 2] - after[:, 2]).abs().max()) > 0.1
    shared = InterleavedFlux(model.transformer, 3.5)
    with torch.no_grad():
        assert float((shared(*given)[:, 0] - shared(*changed)[:, 0]).abs().max()) > 1e-4


class NumberCodec:
    """Pictures become their mean colour, captions their length: enough to follow them."""

    unit = 16

    def latents(self, pictures: Tensor) -> Tensor:
        small = torch.nn.functional.adaptive_avg_pool2d(pictures, (HEIGHT, COLUMNS))
        return small.mean(dim=1, keepdim=True).expand(-1, CHANNELS, -1, -1).contiguous()

    def text(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        numbers = torch.tensor([float(len(caption)) for caption in captions])
        states = numbers[:, None, None].expand(-1, TOKENS, TEXT).contiguous()
        return states, states[:, 0, :POOLED].contiguous()


@pytest.fixture
def films(tmp_path: Path) -> KeyframeFilms:
    """Two films of 6 and 4 keyframes, bright and dark pictures."""
    for number, length in enumerate((6, 4)):
        pictures = [
            torch.full((32, 48, 3), 40 * number + 30 * i, dtype=torch.uint8) for i in range(length)
        ]
        captions = ["x" * (i + 1) for i in range(length)]
        path = tmp_path / "films" / f"film_{number:05d}.safetensors"
        write_film(path, NumberCodec(), pictures, captions)
    return KeyframeFilms(tmp_path / "films")


def accelerator() -> Any:
    from throughline.training.interleaved_training import parse
    from throughline.training.launch import make_accelerator

    return make_accelerator(parse(["--cpu", "--mixed-precision", "no"]))


CONFIG = {
    "stages": ((1, 30), (2, 20), (4, 10)),
    "batch": 2,
    "lora_rank": 8,
    "warm_up": 5,
    "peak_learning_rate": 5e-3,
}


def untrained() -> InterleavedFlux:
    model = InterleavedFlux(tiny_flux(), 3.5)
    model.add_lora(CONFIG["lora_rank"], 0)
    return model


def trained(
    model: InterleavedFlux, films: Any, folder: Path, checkpoint_seconds: float = 300.0
) -> list[float]:
    from throughline.training.interleaved_training import InterleavedConfig, train

    config = InterleavedConfig(**CONFIG)
    return train(model, films, folder, config, accelerator(), checkpoint_seconds)


def test_the_loss_falls_over_growing_sequences(films: KeyframeFilms, tmp_path: Path) -> None:
    model = InterleavedFlux(tiny_flux(), 3.5)
    state = torch.random.get_rng_state()
    model.add_lora(CONFIG["lora_rank"], 0)
    losses = trained(model, films, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


class Interrupted:
    """Films that cannot be read any more after some steps."""

    def __init__(self, films: KeyframeFilms, steps: int) -> None:
        self.lengths, self._films, self._left = films.lengths, films, steps

    def read(self, plan: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._films.read(plan)


def test_a_stopped_training_goes_on_as_if_it_had_not(films: KeyframeFilms, tmp_path: Path) -> None:
    whole, parts = untrained(), untrained()
    losses = trained(whole, films, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(parts, Interrupted(films, 37), tmp_path / "parts", checkpoint_seconds=0.0)
    resumed = untrained()
    assert trained(resumed, films, tmp_path / "parts") == losses[37:]
    for name, value in whole.lora().items():
        assert torch.equal(resumed.lora()[name], value), name


def test_the_lora_does_in_comfyui_what_it_does_in_training(
    comfy: ModuleType, films: KeyframeFilms, tmp_path: Path
) -> None:
    """Exported, loaded by the pack's loader on core's Flux with the same weights: same picture."""
    import comfy.model_patcher
    import comfy.supported_models
    from comfy.utils import flux_to_diffusers

    from throughline.adapters.lora import add_lora
    from throughline.adapters.lora_files import read_lora
    from throughline.training.interleaved_training import InterleavedConfig, export_lora

    model = untrained()
    trained(model, films, tmp_path / "run")
    path = export_lora(model, tmp_path / "keyframes.safetensors", InterleavedConfig(), "tiny")
    config = {
        "image_model": "flux",
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "vec_in_dim": POOLED,
        "context_in_dim": TEXT,
        "hidden_size": WIDTH,
        "mlp_ratio": 4.0,
        "num_heads": 2,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": [8, 12, 12],
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": True,
        "txt_ids_dims": [],
    }
    settings = comfy.supported_models.Flux(config)
    settings.set_inference_dtype(torch.float32, None)
    base = settings.get_model({}, "", device=torch.device("cpu"))
    core = base.diffusion_model
    weights, theirs = core.state_dict(), tiny_flux().state_dict()
    for name, target in flux_to_diffusers(config).items():
        if name not in theirs:
            continue  # another spelling of the same weight
        value = theirs[name]
        if isinstance(target, str):
            weights[target].copy_(value)
            continue
        key, rows, *change = target
        if change:
            value = change[0](value)
        if rows is None:
            weights[key].copy_(value)
        else:
            weights[key].narrow(*rows).copy_(value)
    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(base, cpu, cpu)
    lora = read_lora(path, path.name)
    given = inputs(3, films=1, pairs=1)
    latents, levels, text, pooled = (x[:, 0] for x in given)
    pictures = {}
    for name, one in {"plain": patcher, "lora": add_lora(patcher, lora, 1.0)}.items():
        one.patch_model()
        with torch.no_grad():
            pictures[name] = core(latents, levels, text, pooled, torch.full((1,), 3.5))
        one.unpatch_model()
    with torch.no_grad():
        found = model(*given)[:, 0]
        model.transformer.disable_adapters()
        plain = model(*given)[:, 0]
    assert float((plain - pictures["plain"]).abs().max()) < 2e-5
    effect = float((found - plain).abs().max())
    assert effect > 0.05
    # bfloat16 factors
    assert float((found - pictures["lora"]).abs().max()) < 0.03 * effect


def test_films_are_folders_of_pictures_with_captions(tmp_path: Path) -> None:
    from PIL import Image

    source = tmp_path / "source" / "diner"
    source.mkdir(parents=True)
    for number in (2, 1):
        Image.new("RGB", (80, 40), (number * 100, 0, 0)).save(source / f"{number}.png")
        (source / f"{number}.txt").write_text("x" * number, encoding="utf-8")
    made: list[int] = []

    def codec() -> Any:
        made.append(1)
        return NumberCodec()

    size = PictureSize(32, 48)
    for _ in range(2):
        encode_films(codec, tmp_path / "source", tmp_path / "films", size)
    assert made == [1]
    films = KeyframeFilms(tmp_path / "films")
    assert films.lengths == (2,)
    plan = SimpleNamespace(films=(0,), keyframes=((1,),))
    latents, text, _ = films.read(plan)
    assert latents.shape == (1, 1, CHANNELS, HEIGHT, COLUMNS) and float(text[0, 0, 0, 0]) == 2.0
    assert float(latents.mean()) == pytest.approx((200 / 127.5 - 3) / 3, abs=1e-2)


@pytest.mark.parametrize("wrong", ["caption", "size", "films", "pictures", "settings"])
def test_films_that_cannot_be_used_are_named(tmp_path: Path, wrong: str) -> None:
    from PIL import Image

    source = tmp_path / "source" / "diner"
    source.mkdir(parents=True)
    size, said = PictureSize(32, 48), ""
    if wrong == "films":
        source.rmdir()
        said = "source holds no films"
    elif wrong == "pictures":
        said = "diner holds no pictures"
    else:
        Image.new("RGB", (80, 40)).save(source / "1.png")
    if wrong == "caption":
        said = "1.png has no caption: 1.txt is missing or empty"
    if wrong == "size":
        (source / "1.txt").write_text("x", encoding="utf-8")
        size, said = PictureSize(40, 48), "height must be a multiple of 16, got 40"
    if wrong == "settings":
        (source / "1.txt").write_text("x", encoding="utf-8")
        encode_films(NumberCodec, tmp_path / "source", tmp_path / "films", PictureSize(32, 32))
        said = "was encoded with .*32.*, this is .*48"
    with pytest.raises(ValueError, match=said):
        encode_films(NumberCodec, tmp_path / "source", tmp_path / "films", size)


def test_a_flux_folder_is_encoded_as_diffusers_pipeline_does(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import (
            CLIPTextConfig,
            CLIPTextModel,
            PreTrainedTokenizerFast,
            T5Config,
            T5EncoderModel,
        )

    from throughline.training.pretrained import FluxCodec, load_flux

    folder = tmp_path / "Tiny-FLUX"
    torch.manual_seed(0)
    tiny_flux().save_pretrained(folder / "transformer")
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=CHANNELS,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        shift_factor=0.1159,
        scaling_factor=0.3611,
    ).save_pretrained(folder / "vae")
    words = ("<pad>", "</s>", "<unk>", "a", "harbour", "at", "dawn")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=POOLED,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            eos_token_id=1,
            pad_token_id=0,
            bos_token_id=2,
        )
    ).save_pretrained(folder / "text_encoder")
    T5EncoderModel(
        T5Config(vocab_size=len(words), d_model=TEXT, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
    ).save_pretrained(folder / "text_encoder_2")
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    for part in ("tokenizer", "tokenizer_2"):
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            eos_token="</s>",
            unk_token="<unk>",
            model_max_length=77,
        ).save_pretrained(folder / part)
    codec = FluxCodec(folder, 9, torch.float32, torch.device("cpu"))
    assert codec.unit == 16
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=codec.vae,
        text_encoder=codec.clip,
        tokenizer=codec.clip_tokenizer,
        text_encoder_2=codec.t5,
        tokenizer_2=codec.t5_tokenizer,
        transformer=None,
    )
    captions = ["a harbour", "a harbour at dawn"]
    states, pooled = codec.text(captions)
    with torch.no_grad():
        own_states, own_pooled, _ = pipeline.encode_prompt(captions, None, max_sequence_length=9)
    assert torch.allclose(states, own_states.float(), atol=1e-5)
    assert torch.allclose(pooled, own_pooled.float(), atol=1e-5)
    picture = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = codec.latents(picture)
    assert latents.shape == (1, CHANNELS, 4, 6)
    mean = codec.vae.encode(picture).latent_dist.mean
    assert torch.allclose(latents, (mean - 0.1159) * 0.3611, atol=1e-6)
    flux = load_flux(folder, torch.float32, torch.device("cpu"))
    assert InterleavedFlux(flux, 3.5)(*inputs(pairs=2)).shape == (2, 2, CHANNELS, HEIGHT, COLUMNS)
    with pytest.raises(ValueError, match="AutoencoderKL, .* holds a FluxTransformer2DModel"):
        (folder / "vae" / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
        FluxCodec(folder, 9, torch.float32, torch.device("cpu"))


def test_the_demo_trains_from_the_command_line(comfy: ModuleType, tmp_path: Path) -> None:
    from throughline.adapters.lora_files import read_lora
    from throughline.training.interleaved_training import main

    arguments = ["--cpu", "--mixed-precision", "no", "--rank", "2", "--out", str(tmp_path)]
    assert main([*arguments, "--stages", "1:3,8:2"]) == 0
    lora = read_lora(tmp_path / "demo_interleaved_keyframes.safetensors", "demo")
    assert len(lora.layers) == 2 * 12 + 4 * 5
    with pytest.raises(ValueError, match="was trained with lora_rank 2, this is 4"):
        main([*arguments[:3], "--rank", "4", "--out", str(tmp_path), "--stages", "1:3,8:2"])
