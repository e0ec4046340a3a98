"""The same model has the same fingerprint, also after a restart; what changes pixels changes it."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
KEY = "diffusion_model.blocks.0.self_attn.q.weight"


@pytest.fixture
def factory(tiny: ModuleType) -> Any:
    return tiny.FAMILIES["wan_t2v"]


@pytest.fixture
def model(factory: Any) -> Any:
    return factory.model()


@pytest.fixture
def fingerprint(comfy: ModuleType) -> Callable[[Any], str]:
    from throughline.adapters.fingerprint import fingerprint_model

    return fingerprint_model


@pytest.fixture
def value_fingerprint(comfy: ModuleType) -> Callable[[Any], str]:
    from throughline.adapters.fingerprint import fingerprint_value

    return fingerprint_value


def with_lora(model: Any, strength: float, seed: int = 5) -> Any:
    """A clone with a rank-2 LoRA on one weight, attached by core's own loader."""
    import comfy.lora

    generator = torch.Generator().manual_seed(seed)
    lora = {
        "a.lora_up.weight": torch.randn((48, 2), generator=generator),
        "a.lora_down.weight": torch.randn((2, 48), generator=generator),
    }
    patches = comfy.lora.load_lora(lora, {"a": KEY})
    clone = model.clone()
    assert clone.add_patches(patches, strength) == [KEY]
    return clone


def sample(factory: Any, model: Any) -> torch.Tensor:
    import nodes

    texts = (factory.conditioning(1), factory.conditioning(2))
    latent = {"samples": torch.zeros(1, 16, 2, 4, 4)}
    (result,) = nodes.common_ksampler(model, 1, 2, 3.0, "euler", "simple", *texts, latent)
    return result["samples"]


def test_the_same_weights_loaded_twice(factory: Any, fingerprint: Callable[[Any], str]) -> None:
    first = fingerprint(factory.model(3))
    assert fingerprint(factory.model(3)) == first
    assert fingerprint(factory.model(4)) != first
    assert len(first) == 32 and int(first, 16)


def test_a_clone_is_the_same_model(model: Any, fingerprint: Callable[[Any], str]) -> None:
    assert fingerprint(model.clone()) == fingerprint(model)
    patched = with_lora(model, 0.5)
    assert fingerprint(patched.clone()) == fingerprint(patched)


def test_sampling_does_not_change_it(
    factory: Any, model: Any, fingerprint: Callable[[Any], str]
) -> None:
    """Also while the host keeps the model loaded, with its LoRA merged into the weights."""
    patched = with_lora(model, 0.5)
    plain, merged = fingerprint(model), fingerprint(patched)
    made = sample(factory, patched)
    assert not torch.equal(made, sample(factory, factory.model()))
    sample(factory, patched)
    assert (fingerprint(model), fingerprint(patched)) == (plain, merged)


@pytest.mark.parametrize("position", [0, -1])
def test_one_weight_value(model: Any, position: int, fingerprint: Callable[[Any], str]) -> None:
    """The first and the last value of each weight are among those that are read."""
    before = fingerprint(model)
    weight = model.model.diffusion_model.blocks[1].ffn[0].weight
    with torch.no_grad():
        weight.view(-1)[position] += 1e-3
    assert fingerprint(model) != before


def test_weights_beyond_the_whole_numbers_of_float32(
    value_fingerprint: Callable[[Any], str], comfy: ModuleType
) -> None:
    """5120 x 5120, the width of Wan 14B: the last position must not be rounded up."""
    from throughline.adapters import fingerprint

    weight = torch.zeros(1).expand(5120 * 5120)
    digest = fingerprint.blake3()
    fingerprint._add_tensor(digest, weight, whole=False)
    assert digest.hexdigest()


def test_loras(model: Any, fingerprint: Callable[[Any], str]) -> None:
    prints = [
        fingerprint(model),
        fingerprint(with_lora(model, 0.5)),
        fingerprint(with_lora(model, 0.6)),
        fingerprint(with_lora(model, 0.5, seed=6)),
        fingerprint(with_lora(with_lora(model, 0.5), 0.5)),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint(with_lora(model, 0.5)) == prints[1]


def test_the_shift_of_the_noise_levels(model: Any, fingerprint: Callable[[Any], str]) -> None:
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    def shifted(shift: float) -> str:
        return fingerprint(ModelSamplingSD3().patch(model, shift)[0])

    assert shifted(3.0) == shifted(3.0)
    assert len({shifted(3.0), shifted(5.0), fingerprint(model)}) == 3


def test_a_shift_is_the_same_after_another_clone_was_sampled(
    factory: Any, model: Any, fingerprint: Callable[[Any], str]
) -> None:
    """Clones share the inner model, in which the host sets the noise levels of the last one."""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    three, four = (ModelSamplingSD3().patch(model, shift)[0] for shift in (3.0, 4.0))
    prints = [fingerprint(one) for one in (model, three, four)]
    for one in (three, four, model, three):
        sample(factory, one)
        assert [fingerprint(one) for one in (model, three, four)] == prints
        assert fingerprint(ModelSamplingSD3().patch(model, 3.0)[0]) == prints[1]


def test_a_setting_inside_a_patch(model: Any, fingerprint: Callable[[Any], str]) -> None:
    """RescaleCFG keeps its multiplier in the closure of a function."""
    from comfy_extras.nodes_model_advanced import RescaleCFG

    def rescaled(multiplier: float) -> str:
        return fingerprint(RescaleCFG().patch(model, multiplier)[0])

    assert rescaled(0.7) == rescaled(0.7)
    assert len({rescaled(0.7), rescaled(0.5), fingerprint(model)}) == 3


def one_patch(args: dict[str, Any]) -> Any:
    return args


def other_patch(args: dict[str, Any], strength: float = 1.0) -> Any:
    return args


class Patch:
    """A patch that is an object with a setting and with state of its own."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self._step = 0

    def __call__(self, args: Any) -> Any:
        self._step += 1
        return args

    def apply(self, args: Any) -> Any:
        return args


def test_patches_of_the_transformer(model: Any, fingerprint: Callable[[Any], str]) -> None:
    patches: list[Any] = [
        None,
        one_patch,
        other_patch,
        functools.partial(other_patch, strength=0.5),
        functools.partial(other_patch, strength=0.6),
        Patch(0.5),
        Patch(0.6),
        Patch(0.5).apply,
        Patch(0.6).apply,
    ]

    def patched(patch: Any) -> str:
        clone = model.clone()
        if patch is not None:
            clone.set_model_patch(patch, "double_block")
        return fingerprint(clone)

    prints = [patched(patch) for patch in patches]
    assert len(set(prints)) == len(prints)
    assert [patched(patch) for patch in patches] == prints


def test_state_of_a_patch_is_no_setting(model: Any, fingerprint: Callable[[Any], str]) -> None:
    """Context windows count their steps in the handler; that must not make a film start anew."""
    patch = Patch(0.5)
    model.set_model_patch(patch, "double_block")
    before = fingerprint(model)
    patch(None)
    assert fingerprint(model) == before


def test_wrappers_and_object_patches(model: Any, fingerprint: Callable[[Any], str]) -> None:
    from comfy.patcher_extension import WrappersMP

    wrapped, replaced = model.clone(), model.clone()
    wrapped.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "test", one_patch)
    replaced.add_object_patch("diffusion_model.forward", one_patch)
    assert len({fingerprint(model), fingerprint(wrapped), fingerprint(replaced)}) == 3


def test_a_fresh_process_agrees(
    tiny: ModuleType, factory: Any, fingerprint: Callable[[Any], str]
) -> None:
    import execution

    from throughline.adapters.fingerprint import fingerprint_vae, fingerprint_value

    host = str(Path(execution.__file__).parent)
    script = f"""
import importlib.util, sys
sys.path.insert(0, {host!r})
from comfy.cli_args import args
args.cpu = True
def enter(name, folder):
    spec = importlib.util.spec_from_file_location(
        name, folder + "/__init__.py", submodule_search_locations=[folder])
    sys.modules[name] = importlib.util.module_from_spec(spec)
enter("throughline", {str(ROOT)!r})
enter("development", {str(ROOT / "development")!r})
from development.tiny_models import FAMILIES, tiny_wan_vae
from throughline.adapters.fingerprint import *
from comfy.samplers import sampler_object
print(fingerprint_model(FAMILIES["wan_t2v"].model(3)), fingerprint_vae(tiny_wan_vae()),
      fingerprint_value([FAMILIES["wan_t2v"].conditioning(1), "text", 2.5, None]),
      fingerprint_value(sampler_object("euler")))
"""
    made = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    from comfy.samplers import sampler_object

    assert made[-4:] == [
        fingerprint(factory.model(3)),
        fingerprint_vae(tiny.tiny_wan_vae()),
        fingerprint_value([factory.conditioning(1), "text", 2.5, None]),
        fingerprint_value(sampler_object("euler")),
    ]


def test_samplers_and_their_settings(value_fingerprint: Callable[[Any], str]) -> None:
    import comfy.samplers

    samplers = [comfy.samplers.sampler_object(name) for name in comfy.samplers.SAMPLER_NAMES]
    samplers.append(comfy.samplers.ksampler("euler", {"s_noise": 1.1}))
    samplers.append(comfy.samplers.ksampler("euler", {"s_noise": 1.2}))
    prints = [value_fingerprint(sampler) for sampler in samplers]
    assert len(set(prints)) == len(prints)
    again = [value_fingerprint(comfy.samplers.sampler_object("heun"))] * 2
    assert again[0] == again[1] and again[0] in prints


def test_conditioning_counts_whole(value_fingerprint: Callable[[Any], str]) -> None:
    conditioning = [[torch.zeros(1, 64, 64), {"pooled_output": None, "strength": 1.0}]]
    prints = {value_fingerprint(conditioning)}
    for change in range(4):
        changed = copy.deepcopy(conditioning)
        if change == 0:
            changed[0][0][0, 17, 31] = 1e-6
        elif change == 1:
            changed[0][1]["strength"] = 0.9
        elif change == 2:
            changed[0][1]["hooks"] = 1
        else:
            changed.append(changed[0])
        prints.add(value_fingerprint(changed))
    assert len(prints) == 5


def test_a_control_image_counts_whole_and_scratch_does_not(
    value_fingerprint: Callable[[Any], str],
) -> None:
    import comfy.controlnet

    def control(pixel: int, strength: float = 1.0) -> Any:
        image = torch.zeros(1, 3, 64, 64)
        image.view(-1)[pixel] = 1.0
        return comfy.controlnet.ControlBase().set_cond_hint(image, strength)

    one = control(123)
    before = value_fingerprint(one)
    one.cond_hint, one.timestep_range = torch.ones(1), (999.0, 0.0)  # as in the midst of a step
    assert value_fingerprint(one) == before
    second = control(123)
    second.set_previous_controlnet(control(5))
    assert len({before, *map(value_fingerprint, (control(124), control(123, 0.5), second))}) == 4


def test_a_patch_of_a_pack_in_another_folder_is_the_same(
    model: Any, fingerprint: Callable[[Any], str]
) -> None:
    """ComfyUI names the modules of a pack by its folder, which differs from machine to machine."""

    def patched(module: str) -> Any:
        def patch(q: Any, k: Any, v: Any, extra: Any) -> Any:
            return q, k, v

        patch.__module__ = module
        clone = model.clone()
        clone.set_model_attn1_patch(patch)
        return fingerprint(clone)

    here = patched("/home/a/ComfyUI/custom_nodes/pack.nodes")
    assert here == patched("D:\\ComfyUI\\custom_nodes\\pack.nodes")
    assert here != patched("/home/a/ComfyUI/custom_nodes/other.nodes")
