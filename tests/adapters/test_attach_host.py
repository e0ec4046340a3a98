"""Memory beside what else hangs on a model: packs, LoRAs, fp8 and GGUF, windows, estimates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from .memory_banks import call_model, random_bank, sharpen, slow_positions, slow_tokens
from .slow_memory import slow_wan

PATCH = (1, 2, 2)
FRAMES = 5


def bank_for(**settings: Any) -> Any:
    return random_bank(48, 16, PATCH, **settings)


def wan_inputs(size: tuple[int, int, int] = (3, 5, 7)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((2, 16, *size), generator=generator)
    return [x, torch.tensor([700.0, 700.0]), torch.randn((2, 7, 24), generator=generator)]


@pytest.fixture
def model(tiny: Any) -> Any:
    return sharpen(tiny.FAMILIES["wan_t2v"].model())


@pytest.fixture
def sample(tiny: Any) -> Callable[..., Tensor]:
    """`sample(model)`: two steps of core's sampler with cfg 3, five latent frames."""
    import comfy.sample

    family = tiny.FAMILIES["wan_t2v"]

    def run(used: Any) -> Tensor:
        latent = torch.zeros(1, 16, FRAMES, 4, 6)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(4))
        conditioning = (family.conditioning(1), family.conditioning(2))
        return comfy.sample.sample(
            used, noise, 2, 3.0, "euler", "simple", *conditioning, latent, disable_pbar=True, seed=4
        )

    return run


def slow(model: Any, bank: Any, given: list[Tensor]) -> Tensor:
    """The one-sequence reference with the model's own weights."""
    network = model.model.diffusion_model

    def project(low: Tensor) -> Tensor:
        return network.patch_embedding(low[None])[0]

    with torch.no_grad():
        tokens = slow_tokens([bank], project)
        return slow_wan(network, *given, tokens, slow_positions([bank], -bank.latent_frames), 0.0)


# Other packs


class Pack:
    """Another pack's patch on a block: it notes the lengths, doubles the image's change, and calls
    whatever stood there before it."""

    def __init__(self, before: Any = None) -> None:
        self.before = before
        self.lengths: list[int] = []

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        self.lengths.append(args["img"].shape[1])
        original = extra["original_block"]
        out = original(args) if self.before is None else self.before(args, extra)
        self.lengths.append(out["img"].shape[1])
        return {**out, "img": 2.0 * out["img"] - args["img"]}


def doubled(model: Any, bank: Any, given: list[Tensor]) -> Tensor:
    """What memory with the pack's change on block 1 must give: that block's image change twice.

    Block 1 is the last, so the memory is done with when the change happens.
    """
    from throughline.adapters.attach import attach_memory

    seen: dict[str, Tensor] = {}

    def keep(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        out = extra["original_block"](args)
        seen.update(before=args["img"], after=out["img"])
        return out

    noted = model.clone()
    noted.set_model_patch_replace(keep, "dit", "double_block", 1)
    call_model(attach_memory(noted, bank), *given)
    network = model.model.diffusion_model
    image = 2.0 * seen["after"] - seen["before"]
    sinusoid = __import__("comfy.ldm.wan.model", fromlist=["_"]).sinusoidal_embedding_1d
    with torch.no_grad():
        time = network.time_embedding(sinusoid(network.freq_dim, given[1]))
        head = network.head(image, time[:, None])
        frames, height, width = given[0].shape[2:]
        grid = (frames, -(-height // 2), -(-width // 2))
        return network.unpatchify(head, grid)[:, :, :frames, :height, :width]


@pytest.mark.parametrize("order", ["pack first", "memory first"])
def test_another_packs_block_patch_is_chained(order: str, model: Any) -> None:
    from throughline.adapters.attach import attach_memory

    bank, given = bank_for(), wan_inputs()
    if order == "pack first":
        pack = Pack()
        patched = model.clone()
        patched.set_model_patch_replace(pack, "dit", "double_block", 1)
        both = attach_memory(patched, bank)
    else:
        both = attach_memory(model, bank)
        there = both.model_options["transformer_options"]["patches_replace"]["dit"]
        pack = Pack(there[("double_block", 1)])
        both.set_model_patch_replace(pack, "dit", "double_block", 1)
    made = call_model(both, *given)
    torch.testing.assert_close(made, doubled(model, bank, given), atol=1e-5, rtol=0.0)
    tokens = 3 * 3 * 4
    assert pack.lengths == [tokens, tokens]  # never with the memory


def test_attention_patches_see_the_image_only(model: Any) -> None:
    from throughline.adapters.attach import attach_memory

    lengths: list[tuple[str, int]] = []

    def after_self_attention(args: dict[str, Any]) -> Tensor:
        lengths.append(("attn1", args["x"].shape[1]))
        assert args["q"].shape[1] == args["k"].shape[1] == args["x"].shape[1]
        return args["x"] * 0.5

    def after_cross_attention(args: dict[str, Any]) -> Tensor:
        lengths.append(("attn2", args["x"].shape[1]))
        return args["x"] + 1.0

    patched = model.clone()
    patched.set_model_attn1_patch(after_self_attention)
    patched.set_model_patch(after_cross_attention, "attn2_patch")
    given = wan_inputs()
    base = call_model(patched, *given)
    lengths.clear()
    made = call_model(attach_memory(patched, bank_for()), *given)
    assert lengths == [("attn1", 36), ("attn2", 36)] * 2
    assert float((made - base).abs().max()) > 1e-5
    assert bool(torch.isfinite(made).all())


def test_another_packs_attention_runs_all_attention(model: Any) -> None:
    from throughline.adapters.attach import attach_memory

    calls: list[tuple[int, int]] = []

    def override(attention: Any, q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        calls.append((q.shape[1], k.shape[1]))
        return attention(q, k, v, **kwargs)

    bank, given = bank_for(), wan_inputs()
    other = model.clone()
    other.model_options["transformer_options"]["optimized_attention_override"] = override
    made = call_model(attach_memory(other, bank), *given)
    own = call_model(attach_memory(model, bank), *given)
    torch.testing.assert_close(made, own, atol=1e-5, rtol=0.0)
    first = [(15, 51), (36, 51), (36, 7), (15, 7)]  # memory, image, then each its text
    assert calls == [*first, (36, 51), (36, 7)]  # the last block makes no memory


@pytest.mark.parametrize("way", ["its own forward", "its own block"])
def test_what_another_pack_put_into_a_block_sees_the_image_only(way: str, model: Any) -> None:
    """Block 0 is not the last: without a pack it runs both parts as one sequence."""
    from throughline.adapters.attach import attach_memory

    bank, given = bank_for(), wan_inputs()
    expected = call_model(attach_memory(model, bank), *given)
    attention = model.model.diffusion_model.blocks[0].self_attn
    lengths: list[int] = []

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        lengths.append(x.shape[1])
        return type(attention).forward(attention, x, *args, **kwargs)

    def around(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        def original(inner: dict[str, Any]) -> dict[str, Any]:
            lengths.append(inner["img"].shape[1])
            return extra["original_block"](inner)

        return ours(args, {"original_block": original})

    attached = attach_memory(model, bank)
    dit = attached.model_options["transformer_options"]["patches_replace"]["dit"]
    ours = dit[("double_block", 0)]
    if way == "its own forward":
        attention.forward = forward
    else:
        attached.set_model_patch_replace(around, "dit", "double_block", 0)
    made = call_model(attached, *given)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0.0)
    assert lengths == [36]


def test_a_mask_of_another_pack_covers_the_image_only(model: Any) -> None:
    """A pack's override may add a mask over the image's keys: the memory stays readable."""
    from throughline.adapters.memory_stream import SharedAttention

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((1, 6, 8), generator=generator) for _ in range(3))
    memory = [torch.randn((1, 3, 8), generator=generator) for _ in range(3)]

    def attention(
        q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None
    ) -> Tensor:
        scores = q @ k.transpose(1, 2)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1) @ v

    hidden = torch.ones(6, 6, dtype=torch.bool).tril()
    shared = SharedAttention(*memory, ((1.0, 3),), 6)
    made = shared(attention, q, k, v, 1, mask=hidden)
    both = (torch.cat([k, memory[1]], dim=1), torch.cat([v, memory[2]], dim=1))
    wide = torch.cat([hidden, torch.ones(6, 3, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(made, attention(q, *both, 1, mask=wide))
    torch.testing.assert_close(shared.attended(0), attention(memory[0], *both, 1))


def test_a_block_without_comfyuis_attention_is_refused(model: Any) -> None:
    from throughline.adapters.attach import attach_memory

    patched = model.clone()
    patched.set_model_patch_replace(Skipping(), "dit", "double_block", 0)
    made = call_model(attach_memory(patched, bank_for()), *wan_inputs())
    assert bool(torch.isfinite(made).all())  # skipping a block is allowed
    network = model.model.diffusion_model
    own = network.blocks[1].self_attn.forward
    network.blocks[1].self_attn.forward = lambda x, *_, **__: x
    with pytest.raises(ValueError, match="block 1 did not use it"):
        call_model(attach_memory(model, bank_for()), *wan_inputs())
    network.blocks[1].self_attn.forward = own


class Skipping:
    """Skip-layer guidance: the block's input is its output."""

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        return {"img": args["img"]}


# Weights


def fp8_model(tiny: Any) -> Any:
    """As core loads an fp8 file: weights stored in 8 bits, computed in float32."""
    import comfy.model_patcher

    family = tiny.FAMILIES["wan_t2v"]
    config = family.config(family.unet_config)
    config.set_inference_dtype(torch.float8_e4m3fn, torch.float32)
    inner = config.get_model({}, "", device=torch.device("cpu"))
    tiny.randomise(inner.diffusion_model, 0)
    cpu = torch.device("cpu")
    return comfy.model_patcher.CoreModelPatcher(inner, load_device=cpu, offload_device=cpu)


def test_fp8_weights_are_cast_as_they_are_used(tiny: Any, model: Any) -> None:
    from throughline.adapters.attach import attach_memory

    stored = fp8_model(tiny)
    network = stored.model.diffusion_model
    assert network.blocks[0].ffn[0].weight.dtype == torch.float8_e4m3fn
    assert stored.model.get_dtype_inference() == torch.float32
    bank, given = bank_for(), wan_inputs()
    made = call_model(attach_memory(stored, bank), *given)
    widened = {name: tensor.float() for name, tensor in network.state_dict().items()}
    model.model.diffusion_model.load_state_dict(widened)
    torch.testing.assert_close(made, slow(model, bank, given), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("name", ["wan_t2v", "hunyuan_15"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_costs_no_more_than_without_memory(
    name: str, dtype: torch.dtype, tiny: Any
) -> None:
    import comfy.model_patcher

    from throughline.adapters.attach import attach_memory

    family = tiny.FAMILIES[name]
    config = family.config(family.unet_config)
    config.set_inference_dtype(dtype, None)
    inner = config.get_model({}, "", device=torch.device("cpu"))
    tiny.randomise(inner.diffusion_model, 0)
    cpu = torch.device("cpu")
    half = comfy.model_patcher.CoreModelPatcher(inner, load_device=cpu, offload_device=cpu)
    full = family.model()
    hunyuan = name == "hunyuan_15"
    bank = random_bank(128, 32, (1, 1, 1)) if hunyuan else bank_for()
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((2, 65 if hunyuan else 16, 3, 4, 6), generator=generator)
    context = torch.randn((2, 7, 24), generator=generator)

    def error(change: Callable[[Any], Any]) -> float:
        time = torch.tensor([700.0, 700.0])
        low = call_model(change(half), x.to(dtype), time, context.to(dtype))
        assert low.dtype == dtype
        return float((low.float() - call_model(change(full), x, time, context)).abs().max())

    without = error(lambda model: model)
    assert error(lambda model: attach_memory(model, bank)) < 2.0 * without
    assert error(lambda model: attach_memory(model, bank, strength=0.5)) < 2.0 * without


def gguf_like_operations() -> Any:
    """Linear layers as city96's: whole numbers and a scale, dequantised in every forward."""
    import comfy.ops

    class Operations(comfy.ops.manual_cast):
        class Linear(torch.nn.Module):
            def __init__(self, sizes_in: int, sizes_out: int, bias: bool = True, **_: Any) -> None:
                super().__init__()
                codes = torch.zeros(sizes_out, sizes_in, dtype=torch.int8)
                self.weight = torch.nn.Parameter(codes, requires_grad=False)
                self.scale = torch.nn.Parameter(torch.ones(sizes_out, 1), requires_grad=False)
                self.bias = torch.nn.Parameter(torch.zeros(sizes_out)) if bias else None

            def dequantised(self) -> Tensor:
                return self.weight.float() * self.scale

            def forward(self, x: Tensor) -> Tensor:
                return torch.nn.functional.linear(x, self.dequantised().to(x), self.bias)

    return Operations


def test_weights_that_dequantise_in_forward_work(tiny: Any, model: Any) -> None:
    import comfy.model_patcher

    from throughline.adapters.attach import attach_memory

    family = tiny.FAMILIES["wan_t2v"]
    config = family.config(family.unet_config)
    config.set_inference_dtype(torch.float32, None)
    config.custom_operations = gguf_like_operations()
    inner = config.get_model({}, "", device=torch.device("cpu"))
    cpu = torch.device("cpu")
    stored = comfy.model_patcher.CoreModelPatcher(inner, load_device=cpu, offload_device=cpu)
    widened = {}
    layers = dict(inner.diffusion_model.named_modules())
    for name, tensor in model.model.diffusion_model.state_dict().items():
        layer = layers[name.rpartition(".")[0]]
        if name.endswith(".weight") and hasattr(layer, "dequantised"):
            layer.scale.data = tensor.abs().amax(dim=1, keepdim=True) / 127.0
            layer.weight.data = (tensor / layer.scale).round().to(torch.int8)
            widened[name] = layer.dequantised()
        else:
            inner.diffusion_model.get_parameter(name).data.copy_(tensor)
            widened[name] = tensor
    bank, given = bank_for(), wan_inputs()
    made = call_model(attach_memory(stored, bank), *given)
    model.model.diffusion_model.load_state_dict(widened)
    torch.testing.assert_close(made, slow(model, bank, given), atol=1e-5, rtol=0.0)


LORA_LAYERS = ("patch_embedding", "blocks.0.self_attn.k", "blocks.1.cross_attn.q", "blocks.0.ffn.0")


@pytest.mark.parametrize("order", ["LoRA first", "memory first"])
def test_a_lora_acts_on_the_memory_too(
    order: str, model: Any, tiny: Any, sample: Callable[..., Tensor]
) -> None:
    import comfy.sd

    from throughline.adapters.attach import attach_memory

    generator = torch.Generator().manual_seed(6)
    lora, merged = {}, sharpen(tiny.FAMILIES["wan_t2v"].model())
    state = merged.model.diffusion_model.state_dict()
    for layer in LORA_LAYERS:
        weight = state[f"{layer}.weight"]
        up = torch.randn((len(weight), 2), generator=generator) * 0.1
        down = torch.randn((2, weight[0].numel()), generator=generator) * 0.1
        shape = (2, *weight.shape[1:])
        lora[f"diffusion_model.{layer}.lora_up.weight"] = up.reshape(
            len(weight), 2, *[1] * (weight.ndim - 2)
        )
        lora[f"diffusion_model.{layer}.lora_down.weight"] = down.reshape(shape)
        weight += (up @ down).reshape(weight.shape)
    bank = bank_for()

    def loaded(used: Any) -> Any:
        return comfy.sd.load_lora_for_models(used, None, lora, 1.0, 0.0)[0]

    both = (
        attach_memory(loaded(model), bank)
        if order == "LoRA first"
        else loaded(attach_memory(model, bank))
    )
    assert len(both.patches) == len(LORA_LAYERS)
    made = sample(both)
    torch.testing.assert_close(made, sample(attach_memory(merged, bank)), atol=1e-5, rtol=0.0)
    assert float((made - sample(attach_memory(model, bank))).abs().max()) > 1e-3


# Context windows


def windows(length: int, overlap: int = 1) -> Any:
    import comfy.context_windows as core

    return core.IndexListContextHandler(
        context_schedule=core.get_matching_context_schedule("standard_static"),
        fuse_method=core.get_matching_fuse_method("pyramid"),
        context_length=length,
        context_overlap=overlap,
        dim=2,
    )


def windowed(model: Any, length: int) -> Any:
    """As core's node does it (nodes_context_windows.py)."""
    import comfy.context_windows as core

    clone = model.clone()
    clone.model_options["context_handler"] = windows(length)
    core.create_prepare_sampling_wrapper(clone)
    return clone


def test_one_window_over_everything_is_no_window(model: Any, sample: Callable[..., Tensor]) -> None:
    from throughline.adapters.attach import attach_memory

    attached = attach_memory(model, bank_for())
    whole = sample(attached)
    assert torch.equal(sample(windowed(attached, FRAMES)), whole)
    parts = sample(windowed(attached, 3))
    assert bool(torch.isfinite(parts).all())
    assert float((parts - whole).abs().max()) > 1e-4
    before = sample(windowed(model, 3))
    assert float((parts - before).abs().max()) > 1e-4


@pytest.mark.parametrize("anchor", [None, 5])
def test_a_later_window_is_further_from_the_memory(anchor: int | None, model: Any) -> None:
    import comfy.context_windows as core

    from throughline.adapters.attach import attach_memory

    bank, given = bank_for(), wan_inputs()
    window = core.IndexListContextWindow([6, 7, 8], dim=2, total_frames=9)
    first = 6
    if anchor is not None:
        window.causal_anchor_index = first = anchor  # core puts that frame before the window
    made = call_model(
        attach_memory(model, bank), *given, transformer_options={"context_window": window}
    )
    start = bank.latent_frames + first
    moved = attach_memory(model, bank, segment_start_latent_frames=start)
    torch.testing.assert_close(made, call_model(moved, *given), atol=1e-5, rtol=0.0)
    unmoved = call_model(attach_memory(model, bank), *given)
    assert float((made - unmoved).abs().max()) > 1e-4


# What core reserves


@pytest.fixture
def reserved(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The bytes that core asks for while a model samples, one number per run."""
    import comfy.model_management

    asked: list[float] = []
    own = comfy.model_management.load_models_gpu

    def noted(models: Any, memory_required: float = 0, **kwargs: Any) -> Any:
        asked.append(memory_required)
        return own(models, memory_required=memory_required, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", noted)
    yield asked


def test_core_reserves_as_for_a_longer_latent(
    model: Any, tiny: Any, reserved: list[float], sample: Callable[..., Tensor]
) -> None:
    from throughline.adapters.attach import attach_memory

    sample(model)
    frames = 7  # of memory: as many tokens as seven latent frames of 4 x 6 have
    sample(attach_memory(model, bank_for(grids=((frames, 2, 3),))))
    own, with_memory = reserved
    assert own > 0
    assert with_memory == pytest.approx(own * (FRAMES + frames) / FRAMES, rel=1e-6)


@pytest.mark.parametrize("order", ["windows first", "memory first"])
def test_core_reserves_for_one_window_and_the_memory(
    order: str, model: Any, reserved: list[float], sample: Callable[..., Tensor]
) -> None:
    from throughline.adapters.attach import attach_memory

    bank = bank_for(grids=((7, 2, 3),))
    sample(model)
    if order == "windows first":
        sample(attach_memory(windowed(model, 3), bank))
    else:
        sample(windowed(attach_memory(model, bank), 3))
    own, with_memory = reserved
    assert with_memory == pytest.approx(own * (3 + 7) / FRAMES, rel=1e-6)


@pytest.mark.parametrize(("share", "batches"), [(1.01, [2, 2]), (0.99, [1, 1, 1, 1])])
def test_both_passes_go_in_one_batch_where_they_fit(
    share: float,
    batches: list[int],
    model: Any,
    sample: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Just above and below what both passes need with memory; without it both would fit."""
    from throughline.adapters.attach import attach_memory

    frames = 7
    cells = [2, 16, FRAMES + frames, 4, 6]
    free = share * 1.5 * model.model.memory_required(cells)
    attached = attach_memory(model, bank_for(grids=((frames, 2, 3),)))
    whole = sample(attached)
    sizes: list[int] = []

    def note(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        sizes.append(len(x))
        return executor(x, *args, **kwargs)

    attached.add_wrapper_with_key("diffusion_model", "test", note)
    monkeypatch.setattr(type(attached), "get_free_memory", lambda *_: free)
    torch.testing.assert_close(sample(attached), whole, atol=1e-5, rtol=0.0)
    assert sizes == batches


def test_what_no_step_changes_is_made_once_in_a_run(
    model: Any, sample: Callable[..., Tensor]
) -> None:
    from throughline.adapters.attach import attach_memory

    projected: list[int] = []
    network = model.model.diffusion_model
    handle = network.patch_embedding.register_forward_hook(
        lambda module, given, output: projected.append(given[0].shape[2])
    )
    try:
        sample(attach_memory(model, bank_for()))
    finally:
        handle.remove()
    assert projected.count(FRAMES) >= 2  # the segment, in every step
    remembered = [frames for frames in projected if frames != FRAMES]
    assert len(remembered) == len(set(remembered)) == 2  # the bank's grids, of 1 and 2 frames


def test_cells_of_memory_are_those_of_its_tokens() -> None:
    from throughline.adapters.memory_calls import memory_as_noise_shape

    assert memory_as_noise_shape([1, 16, 21, 60, 104], 3640, (1, 2, 2)) == [
        *(1, 16, 1, 1),
        21 * 60 * 104 + 4 * 3640,
    ]
    assert memory_as_noise_shape([2, 32, 5, 4, 6], 10, (1, 1, 1)) == [2, 32, 1, 1, 130]


class LiveBytes(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the bytes of all tensors made inside it, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        import weakref

        out = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_iter(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.live:
                    self.live[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.live.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self.live.values()))
        return out


@pytest.mark.parametrize("way", ["together", "beside"])
@pytest.mark.parametrize(("frames", "remembered"), [(8, 4), (6, 6), (4, 24)])
def test_the_activations_are_no_more_than_reserved(
    frames: int, remembered: int, way: str, tiny: Any
) -> None:
    """Truth: bytes of activations alive at once, counted on the CPU. Core's estimate is linear in
    tokens, so the same count of a latent longer by the memory's tokens is what it reserves.
    `beside` is the way that a block takes when another pack watches it."""
    from comfy.ldm.modules.attention import attention_pytorch

    from throughline.adapters.attach import attach_memory

    def fused(_: Any, *args: Any, **kwargs: Any) -> Tensor:
        return attention_pytorch(*args, **kwargs)

    family = tiny.FAMILIES["wan_t2v"]
    sizes = {"ffn_dim": 132, "num_layers": 4}  # Wan's own ratio: 13,824 / 5,120
    model = replace(family, unet_config={**family.unet_config, **sizes}).model()
    if way == "beside":
        model.model_options["transformer_options"]["optimized_attention_override"] = fused
    bank = bank_for(grids=((remembered, 8, 8),))
    generator = torch.Generator().manual_seed(0)

    def peak(used: Any, length: int) -> int:
        x = torch.randn((1, 16, length, 16, 16), generator=generator)
        context = torch.randn((1, 7, 24), generator=generator)
        with LiveBytes() as counted:
            call_model(used, x, torch.tensor([700.0]), context)
        return counted.peak

    reserved_bytes = peak(model, frames + remembered)
    truth = peak(attach_memory(model, bank), frames)
    if way == "together":
        assert truth == pytest.approx(reserved_bytes, rel=0.1)
    else:  # the feed-forward never holds both parts at once
        assert 0.75 * reserved_bytes < truth < 1.1 * reserved_bytes
