"""Packed context on a video model: a clone that reads a hierarchy's codes while it samples.

The tokens go the way of every memory (adapters/attach.py): clean, beside the image, gone before the
head. See memory/packed_context.py for what they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import torch
from torch import Tensor

from ..memory.bank import MemoryBank, MemoryEntry, MemoryPiece
from ..memory.hierarchy import CellState, from_patches
from ..memory.hierarchy_format import PackedCard, read_packed_file
from ..memory.packed_context import (
    PackedConfig,
    PackedEmbedder,
    cell_positions,
    initialise_embedder,
)
from ..memory.rates import Rate
from ..planning.packed import only_known
from ..planning.rollout import RolloutStep, Span
from .attach import attach_memory, injection_of
from .cache import CachedTensor, LatentCache
from .encoders import model_patch, model_width
from .fingerprint import fingerprint_value
from .hierarchy_value import Timeline
from .hierarchy_weights import as_patcher
from .wan_memory import WAN_INJECTION

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CATEGORY = "packed_context"
"""Folder of ComfyUI's models folder."""


@dataclass(frozen=True, eq=False)
class LoadedPacked:
    """Embedders that ComfyUI moves. `card` is None where nobody has trained them."""

    patcher: ModelPatcher
    card: PackedCard | None

    @property
    def embedder(self) -> PackedEmbedder:
        module = self.patcher.model
        assert isinstance(module, PackedEmbedder)
        return module


def load_packed(path: Path) -> LoadedPacked:
    """Load a trained file. Raises ValueError naming file, rule and value."""
    embedder, card = read_packed_file(path)
    return LoadedPacked(as_patcher(embedder), card)


def untrained_packed(model: ModelPatcher, timeline: Timeline) -> LoadedPacked:
    """Embedders that project pooled codes as the model projects its own patches.

    Raises ValueError for a model that is no Wan, and for codes that are no patches of latents:
    those need training.
    """
    _check_family(model)
    codes = timeline.head.head.code_channels
    projection = model.model.diffusion_model.patch_embedding
    cell = projection.weight[0, 0].numel() * int(
        model.get_model_object("latent_format").latent_channels
    )
    if any(channels != cell for channels in codes[1:]):
        raise ValueError(
            f"packed context without training reads pooled codes only, got those of the head "
            f"{timeline.head.name}: choose a file in models/{CATEGORY}, or encode without a head"
        )
    embedder = PackedEmbedder(PackedConfig(tuple(codes), int(projection.weight.shape[0])))
    weight, bias = projection.weight.detach().float().cpu(), projection.bias.detach().float().cpu()
    initialise_embedder(embedder, weight, bias, torch.Generator())
    return LoadedPacked(as_patcher(embedder), None)


def check_packed(packed: LoadedPacked, model: ModelPatcher, timeline: Timeline) -> None:
    """Refuse what does not belong together. Raises ValueError naming both."""
    _check_family(model)
    if model_patch(model) != (1, timeline.grid.patch, timeline.grid.patch):
        raise ValueError(
            f"the hierarchy has patches of {timeline.grid.patch} latent cells, this model's are "
            f"{model_patch(model)}: encode the hierarchy for this model"
        )
    width = packed.embedder.config.width
    if width != model_width(model):
        raise ValueError(
            f"packed context was trained for a model of width {width}, got one of width "
            f"{model_width(model)}: choose the file of your model"
        )
    card = packed.card
    if card is not None and card.head != timeline.head.name:
        raise ValueError(
            f"packed context was trained with codes of the head {card.head}, got a hierarchy of "
            f"the head {timeline.head.name}: encode it with that head"
        )
    if packed.embedder.config.code_channels != tuple(timeline.head.head.code_channels):
        raise ValueError(
            f"packed context reads codes of {list(packed.embedder.config.code_channels)} channels, "
            f"got {list(timeline.head.head.code_channels)}"
        )


def _check_family(model: ModelPatcher) -> None:
    name = injection_of(model).name
    if name != WAN_INJECTION.name:
        raise ValueError(f"packed context enters Wan models only, got {name}")


def attach_packed(
    model: ModelPatcher,
    packed: LoadedPacked,
    timeline: Timeline,
    step: RolloutStep,
    strength: float = 1.0,
) -> tuple[ModelPatcher, RolloutStep]:
    """A clone of `model` that sees the known context of `step` while it makes its target, and the
    step with what it sees.

    The sampled latent must begin at the target's first latent frame. `strength` as in
    `attach_memory`. Raises ValueError for what does not belong together.
    """
    check_packed(packed, model, timeline)
    seen = only_known(step, lambda span: _known(timeline, span))
    cache = LatentCache()
    entries = [_entry(packed, timeline, span, cache) for span in seen.context]
    entries.sort(key=lambda entry: entry.start)
    bank = MemoryBank(
        entries=tuple(entries), rope_mode="history_negative", trained=packed.card is not None
    )
    clone = attach_memory(
        model,
        bank,
        strength=strength,
        segment_start_latent_frames=step.target.start,
        patchers=(cache.view([piece.key for entry in entries for piece in entry.pieces]),),
    )
    return clone, seen


def _known(timeline: Timeline, span: Span) -> list[bool]:
    state = timeline.state[span.level, span.start : span.stop] != CellState.UNKNOWN
    return [*state.tolist(), *[False] * (span.frames - len(state))]


def _entry(packed: LoadedPacked, timeline: Timeline, span: Span, cache: LatentCache) -> MemoryEntry:
    """The tokens of one span: level 0 as latents, the others through their layer."""
    codes = timeline.window(span.start, span.stop).codes[span.level]  # f n c
    low = fine = None
    if span.level == 0:
        latents = _latents(timeline, codes)
        key = fingerprint_value(["packed latents", latents])
        low = cache.add(key, latents)
    else:
        tokens = _embedded(packed, span.level, codes)
        key = fingerprint_value(["packed tokens", span.level, tokens])
        fine = cache.add(key, tokens)
    return _as_entry(timeline, span, key, low, fine)


def _as_entry(
    timeline: Timeline,
    span: Span,
    key: str,
    low: CachedTensor | None,
    fine: CachedTensor | None,
) -> MemoryEntry:
    piece = MemoryPiece(
        key=key,
        form=f"level {span.level}",
        rate=Rate(2**span.level, 2**span.level, 1),
        low=low,
        fine=fine,
        hidden=None,
        positions=cell_positions(timeline.grid, span.level, span.frames),
    )
    return MemoryEntry(
        key=f"{key}-{span.start}",
        title=f"level {span.level}, latent frames {span.start} to {span.stop}",
        caption="",
        shot=0,
        start=span.start,
        latent_frames=span.frames,
        pinned=False,
        picture=None,
        pieces=(piece,),
    )


def _latents(timeline: Timeline, codes: Tensor) -> Tensor:
    """Latents `c t h w`, sides filled up to whole tokens, of level-0 codes `t n c`."""
    grid = timeline.grid
    frames = from_patches(codes, grid.rows(0), grid.patch)
    return frames.transpose(0, 1).contiguous()


def _embedded(packed: LoadedPacked, level: int, codes: Tensor) -> Tensor:
    """Tokens `n d` of codes `t n c`, on the CPU."""
    comfy.model_management.load_models_gpu([packed.patcher])
    with torch.inference_mode():
        tokens = packed.embedder(level, codes.float().to(packed.patcher.load_device))
    return tokens.flatten(0, 1).float().cpu().clone()
