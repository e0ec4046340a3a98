"""python3 dev.py convert NAME FILE: released weights of other formats as safetensors.

    python3 dev.py convert mmpl mmpl.pt --out MMPL_t2v_14B.safetensors
    python3 dev.py convert mmpl mmpl.pt --base wan_t2v_14B.safetensors --out diff.safetensors
    python3 dev.py convert millivid autoencoder.ckpt millivid_192k.ckpt --out models/millivid

MMPL (arXiv 2508.03334): a pickled dict with the key `generator`; it is read by torch with
weights_only, so nothing in it is run. The first form is a whole model, which ComfyUI loads as
causal Wan; with --base only what self-attention learned is written, as a LoRA file of differences,
which leaves a quantised base as it is.

MilliVid (arXiv 2606.09056): see converting_millivid.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import converting_millivid
from .environment import Problem, say
from .released import TYPES, read_release, stream_tensors

PREFIXES = ("model.", "_fsdp_wrapped_module.")
"""What the released training wraps around the network's own names."""

BASE_PREFIXES = ("model.diffusion_model.", "diffusion_model.")

CAUSAL = json.dumps({"transformer": {"causal_ar": True}})
"""ComfyUI reads this from the metadata and loads the network as causal Wan
(`comfy.model_detection.detect_unet_config`)."""

MILLIVID = converting_millivid.__doc__

TRAINED = ".self_attn."
"""All that MMPL trains: queries, keys, values, output and norms of self-attention."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read what stands behind `convert`."""
    parser = argparse.ArgumentParser(
        prog="dev.py convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="name", required=True)
    mmpl = kinds.add_parser("mmpl", help="a checkpoint of MMPL")
    mmpl.add_argument("file", type=Path)
    mmpl.add_argument("--out", type=Path, required=True, help="a new .safetensors file")
    mmpl.add_argument("--base", type=Path, help="Wan 2.1 T2V as safetensors: write differences")
    mmpl.add_argument("--dtype", choices=TYPES, default="bf16")
    converting_millivid.add_arguments(
        kinds.add_parser("millivid", help="checkpoints of MilliVid", description=MILLIVID)
    )
    return parser.parse_args(arguments)


def run(arguments: Sequence[str]) -> int:
    """Convert files; returns the exit status. Raises Problem naming what does not fit."""
    options = parse(arguments)
    if options.name == "millivid":
        return converting_millivid.run(options)
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
    import torch

    loaded = read_release(path)
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
