"""The latent cache as ComfyUI's model management sees it, on the CPU with core's own accounting."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
ROWS = 1024
BYTES = ROWS * 16 * 4
"""Size of each test entry: 64 KB, above the 16 KB below which core loads a weight at once."""


@pytest.fixture(autouse=True)
def nothing_loaded(comfy: ModuleType) -> Iterator[None]:
    """Each test begins and ends with no model in core's list."""
    import comfy.model_management as management

    management.unload_all_models()
    yield
    management.unload_all_models()


def tensor_of(seed: int, rows: int = ROWS) -> torch.Tensor:
    return torch.randn((rows, 16), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def make_cache(comfy: ModuleType) -> Callable[..., Any]:
    """`make_cache(entries, **arguments)`: a cache with entries k0, k1... of 64 KB, and its leaves
    (a leaf out of view lives as long as somebody holds it)."""

    def make(entries: int = 0, **arguments: Any) -> Any:
        from throughline.adapters.cache import LatentCache

        cache = LatentCache(**arguments)
        return cache, [cache.add(f"k{i}", tensor_of(i)) for i in range(entries)]

    return make


@pytest.fixture
def spill(tmp_path: Path, comfy: ModuleType) -> Any:
    """A folder for the third tier that records what is written, in order."""
    from throughline.adapters.cache import Spill
    from throughline.runs.atomic import write_atomic

    written: list[str] = []

    def write(path: Path, data: bytes) -> None:
        write_atomic(path, data, durable=False)
        written.append(path.stem)

    return SimpleNamespace(spill=Spill(tmp_path / "entries", write), written=written)


def read(leaf: Any) -> torch.Tensor:
    from throughline.adapters.cache import read_cached

    return read_cached(leaf, CPU, torch.float32)


def loaded_roots() -> list[str]:
    import comfy.model_management as management

    return [type(patcher.model).__name__ for patcher in management.loaded_models()]


def test_core_counts_every_entry_and_can_move_each(make_cache: Callable[..., Any]) -> None:
    cache, leaves = make_cache(5)
    assert cache.patcher.model_size() == 5 * BYTES
    listed = [item[-3:] for item in cache.patcher._load_list()]
    assert [name for name, _, _ in listed] == [f"entry_k{i}" for i in range(5)]
    assert [module for _, module, _ in listed] == leaves
    assert [list(params) for _, _, params in listed] == [["weight"]] * 5


def test_one_key_is_one_leaf_and_readers_share_its_memory(make_cache: Callable[..., Any]) -> None:
    cache, (leaf,) = make_cache(1)
    again = cache.add("k0", tensor_of(0))
    assert again is leaf and len(cache) == 1
    assert cache.patcher.model_size() == BYTES
    first, second = read(leaf), read(cache.get("k0"))
    assert first.data_ptr() == second.data_ptr() == leaf.weight.data_ptr()
    assert torch.equal(first, tensor_of(0))


def test_another_type_is_a_copy_that_leaves_the_entry_alone(
    make_cache: Callable[..., Any],
) -> None:
    from throughline.adapters.cache import read_cached

    _, (leaf,) = make_cache(1)
    half = read_cached(leaf, CPU, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, tensor_of(0).bfloat16())
    assert half.data_ptr() != leaf.weight.data_ptr()
    assert torch.equal(leaf.weight, tensor_of(0))


def test_what_was_streamed_outlives_cores_buffer(
    make_cache: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card core streams into a buffer that the next read overwrites; acted out on the CPU."""
    import comfy.ops

    _, leaves = make_cache(2)
    buffer = torch.empty_like(leaves[0].weight)
    returned: list[Any] = []

    def stream(source: Any, **_: Any) -> tuple[torch.Tensor, None, str]:
        return buffer.copy_(source.weight), None, "the stream"

    monkeypatch.setattr(comfy.ops, "cast_bias_weight", stream)
    monkeypatch.setattr(comfy.ops, "uncast_bias_weight", lambda *given: returned.append(given))
    first, second = read(leaves[0]), read(leaves[1])
    assert torch.equal(first, tensor_of(0)) and torch.equal(second, tensor_of(1))
    assert [(given[0], given[3]) for given in returned] == [(leaf, "the stream") for leaf in leaves]


def test_a_slice_does_not_keep_what_it_was_cut_from(make_cache: Callable[..., Any]) -> None:
    cache, _ = make_cache()
    leaf = cache.add("slice", tensor_of(0)[:3])
    assert leaf.weight.untyped_storage().nbytes() == 3 * 16 * 4


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "k" * 129, "\u00e9"])
def test_a_key_that_cannot_name_a_file_is_refused(key: str, make_cache: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="cache key has 1 to 128 letters"):
        make_cache()[0].add(key, tensor_of(0))


def test_a_key_never_stands_for_two_shapes(make_cache: Callable[..., Any]) -> None:
    cache, _leaves = make_cache(1)
    with pytest.raises(ValueError, match=r"k0 stands for \(1024, 16\).*got \(5, 16\)"):
        cache.add("k0", tensor_of(0, rows=5))
    with pytest.raises(ValueError, match="bfloat16"):
        cache.add("k0", tensor_of(0).bfloat16())


def test_a_negative_ceiling_and_a_missing_key_are_named(make_cache: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="ram_bytes must be 0 or more, got -1"):
        make_cache(ram_bytes=-1)
    with pytest.raises(ValueError, match="every key of a view, got 'gone'"):
        make_cache(1)[0].view(["k0", "gone"])


def test_free_memory_takes_every_entry_off_and_use_brings_it_back(
    make_cache: Callable[..., Any],
) -> None:
    """Acceptance 6: with core's accounting, off the device after free_memory, then equal again."""
    import comfy.model_management as management

    cache, leaves = make_cache(4)
    for _ in range(2):
        management.load_models_gpu([cache.patcher])
        assert cache.patcher.loaded_size() == 4 * BYTES
        assert all(leaf.comfy_patched_weights for leaf in leaves)
        assert cache.patcher in management.loaded_models()
        management.free_memory(1e30, CPU)
        assert cache.patcher.loaded_size() == 0
        assert not any(hasattr(leaf, "comfy_patched_weights") for leaf in leaves)
        assert management.loaded_models() == []
        for index, leaf in enumerate(leaves):
            assert torch.equal(read(leaf), tensor_of(index))


def test_core_unloads_entry_by_entry(make_cache: Callable[..., Any]) -> None:
    import comfy.model_management as management

    cache, leaves = make_cache(6)
    management.load_models_gpu([cache.patcher])
    (loaded,) = management.current_loaded_models
    assert loaded.model_unload(BYTES + 1) is False  # core could free enough without the whole
    off = [leaf for leaf in leaves if not leaf.comfy_patched_weights]
    assert 2 <= len(off) < 6
    assert cache.patcher.loaded_size() == (6 - len(off)) * BYTES
    assert all(torch.equal(read(leaf), tensor_of(i)) for i, leaf in enumerate(leaves))
    management.load_models_gpu([cache.patcher])
    assert cache.patcher.loaded_size() == 6 * BYTES


def test_little_memory_loads_some_entries_and_streams_the_others(
    make_cache: Callable[..., Any],
) -> None:
    """What core does with a device that is too small (`LoadedModel.model_load` with a limit)."""
    cache, leaves = make_cache(8)
    cache.patcher.partially_load(CPU, 5 * BYTES)
    placed = [leaf for leaf in leaves if getattr(leaf, "comfy_patched_weights", False)]
    assert 0 < len(placed) < 8
    assert cache.patcher.loaded_size() == len(placed) * BYTES
    assert cache.patcher.model.model_lowvram
    assert all(torch.equal(read(leaf), tensor_of(i)) for i, leaf in enumerate(leaves))
    cache.patcher.detach()


def test_a_longer_history_is_counted_from_the_next_load(make_cache: Callable[..., Any]) -> None:
    """The patcher keeps its size; clones of a model that the cache is attached to keep theirs."""
    import comfy.model_management as management

    cache, leaves = make_cache(2)
    clone = cache.patcher.clone()
    second = clone.clone()
    management.load_models_gpu([clone])
    leaves.append(cache.add("more", tensor_of(9)))
    assert management.loaded_models() == []  # off the device before the size changed
    for patcher in (cache.patcher, clone, second):
        assert patcher.model_size() == 3 * BYTES
    management.load_models_gpu([clone])
    assert cache.patcher.loaded_size() == 3 * BYTES
    assert torch.equal(read(leaves[0]), tensor_of(0))


def test_growing_leaves_other_models_where_they_are(make_cache: Callable[..., Any]) -> None:
    import comfy.model_management as management

    from development.tiny_models import FAMILIES

    cache, _leaves = make_cache(1)
    model = FAMILIES["wan_t2v"].model()
    management.load_models_gpu([model, cache.patcher])
    size = model.loaded_size()
    cache.add("more", tensor_of(1))
    assert management.loaded_models() == [model]
    assert model.loaded_size() == size > 0


def test_a_view_holds_what_is_read_and_others_live_while_they_are_held(
    make_cache: Callable[..., Any],
) -> None:
    cache, leaves = make_cache(4)
    patcher = cache.view(["k2", "k0"])
    assert patcher is cache.patcher
    assert patcher.model_size() == 2 * BYTES
    assert torch.equal(read(leaves[1]), tensor_of(1))  # out of view, still readable
    assert "k1" in cache
    gone = weakref.ref(leaves[3])
    del leaves[3]
    assert gone() is None and "k3" not in cache
    cache.view(["k0", "k1"])
    assert cache.patcher.model_size() == 2 * BYTES


def test_what_only_the_cache_holds_stays_when_it_grows(make_cache: Callable[..., Any]) -> None:
    cache, _ = make_cache()
    for index in range(3):
        cache.add(f"k{index}", tensor_of(index))
    gc.collect()
    assert [torch.equal(read(cache.get(f"k{i}")), tensor_of(i)) for i in range(3)] == [True] * 3
    cache.view(["k2", "k0"])
    assert len(cache) == 2 and cache.patcher.model_size() == 2 * BYTES


def test_the_same_view_stays_on_the_device(make_cache: Callable[..., Any]) -> None:
    import comfy.model_management as management

    cache, _leaves = make_cache(3)
    management.load_models_gpu([cache.view(["k0", "k1"])])
    assert cache.view(["k1", "k0"]).loaded_size() == 2 * BYTES
    cache.add("k0", tensor_of(0))
    assert cache.patcher.loaded_size() == 2 * BYTES


def test_core_holds_weak_references_so_the_value_must_own_the_patcher(
    make_cache: Callable[..., Any],
) -> None:
    import comfy.model_management as management

    cache, leaves = make_cache(2)
    management.load_models_gpu([cache.patcher])
    root = weakref.ref(cache.patcher.model)
    leaves.clear()
    gc.disable()
    try:
        del cache
        assert root() is None  # no cycle keeps it: the memory is free at once
    finally:
        gc.enable()
    assert management.loaded_models() == []


def test_a_model_that_it_is_attached_to_keeps_it_alive(make_cache: Callable[..., Any]) -> None:
    import comfy.model_management as management

    from development.tiny_models import FAMILIES

    cache, leaves = make_cache(2)
    model = FAMILIES["wan_t2v"].model().clone()
    model.set_additional_models("throughline", [cache.view(["k0", "k1"])])
    copy = model.clone()
    del cache, model
    management.load_models_gpu([copy, *copy.get_nested_additional_models()])
    assert loaded_roots().count("Entries") == 1
    assert torch.equal(read(leaves[1]), tensor_of(1))


def test_a_running_prompt_marks_the_entries_as_in_use(
    make_cache: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Core's PromptModelTracker and its RAM cache look for `patcher` on a node's output."""
    from comfy.model_patcher import PromptModelTracker, is_model_patcher_output

    cache, _leaves = make_cache(1)
    marks: list[bool] = []
    monkeypatch.setattr(cache.patcher, "is_dynamic", lambda: True)
    monkeypatch.setattr(cache.patcher, "set_in_use_by_current_prompt", marks.append, raising=False)
    tracker = PromptModelTracker()
    tracker.add([[SimpleNamespace(patcher=cache.patcher)]])
    tracker.end()
    assert marks == [True, False]
    assert is_model_patcher_output(cache)


def test_a_sampler_loads_the_entries_with_its_model(make_cache: Callable[..., Any]) -> None:
    """`prepare_sampling` loads and protects what is attached; a wrapper sees it placed."""
    import comfy.sample
    import comfy.samplers
    from comfy.patcher_extension import WrappersMP

    from development.tiny_models import FAMILIES

    cache, leaves = make_cache(3)
    family = FAMILIES["wan_t2v"]
    model = family.model().clone()
    model.set_additional_models("throughline", [cache.view(["k0", "k1", "k2"])])
    seen: list[tuple[int, bool]] = []

    def watch(executor: Any, *arguments: Any, **keywords: Any) -> Any:
        equal = all(torch.equal(read(leaf), tensor_of(i)) for i, leaf in enumerate(leaves))
        seen.append((cache.patcher.loaded_size(), equal))
        return executor(*arguments, **keywords)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", watch)
    latent = torch.zeros(1, 16, 2, 4, 4)
    sampler = comfy.samplers.sampler_object("euler")
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    text = family.conditioning()
    with torch.inference_mode():
        comfy.sample.sample_custom(
            model, torch.randn_like(latent), 1.0, sampler, sigmas, text, text, latent, seed=0
        )
    assert seen == [(3 * BYTES, True)] * 2


@pytest.fixture
def dynamic(comfy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Core's dynamic patcher in force, its native library acted out: ranges that only count. Gives
    the device, on which nothing may really be put."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy_aimdo.host_buffer
    import comfy_aimdo.model_vbar

    class Range(comfy_aimdo.model_vbar.ModelVBAR):
        def __init__(self, size: int, device: int) -> None:
            self.max_size, self.device, self.offset, self.base_addr = size, device, 0, 0

        def prioritize(self, malloc_async_clamp: Any = None) -> None: ...

        def loaded_size(self) -> int:
            return 0

        def free_memory(self, size_bytes: int) -> int:
            return 0

    monkeypatch.setattr(comfy_aimdo.model_vbar, "ModelVBAR", Range)
    monkeypatch.setattr(
        comfy_aimdo.host_buffer, "HostBuffer", lambda *sizes: SimpleNamespace(size=0, sizes=sizes)
    )
    monkeypatch.setattr(comfy.model_management, "MAX_PINNED_MEMORY", 1 << 40)
    patcher = comfy.model_patcher.ModelPatcherDynamic
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", patcher)
    return torch.device("cuda", 0)


def test_the_dynamic_patcher_stages_every_entry_of_a_growing_history(
    make_cache: Callable[..., Any], dynamic: torch.device
) -> None:
    """It reserves addresses for ten times the model, pinned memory for twice, at its first load:
    30 entries outgrow what one was given."""
    cache, leaves = make_cache(1, load_device=dynamic, offload_device=CPU)
    assert cache.patcher.is_dynamic()
    for index in range(1, 30):
        cache.patcher.partially_load(dynamic)
        assert all(hasattr(leaf, "_v") for leaf in leaves)
        assert [leaf.weight.device for leaf in leaves] == [CPU] * index
        leaves.append(cache.add(f"k{index}", tensor_of(index)))
    cache.patcher.partially_load(dynamic)
    ranges = {id(leaf._v[0]) for leaf in leaves}
    assert len(ranges) == 1
    assert leaves[0]._v[0].max_size == 10 * cache.patcher.model_size() == 300 * BYTES
    pinned = cache.patcher.model.dynamic_pins[dynamic]["weights"][0].sizes
    assert pinned[2] == 60 * BYTES


def test_a_folder_may_be_named_later(make_cache: Callable[..., Any], spill: Any) -> None:
    cache, leaves = make_cache(3, ram_bytes=BYTES)
    assert cache.sizes().ram == 3 * BYTES
    cache.spill = spill.spill
    cache.view(["k0", "k1", "k2"])
    assert (cache.sizes().ram, spill.written) == (BYTES, ["k0", "k1"])
    assert all(torch.equal(read(leaf), tensor_of(i)) for i, leaf in enumerate(leaves))


def test_beyond_the_ceiling_the_longest_unused_are_read_from_files(
    make_cache: Callable[..., Any], spill: Any
) -> None:
    cache, leaves = make_cache(4, ram_bytes=2 * BYTES, spill=spill.spill)
    assert spill.written == ["k0", "k1"]
    assert (cache.sizes().ram, cache.sizes().files) == (2 * BYTES, 2 * BYTES)
    cache.get("k2")
    leaves.append(cache.add("k4", tensor_of(4)))
    assert spill.written == ["k0", "k1", "k3"]
    assert cache.sizes().total == cache.patcher.model_size() == 5 * BYTES
    for index, leaf in enumerate(leaves):
        assert torch.equal(read(leaf), tensor_of(index))
    stored = load_file(spill.spill.folder / "k3.safetensors")
    assert torch.equal(stored["tensor"], tensor_of(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_every_type_comes_back_bit_by_bit(
    dtype: torch.dtype, make_cache: Callable[..., Any], spill: Any
) -> None:
    cache, _ = make_cache(ram_bytes=0, spill=spill.spill)
    tensor = tensor_of(7).to(dtype)
    tensor.view(torch.uint8)[0] = 0x7F  # NaN in float8, an odd number elsewhere
    leaf = cache.add("odd", tensor.clone())
    assert cache.sizes().files == tensor.nbytes
    assert torch.equal(leaf.weight.view(torch.uint8), tensor.view(torch.uint8))


def test_without_a_folder_nothing_is_dropped(make_cache: Callable[..., Any]) -> None:
    cache, _leaves = make_cache(3, ram_bytes=0)
    assert (cache.sizes().ram, cache.sizes().files) == (3 * BYTES, 0)


def test_a_failed_write_keeps_the_copy_in_ram(
    make_cache: Callable[..., Any], tmp_path: Path
) -> None:
    from throughline.adapters.cache import Spill

    def full(path: Path, data: bytes) -> None:
        raise OSError("disk full")

    cache, _ = make_cache(ram_bytes=0, spill=Spill(tmp_path, full))
    with pytest.raises(OSError, match="disk full"):
        cache.add("k0", tensor_of(0))
    assert cache.sizes().ram == BYTES
    assert torch.equal(read(cache.get("k0")), tensor_of(0))


def test_a_file_that_is_there_is_used_when_it_holds_the_same(
    make_cache: Callable[..., Any], spill: Any
) -> None:
    folder = spill.spill.folder
    folder.mkdir()
    save_file({"tensor": tensor_of(0)}, folder / "k0.safetensors")
    save_file({"tensor": tensor_of(0)}, folder / "k1.safetensors")  # another content
    (folder / "k2.safetensors").write_bytes(b"not a file of ours")
    (folder / "k3.safetensors").write_bytes(b"")
    save_file({"other": tensor_of(4)}, folder / "k4.safetensors")
    cache, leaves = make_cache(5, ram_bytes=0, spill=spill.spill)
    assert spill.written == ["k1", "k2", "k3", "k4"]
    assert all(torch.equal(read(leaf), tensor_of(i)) for i, leaf in enumerate(leaves))
    assert cache.sizes().files == 5 * BYTES


def test_what_core_brings_back_as_a_copy_is_mapped_again(
    make_cache: Callable[..., Any], spill: Any
) -> None:
    """A load and an unload leave a copy in RAM: on a GPU by `.to`, here made by hand."""
    import comfy.model_management as management

    cache, leaves = make_cache(3, ram_bytes=0, spill=spill.spill)
    management.load_models_gpu([cache.patcher])
    for leaf in leaves:
        leaf.weight.data = leaf.weight.data.clone()
    assert cache.sizes().ram == 3 * BYTES
    management.free_memory(1e30, CPU)
    assert (cache.sizes().ram, cache.sizes().files) == (0, 3 * BYTES)
    assert spill.written == ["k0", "k1", "k2"]  # once each
    assert all(torch.equal(read(leaf), tensor_of(i)) for i, leaf in enumerate(leaves))


def test_what_a_clone_takes_over_stays_as_it_is(make_cache: Callable[..., Any], spill: Any) -> None:
    """Core hands a loaded model from clone to clone without unpatching it; then nothing moves."""
    cache, (leaf,) = make_cache(1, ram_bytes=0, spill=spill.spill)
    leaf.weight.data = leaf.weight.data.clone()
    cache.patcher.detach(unpatch_all=False)
    assert cache.sizes().ram == BYTES
    cache.patcher.detach()
    assert (cache.sizes().ram, cache.sizes().files) == (0, BYTES)


def test_entries_are_off_the_device_before_their_memory_is_given_up(
    make_cache: Callable[..., Any], spill: Any
) -> None:
    import comfy.model_management as management

    cache, leaves = make_cache(2, spill=spill.spill)
    management.load_models_gpu([cache.patcher])
    cache.view(["k0", "k1"])
    assert cache.patcher.loaded_size() == 2 * BYTES
    cache.ram_bytes = BYTES
    cache.view(["k0", "k1"])
    assert cache.patcher.loaded_size() == 0
    assert spill.written == ["k0"]
    assert all(torch.equal(read(leaf), tensor_of(i)) for i, leaf in enumerate(leaves))


def test_a_file_that_was_removed_is_written_again(
    make_cache: Callable[..., Any], spill: Any
) -> None:
    cache, (leaf,) = make_cache(1, ram_bytes=0, spill=spill.spill)
    kept = leaf.weight.data.clone()
    (spill.spill.folder / "k0.safetensors").unlink()
    assert torch.equal(read(leaf), kept)  # the mapping outlives the name
    leaf.weight.data = kept
    cache.map_again()
    assert cache.sizes().ram == BYTES  # nothing to map, nothing lost
    cache.settle()
    assert spill.written == ["k0", "k0"]
    assert torch.equal(read(leaf), tensor_of(0))


GROWER = """
import importlib.util, os, sys
from pathlib import Path
root, host, folder, ram = sys.argv[1:5]
sys.path.insert(0, host)
from comfy.cli_args import args
args.cpu = True
spec = importlib.util.spec_from_file_location(
    "throughline", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["throughline"] = importlib.util.module_from_spec(spec)
import comfy.model_management as management
import psutil, torch
torch.set_num_threads(1)
from throughline.adapters.cache import LatentCache, Spill, read_cached
from throughline.runs.atomic import write_atomic
from throughline.runs.heap import give_back_freed_memory

def write(path, data):
    write_atomic(path, data, durable=False)

cache = LatentCache(int(ram), Spill(Path(folder), write, give_back_freed_memory))
held, process, marks = [], psutil.Process(), []
for index in range(48):
    generator = torch.Generator().manual_seed(index)
    held.append(cache.add(f"k{index}", torch.randn((1 << 18, 8), generator=generator)))
    management.load_models_gpu([cache.view([f"k{max(0, index - 1)}", f"k{index}"])])
    for leaf in held[-2:]:
        read_cached(leaf, torch.device("cpu"), torch.float32).sum()
    memory = process.memory_info()
    marks.append(memory.rss - getattr(memory, "shared", 0))  # mapped pages can be dropped
first = torch.randn((1 << 18, 8), generator=torch.Generator().manual_seed(0))
same = torch.equal(read_cached(held[0], torch.device("cpu"), torch.float32), first)
sys.stdout.write(f"{marks[7]} {max(marks)} {same}")
"""
ENTRY_BYTES = (1 << 18) * 8 * 4


def test_resident_memory_is_flat_over_48_entries(tmp_path: Path, comfy: ModuleType) -> None:
    """40 further entries of 8 MB add less than 4 of them; without files they added all of it."""
    command = [sys.executable, "-c", GROWER, str(ROOT), os.environ["COMFYUI_PATH"], str(tmp_path)]
    done = subprocess.run(
        [*command, str(4 * ENTRY_BYTES)], check=True, capture_output=True, text=True
    )
    early, peak, same = done.stdout.split()
    assert same == "True"
    assert int(peak) - int(early) < 4 * ENTRY_BYTES
    assert len(list(tmp_path.glob("*.safetensors"))) == 44
