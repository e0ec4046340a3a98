"""LoRAs go on and off between segments: the base is loaded once, and nothing stays behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from throughline.adapters.blank import BlankClips
from throughline.adapters.families import family_of
from throughline.adapters.lora import add_lora
from throughline.adapters.lora_files import LoraFile, read_lora
from throughline.adapters.lora_switch import LoraSwitch, OfferedLora, fit_experts
from throughline.adapters.sampling import SamplerSettings, sample_segment
from throughline.planning.shot_loras import AppliedLora, LoraOffer

SHAPE = (1, 16, 3, 4, 6)
ALTERNATING = ((), (AppliedLora(0, 0.8),), (), (AppliedLora(0, 0.8), AppliedLora(1, -0.5)), ())


@pytest.fixture
def wan(tiny: ModuleType) -> Any:
    return tiny.FAMILIES["wan_t2v"].model()


@pytest.fixture
def files(tmp_path: Path) -> list[LoraFile]:
    """Two LoRAs that share a layer."""
    found = []
    for seed, layers in enumerate((("self_attn.q", "ffn.0"), ("self_attn.q", "cross_attn.v"))):
        generator = torch.Generator().manual_seed(seed)
        state = {}
        for layer in layers:
            rows = 64 if layer == "ffn.0" else 48
            name = f"diffusion_model.blocks.1.{layer}"
            state[f"{name}.lora_up.weight"] = torch.randn(rows, 2, generator=generator)
            state[f"{name}.lora_down.weight"] = torch.randn(2, 48, generator=generator)
        save_file(state, tmp_path / f"{seed}.safetensors")
        found.append(read_lora(tmp_path / f"{seed}.safetensors", str(seed)))
    return found


def fitted(model: Any, low: Any, *files: LoraFile, second: LoraFile | None = None) -> list[Any]:
    return [
        fit_experts(
            model,
            low,
            OfferedLora(
                offer=LoraOffer(names=(one.name,), strength=1.0),
                file=one,
                low_noise_file=second or one,
            ),
        )
        for one in files
    ]


@pytest.fixture
def sample(tiny: ModuleType, tiny_vae: Any) -> Callable[..., torch.Tensor]:
    """`sample(model, low_noise_model, dress)`: four steps, two of each expert."""
    import comfy.samplers

    family = tiny.FAMILIES["wan_t2v"]

    def run(model: Any, low: Any = None, dress: Any = None, callback: Any = None) -> torch.Tensor:
        settings = SamplerSettings(
            sampler=comfy.samplers.sampler_object("euler"),
            sigmas=torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0]),
            cfg=3.0,
            low_noise_model=low,
            switch_sigma=0.6,
        )
        return sample_segment(
            family_of(model),
            model,
            BlankClips(tiny_vae),
            family.conditioning(1),
            family.conditioning(2),
            settings,
            SHAPE,
            None,
            7,
            callback,
            dress,
        )

    return run


def film(
    sample: Callable[..., torch.Tensor],
    model: Any,
    loras: list[Any],
    segments: Sequence[Sequence[AppliedLora]] = ALTERNATING,
    low: Any = None,
) -> list[torch.Tensor]:
    switch = LoraSwitch(model, low, loras, segments)
    return [
        sample(switch.model, switch.low_noise_model, switch.dress(segment)) for segment in segments
    ]


def counted(model: Any) -> list[str]:
    """Grows whenever core loads the model or a clone of it."""
    import comfy.patcher_extension

    loads: list[str] = []
    kind = comfy.patcher_extension.CallbacksMP.ON_LOAD
    model.add_callback(kind, lambda *_: loads.append("load"))
    return loads


def by_patches(model: Any) -> Any:
    """The same model behind a patcher of another class, as GGUF packs bring one."""
    import comfy.model_patcher

    class OtherPatcher(comfy.model_patcher.ModelPatcher):
        pass

    return OtherPatcher(model.model, model.load_device, model.offload_device)


def test_switching_loads_the_base_once(
    wan: Any,
    files: list[LoraFile],
    sample: Callable[..., torch.Tensor],
    model_state: Callable[[Any], Any],
) -> None:
    """Against plain patches on clones, which do load it anew; and both give the same bits."""
    before, bare = model_state(wan), sample(wan)
    hooked, patched = wan.clone(), by_patches(wan)
    loads, reloads = counted(hooked), counted(patched)
    latents = film(sample, hooked, fitted(wan, None, *files))
    assert len(loads) == 1
    others = film(sample, patched, fitted(wan, None, *files))
    assert len(reloads) == len(ALTERNATING)
    for segment, latent, other in zip(ALTERNATING, latents, others, strict=True):
        assert torch.equal(latent, other)
        assert torch.equal(latent, bare) == (not segment)
    assert not torch.equal(latents[1], latents[3])
    assert torch.equal(sample(wan), bare)
    assert model_state(wan) == before


def test_a_segment_equals_a_film_with_that_lora_throughout(
    wan: Any, files: list[LoraFile], sample: Callable[..., torch.Tensor]
) -> None:
    """Against core's own way for whole graphs: patches added one LoRA after the other."""
    found = film(sample, wan, fitted(wan, None, *files))[3]
    assert torch.equal(found, sample(add_lora(add_lora(wan, files[0], 0.8), files[1], -0.5)))


def test_a_lora_of_the_whole_graph_stays(
    wan: Any, files: list[LoraFile], sample: Callable[..., torch.Tensor]
) -> None:
    whole = add_lora(wan, files[1], 0.6)
    without, with_one = film(sample, whole, fitted(wan, None, files[0]), ALTERNATING[:2])
    assert torch.equal(without, sample(whole))
    expected = sample(add_lora(whole, files[0], 0.8))
    assert torch.allclose(with_one, expected, atol=1e-5)


@pytest.mark.parametrize("patcher", ["plain", "other"])
def test_each_expert_has_its_own_file(
    patcher: str,
    wan: Any,
    tiny: ModuleType,
    files: list[LoraFile],
    sample: Callable[..., torch.Tensor],
) -> None:
    low = tiny.FAMILIES["wan_t2v"].model(seed=1)
    model = wan if patcher == "plain" else by_patches(wan)
    loras = fitted(model, low, files[0], second=files[1])
    segments = (ALTERNATING[1], ())
    found = film(sample, model, loras, segments, low)
    expected = sample(add_lora(wan, files[0], 0.8), add_lora(low, files[1], 0.8))
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], sample(wan, low))


def test_the_second_expert_may_go_without(
    wan: Any, tiny: ModuleType, files: list[LoraFile], sample: Callable[..., torch.Tensor]
) -> None:
    low = tiny.FAMILIES["wan_t2v"].model(seed=1)
    offered = OfferedLora(
        offer=LoraOffer(names=("x",), strength=1.0), file=files[0], low_noise_file=None
    )
    found = film(sample, wan, [fit_experts(wan, low, offered)], ALTERNATING[1:2], low)[0]
    assert torch.equal(found, sample(add_lora(wan, files[0], 0.8), low))


def test_a_film_without_loras_keeps_its_models(wan: Any, files: list[LoraFile]) -> None:
    switch = LoraSwitch(wan, None, fitted(wan, None, *files), [(), ()])
    assert switch.model is wan and switch.dress(()) is None


def test_an_interrupted_segment_leaves_nothing_behind(
    wan: Any, files: list[LoraFile], sample: Callable[..., torch.Tensor]
) -> None:
    """The next segment, with the same models, is equal to the bit to one of a bare model."""
    bare = sample(wan)
    switch = LoraSwitch(wan, None, fitted(wan, None, *files), ALTERNATING)

    def stop(step: int, *_: Any) -> None:
        if step == 1:
            raise InterruptedError("stopped by the test")

    with pytest.raises(InterruptedError, match="stopped by the test"):
        sample(switch.model, None, switch.dress(ALTERNATING[3]), stop)
    assert torch.equal(sample(switch.model), bare)
    assert torch.equal(sample(wan), bare)


def test_hunyuan(tiny: ModuleType, tmp_path: Path) -> None:
    """Rows of one weight as diffusers names them, hooked and patched alike."""
    import comfy.model_management

    family = tiny.FAMILIES["hunyuan_replace"]
    model = family.model()
    layer = "transformer.transformer_blocks.0.attn.to_k"
    state = {
        f"{layer}.lora_A.weight": torch.ones(1, 128),
        f"{layer}.lora_B.weight": torch.ones(128, 1),
    }
    save_file(state, tmp_path / "h.safetensors")
    lora = read_lora(tmp_path / "h.safetensors", "h")
    applied = AppliedLora(0, 0.5)
    switch = LoraSwitch(model, None, fitted(model, None, lora), [[applied]])
    dress = switch.dress([applied])
    assert dress is not None
    hooked, positive, _ = dress(switch.model, family.conditioning(), family.conditioning())
    comfy.model_management.load_models_gpu([hooked])
    before = hooked.model.diffusion_model.double_blocks[0].img_attn.qkv.weight.clone()
    hooked.apply_hooks(positive[0][1]["hooks"])
    after = hooked.model.diffusion_model.double_blocks[0].img_attn.qkv.weight.clone()
    hooked.cleanup()
    expected = before.clone()
    expected[128:256] += 0.5
    assert torch.allclose(after, expected)
    assert torch.equal(hooked.model.diffusion_model.double_blocks[0].img_attn.qkv.weight, before)
