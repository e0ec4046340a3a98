"""Tiny random-weight files of the memory format, for tests: everything as with trained ones but
for what is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

WEIGHT_SCALE = 0.2
"""Standard deviation of the random weights: large enough that the memory shows in the picture."""

WIDTHS = (8, 8, 16, 16)


def write_tiny_encoder(
    path: Path,
    *,
    rate: str = "2x2x2",
    inner_dim: int = 48,
    caption_dim: int = 24,
    address_dim: int = 0,
    seed: int = 0,
    cross_attention: Mapping[int, float] | None = None,
    **metadata: str,
) -> Any:
    """Write an encoder for the tiny Wan models, or another width; gives its card.

    `cross_attention` gives blocks of the video model the add-on, each with the scale of its output
    (0 for a new one). `metadata` replace those of the file: stream="chain", lr_mode="latent"...
    """
    from throughline.memory.encoder import EncoderConfig, HistoryEncoder
    from throughline.memory.rates import Rate
    from throughline.memory.weight_format import write_encoder_file

    config = EncoderConfig(
        in_channels=16,
        inner_dim=inner_dim,
        rate=Rate.parse(rate),
        widths=WIDTHS,
        heads=2,
        caption_dim=caption_dim,
        address_dim=address_dim,
    )
    generator = torch.Generator().manual_seed(seed)
    shapes = {key: value.shape for key, value in HistoryEncoder(config).state_dict().items()}
    state = {
        key: torch.randn(shape, generator=generator) * WEIGHT_SCALE
        for key, shape in sorted(shapes.items())
    }
    for block, scale in (cross_attention or {}).items():
        for layer, columns in (("k", WIDTHS[-1]), ("v", WIDTHS[-1]), ("o", inner_dim)):
            drawn = torch.randn((inner_dim, columns), generator=generator)
            state[f"xattn.{block}.{layer}.weight"] = drawn * (scale if layer == "o" else 1.0)
    said = {
        "base": "throughline-demo",
        "in_channels": "16",
        "inner_dim": str(inner_dim),
        "rate": rate,
        "grid_round": "ceil",
        "rope_mode": "history_negative",
        "causal": "1",
        "lr_mode": "pixel",
        "memory_t0": "1",
        "segment_latents": "6",
        "fps": "8",
        "widths": ",".join(map(str, WIDTHS)),
        "heads": "2",
        "caption_dim": str(caption_dim),
        "address_dim": str(address_dim),
        "stream": "segment",
    }
    return write_encoder_file(path, state, {**said, **metadata})
