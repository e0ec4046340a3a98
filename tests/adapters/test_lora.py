"""LoRA files of every format give the model output that diffusers gives, or an error by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from throughline.adapters.lora import add_lora, fit_lora
from throughline.adapters.lora_files import LoraFile, read_lora
from throughline.adapters.lora_names import LayerNames
from throughline.memory.lora_digest import lora_digest
from throughline.training.memory_model import wan_from_comfy

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
TARGETS += ["patch_embedding", "proj_out", "time_proj", "time_embedder.linear_1"]
TARGETS += ["text_embedder.linear_2"]
RANK, ALPHA = 3, 5.0
PATTERNS = {"rank_pattern": {r"blocks\.1\.attn1\.to_q": 2}, "alpha_pattern": {"ffn.net.2": 1.5}}
SIZE = (1, 16, 3, 6, 10)


@pytest.fixture(scope="module")
def wan(tiny: ModuleType) -> Any:
    return tiny.FAMILIES["wan_t2v"].model()


@pytest.fixture(scope="module")
def trained(
    wan: Any, tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """`trained(**config)`: diffusers' class with the weights of `wan` and a random LoRA by peft."""
    from peft import LoraConfig

    path = tmp_path_factory.mktemp("wan") / "wan.safetensors"
    state = {k: v.clone() for k, v in wan.model.diffusion_model.state_dict().items()}
    save_file(state, path, {"config": json.dumps({"transformer": tiny.WAN})})

    def make(**config: Any) -> Any:
        transformer = wan_from_comfy(path).eval()
        fields = {"r": RANK, "lora_alpha": ALPHA, "target_modules": TARGETS, **config}
        transformer.add_adapter(LoraConfig(**fields))
        generator = torch.Generator().manual_seed(5)
        for name, parameter in transformer.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        return transformer

    return make


@pytest.fixture(scope="module")
def reference(trained: Callable[..., Any]) -> Any:
    """The LoRA that the round trips write in every format."""
    return trained(**PATTERNS)


def inputs(channels: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn((1, channels, *SIZE[2:]), generator=generator)
    return latent, torch.tensor([600.0]), torch.randn((1, 7, 24), generator=generator)


@torch.no_grad()
def in_diffusers(transformer: Any) -> torch.Tensor:
    latent, timestep, text = inputs()
    return transformer(latent, timestep, text, return_dict=False)[0]


@torch.no_grad()
def in_comfy(model: Any, channels: int = 16) -> torch.Tensor:
    """The network's output with the patches in its weights, which are taken out again."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    try:
        latent, timestep, text = inputs(channels)
        return model.model.diffusion_model(latent, timestep, text)
    finally:
        model.detach()
        comfy.model_management.unload_all_models()


def diffusers_file(transformer: Any, folder: Path) -> Path:
    """As diffusers' pipelines save it: prefix `transformer.`, the config in the metadata."""
    from diffusers.loaders.lora_base import _pack_dict_with_prefix
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(transformer)
    config = json.loads(json.dumps(_plain(transformer.peft_config["default"].to_dict())))
    packed = _pack_dict_with_prefix(config, "transformer")
    path = folder / "pytorch_lora_weights.safetensors"
    state = {f"transformer.{key}": value.contiguous() for key, value in state.items()}
    save_file(state, path, {"format": "pt", "lora_adapter_metadata": json.dumps(packed)})
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return sorted(value) if isinstance(value, set) else value


def adapter_file(transformer: Any, folder: Path) -> Path:
    """As diffusers' models save it: no prefix, the config in the metadata."""
    transformer.save_lora_adapter(folder)
    return folder / "pytorch_lora_weights.safetensors"


def peft_folder(transformer: Any, folder: Path) -> Path:
    """As PEFT saves it: a folder of weights and adapter_config.json."""
    from peft.utils import get_peft_model_state_dict

    transformer.peft_config["default"].save_pretrained(str(folder))
    state = get_peft_model_state_dict(transformer)
    state = {f"base_model.model.{key}": value.contiguous() for key, value in state.items()}
    save_file(state, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder / "adapter_model.safetensors"


def plain_layers(transformer: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """Factors and alpha (scale times rank) by diffusers' layer, read from peft's own modules."""
    found = {}
    for name, module in transformer.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
            scale = module.scaling["default"]
            found[name] = (down.detach().clone(), up.detach().clone(), scale * down.shape[0])
    return found


CORE = (
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    ("to_out.0", "o"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("proj_out", "head.head"),
)
"""Diffusers' names and those of Wan's own checkpoints, written down here once more on purpose."""


def core_name(layer: str) -> str:
    for diffusers, core in CORE:
        layer = layer.replace(diffusers, core)
    return layer


def comfy_file(transformer: Any, folder: Path) -> Path:
    """As core's own LoRA nodes save it."""
    state = {}
    for layer, (down, up, alpha) in plain_layers(transformer).items():
        prefix = f"diffusion_model.{core_name(layer)}"
        state |= {f"{prefix}.lora_down.weight": down, f"{prefix}.lora_up.weight": up}
        state[f"{prefix}.alpha"] = torch.tensor(alpha)
    save_file(state, folder / "comfy.safetensors")
    return folder / "comfy.safetensors"


def kohya_file(transformer: Any, folder: Path) -> Path:
    """As kohya's musubi-tuner saves it."""
    state = {}
    for layer, (down, up, alpha) in plain_layers(transformer).items():
        prefix = "lora_unet_" + core_name(layer).replace(".", "_")
        state |= {f"{prefix}.lora_down.weight": down, f"{prefix}.lora_up.weight": up}
        state[f"{prefix}.alpha"] = torch.tensor(alpha)
    save_file(state, folder / "kohya.safetensors", {"ss_network_module": "networks.lora_wan"})
    return folder / "kohya.safetensors"


WRITERS = {
    "comfy": comfy_file,
    "kohya": kohya_file,
    "diffusers": diffusers_file,
    "diffusers_adapter": adapter_file,
    "peft": peft_folder,
}


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_gives_what_diffusers_gives(
    form: str, wan: Any, reference: Any, tmp_path: Path
) -> None:
    """Eleven kinds of layers, an alpha that is not the rank, and patterns of ranks and alphas."""
    lora = read_lora(WRITERS[form](reference, tmp_path), form)
    expected, bare = in_diffusers(reference), in_comfy(wan)
    found = in_comfy(add_lora(wan, lora, 1.0))
    assert (expected - bare).abs().max() > 0.1
    assert (found - expected).abs().max() < 1e-4
    assert torch.equal(in_comfy(wan), bare)


@pytest.mark.parametrize("form", ["diffusers_adapter", "peft"])
def test_a_trained_lora_comes_through_the_node(
    form: str,
    wan: Any,
    trained: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trained with AdamW through diffusers and peft, saved by them, loaded by our node."""
    import folder_paths

    from throughline.nodes.lora import LoadMemoryLoRA

    transformer = trained(init_lora_weights=True)
    before = in_diffusers(transformer)
    parameters = [one for name, one in transformer.named_parameters() if "lora_" in name]
    optimiser = torch.optim.AdamW(parameters, lr=0.01)
    latent, timestep, text = inputs()
    for _ in range(5):
        optimiser.zero_grad()
        predicted = transformer(latent, timestep, text, return_dict=False)[0]
        (predicted - latent).square().mean().backward()
        optimiser.step()
    path = WRITERS[form](transformer, tmp_path)
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"})
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    patched, _ = LoadMemoryLoRA.execute(wan, path.name, 1.0).args
    expected = in_diffusers(transformer)
    assert (expected - before).abs().max() > 1e-2
    assert (in_comfy(patched) - expected).abs().max() < 1e-4


@pytest.mark.filterwarnings("ignore:Adapter 'default'")  # peft takes the bias for a damage
@pytest.mark.parametrize("form", ["diffusers", "peft"])
@pytest.mark.parametrize("fields", [{"use_rslora": True}, {"lora_bias": True}, {"lora_alpha": 2}])
def test_the_fields_of_peft_that_scale(
    form: str, fields: dict[str, Any], wan: Any, trained: Callable[..., Any], tmp_path: Path
) -> None:
    targets = ["to_q", "ffn.net.2"]
    transformer = trained(target_modules=targets, **{**PATTERNS, **fields})
    lora = read_lora(WRITERS[form](transformer, tmp_path), form)
    found = in_comfy(add_lora(wan, lora, 1.0))
    assert (found - in_diffusers(transformer)).abs().max() < 1e-4


@pytest.mark.parametrize(
    "layer", ["blocks.1.attn1.to_q", "blocks.11.attn1.to_q", "to_q", "proj_out"]
)
def test_patterns_are_looked_up_as_peft_does(layer: str) -> None:
    from peft.utils.other import get_pattern_key

    from throughline.adapters.lora_files import _matching

    patterns = {r"blocks\.1\.attn1\.to_q": 1, "to_q": 2, "blocks.*": 3}
    assert _matching(patterns, layer, 9) == patterns.get(get_pattern_key(patterns, layer), 9)


def test_strength_scales_and_none_is_the_model_itself(
    wan: Any, trained: Callable[..., Any], tmp_path: Path
) -> None:
    """Half the strength is half the alpha."""
    lora = read_lora(comfy_file(trained(), tmp_path), "x")
    half = in_diffusers(trained(lora_alpha=ALPHA / 2))
    assert (in_comfy(add_lora(wan, lora, 0.5)) - half).abs().max() < 1e-4
    assert add_lora(wan, lora, 0.0) is wan


def test_formats_hold_the_same_but_are_other_files(reference: Any, tmp_path: Path) -> None:
    files: dict[str, LoraFile] = {}
    for form, write in WRITERS.items():
        (tmp_path / form).mkdir()
        files[form] = read_lora(write(reference, tmp_path / form), form)
    assert len({one.digest for one in files.values()}) == len(files)
    assert files["peft"].digest == lora_digest(
        load_file(tmp_path / "peft/adapter_model.safetensors")
    )
    again = read_lora(comfy_file(reference, tmp_path), "again")
    assert (again.digest, again.effect) == (files["comfy"].digest, files["comfy"].effect)


def test_the_effect_notices_a_changed_config(reference: Any, tmp_path: Path) -> None:
    """The pairing's digest is of the tensors alone, the run's key is of what the LoRA does."""
    path = peft_folder(reference, tmp_path)
    before = read_lora(path, "x")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 6}))
    after = read_lora(path, "x")
    assert before.digest == after.digest and before.effect != after.effect


@pytest.mark.parametrize("family", ["wan_t2v", "wan_i2v", "wan_ti2v", "wan_vace", "wan22_i2v"])
def test_every_matrix_of_wan_has_diffusers_name(family: str, tiny: ModuleType) -> None:
    """Against diffusers' own class: each of its matrices is found with its shape."""
    from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

    sizes = tiny.FAMILIES[family].unet_config
    common: dict[str, Any] = {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "in_channels": sizes["in_dim"],
        "out_channels": sizes["out_dim"],
        "text_dim": 24,
        "freq_dim": 32,
        "ffn_dim": 64,
        "num_layers": 2,
    }
    if family == "wan_i2v":
        common |= {"image_dim": 1280, "added_kv_proj_dim": 48}
    network: Any = WanTransformer3DModel
    if family == "wan_vace":
        network, common = WanVACETransformer3DModel, common | {"vace_layers": [0]}
    names = LayerNames(tiny.FAMILIES[family].model())
    checked = 0
    for key, weight in network(**common).state_dict().items():
        if key.endswith(".weight") and weight.ndim > 1:
            target = names.find(f"transformer.{key.removesuffix('.weight')}")
            assert isinstance(target, str), key
            assert names.shapes[target] == tuple(weight.shape), key
            checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    ("family", "weight", "spellings"),
    [
        (
            "wan_t2v",
            "blocks.1.self_attn.o.weight",
            (
                "diffusion_model.blocks.1.self_attn.o",
                "model.diffusion_model.blocks.1.self_attn.o",
                "blocks.1.self_attn.o",
                "lora_unet_blocks_1_self_attn_o",
                "lora_unet__blocks_1_self_attn_o",
                "transformer.blocks.1.attn1.to_out.0",
                "base_model.model.blocks.1.attn1.to_out.0",
                "base_model.model.diffusion_model.blocks.1.self_attn.o",
                "lora_transformer_blocks_1_attn1_to_out_0",
                "lycoris_blocks_1_attn1_to_out_0",
            ),
        ),
        (
            "hunyuan_replace",
            "double_blocks.0.img_mlp.2.weight",
            (
                "diffusion_model.double_blocks.0.img_mlp.2",
                "transformer.double_blocks.0.img_mlp.fc2",
                "lora_unet_double_blocks_0_img_mlp_fc2",
                "transformer.transformer_blocks.0.ff.net.2",
            ),
        ),
        (
            "hunyuan_15",
            "double_blocks.0.txt_attn.qkv.weight",
            ("lora_unet_double_blocks_0_txt_attn_qkv", "double_blocks.0.txt_attn_qkv"),
        ),
    ],
)
def test_spellings_of_one_layer(
    family: str, weight: str, spellings: tuple[str, ...], tiny: ModuleType
) -> None:
    names = LayerNames(tiny.FAMILIES[family].model())
    found = {spelling: names.find(spelling) for spelling in spellings}
    assert found == dict.fromkeys(spellings, f"diffusion_model.{weight}")
    assert names.find("transformer_2." + weight.removesuffix(".weight")) is None


def hunyuan_names(tiny: ModuleType) -> dict[str, tuple[int, ...]]:
    """Matrices of diffusers' HunyuanVideo class in the sizes of the tiny model."""
    from diffusers import HunyuanVideoTransformer3DModel

    network = HunyuanVideoTransformer3DModel(
        num_attention_heads=1,
        attention_head_dim=128,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=2,
        mlp_ratio=2.0,
        text_embed_dim=24,
        pooled_projection_dim=768,
        rope_axes_dim=(16, 56, 56),
    )
    state = network.state_dict().items()
    matrices = {k.removesuffix(".weight"): tuple(v.shape) for k, v in state if v.ndim > 1}
    del matrices["norm_out.linear"]
    return matrices


def test_every_matrix_of_hunyuan_has_diffusers_name(tiny: ModuleType) -> None:
    """All but the last modulation, whose halves diffusers swaps: it is refused by name."""
    model = tiny.FAMILIES["hunyuan_replace"].model()
    names = LayerNames(model)
    covered: dict[str, int] = {}
    for layer, (rows, *columns) in hunyuan_names(tiny).items():
        target = names.find(layer)
        assert target is not None, layer
        weight, length = (target, rows) if isinstance(target, str) else (target[0], target[1][2])
        assert (length, *columns) == (rows, *names.shapes[weight][1:]), layer
        covered[weight] = covered.get(weight, 0) + rows
    assert covered == {weight: names.shapes[weight][0] for weight in covered}
    assert names.find("norm_out.linear") is None


def test_split_layers_of_hunyuan_add_up(tiny: ModuleType, tmp_path: Path) -> None:
    """Query, key and value of diffusers, and the same change of core's one weight."""
    model = tiny.FAMILIES["hunyuan_replace"].model()
    names, split, whole = LayerNames(model), {}, {}
    generator = torch.Generator().manual_seed(2)
    for layer, (rows, *columns) in hunyuan_names(tiny).items():
        down = torch.randn((2, *columns), generator=generator)
        up = torch.randn((rows, 2, *[1] * (len(columns) - 1)), generator=generator)
        split |= {
            f"transformer.{layer}.lora_A.weight": down,
            f"transformer.{layer}.lora_B.weight": up,
        }
        target = names.find(layer)
        weight, start = (target, 0) if isinstance(target, str) else (target[0], target[1][1])
        full = torch.zeros(names.shapes[weight])
        full[start : start + rows] = (up.flatten(1) @ down.flatten(1)).view(rows, *columns)
        key = f"{weight.removesuffix('.weight')}.diff"
        whole[key] = whole.get(key, 0.0) + full
    save_file(split, tmp_path / "split.safetensors")
    save_file(whole, tmp_path / "whole.safetensors")
    patched = [
        weights(add_lora(model, read_lora(tmp_path / f"{name}.safetensors", name), 0.7))
        for name in ("split", "whole")
    ]
    for key, tensor in patched[0].items():
        assert torch.allclose(tensor, patched[1][key], atol=1e-5), key


def weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of the patched weights."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    state = {key: value.clone() for key, value in model.model.state_dict().items()}
    model.detach()
    comfy.model_management.unload_all_models()
    return state


def small(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    layer = "diffusion_model.blocks.0.self_attn.q"
    state = {f"{layer}.lora_down.weight": torch.ones(2, 48)}
    state[f"{layer}.lora_up.weight"] = torch.ones(48, 2)
    return state | {key.replace("__", "."): value for key, value in more.items()}


UP = "diffusion_model.blocks.0.self_attn.q.lora_up.weight"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (small() | {UP: torch.full((48, 2), math.nan)}, f"{UP} must be finite"),
        (small() | {UP: torch.ones(48, 3)}, "must share a rank, got (48, 3) and (2, 48)"),
        ({UP: torch.ones(48, 2)}, f"{UP} is one factor without the other"),
        (small() | {"lora_te_x.lora_down.weight": torch.ones(2, 4)}, "one factor without"),
        (small() | {"stray": torch.ones(2)}, "stray is no part of a LoRA"),
        (small() | {"blocks.0.hada_w1_a": torch.ones(2)}, "blocks.0.hada_w1_a is no part"),
        (small() | {"blocks.9.alpha": torch.ones(())}, "blocks.9.alpha stands alone"),
        (small() | {"a.lora_magnitude_vector": torch.ones(2)}, "belongs to a DoRA of PEFT"),
        (small() | {UP.replace("lora_up.weight", "diff"): torch.ones(48, 48)}, "change one weight"),
        (
            small() | {UP.replace("lora_up", "lora_B"): torch.ones(48, 2)},
            f"{UP} says the same as",
        ),
        ({}, "holds no tensors"),
    ],
)
def test_bad_tensors_are_refused(
    state: dict[str, torch.Tensor], words: str, tmp_path: Path
) -> None:
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="^my lora: ") as caught:
        read_lora(tmp_path / "bad.safetensors", "my lora")
    assert words in str(caught.value)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    save_file(small(), tmp_path / "whole.safetensors")
    data = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-40])
    (tmp_path / "text.safetensors").write_text("not a model")
    (tmp_path / "pickle.pt").write_bytes(data)
    for name, words in (
        ("cut.safetensors", "the file is damaged"),
        ("text.safetensors", "the file is damaged"),
        ("pickle.pt", "only safetensors"),
        ("gone.safetensors", "no such LoRA file"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: .*{words}"):
            read_lora(tmp_path / name, name)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"modules_to_save": ["proj_out"]}, "modules_to_save is not supported, got ['proj_out']"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"bias": "all"}, "bias must be 'none', got 'all'"),
        ({"peft_type": "LOHA"}, "peft_type must be LORA, got 'LOHA'"),
        ({"init_lora_weights": "pissa_niter_4"}, "trained on another base weight"),
        ({"r": None}, "must say r and lora_alpha, got None"),
        ({"r": 4}, "has rank 3, but its config says 4"),
        ({"rank_pattern": {"(": 2}}, "rank_pattern '('"),
        ({"alpha_pattern": {"to_q": "x"}}, "alpha_pattern must map layers to numbers"),
    ],
)
def test_bad_configs_are_refused(
    fields: dict[str, Any], words: str, trained: Callable[..., Any], tmp_path: Path
) -> None:
    path = peft_folder(trained(target_modules=["to_q"]), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(ValueError, match="^x: ") as caught:
        read_lora(path, "x")
    assert words in str(caught.value)


def test_a_peft_file_needs_its_config(trained: Callable[..., Any], tmp_path: Path) -> None:
    path = peft_folder(trained(target_modules=["to_q"]), tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="needs its adapter_config.json"):
        read_lora(path, "x")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            small(blocks__7__ffn__0__diff=torch.ones(2, 2)),
            "blocks.7.ffn.0.diff does not fit the loaded model (WAN21), which has no such layer",
        ),
        (small(text_encoder__x__diff=torch.ones(2)), "text_encoder.x.diff does not fit"),
        (
            small(blocks__0__ffn__0__diff=torch.ones(2, 2)),
            "blocks.0.ffn.0.diff does not fit the loaded model (WAN21), whose layer is 64 x 48",
        ),
        (small(blocks__0__ffn__0__diff_b=torch.ones(3)), "blocks.0.ffn.0.diff_b does not fit"),
        (small(blocks__0__modulation__diff_b=torch.ones(1)), "which has no such bias"),
        (
            small(transformer__blocks__0__attn1__to_q__diff=torch.ones(48, 48)),
            "mean the same weight",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    state: dict[str, torch.Tensor], words: str, wan: Any, tmp_path: Path
) -> None:
    save_file(state, tmp_path / "x.safetensors")
    lora = read_lora(tmp_path / "x.safetensors", "my lora")
    with pytest.raises(ValueError, match="^my lora: ") as caught:
        fit_lora(wan, lora)
    assert words in str(caught.value)


def test_another_family_is_refused(reference: Any, tiny: ModuleType, tmp_path: Path) -> None:
    lora = read_lora(diffusers_file(reference, tmp_path), "wan lora")
    with pytest.raises(ValueError, match=r"wan lora: .* the loaded model \(HunyuanVideo\)"):
        fit_lora(tiny.FAMILIES["hunyuan_replace"].model(), lora)
