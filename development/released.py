"""Released weights: read without running anything in them, written as safetensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .environment import Problem

TYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
SAFETENSORS_TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def read_release(path: Path) -> Any:
    """What a file of torch's holds, its tensors mapped from the file, not copied.

    Raises Problem where there is no file, or one that cannot be read safely.
    """
    import pickle

    import torch

    if not path.is_file():
        raise Problem(f"{path} is no file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise Problem(
            f"{path.name} is no file of weights that can be read safely: {error}"
        ) from None


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
