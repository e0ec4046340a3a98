"""Groups of latent frames with kept keys and values against one masked sequence."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from throughline.planning.layout import (
    Group,
    Layout,
    dyadic_layout,
    mmpl_i2v,
    mmpl_t2v,
    preset_layouts,
)

SHAPE = (1, 16, 21, 4, 6)
LAYOUTS = {"t2v": mmpl_t2v, "i2v": mmpl_i2v, "tree": lambda: dyadic_layout(21, 4)}


@pytest.fixture
def wan(comfy: ModuleType) -> Any:
    from development.tiny_models import FAMILIES

    return FAMILIES["wan_t2v"].model()


def texts(family: str = "wan_t2v") -> tuple[Any, Any]:
    from development.tiny_models import FAMILIES

    return FAMILIES[family].conditioning(1), FAMILIES[family].conditioning(2)


def settings(model: Any, steps: int = 3, cfg: float = 5.0, sampler: str = "euler") -> Any:
    import comfy.samplers

    from throughline.adapters.sampling import SamplerSettings, schedule_sigmas

    return SamplerSettings(
        sampler=comfy.samplers.sampler_object(sampler),
        sigmas=schedule_sigmas(model, "euler", "simple", steps),
        cfg=cfg,
    )


def known_frames(ids: tuple[int, ...], shape: tuple[int, ...] = SHAPE) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(7)
    one = (*shape[:2], 1, *shape[3:])
    return {i: torch.randn(one, generator=generator) for i in ids}


def sample(model: Any, layout: Any, known: Any = None, **changes: Any) -> dict[int, Tensor]:
    from throughline.adapters.sparse_sampling import sample_groups

    given = {"settings": settings(model), "shape": SHAPE, "seed": 11, **changes}
    positive, negative = given.pop("texts", texts())
    return sample_groups(model, layout, known or {}, positive, negative, **given)


def whole(latents: dict[int, Tensor]) -> Tensor:
    return torch.cat([latents[i] for i in sorted(latents)], dim=2)


@pytest.mark.parametrize("name", LAYOUTS)
def test_kept_keys_and_values_equal_one_masked_sequence(wan: Any, name: str) -> None:
    from tests.adapters.slow_sparse import euler
    from throughline.adapters.sparse_sampling import plan_noise

    layout = LAYOUTS[name]()
    known = known_frames((0,)) if name == "i2v" else {}
    found = sample(wan, layout, known)
    positive, negative = texts()
    slow = euler(
        wan,
        layout,
        known,
        plan_noise(SHAPE, 11, range(21)),
        (positive[0][0], negative[0][0]),
        settings(wan).sigmas,
        5.0,
    )
    assert sorted(found) == list(range(21))
    assert float((whole(found) - whole(slow)).abs().max()) < 1e-4
    assert float(whole(slow).std()) > 0.3
    for i, latent in known.items():
        assert torch.equal(found[i], latent)


def keys_of_first_block(model: Any, tokens: int) -> tuple[Any, list[Tensor]]:
    """A clone that notes the keys of the first block's self-attention in every call."""
    keys: list[Tensor] = []

    def look(function: Any, q: Tensor, k: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if kwargs["transformer_options"]["block_index"] == 0 and k.shape[1] % tokens == 0:
            keys.append(k[:1].clone())
        return function(q, k, *args, **kwargs)

    watched = model.clone()
    options = watched.model_options["transformer_options"]
    watched.model_options["transformer_options"] = {
        **options, "optimized_attention_override": look,
    }  # fmt: skip
    return watched, keys


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_query_sees_exactly_the_layouts_frames(wan: Any, name: str) -> None:
    """Keys that a call reads are found among those that each finished frame left."""
    layout, tokens = LAYOUTS[name](), 6
    watched, keys = keys_of_first_block(wan, tokens)
    sample(watched, layout, settings=settings(wan, steps=1))
    left: dict[int, Tensor] = {}
    for number, group in enumerate(layout.groups):
        noisy, own = keys.pop(0), len(group.ids) * tokens
        read = noisy[:, own:].split(tokens, dim=1) if noisy.shape[1] > own else ()
        seen = [next(i for i, kept in left.items() if torch.equal(kept, part)) for part in read]
        assert tuple(sorted(seen)) == group.visible and len(seen) == len(group.visible)
        if number + 1 < len(layout.groups):
            clean = keys.pop(0)
            assert clean.shape == noisy.shape
            left |= dict(zip(group.ids, clean[:, :own].split(tokens, dim=1), strict=True))
    assert not keys


def test_what_is_hidden_changes_nothing(wan: Any) -> None:
    """A plan in two groups that do not see each other: the first fill hides the second."""

    def layout(hides: bool) -> Any:
        near = tuple(range(2, 6))
        groups = [
            Group(kind="initial", ids=(0, 1)),
            Group(kind="plan", ids=near, visible=(0, 1)),
            Group(kind="plan", ids=(20,), visible=(0, 1)),
            Group(kind="fill", ids=tuple(range(6, 20)), visible=(0, 1, *near)),
        ]
        if not hides:
            groups[-1] = replace(groups[-1], visible=(0, 1, *near, 20))
        return Layout(name="two plans", latent_frames=21, groups=tuple(groups))

    known = known_frames((0, 1, 2, 3, 4, 5, 20))
    changed = {**known, 20: known[20] + 1.0}
    for hides in (True, False):
        before, after = (whole(sample(wan, layout(hides), one)) for one in (known, changed))
        differs = float((before - after)[:, :, 6:20].abs().max())
        assert differs == 0.0 if hides else differs > 1e-4


def test_a_fill_goes_on_from_a_plan_as_if_it_had_been_one_call(wan: Any) -> None:
    layout = mmpl_t2v()
    once = sample(wan, layout)
    planned = sample(wan, layout, kinds=("initial", "plan"))
    assert sorted(planned) == list(layout.known_to_fillers)
    for i, latent in planned.items():
        assert torch.equal(latent, once[i])
    filled = sample(wan, layout, planned)
    assert torch.equal(whole(filled), whole(once))


def test_anchors_are_never_made_again(wan: Any) -> None:
    known = known_frames(mmpl_t2v().known_to_fillers)
    filled = sample(wan, mmpl_t2v(), known)
    for i, latent in known.items():
        assert torch.equal(filled[i], latent)


def test_sparse_positions_are_rows_of_the_dense_table(wan: Any) -> None:
    from throughline.adapters.sparse_wan import sparse_positions

    network, x = wan.model.diffusion_model, torch.zeros(SHAPE)
    dense = network.rope_encode(21, 4, 6, device=x.device, dtype=x.dtype)
    rows = dense.unflatten(1, (21, 6))
    for ids in ((2, 3, 10, 11, 12, 19, 20), (0,), (5, 6, 7)):
        found = sparse_positions(network, x, ids, {})
        assert torch.equal(found, rows[:, list(ids)].flatten(1, 2))


@pytest.mark.parametrize("sampler", ["uni_pc", "dpmpp_2m"])
def test_any_sampler_of_core_runs_the_groups(wan: Any, sampler: str) -> None:
    found = sample(wan, mmpl_t2v(), settings=settings(wan, 4, sampler=sampler))
    assert bool(torch.isfinite(whole(found)).all()) and float(whole(found).std()) > 0.3


def test_without_guidance_there_is_one_pass(wan: Any) -> None:
    found = sample(wan, mmpl_t2v(), settings=settings(wan, cfg=1.0))
    again = sample(wan, mmpl_t2v(), settings=settings(wan, cfg=1.0), texts=(texts()[0],) * 2)
    assert torch.equal(whole(found), whole(again))


@pytest.mark.parametrize(
    ("family", "channels"), [("wan_causal", 16), ("wan_ti2v", 48), ("wan_t2v", 16)]
)
def test_each_family_plans(comfy: ModuleType, family: str, channels: int) -> None:
    from development.tiny_models import FAMILIES

    model, shape = FAMILIES[family].model(), (1, channels, 9, 4, 4)
    layout = preset_layouts(9)["MMPL T2V"]
    found = sample(model, layout, shape=shape, settings=settings(model), texts=texts(family))
    assert whole(found).shape == shape and bool(torch.isfinite(whole(found)).all())


def test_the_causal_class_computes_what_the_plain_one_does(comfy: ModuleType) -> None:
    from development.tiny_models import FAMILIES

    plain, causal = FAMILIES["wan_t2v"].model(), FAMILIES["wan_causal"].model()
    causal.model.load_state_dict(plain.model.state_dict(), strict=False)
    chosen = settings(plain)
    both = [sample(model, mmpl_t2v(), settings=chosen) for model in (plain, causal)]
    assert float((whole(both[0]) - whole(both[1])).abs().max()) < 1e-5


def test_loras_and_another_packs_block_patch_take_part(wan: Any) -> None:
    plain = whole(sample(wan, mmpl_t2v()))
    key = "diffusion_model.blocks.0.self_attn.v.weight"
    changed = wan.clone()
    weight = dict(wan.model.state_dict())[key]
    changed.add_patches({key: ("diff", (torch.eye(len(weight)),))})
    assert float((whole(sample(changed, mmpl_t2v())) - plain).abs().max()) > 1e-3

    calls: list[int] = []

    def patch(args: dict[str, Any], extra: dict[str, Any]) -> Any:
        calls.append(args["img"].shape[1])
        return extra["original_block"](args)

    patched = wan.clone()
    patched.set_model_patch_replace(patch, "dit", "double_block", 1)
    assert torch.equal(whole(sample(patched, mmpl_t2v())), plain)
    assert set(calls) == {2 * 6, 7 * 6, 6 * 6}


def test_the_model_is_as_it_was(wan: Any) -> None:
    before = {name: value.clone() for name, value in wan.model.state_dict().items()}
    options = {**wan.model_options["transformer_options"]}
    sample(wan, mmpl_t2v())
    assert wan.model_options["transformer_options"] == options and not wan.additional_models
    for name, value in wan.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_interruption_ends_within_a_step(wan: Any) -> None:
    import comfy.model_management

    steps: list[tuple[int, int]] = []

    def callback(step: int, denoised: Tensor, noisy: Tensor, total: int) -> None:
        steps.append((step, total))
        if step == 4:
            comfy.model_management.interrupt_current_processing()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(wan, mmpl_t2v(), callback=callback)
    comfy.model_management.interrupt_current_processing(False)
    assert steps == [(i, 12) for i in range(5)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": (1, 16, 20, 4, 6)}, "layout 'MMPL T2V' has 21 latent frames, got 20"),
        ({"known": (0,)}, r"group \(0, 1\) .* known whole or not at all, got \[0\]"),
        ({"known_shape": (1, 16, 21, 4, 8)}, "known frame 0 of layout .* must be .* got"),
        ({"low": True}, "takes one model, got a low_noise_model"),
        ({"two": True}, "one positive and one negative conditioning"),
    ],
)
def test_what_cannot_be_planned_is_named(wan: Any, changes: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"shape": changes.get("shape", SHAPE)}
    known: dict[int, Tensor] = {}
    if "known" in changes:
        known = known_frames(changes["known"])
    if "known_shape" in changes:
        known = known_frames((0, 1), changes["known_shape"])
    if "low" in changes:
        given["settings"] = replace(settings(wan), low_noise_model=wan, switch_sigma=0.9)
    if "two" in changes:
        positive, negative = texts()
        given["texts"] = (positive + texts()[1], negative)
    with pytest.raises(ValueError, match=said):
        sample(wan, mmpl_t2v(), known, **given)


@pytest.mark.parametrize("family", ["wan_i2v", "wan_vace", "hunyuan_15"])
def test_other_models_are_refused_by_name(comfy: ModuleType, family: str) -> None:
    from development.tiny_models import FAMILIES

    with pytest.raises(ValueError, match="model must be .* to plan sparsely, got"):
        sample(FAMILIES[family].model(), mmpl_t2v(), texts=texts(family))
