"""Joint keyframes beside what else hangs on a model: packs, LoRAs, cfg, memory, interrupts."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from .joint_pairs import picture, prompt, sample, sees_with_context, sharp_flux, slow_sample
from .test_flux_joint import LENGTHS, PAIRS, close, keyframes, prompts, slow_context

STEPS = (1.0, 0.7, 0.3, 0.0)
OVERRIDE = "optimized_attention_override"


@pytest.fixture(scope="session")
def family(comfy: Any) -> Any:
    from development.tiny_images import IMAGE_FAMILIES

    return IMAGE_FAMILIES["flux"]


@pytest.fixture
def model(family: Any) -> Any:
    return sharp_flux(family)


class Pack:
    """Another pack's attention override: it notes who reads how much, and calls what was there."""

    def __init__(self, before: Any = None) -> None:
        self.before = before
        self._calls: list[tuple[str, int, int, int]] = []  # state: no fingerprint reads it

    @property
    def calls(self) -> list[tuple[str, int, int, int]]:
        return self._calls

    def __call__(self, attention: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any):
        options = kwargs["transformer_options"]
        self._calls.append((options["block_type"], options["block_index"], q.shape[2], k.shape[2]))
        if self.before is None:
            return attention(q, k, v, *args, **kwargs)
        return self.before(attention, q, k, v, *args, **kwargs)


def with_pack(model: Any, polite: bool = True) -> tuple[Any, Pack]:
    """A clone with the pack's override, in the place of whatever was there or before it."""
    clone = model.clone()
    options = clone.model_options["transformer_options"]
    pack = Pack(options.get(OVERRIDE) if polite else None)
    clone.model_options["transformer_options"] = {**options, OVERRIDE: pack}
    return clone, pack


# Other packs


@pytest.mark.parametrize("order", ["pack first", "joint first", "both sides", "takes our place"])
def test_another_packs_override_runs_all_attention(order: str, model: Any, family: Any) -> None:
    """Both are called whatever the order, and the pack sees the keys that were joined."""
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise, texts = picture(1, rows=PAIRS), prompts(family)
    packs = []
    used = model
    if order in ("pack first", "both sides"):
        used, pack = with_pack(used)
        packs.append(pack)
    used = joint_keyframes(used, mode="causal")
    if order != "pack first":
        used, pack = with_pack(used, polite=order != "takes our place")
        packs.append(pack)
    made = sample(used, noise, join_prompts(texts))
    close(made, slow_sample(model, noise, texts, sees_with_context("causal", 0)))
    own = 7 + 24
    joined = [(own, own), (own, 2 * own), (own, 3 * own)]
    for pack in packs:
        assert [call[2:] for call in pack.calls if call[0] == "double"] == [(own, own)] * 2
        assert [call[2:] for call in pack.calls if call[0] == "single"] == joined * 2


def test_full_pictures_are_one_call_without_a_mask(model: Any, family: Any) -> None:
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    used, pack = with_pack(joint_keyframes(model, mode="full", context=keyframes(family)[:1]))
    sample(used, picture(1, rows=PAIRS), join_prompts(prompts(family)))
    own, context = 7 + 24, 3 + 6
    assert pack.calls[-1] == ("single", 1, PAIRS * own, context + PAIRS * own)


@pytest.mark.parametrize("lengths", [(7, 7, 7), LENGTHS], ids=["one length", "three lengths"])
@pytest.mark.parametrize("mode", ["separate", "causal", "full"])
def test_a_mask_of_another_pack_stays_with_its_pair(
    mode: Any, lengths: tuple[int, ...], model: Any, family: Any
) -> None:
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    def dim_first_token(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> dict[str, Tensor]:
        mask = torch.zeros(1, q.shape[2], q.shape[2])
        mask[:, :, 0] = -1.5
        return {"attn_mask": mask}

    noise, texts, context = picture(1, rows=PAIRS), prompts(family, lengths), keyframes(family)
    joint = joint_keyframes(model, mode=mode, context=context)
    joint.set_model_attn1_patch(dim_first_token)
    made = sample(joint, noise, join_prompts(texts))
    pairs, sees = slow_context(model, context), sees_with_context(mode, 3)
    close(made, slow_sample(model, noise, texts, sees, pairs, first_token=-1.5))
    assert float((made - slow_sample(model, noise, texts, sees, pairs)).abs().max()) > 1e-3


def test_attention_that_a_pack_adds_is_left_alone(model: Any, family: Any) -> None:
    """An adapter's reading of its own tokens inside a block goes through core's attention, too."""
    from comfy.ldm.modules.attention import optimized_attention

    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    extra = torch.randn(1, 2, 5, 24, generator=torch.Generator().manual_seed(1))
    lengths: list[int] = []

    def adapter(args: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        out = more["original_block"](args)
        options = args["transformer_options"]
        tokens = extra.expand(len(args["img"]), -1, -1, -1)
        read = optimized_attention(
            tokens, tokens, tokens, 2, skip_reshape=True, transformer_options=options
        )
        lengths.append(read.shape[1])
        return out

    noise, texts = picture(1, rows=PAIRS), prompts(family)
    joint = joint_keyframes(model, mode="full")
    joint.set_model_patch_replace(adapter, "dit", "single_block", 0)
    made = sample(joint, noise, join_prompts(texts))
    close(made, slow_sample(model, noise, texts, sees_with_context("full", 0)))
    assert lengths == [5]


def test_reference_latents_belong_to_their_pictures(model: Any, family: Any) -> None:
    """A Kontext reference is read with every picture, and by those that see it."""
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise, texts = picture(1, rows=2), [prompt(family, 1, 7), prompt(family, 2, 4)]
    shown = {"reference_latents": [picture(8, 4, 6)]}
    referred = [[[text, {**options, **shown}]] for [[text, options]] in texts]
    joint = joint_keyframes(model, mode="separate", context=keyframes(family))
    made = sample(joint, noise, join_prompts(referred))
    for i in range(2):
        close(made[i : i + 1], sample(joint, noise[i : i + 1], referred[i]))
    assert float((made - sample(joint, noise, join_prompts(texts))).abs().max()) > 1e-3
    full, pack = with_pack(joint_keyframes(model, mode="full"))
    sample(full, noise, join_prompts(referred))
    assert pack.calls[-1] == ("single", 1, 2 * (7 + 24 + 6), (7 + 4) + 2 * (24 + 6))


@pytest.mark.parametrize("order", ["LoRA first", "joint first"])
def test_a_lora_counts_for_the_context_too(order: str, model: Any, family: Any) -> None:
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise, texts, context = picture(1, rows=PAIRS), prompts(family), keyframes(family)
    names = ("single_blocks.0.linear1.weight", "double_blocks.0.img_attn.qkv.weight")
    weights = dict(model.model.diffusion_model.named_parameters())
    generator = torch.Generator().manual_seed(3)
    change = {name: 0.05 * torch.randn(weights[name].shape, generator=generator) for name in names}
    by_hand = sharp_flux(family)
    with torch.no_grad():
        for name, difference in change.items():
            dict(by_hand.model.diffusion_model.named_parameters())[name].add_(difference)
    patches = {f"diffusion_model.{name}": ("diff", (one,)) for name, one in change.items()}
    joint_first = joint_keyframes(model, mode="causal", context=context)
    without = sample(joint_first, noise, join_prompts(texts))
    used = (model if order == "LoRA first" else joint_first).clone()
    used.add_patches(patches)
    if order == "LoRA first":
        used = joint_keyframes(used, mode="causal", context=context)
    made = sample(used, noise, join_prompts(texts))
    pairs, sees = slow_context(by_hand, context), sees_with_context("causal", 3)
    close(made, slow_sample(by_hand, noise, texts, sees, pairs))
    assert torch.equal(sample(joint_first, noise, join_prompts(texts)), without)
    assert float((made - without).abs().max()) > 1e-3


def test_a_step_cache_never_sees_the_context(model: Any, family: Any) -> None:
    """Packs that count the network's calls, or keep what it said last time, see only steps."""
    from comfy.patcher_extension import WrappersMP

    from throughline.adapters.flux_joint import joint_keyframes

    seen: list[tuple[int, ...]] = []

    def note(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(tuple(x.shape))
        return executor(x, *args, **kwargs)

    joint = joint_keyframes(model, context=keyframes(family))
    joint.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "pack", note)
    sample(joint, picture(1), prompt(family, 1), sigmas=STEPS)
    assert seen == [(1, 16, 8, 12)] * 3


# Guidance: how core puts passes into batches


@pytest.mark.parametrize("passes", ["merged", "no memory", "another length"])
@pytest.mark.parametrize("mode", ["separate", "causal", "full"])
def test_guidance_in_one_batch_or_two(
    mode: Any, passes: str, model: Any, family: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise, texts, context = picture(1, rows=PAIRS), prompts(family), keyframes(family)
    negative = prompt(family, 30, 5 if passes == "another length" else 7)
    joint = joint_keyframes(model, mode=mode, context=context, time_step=2.0)
    joint, pack = with_pack(joint)
    if passes == "no memory":
        monkeypatch.setattr(joint, "get_free_memory", lambda device: 0.0)
    made = sample(joint, noise, join_prompts(texts), negative, cfg=1.5)
    pairs, sees = slow_context(model, context, time_step=2.0), sees_with_context(mode, 3)
    slow = partial(slow_sample, model, noise, sees=sees, context=pairs, time_step=2.0)
    wanted = slow(texts)
    unwanted = slow([negative] * PAIRS)
    close(made, unwanted + 1.5 * (wanted - unwanted))
    double = [call for call in pack.calls if call[:2] == ("double", 0)]
    assert len(double) == len(context) + (1 if passes == "merged" else 2)


def test_prompts_of_several_lengths_with_guidance(model: Any, family: Any) -> None:
    """Joined prompts on both sides, of other lengths on each, and two of them combined."""
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise = picture(1, rows=2)
    sides = [
        [prompt(family, 0, 4), prompt(family, 1, 9)],
        [prompt(family, 2, 9), prompt(family, 3, 6)],
        [prompt(family, 4, 9), prompt(family, 5, 5)],
    ]
    first, second, negative = (join_prompts(side) for side in sides)
    joint = joint_keyframes(model, mode="full")
    made = sample(joint, noise, [*first, *second], negative, cfg=1.5)
    sees = sees_with_context("full", 0)
    a, b, unwanted = (slow_sample(model, noise, side, sees) for side in sides)
    close(made, unwanted + 1.5 * ((a + b) / 2.0 - unwanted))


def test_three_passes_in_one_batch(model: Any, family: Any) -> None:
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise = picture(1, rows=2)
    sides = [[prompt(family, 2 * i), prompt(family, 2 * i + 1)] for i in range(3)]
    first, second, negative = (join_prompts(side) for side in sides)
    joint, pack = with_pack(joint_keyframes(model, mode="causal"))
    made = sample(joint, noise, [*first, *second], negative, cfg=1.5)
    sees = sees_with_context("causal", 0)
    a, b, unwanted = (slow_sample(model, noise, side, sees) for side in sides)
    close(made, unwanted + 1.5 * ((a + b) / 2.0 - unwanted))
    assert len([call for call in pack.calls if call[:2] == ("double", 0)]) == 1


def test_a_node_that_splits_the_batch_is_refused(model: Any, family: Any) -> None:
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    def one_by_one(apply: Any, given: dict[str, Any]) -> Tensor:
        rows = range(len(given["input"]))
        condition = dict(given["c"])
        return torch.cat(
            [
                apply(
                    given["input"][i : i + 1],
                    given["timestep"][i : i + 1],
                    **{**condition, "c_crossattn": condition["c_crossattn"][i : i + 1]},
                )
                for i in rows
            ]
        )

    joint = joint_keyframes(model, mode="full")
    joint.set_model_unet_function_wrapper(one_by_one)
    with pytest.raises(ValueError, match="1 cfg passes of 3 pictures were expected and 1 came"):
        sample(joint, picture(1, rows=PAIRS), join_prompts(prompts(family)))


# Kept keys and values


def test_the_context_goes_through_the_model_once(model: Any, family: Any) -> None:
    """Not again in later steps, nor for another seed; again for another model or size."""
    from throughline.adapters.flux_joint import joint_keyframes

    def passes(used: Any, noise: Tensor) -> list[int]:
        """Keys of each picture's first double block: 3 context keyframes, then one per step."""
        clone, pack = with_pack(used)
        sample(clone, noise, prompt(family, 1), sigmas=STEPS)
        return [call[3] for call in pack.calls if call[:2] == ("double", 0)]

    joint = joint_keyframes(model, context=keyframes(family))
    context, step = [3 + 6, 4 + 1, 5 + 24], 7 + 24
    assert passes(joint, picture(1)) == [*context, step, step, step]
    patched = joint.clone()
    patched.add_patches({"diffusion_model.img_in.weight": ("diff", (torch.ones(48, 64),))})
    assert passes(patched, picture(1))[:3] == context
    pack = Pack()
    joint.model_options["transformer_options"][OVERRIDE] = pack
    sample(joint, picture(1), prompt(family, 1), sigmas=STEPS)
    first = len(pack.calls)
    sample(joint, picture(2), prompt(family, 2), sigmas=STEPS)
    assert len(pack.calls) - first == first - 3 * 4  # 4 blocks for each keyframe less
    sample(joint, picture(1, 12, 8), prompt(family, 1), sigmas=STEPS)
    assert len(pack.calls) == 3 * first - 3 * 4


def test_core_counts_what_is_kept(model: Any, family: Any) -> None:
    import comfy.model_management as management
    from comfy.patcher_extension import WrappersMP

    from throughline.adapters.flux_joint import joint_keyframes, kept_bytes

    shapes: list[list[int]] = []
    sizes: list[int] = []

    def note(executor: Any, given: Any, noise_shape: list[int], *args: Any, **kwargs: Any) -> Any:
        shapes.append(noise_shape)
        return executor(given, noise_shape, *args, **kwargs)

    def count(*_: Any) -> None:
        [cache] = joint.get_additional_models_with_key("throughline_joint")
        sizes.extend(
            one.model_memory() for one in management.current_loaded_models if one.model is cache
        )

    joint = joint_keyframes(model, context=keyframes(family))
    joint.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "pack", note)
    sample(joint, picture(1, rows=2), prompt(family, 1), callback=count)
    tokens = (3 + 6) + (4 + 1) + (5 + 24)
    assert sizes == [tokens * 2 * 2 * 48 * 4]  # blocks, keys and values, width, float32
    assert kept_bytes(joint, tokens) == sizes[0]
    assert [shape[0] * shape[-1] for shape in shapes] == [2 * (8 * 12 + 22 * 4)]


def test_hooks_make_the_context_in_every_call(model: Any, family: Any) -> None:
    """A LoRA on one prompt only (a hook) has its own context; nothing can be kept."""
    import comfy.hooks

    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise, texts, context = picture(1, rows=PAIRS), prompts(family), keyframes(family)
    key = "diffusion_model.single_blocks.0.linear1"
    shape = model.model.diffusion_model.single_blocks[0].linear1.weight.shape
    generator = torch.Generator().manual_seed(3)
    up, down = (
        0.2 * torch.randn(size, generator=generator) for size in ((shape[0], 2), (2, shape[1]))
    )
    lora = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 1.0)
    positive = comfy.hooks.set_hooks_for_conditioning(join_prompts(texts), hooks)
    negative = prompt(family, 30)
    joint, pack = with_pack(joint_keyframes(model, mode="causal", context=context))
    made = sample(joint, noise, positive, negative, cfg=1.5)
    by_hand = sharp_flux(family)
    with torch.no_grad():
        by_hand.model.diffusion_model.single_blocks[0].linear1.weight.add_(up @ down)
    sees = sees_with_context("causal", 3)
    wanted = slow_sample(by_hand, noise, texts, sees, slow_context(by_hand, context))
    plain = sharp_flux(family)
    pairs = slow_context(plain, context)
    unwanted = slow_sample(plain, noise, [negative] * PAIRS, sees, pairs)
    close(made, unwanted + 1.5 * (wanted - unwanted))
    assert len([call for call in pack.calls if call[:2] == ("double", 0)]) == 2 * (3 + 1)
    assert float((wanted - slow_sample(plain, noise, texts, sees, pairs)).abs().max()) > 1e-3


def test_replaced_attention_is_refused(model: Any, family: Any) -> None:
    from throughline.adapters.flux_joint import joint_keyframes

    joint = joint_keyframes(model, context=keyframes(family))
    joint.set_model_patch_replace(
        lambda args, extra: {"img": args["img"]}, "dit", "single_block", 1
    )
    with pytest.raises(ValueError, match="single block 1 did not use it"):
        sample(joint, picture(1), prompt(family, 1))


# Interrupts, and what is left behind


def test_interrupted_within_one_step(model: Any, family: Any) -> None:
    import comfy.model_management as management

    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise, texts = picture(1, rows=PAIRS), join_prompts(prompts(family))
    joint = joint_keyframes(model, mode="causal", context=keyframes(family))
    whole = sample(joint, noise, texts, sigmas=STEPS)
    steps: list[int] = []

    def press(step: int, *_: Any) -> None:
        steps.append(step)
        management.interrupt_current_processing()

    with pytest.raises(management.InterruptProcessingException):
        sample(joint, noise, texts, sigmas=STEPS, callback=press)
    assert steps == [0]
    assert torch.equal(sample(joint, noise, texts, sigmas=STEPS), whole)


def test_interrupted_within_a_context_keyframe(model: Any, family: Any) -> None:
    import comfy.model_management as management

    from throughline.adapters.flux_joint import joint_keyframes

    def press(attention: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(k.shape[2])
        management.interrupt_current_processing()
        return attention(q, k, v, *args, **kwargs)

    seen: list[int] = []
    joint = joint_keyframes(model, context=keyframes(family))
    joint.model_options["transformer_options"][OVERRIDE] = press
    with pytest.raises(management.InterruptProcessingException):
        sample(joint, picture(1), prompt(family, 1))
    assert seen == [9]  # core looks at every layer (comfy.ops.run_every_op)
    del joint.model_options["transformer_options"][OVERRIDE]
    other = joint_keyframes(model, context=keyframes(family))
    args = (picture(1), prompt(family, 1))
    assert torch.equal(sample(joint, *args), sample(other, *args))


def test_the_model_stays_as_it_is(model: Any, family: Any, model_state: Any) -> None:
    """Sampling with a clone changes nothing of the model: without it the picture is bit-equal."""
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise, texts = picture(1, rows=PAIRS), prompts(family)
    plain = sample(model, noise, join_prompts(texts))
    before = model_state(model)
    joint = joint_keyframes(model, mode="full", context=keyframes(family))
    clone_before = model_state(joint)
    made = sample(joint, noise, join_prompts(texts))
    assert model_state(joint) == clone_before
    sample(model, noise, join_prompts(texts))  # core takes patches back when another model comes
    assert model_state(model) == before
    assert torch.equal(sample(model, noise, join_prompts(texts)), plain)
    assert not torch.equal(made, plain)


def test_a_second_call_replaces_the_first(model: Any, family: Any) -> None:
    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    noise, texts = picture(1, rows=PAIRS), join_prompts(prompts(family))
    first = joint_keyframes(model, mode="full", context=keyframes(family))
    second = joint_keyframes(first, mode="causal")
    assert torch.equal(
        sample(second, noise, texts), sample(joint_keyframes(model, mode="causal"), noise, texts)
    )
    assert second.get_additional_models_with_key("throughline_joint") == []
    again = joint_keyframes(second, mode="full", context=keyframes(family))
    assert torch.equal(sample(again, noise, texts), sample(first, noise, texts))


def test_the_fingerprint_knows_the_context(model: Any, family: Any) -> None:
    from throughline.adapters.fingerprint import fingerprint_model
    from throughline.adapters.flux_joint import ContextKeyframe, joint_keyframes

    def fingerprint(**changed: Any) -> str:
        context = changed.pop("context", keyframes(family))
        settings = {"mode": "causal", "context": context, **changed}
        return fingerprint_model(joint_keyframes(model, **settings))

    other = keyframes(family)
    latent = other[0].latent.clone()
    latent[0, 3, 1, 2] += 1e-3
    other[0] = ContextKeyframe(latent=latent, conditioning=other[0].conditioning)
    prints = [
        fingerprint_model(model),
        fingerprint(),
        fingerprint(mode="full"),
        fingerprint(context=other),
        fingerprint(context=keyframes(family, captions=False)),
        fingerprint(context_noise=0.1),
        fingerprint(context_noise=0.1, context_seed=2),
        fingerprint(positions="native"),
        fingerprint(time_step=1.0),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint() == prints[1]


@pytest.mark.filterwarnings("ignore:Dynamo")  # it says that core's code breaks its graphs
def test_a_compiled_model_makes_keyframes_jointly(model: Any, family: Any) -> None:
    from comfy.ldm.modules.attention import attention_pytorch
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    from throughline.adapters.flux_joint import join_prompts, joint_keyframes

    def traceable(_: Any, *args: Any, **kwargs: Any) -> Tensor:
        return attention_pytorch(*args, **kwargs)

    torch.compiler.reset()
    model.model_options["transformer_options"][OVERRIDE] = traceable
    compiled = model.clone()
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(compiled, backend="eager", options=options)
    noise, texts = picture(1, rows=PAIRS), join_prompts(prompts(family))
    close(sample(compiled, noise, texts), sample(model, noise, texts))
    joint = partial(joint_keyframes, mode="full", context=keyframes(family))
    made = sample(joint(compiled), noise, texts)
    close(made, sample(joint(model), noise, texts))
    torch.compiler.reset()
