"""One segment on disk: a safetensors file that says by itself what it is and whether it is whole.

Tensors: "latent" [1, c, t, h, w] float32, the known latent frames included; "preview" uint8 [n],
the bytes of a JPEG (may be absent). Metadata, all text: key, content (BLAKE3 of the latent's
bytes), parent_content ("" where it starts anew), recalled_content (one hash over the contents of
the segments that it remembers; "" or absent where it remembers none), index, statistics (JSON),
seconds, finished_at.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .atomic import write_atomic
from .keys import canonical, canonical_json

KEY_DIGITS = 12
"""Digits of the key in the file name: 48 bits, so 10^5 takes meet with odds of 2 in 10^5; the whole
key in the metadata decides."""

LARGEST_HEADER = 1 << 24
"""Bytes; ours are below a few thousand. A damaged length must not make us allocate."""


class DamagedSegmentError(ValueError):
    """A segment file that is truncated, altered or not ours; the text says which."""


@dataclass(frozen=True, kw_only=True)
class StoredSegment:
    """What a segment file says about itself. `file` is its name within segments/."""

    file: str
    key: str
    content: str
    parent_content: str | None
    recalled_content: str | None = None
    statistics: Mapping[str, Any]
    seconds: float
    finished_at: str
    shape: tuple[int, ...]


def file_name(index: int, key: str) -> str:
    """The file of segment `index` (0-based) made under `key`."""
    return f"{index + 1:04d}-{key[:KEY_DIGITS]}.safetensors"


def content_hash(latent: Tensor) -> str:
    """BLAKE3 of the bytes of a contiguous float32 latent on the CPU."""
    return blake3.blake3(latent.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def write_segment_file(
    folder: Path,
    index: int,
    latent: Tensor,
    preview: bytes | None,
    *,
    key: str,
    parent_content: str | None,
    statistics: Mapping[str, Any],
    seconds: float,
    finished_at: str,
    recalled_content: str | None = None,
) -> StoredSegment:
    """Write a segment atomically. `latent` is [1, c, t, h, w], contiguous float32 on the CPU."""
    content = content_hash(latent)
    tensors = {"latent": latent}
    if preview:
        tensors["preview"] = torch.frombuffer(bytearray(preview), dtype=torch.uint8)
    statistics_json = canonical_json(statistics, f"statistics of segment {index + 1}").decode()
    metadata = {
        "key": key,
        "content": content,
        "parent_content": parent_content or "",
        "recalled_content": recalled_content or "",
        "index": str(index),
        "statistics": statistics_json,
        "seconds": repr(float(seconds)),
        "finished_at": finished_at,
    }
    name = file_name(index, key)
    write_atomic(folder / name, safetensors.torch.save(tensors, metadata))
    return StoredSegment(
        file=name,
        key=key,
        content=content,
        parent_content=parent_content,
        recalled_content=recalled_content,
        statistics=json.loads(statistics_json),
        seconds=float(seconds),
        finished_at=finished_at,
        shape=tuple(latent.shape),
    )


def read_segment_file(path: Path) -> tuple[StoredSegment, Tensor, bytes | None]:
    """Read and verify a whole segment file: what it says, its latent, its preview.

    Raises DamagedSegmentError when it is not whole; OSError when it cannot be read at all.
    """
    data = path.read_bytes()
    metadata = _metadata(data)
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise DamagedSegmentError(f"it is truncated or altered ({error})") from error
    latent, preview = tensors.get("latent"), tensors.get("preview")
    if latent is None or latent.dtype != torch.float32 or latent.ndim != 5:
        raise DamagedSegmentError("it holds no float32 latent of five axes")
    if content_hash(latent) != metadata.get("content"):
        raise DamagedSegmentError("its latent is not the one that was written (its hash differs)")
    if preview is not None and (preview.dtype != torch.uint8 or preview.ndim != 1):
        raise DamagedSegmentError("its preview is not a row of bytes")
    try:
        stored = StoredSegment(
            file=path.name,
            key=metadata["key"],
            content=metadata["content"],
            parent_content=metadata["parent_content"] or None,
            recalled_content=metadata.get("recalled_content") or None,
            statistics=dict(canonical(json.loads(metadata["statistics"]), "statistics")),
            seconds=float(metadata["seconds"]),
            finished_at=metadata["finished_at"],
            shape=tuple(latent.shape),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedSegmentError(f"its metadata is altered ({error})") from error
    return stored, latent, None if preview is None else preview.numpy().tobytes()


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of safetensors bytes, checked before the tensors are touched."""
    if len(data) < 8:
        raise DamagedSegmentError(f"it has {len(data)} bytes only")
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(LARGEST_HEADER, len(data) - 8):
        raise DamagedSegmentError("it is truncated or its header is altered")
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise DamagedSegmentError(f"its header is altered ({error})") from error
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise DamagedSegmentError("its header has no metadata")
    return metadata
