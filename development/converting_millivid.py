"""MilliVid (arXiv 2606.09056): its released checkpoints as safetensors for the MilliVid rollout.

Each file becomes NAME.safetensors in the folder of --out: an autoencoder or a video model, told
apart by its tensors. A checkpoint is a pickled dict whose key `model` holds the weights; it is read
by torch with weights_only, so nothing in it is run. Put the results into models/millivid.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .environment import ROOT, Problem, say
from .package import enter_package
from .released import TYPES, read_release, stream_tensors

WRAPPER = "module."
"""What torch's distributed training puts before every name; the release is expected without it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What stands behind `convert millivid`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, help="a folder, such as models/millivid")
    parser.add_argument("--dtype", choices=TYPES, default="fp32")
    parser.add_argument(
        "--full-resolution",
        action="store_true",
        help="the video models are the baseline that rolls out at level 0 only",
    )
    parser.add_argument(
        "--windows", help="frames per level of an ablation, such as 1,4,16,64; else the released"
    )
    parser.add_argument(
        "--pooled",
        action="store_true",
        help="the autoencoders are the ablation whose coarser codes are averages (cascaded)",
    )


def run(options: argparse.Namespace) -> int:
    """Convert every file; nothing is written unless all of them can be read."""
    if "throughline" not in sys.modules:
        enter_package("throughline", ROOT, execute=False)
    from throughline.memory.millivid_format import write_metadata

    planned = []
    for file in options.files:
        out = options.out / f"{file.stem}.safetensors"
        if out.exists():
            raise Problem(f"{out} exists already: choose another folder or move it away")
        state = read_model(file)
        planned.append((out, state, config_of(file.name, state, options)))
    for out, state, config in planned:
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        metadata = {**write_metadata(config), "title": "MilliVid, converted by Throughline"}
        stream_tensors(out, shapes, TYPES[options.dtype], metadata, state.__getitem__)
        say(f"wrote {out}")
    return 0


def read_model(path: Path) -> dict[str, Any]:
    """The weights of a checkpoint by their own names."""
    import torch

    loaded = read_release(path)
    held = loaded.get("model") if isinstance(loaded, Mapping) else None
    if not isinstance(held, Mapping) or not held:
        keys = sorted(loaded)[:5] if isinstance(loaded, Mapping) else type(loaded).__name__
        raise Problem(f"{path.name} must hold the key 'model' as MilliVid's files do, got {keys}")
    state = {name.removeprefix(WRAPPER): tensor for name, tensor in held.items()}
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise Problem(f"{path.name} holds something else than tensors under 'model'")
    return state


def config_of(name: str, state: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What the tensors do not say. Raises Problem for weights that are not MilliVid's."""
    from throughline.memory.millivid_format import check_millivid, kind_of

    kind = kind_of(state)
    if kind is None:
        first = ", ".join(sorted(state)[:3])
        raise Problem(f"{name} is no autoencoder and no video model of MilliVid: it holds {first}")
    config = _autoencoder(state, options) if kind == "autoencoder" else _video(state, options)
    try:
        check_millivid(state, config)
    except ValueError as error:
        raise Problem(f"{name}: {error}") from None
    return config


def _autoencoder(state: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    from throughline.memory.millivid_format import RELEASED_GRID

    return {
        "kind": "autoencoder",
        "grid": RELEASED_GRID,
        "patch_order": patch_order(state["decoder.unpatchify.weight"]),
        "pooled": options.pooled,
    }


def _video(state: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    from throughline.memory.millivid_format import RELEASED_WINDOWS, RolloutName

    rollout: RolloutName = "full resolution" if options.full_resolution else "coarse to fine"
    if "dit.patchify.0.weight" in state:
        rollout = "FramePack"
    windows = list(RELEASED_WINDOWS[rollout])
    if options.windows:
        parts = options.windows.split(",")
        if not all(part.strip().isdecimal() for part in parts):
            raise Problem(f"--windows must be whole numbers with commas, got {options.windows!r}")
        windows = [int(part) for part in parts]
    return {"kind": "video", "rollout": rollout, "windows": windows}


def patch_order(weight: Any) -> str:
    """How the pixels of a patch stand in a row, from what the last layer (pixels, width) learned.

    No source states it. Pixels below each other look alike in pictures, so the filters of a
    trained decoder change less from one row to the next under the order they were trained in; where
    both orders are as rough, as with weights at random, colours come first (inferred).
    """
    import math

    side = math.isqrt(len(weight) // 3)
    if 3 * side**2 != len(weight):
        return "channel first"  # no patch at all: the check of the tensors says so
    weight = weight.float()
    first = weight.view(3, side, side, -1).diff(dim=1).square().mean()
    last = weight.view(side, side, 3, -1).diff(dim=0).square().mean()
    return "channel last" if last < CLEARLY * first else "channel first"


CLEARLY = 0.9
"""Of the other order's roughness. Filters without any order differ by a few percent (measured on
normal noise of 768 x 768: 0.1 percent)."""
