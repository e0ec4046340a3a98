"""HunyuanVideo 1.0 and 1.5 with memory tokens, against diffusers' own forward."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from throughline.memory.encoder import EncoderConfig
from throughline.memory.rates import Rate
from throughline.training.hunyuan_lora import core_factors
from throughline.training.hunyuan_memory_model import (
    TRAINING_GUIDANCE,
    Hunyuan15MemoryModel,
    HunyuanMemoryModel,
    valid_rows,
    with_pooled,
)
from throughline.training.memory_export import lora_factors
from throughline.training.memory_model import MemoryModel

GRID, WIDTH, TEXT, POOLED = (3, 4, 6), 32, 12, 8
COMMON: dict[str, Any] = {
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_refiner_layers": 1,
    "mlp_ratio": 2.0,
    "text_embed_dim": TEXT,
    "rope_axes_dim": (4, 6, 6),
}


def _randomised(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 if parameter.ndim < 2 else 1.2 * parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def _hunyuan(**changes: Any) -> Any:
    pytest.importorskip("diffusers")
    from diffusers import HunyuanVideoTransformer3DModel

    sizes = {
        **COMMON,
        "in_channels": 4,
        "num_layers": 2,
        "num_single_layers": 2,
        "guidance_embeds": True,
        "pooled_projection_dim": POOLED,
    }
    return _randomised(HunyuanVideoTransformer3DModel(**{**sizes, **changes}))


def _hunyuan_15() -> Any:
    pytest.importorskip("diffusers")
    from diffusers import HunyuanVideo15Transformer3DModel

    sizes = {**COMMON, "in_channels": 9, "num_layers": 2}
    return _randomised(
        HunyuanVideo15Transformer3DModel(**sizes, text_embed_2_dim=10, image_embed_dim=14)
    )


def _draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _states() -> Tensor:
    """Text states of two captions; the first is shorter."""
    states = _draw(2, 5, TEXT, seed=2)
    states[0, 3:] = 0
    return states


def _memory(count: int) -> dict[str, Tensor]:
    return {
        "memory": _draw(2, count, WIDTH, seed=3),
        "memory_positions": _draw(2, count, 3, seed=4).abs() - torch.tensor([6.0, 0, 0]),
        "start": torch.zeros(2),
    }


TIMES = torch.tensor([310.0, 870.0])


@pytest.mark.parametrize("guided", [False, True])
@torch.no_grad()
def test_hunyuan_without_memory_is_diffusers_own_forward(guided: bool) -> None:
    model, states, pooled = _hunyuan(guidance_embeds=guided), _states(), _draw(2, POOLED, seed=5)
    noisy = _draw(2, 4, *GRID)
    guidance = torch.full((2,), TRAINING_GUIDANCE) if guided else None
    mask = valid_rows(states).long()
    own = model(noisy, TIMES, states, mask, pooled, guidance=guidance).sample
    given = HunyuanMemoryModel(model)(noisy, TIMES, with_pooled(states, pooled), **_memory(0))
    assert own.std() > 0.1 and torch.allclose(given, own, atol=1e-5)


@torch.no_grad()
def test_hunyuan_15_without_memory_is_diffusers_own_forward() -> None:
    model, states = _hunyuan_15(), _states()
    noisy = torch.cat([_draw(2, 4, *GRID), torch.zeros(2, 5, *GRID)], dim=1)
    own = model(
        noisy,
        TIMES,
        states,
        valid_rows(states).long(),
        encoder_hidden_states_2=torch.zeros(2, 3, 10),
        encoder_attention_mask_2=torch.zeros(2, 3).long(),
        image_embeds=torch.zeros(2, 4, 14),
    ).sample
    # text to video: the channels of a start image are zero whether they are given or not
    memory_model = Hunyuan15MemoryModel(model)
    for given in (noisy, noisy[:, :4]):
        assert torch.allclose(memory_model(given, TIMES, states, **_memory(0)), own, atol=1e-5)
    assert own.std() > 0.1 and memory_model.patch == (1, 1, 1)


def _models() -> list[tuple[MemoryModel, Tensor]]:
    text = with_pooled(_states(), _draw(2, POOLED, seed=5))
    return [
        (HunyuanMemoryModel(_hunyuan()), text),
        (Hunyuan15MemoryModel(_hunyuan_15()), _states()),
    ]


@torch.no_grad()
def test_memory_that_is_the_segment_itself_is_modulated_with_t_0() -> None:
    """At t = 0 memory and segment are treated alike: giving the first frame as memory at its own
    place and the others as the segment is the whole segment's own forward."""
    for model, text in _models():
        noisy, times = _draw(2, 4, *GRID), torch.zeros(2)
        whole = model(noisy, times, text, **_memory(0))
        padded = torch.cat([noisy, noisy.new_zeros(2, model.extra_channels, *GRID)], dim=1)
        tokens = model.patch_projection(padded).flatten(2).transpose(1, 2)
        frame = tokens.shape[1] // GRID[0]
        rows, columns = (n // p for n, p in zip(GRID[1:], model.patch[1:], strict=True))
        places = torch.cartesian_prod(
            torch.zeros(1), torch.arange(rows).float(), torch.arange(columns).float()
        )
        split = model(
            noisy[:, :, 1:],
            times,
            text,
            memory=tokens[:, :frame],
            memory_positions=places.expand(2, -1, -1),
            start=torch.ones(2),
        )
        assert torch.allclose(split, whole[:, :, 1:], atol=1e-5)
        # and at another time it is not: memory stays clean
        later = model(noisy, TIMES, text, **_memory(0))[:, :, 1:]
        kept = model(
            noisy[:, :, 1:],
            TIMES,
            text,
            memory=tokens[:, :frame],
            memory_positions=places.expand(2, -1, -1),
            start=torch.ones(2),
        )
        assert (kept - later).abs().max() > 1e-3


@torch.no_grad()
def test_padded_text_is_read_by_nobody() -> None:
    for model, text in _models():
        longer = torch.cat([text, torch.zeros(2, 4, TEXT)], dim=1)
        arguments = (_draw(2, 4, *GRID), TIMES)
        short = model(*arguments, text, **_memory(3))
        assert torch.allclose(model(*arguments, longer, **_memory(3)), short, atol=1e-5)


@torch.no_grad()
def test_a_lora_is_on_the_blocks_and_merges_exactly() -> None:
    for model, text in _models():
        arguments = (_draw(2, 4, *GRID), TIMES, text)
        model.add_lora(2, "retrieval")
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        assert trained and all("transformer_blocks" in name for name, _ in trained)
        assert not any("norm" in name for name, _ in trained)
        blocks = 2 * 12 + (2 * 5 if isinstance(model, HunyuanMemoryModel) else 0)
        assert len(trained) == 2 * blocks
        for _, parameter in trained:
            parameter.copy_(_draw(*parameter.shape, seed=6) * 0.1)
        before = model(*arguments, **_memory(3))
        model.merge_lora()
        assert torch.allclose(model(*arguments, **_memory(3)), before, atol=1e-5)
        assert not any(p.requires_grad for p in model.parameters())


def test_gradients_reach_the_memory_also_when_computed_again() -> None:
    for model, text in _models():
        gradients = []
        for again in (False, True):
            if again:
                model.transformer.enable_gradient_checkpointing()
            memory = _memory(3)
            memory["memory"].requires_grad_()
            model(_draw(2, 4, *GRID), TIMES, text, **memory).square().mean().backward()
            gradients.append(memory["memory"].grad)
        assert gradients[0].abs().max() > 0 and torch.equal(*gradients)


def test_a_model_that_replaces_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="takes images by token_replace"):
        HunyuanMemoryModel(_hunyuan(image_condition_type="token_replace"))


def test_a_pooled_vector_must_fit_beside_the_states() -> None:
    assert with_pooled(torch.ones(1, 2, 4), torch.ones(1, 3))[0, 0].tolist() == [1, 1, 1, 0]
    with pytest.raises(ValueError, match="pooled vector of 5 does not fit text states of 4"):
        with_pooled(torch.ones(1, 2, 4), torch.ones(1, 5))


def test_an_encoder_for_patches_of_one_has_the_grid_of_the_model() -> None:
    """HunyuanVideo 1.5: one latent cell is one token."""
    config = EncoderConfig(in_channels=4, inner_dim=WIDTH, rate=Rate(2, 2, 2), patch=(1, 1, 1))
    assert config.spatial_stride == (2, 2)
    assert config.memory_grid((1, 4, 5, 5, 6)).tokens == 3 * 3 * 3


@pytest.mark.parametrize("version", ["1.0", "1.5"])
def test_a_short_training_falls_and_exports(version: str, tmp_path: Path) -> None:
    """The whole of Stage I on a model of the class: stories of one colour per segment."""
    accelerate = pytest.importorskip("accelerate")
    from throughline.training.memory_data import StoryFolder
    from throughline.training.memory_plan import StepShape
    from throughline.training.memory_stages import begin
    from throughline.training.memory_subject import Subject, check_fits
    from throughline.training.memory_training import (
        MemoryTrainingConfig,
        draw,
        noise_generator,
        train,
    )

    first = version == "1.0"
    model = HunyuanMemoryModel(_hunyuan()) if first else Hunyuan15MemoryModel(_hunyuan_15())
    generator, side = torch.Generator().manual_seed(0), 8 if first else 4
    for number in range(6):
        colour = torch.randn(3, 4, 1, 1, 1, generator=generator)
        text = torch.randn(3, 4, TEXT, generator=generator)
        save_file(
            {
                "latents": colour.expand(-1, -1, 2, side, side).contiguous(),
                "low.2x2x2": colour.expand(-1, -1, 1, side // 2, side // 2).contiguous(),
                "text": text,
            },
            tmp_path / f"story_{number:06d}.safetensors",
        )
    stories = StoryFolder(tmp_path)
    check_fits(model, stories)
    shape = StepShape(3, 1, (2, 3), segment_latent_frames=2, prefix_share=0.0, ordered=True)
    config = MemoryTrainingConfig(
        steps=60,
        ways=(("encoder 2x2x2", 1.0),),
        rates=("2x2x2",),
        widths=(4, 8, 8, 16),
        lora_rank=8,
        peak_learning_rate=5e-3,
        warm_up=5,
        shape=shape,
    )
    trainer = begin(Subject(model, stories, None, None), config)
    held = [draw(config, stories, step) for step in range(1000, 1006)]

    def loss() -> float:
        with torch.no_grad():
            losses = [trainer(d.way, d.plan, d.tensors, noise_generator(d)) for d in held]
        return float(torch.stack(losses).mean())

    before = loss()
    accelerator = accelerate.Accelerator(cpu=True)
    average = train(trainer, stories, tmp_path / "out", config, accelerator)
    assert loss() < 0.8 * before
    names = lora_factors(average.values)
    assert "diffusion_model.double_blocks.0.txt_attn.qkv.lora_A.weight" in names
    assert len(names) == 2 * 2 * 8 + (2 * 2 * 2 if first else 0)


@pytest.mark.parametrize("family", ["hunyuan_replace", "hunyuan_15"])
def test_an_exported_lora_fits_comfyuis_weights(comfy: ModuleType, family: str) -> None:
    """Layer by layer: what the LoRAs add to diffusers' weights stands in the right rows."""
    from development.tiny_models import FAMILIES

    core = FAMILIES[family].model().model.state_dict()
    sizes: dict[str, Any] = {
        "num_attention_heads": 1,
        "attention_head_dim": 128,
        "rope_axes_dim": (16, 56, 56),
        "num_layers": 1,
        "text_embed_dim": 24,
    }
    if family == "hunyuan_15":
        from diffusers import HunyuanVideo15Transformer3DModel

        sizes = {**COMMON, **sizes, "in_channels": 65, "out_channels": 32}
        model: MemoryModel = Hunyuan15MemoryModel(
            HunyuanVideo15Transformer3DModel(**sizes, text_embed_2_dim=10, image_embed_dim=14)
        )
    else:
        model = HunyuanMemoryModel(_hunyuan(**sizes, num_single_layers=1))
    model.add_lora(3, "film")
    values, added = {}, {}
    for index, (name, parameter) in enumerate(model.named_parameters()):
        if ".lora_" in name:
            values[f"model.{name}"] = _draw(*parameter.shape, seed=index)
    for name, value in values.items():
        if ".lora_B." in name:
            layer = name.removeprefix("model.transformer.").partition(".lora_B.")[0]
            added[layer] = value @ values[name.replace(".lora_B.", ".lora_A.")]
    factors = lora_factors(values)
    for name, factor in factors.items():
        if ".lora_A." in name:
            second = factors[name.replace(".lora_A.", ".lora_B.")]
            layer = name.removesuffix(".lora_A.weight")
            assert (second @ factor).shape == core[f"{layer}.weight"].shape, layer
    block = "transformer_blocks.0.attn."
    qkv = "diffusion_model.double_blocks.0.img_attn.qkv.lora_{}.weight"
    expected = torch.cat([added[f"{block}{part}"] for part in ("to_q", "to_k", "to_v")])
    given = factors[qkv.format("B")] @ factors[qkv.format("A")]
    assert torch.allclose(given, expected, atol=1e-4)
    if family == "hunyuan_replace":
        single = "diffusion_model.single_blocks.0.linear1.lora_{}.weight"
        parts = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        expected = torch.cat([added[f"single_transformer_blocks.0.{part}"] for part in parts])
        given = factors[single.format("B")] @ factors[single.format("A")]
        assert torch.allclose(given, expected, atol=1e-4)


def test_a_lora_that_comfyuis_weights_cannot_hold_is_refused() -> None:
    one = {("transformer_blocks.0.attn.to_q", part): torch.ones(2, 2) for part in "AB"}
    with pytest.raises(ValueError, match="needs one on all of .*to_k"):
        core_factors(one)
    with pytest.raises(ValueError, match="no block of HunyuanVideo has x_embedder.proj"):
        core_factors({("x_embedder.proj", "A"): torch.ones(2, 2)})
