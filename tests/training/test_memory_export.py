"""The exported files: the LoRA of both stages, the encoders, and what they say of each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from throughline.memory.encoder import EncoderConfig, HistoryEncoder
from throughline.memory.lora_digest import lora_digest
from throughline.memory.packing import PatchPacker
from throughline.memory.rates import Rate
from throughline.memory.weight_format import read_encoder_file
from throughline.training.memory_export import (
    Provenance,
    added_loras,
    export_memory,
    lora_factors,
)
from throughline.training.memory_model import WanMemoryModel

PROVENANCE = Provenance(
    base="wan2.1-test",
    stem="test",
    title="Test memory",
    fps=16.0,
    segment_latents=6,
    training="{}",
)


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _wan() -> WanMemoryModel:
    pytest.importorskip("diffusers")
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    return WanMemoryModel(
        WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=4,
            out_channels=4,
            text_dim=8,
            freq_dim=32,
            ffn_dim=64,
            num_layers=2,
            rope_max_seq_len=32,
        )
    )


@torch.no_grad()
def _with_lora(model: WanMemoryModel, rank: int, name: str, seed: int) -> dict[str, Tensor]:
    """Put a random LoRA on the model; gives its parameters as a trainer names them."""
    model.add_lora(rank, name)
    values = {}
    for index, (path, parameter) in enumerate(model.named_parameters()):
        if f".{name}." in path:
            parameter.copy_(_draw(*parameter.shape, seed=seed + index) * 0.1)
            values[f"model.{path}"] = parameter.detach().clone()
    return values


def test_layers_have_the_names_that_comfyui_reads() -> None:
    """Diffusers' own converter, from ComfyUI's names, gives back where each factor was trained."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    model = _wan()
    values = _with_lora(model, 2, "film", 0)
    factors = lora_factors(values)
    assert len(factors) == len(values) == 2 * 2 * 10
    start, end = "diffusion_model.", ".lora_A.weight"
    layers = {
        key.removeprefix(start).removesuffix(end): key for key in factors if key.endswith(end)
    }
    for layer in layers:
        (name,) = convert_wan_transformer_to_diffusers({f"{layer}.weight": torch.zeros(1)})
        module = model.transformer.get_submodule(name.removesuffix(".weight"))
        assert torch.equal(factors[layers[layer]], module.lora_A["film"].weight)
    assert "blocks.1.cross_attn.o" in layers and "blocks.0.ffn.2" in layers


@torch.no_grad()
def test_one_lora_does_what_two_stages_did() -> None:
    model = _wan()
    before = {name: value.clone() for name, value in model.transformer.state_dict().items()}
    first = lora_factors(_with_lora(model, 2, "retrieval", 0))
    model.merge_lora()
    second = lora_factors(_with_lora(model, 3, "film", 100))
    model.merge_lora()
    joined = added_loras(first, second)
    layer, diffusers_name = "blocks.1.self_attn.k", "blocks.1.attn1.to_k.weight"
    a, b = (joined[f"diffusion_model.{layer}.lora_{part}.weight"] for part in "AB")
    assert a.shape == (5, 48) and b.shape == (48, 5)
    merged = model.transformer.state_dict()[diffusers_name]
    assert torch.allclose(before[diffusers_name] + b @ a, merged, atol=1e-5)
    # without an alpha a reader's scale is 1, whatever the rank
    assert not any("alpha" in name for name in joined)


def _exported(folder: Path, packed: bool = True) -> dict[str, Any]:
    model, values = _wan(), {}
    values.update(_with_lora(model, 2, "film", 0))
    earlier = lora_factors(_with_lora(_wan(), 2, "retrieval", 50))
    encoders, packers = torch.nn.ModuleDict(), torch.nn.ModuleDict()
    for text in ("2x2x2", "4x4x2"):
        config = EncoderConfig(
            in_channels=4, inner_dim=48, rate=Rate.parse(text), widths=(4, 8, 8, 16), caption_dim=8
        )
        encoders[text] = HistoryEncoder(config)
        if packed:
            packers[text] = PatchPacker(4, 48, Rate.parse(text))
    for prefix, modules in (("ways.encoders.", encoders), ("ways.packers.", packers)):
        for index, (name, value) in enumerate(modules.named_parameters()):
            values[prefix + name] = _draw(*value.shape, seed=200 + index) * 0.2
    paths = export_memory(values, encoders, packers, folder, PROVENANCE, earlier)
    return {"values": values, "encoders": encoders, "paths": paths}


@torch.no_grad()
def test_encoders_come_back_as_they_were_trained(tmp_path: Path) -> None:
    exported = _exported(tmp_path)
    for text, encoder in exported["encoders"].items():
        file = read_encoder_file(tmp_path / "memory_encoders" / f"test_{text}.safetensors")
        assert file.card.config == encoder.config
        assert (file.card.base, file.card.fps, file.card.segment_latents) == (
            "wan2.1-test",
            16.0,
            6,
        )
        read = HistoryEncoder(file.card.config)
        read.load_state_dict({name: value.float() for name, value in file.tensors.items()})
        trained = HistoryEncoder(encoder.config)
        prefix = f"ways.encoders.{text}."
        trained.load_state_dict(
            {
                name.removeprefix(prefix): value.to(torch.bfloat16).float()
                for name, value in exported["values"].items()
                if name.startswith(prefix)
            }
        )
        latents, low = _draw(1, 4, 4, 8, 8, seed=1), _draw(1, 4, 2, 4, 4, seed=2)
        if text == "4x4x2":
            low = low[..., :2, :2]
        project = torch.nn.Conv3d(4, 48, (1, 2, 2), stride=(1, 2, 2))
        caption = _draw(1, 3, 8, seed=3)
        one, two = (each(latents, low, project, caption).tokens for each in (read, trained))
        assert torch.equal(one, two)


def test_encoders_and_lora_name_each_other(tmp_path: Path) -> None:
    _exported(tmp_path)
    path = tmp_path / "loras" / "test_memory.safetensors"
    digest = lora_digest(load_file(path))
    with safe_open(path, "pt") as file:
        said = file.metadata()
    assert said["lora_hash"] == digest
    files = sorted((tmp_path / "memory_encoders").glob("*.safetensors"))
    assert said["memory_encoder"].split(",") == [file.name for file in files]
    for file in files:
        card = read_encoder_file(file).card
        assert (card.lora, card.lora_hash) == (path.name, digest)


def test_a_training_without_packing_exports_none(tmp_path: Path) -> None:
    paths = _exported(tmp_path, packed=False)["paths"]
    names = ["test_2x2x2.safetensors", "test_4x4x2.safetensors", "test_memory.safetensors"]
    assert [path.name for path in paths] == names
    assert all(
        value.dtype == torch.bfloat16 for path in paths for value in load_file(path).values()
    )


def test_a_training_goes_on_from_the_shipped_files(comfy: ModuleType) -> None:
    """The merged LoRA gives the model that ComfyUI makes of it; nothing is left out."""
    import comfy.lora
    import comfy.utils
    from safetensors.torch import load_file

    from throughline.adapters.demo_models import VIDEO_FILE, WEIGHTS, load_demo_video_model
    from throughline.training.memory_export import layer_factors
    from throughline.training.memory_model import WanMemoryModel, wan_from_comfy

    file = WEIGHTS / "loras" / "throughline_demo_memory.safetensors"
    lora = load_file(file)
    model = WanMemoryModel(wan_from_comfy(VIDEO_FILE))
    factors = layer_factors(lora)
    assert 2 * len(factors) == len(lora)
    model.merge_factors(factors)
    core = load_demo_video_model(VIDEO_FILE)
    patches = comfy.lora.load_lora(lora, comfy.lora.model_lora_keys_unet(core.model, {}))
    core.add_patches(patches)
    core.patch_model()
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(1, 36, 3, 8, 8, generator=generator)
    text = torch.randn(1, 16, 128, generator=generator)
    nothing = (torch.zeros(1, 0, 192), torch.zeros(1, 0, 3), torch.zeros(1))
    with torch.no_grad():
        made = model(noisy, torch.tensor([500.0]), text, *nothing)
        expected = core.model.diffusion_model(noisy, torch.tensor([500.0]), text)
    core.unpatch_model()
    torch.testing.assert_close(made, expected, atol=1e-3, rtol=0.0)
