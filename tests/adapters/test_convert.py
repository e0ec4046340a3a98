"""MMPL's released format, written here with tiny weights, becomes files that ComfyUI loads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from throughline.planning.layout import mmpl_t2v


def tiny_wan() -> Any:
    """A Wan T2V of the widths that ComfyUI takes for granted: 128 a head, 4096 of text."""
    from development.tiny_models import FAMILIES

    tiny = FAMILIES["wan_t2v"]
    widths = {"dim": 128, "num_heads": 1, "freq_dim": 256, "text_dim": 4096}
    return replace(tiny, unet_config={**tiny.unet_config, **widths}, text_width=4096)


@pytest.fixture
def trained(comfy: ModuleType) -> dict[str, torch.Tensor]:
    """Weights of the tiny Wan with other self-attention, by their own names."""
    state = tiny_wan().model().model.diffusion_model.state_dict()
    return {
        name: tensor + 0.05 * torch.ones_like(tensor) if ".self_attn." in name else tensor.clone()
        for name, tensor in state.items()
    }


@pytest.fixture
def base(comfy: ModuleType, tmp_path: Path) -> Path:
    """The tiny Wan as a file of ComfyUI's."""
    state = tiny_wan().model().model.diffusion_model.state_dict()
    path = tmp_path / "base.safetensors"
    named = {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}
    safetensors.torch.save_file(named, path)
    return path


def write_release(path: Path, state: dict[str, torch.Tensor], wrapped: bool = True) -> Path:
    """As MMPL's trainer saves it."""
    inner = "_fsdp_wrapped_module." if wrapped else ""
    generator = {
        f"model.{inner}{name.replace('blocks.0.', f'blocks.0.{inner}')}": tensor
        for name, tensor in state.items()
    }
    torch.save({"generator": generator, "step": 8000}, path)
    return path


def convert(*arguments: Any) -> None:
    from development.converting import run

    assert run(["mmpl", *map(str, arguments)]) == 0


def planned(model: Any) -> torch.Tensor:
    from tests.adapters.test_sparse import sample, settings, whole

    texts = tuple(tiny_wan().conditioning(seed) for seed in (1, 2))
    return whole(sample(model, mmpl_t2v(), settings=settings(model), texts=texts))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_converted_model_loads_as_causal_wan_and_plans(
    trained: dict[str, torch.Tensor], tmp_path: Path, wrapped: bool, monkeypatch: Any
) -> None:
    import comfy.model_base
    import folder_paths
    from nodes import UNETLoader

    from throughline.adapters.families import family_of

    source = write_release(tmp_path / "t2v_14B_8k.pt", trained, wrapped)
    folder = tmp_path / "models"
    convert(source, "--out", folder / "mmpl.safetensors", "--dtype", "fp32")
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "diffusion_models", ([str(folder)], {".safetensors"})
    )
    (model,) = UNETLoader().load_unet("mmpl.safetensors", "default")
    assert type(model.model) is comfy.model_base.WAN21_CausalAR
    assert family_of(model).name == "causal Wan"
    loaded = model.model.diffusion_model.state_dict()
    assert set(loaded) == set(trained)
    for name, tensor in trained.items():
        assert torch.equal(loaded[name], tensor), name
    plain = tiny_wan().model()
    plain.model.diffusion_model.load_state_dict(trained)
    model.model.model_sampling = plain.model.model_sampling
    assert float((planned(model) - planned(plain)).abs().max()) < 1e-4


def test_the_difference_alone_does_the_same_on_the_base(
    trained: dict[str, torch.Tensor], base: Path, tmp_path: Path
) -> None:
    from throughline.adapters.lora import add_lora
    from throughline.adapters.lora_files import read_lora

    source = write_release(tmp_path / "mmpl.pt", trained)
    out = tmp_path / "difference.safetensors"
    convert(source, "--base", base, "--out", out, "--dtype", "fp32")
    with safetensors.safe_open(out, "pt") as file:
        assert all(".self_attn." in name for name in file.keys())  # noqa: SIM118
    plain = tiny_wan().model()
    patched = add_lora(plain, read_lora(out, out.name), 1.0)
    whole = tiny_wan().model()
    whole.model.diffusion_model.load_state_dict(trained)
    assert float((planned(patched) - planned(whole)).abs().max()) < 1e-4
    assert float((planned(plain) - planned(whole)).abs().max()) > 1e-3


def test_types_are_chosen(trained: dict[str, torch.Tensor], tmp_path: Path) -> None:
    source = write_release(tmp_path / "mmpl.pt", trained)
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        convert(source, "--out", tmp_path / f"{name}.safetensors", "--dtype", name)
        found = safetensors.torch.load_file(tmp_path / f"{name}.safetensors")
        assert {tensor.dtype for tensor in found.values()} == {dtype}
        for key, tensor in trained.items():
            assert torch.equal(found[key], tensor.to(dtype))
    with safetensors.safe_open(tmp_path / "bf16.safetensors", "pt") as file:
        assert '"causal_ar": true' in file.metadata()["config"]


class Harmful:
    """A pickle that would run something."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize(
    "wrong", ["missing", "pickle", "key", "network", "ending", "exists", "base", "frozen"]
)
def test_what_cannot_be_converted_is_named(
    trained: dict[str, torch.Tensor], base: Path, tmp_path: Path, wrong: str, monkeypatch: Any
) -> None:
    from development.environment import Problem

    monkeypatch.chdir(tmp_path)
    source, out, more, said = tmp_path / "mmpl.pt", tmp_path / "out.safetensors", [], ""
    write_release(source, trained)
    if wrong == "missing":
        source, said = tmp_path / "gone.pt", "gone.pt is no file"
    elif wrong == "pickle":
        torch.save({"generator": Harmful()}, source)
        said = "no file of weights that can be read safely"
    elif wrong == "key":
        torch.save({"generator_ema": {}}, source)
        said = r"must hold the key 'generator' .* got \['generator_ema'\]"
    elif wrong == "network":
        torch.save({"generator": {"model.blocks.0.weight": torch.zeros(1)}}, source)
        said = "is no Wan network: it lacks"
    elif wrong == "ending":
        out, said = tmp_path / "out.pt", "must end in .safetensors, got out.pt"
    elif wrong == "exists":
        out.write_bytes(b"mine")
        said = "exists already"
    elif wrong == "base":
        safetensors.torch.save_file({"other": torch.zeros(1)}, base)
        more, said = ["--base", base], "is another network"
    else:
        trained["head.head.bias"] += 1.0
        write_release(source, trained)
        more, said = ["--base", base], "head.head.bias differs from base.safetensors"
    with pytest.raises(Problem, match=said):
        convert(source, "--out", out, *more)
    assert not (tmp_path / "harmed").exists() and not list(tmp_path.glob("*.partial"))
    assert out.exists() == (wrong == "exists")
