"""python3 dev.py convert NAME FILE: released weights of other formats as safetensors.

    python3 dev.py convert mmpl mmpl.pt --out MMPL_t2v_14B.safetensors
    python3 dev.py convert mmpl mmpl.pt --base wan_t2v_14B.safetensors --out diff.safetensors

MMPL (arXiv 2508.03334): a pickled dict with the key `generator`; it is read by torch with
weights_only, so nothing in it is run. The first form is a whole model, which ComfyUI loads as
causal Wan; with --base only what self-attention learned is written, as a LoRA file of differences,
which leaves a quantised base as it is.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .environment import Problem, say

PREFIXES = ("model.", "_fsdp_wrapped_module.")
"""What the released training wraps around the network's own names."""

BASE_PREFIXES = ("model.diffusion_model.", "diffusion_model.")

CAUSAL = json.dumps({"transformer": {"causal_ar": True}})
"""ComfyUI reads this from the metadata and loads the network as causal Wan
(`comfy.model_detection.detect_unet_config`)."""

TYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
SAFETENSORS_TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
TRAINED = ".self_attn."
"""All that MMPL trains: queries, keys, values, output and norms of self-attention."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read what stands behind `convert`."""
    parser = argparse.ArgumentParser(
        prog="dev.py convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=["mmpl"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a new .safetensors file")
    parser.add_argument("--base", type=Path, help="Wan 2.1 T2V as safetensors: write differences")
    parser.add_argument("--dtype", choices=TYPES, default="bf16")
    return parser.parse_args(arguments)


def run(arguments: Sequence[str]) -> int:
    """Convert one file; returns the exit status. Raises Problem naming what does not fit."""
    options = parse(arguments)
    if options.out.suffix != ".safetensors":
        raise Problem(f"--out must end in .safetensors, got {options.out.name}")
    if options.out.exists():
        raise Problem(f"{options.out} exists already: choose another name or move it away")
    state = read_generator(options.file)
    if options.base is None:
        write_model(options.out, state, TYPES[options.dtype])
    else:
        write_differences(options.out, state, options.base, TYPES[options.dtype])
    say(f"wrote {options.out}")
    return 0


def read_generator(path: Path) -> dict[str, Any]:
    """The network's weights by their own names, mapped from the file, not copied."""
    import pickle

    import torch

    if not path.is_file():
        raise Problem(f"{path} is no file")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise Problem(
            f"{path.name} is no file of weights that can be read safely: {error}"
        ) from None
    if not isinstance(loaded, Mapping) or not isinstance(loaded.get("generator"), Mapping):
        held = sorted(loaded)[:5] if isinstance(loaded, Mapping) else type(loaded).__name__
        raise Problem(f"{path.name} must hold the key 'generator' as MMPL's files do, got {held}")
    state = {_plain(name): tensor for name, tensor in loaded["generator"].items()}
    missing = {"patch_embedding.weight", "head.head.weight"} - set(state)
    if missing or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise Problem(f"{path.name} is no Wan network: it lacks {sorted(missing) or 'tensors'}")
    return state


def _plain(name: str) -> str:
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name, stripped = name[len(prefix) :], True
    return name.replace("." + PREFIXES[1], ".")


def write_model(path: Path, state: Mapping[str, Any], dtype: str) -> None:
    """The whole network, one tensor in memory at a time."""
    metadata = {"config": CAUSAL, "format": "pt", "title": "MMPL, converted by Throughline"}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    stream_tensors(path, shapes, dtype, metadata, lambda name: state[name])


def write_differences(path: Path, state: Mapping[str, Any], base: Path, dtype: str) -> None:
    """What self-attention learned, as a LoRA file of differences to a base model.

    Raises Problem where anything else differs: then the difference alone would be another model.
    """
    import safetensors
    import torch

    with safetensors.safe_open(base, "pt") as file:
        names = {_without_base_prefix(name): name for name in file.keys()}  # noqa: SIM118
        if set(names) != set(state):
            odd = sorted(set(names) ^ set(state))
            raise Problem(f"{base.name} is another network: {odd[0]} is in one of the two only")
        for name in sorted(state):
            if TRAINED not in name and not _same(state[name], file.get_tensor(names[name])):
                raise Problem(
                    f"{name} differs from {base.name}, though only self-attention was trained: "
                    "convert the whole model, or name the base that it was trained from"
                )
        trained = {_patch_name(name): name for name in sorted(state) if TRAINED in name}

        def difference(patch: str) -> Any:
            name = trained[patch]
            return state[name].to(torch.float32) - file.get_tensor(names[name]).to(torch.float32)

        shapes = {patch: tuple(state[name].shape) for patch, name in trained.items()}
        metadata = {"format": "pt", "title": "MMPL self-attention, converted by Throughline"}
        stream_tensors(path, shapes, dtype, metadata, difference)


def _without_base_prefix(name: str) -> str:
    for prefix in BASE_PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _patch_name(name: str) -> str:
    """ComfyUI's name of a difference (`comfy.lora.load_lora`)."""
    layer, _, kind = name.rpartition(".")
    return f"diffusion_model.{layer}.{'diff' if kind == 'weight' else 'diff_b'}"


def _same(one: Any, other: Any) -> bool:
    """Whether two tensors hold the same numbers in the coarser of their two types."""
    coarser = min(one.dtype, other.dtype, key=lambda kind: kind.itemsize)
    return one.shape == other.shape and bool((one.to(coarser) == other.to(coarser)).all())


def stream_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    metadata: Mapping[str, str],
    read: Callable[[str], Any],
) -> None:
    """Write a safetensors file, one tensor in memory at a time: a model may be larger than RAM.

    The file is whole or not there at all. Format: eight bytes for the length of a JSON header, the
    header, the tensors' bytes one after another (huggingface/safetensors, README).
    """
    import math

    import torch

    kind = getattr(torch, dtype)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * kind.itemsize
        header[name] = {
            "dtype": SAFETENSORS_TYPES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for data in _bytes(shapes, kind, read):
                file.write(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _bytes(
    shapes: Mapping[str, tuple[int, ...]], kind: Any, read: Callable[[str], Any]
) -> Iterator[bytes]:
    import torch

    for name in shapes:
        tensor = read(name).to(kind).contiguous()
        yield tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
