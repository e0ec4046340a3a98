"""Memory tokens that run beside a video model's own sequence: what all families share.

The image tokens go through the model's own blocks, unchanged in number. For each block the memory
tokens' keys and values are added to those that its self-attention reads (through core's
`optimized_attention_override`, which another pack's override still sees), and the memory tokens
get their own pass over the block's layers, as clean tokens (t = 0). That equals one concatenated
sequence with modulation per token, without such a sequence: nothing is stripped before the head,
patches of other packs see the usual lengths, and no tensor of modulations per token exists. (Where
no pack looks into a block, Wan runs both parts through its layers in one go, which is faster.)

The state of one call lives in a copy of `transformer_options`, never on the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..memory.bank import MemoryBank, MemoryPiece
from .cache import read_cached
from .memory_cross_attention import CrossAttention

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

ATTACHED = "throughline_memory"
"""Key of the attached memories in `transformer_options`, and of our wrappers."""

STREAM = "throughline_memory_stream"
"""Key of one call's state in its copy of `transformer_options`."""

RUN = "throughline_memory_run"
"""Key of what all steps of one sampling share, in core's options of that run."""

OVERRIDE = "optimized_attention_override"
"""Core's key for a function that every attention of a model goes through."""


@dataclass(frozen=True, eq=False)
class RunStore:
    """What all steps of one sampling share. No dict: core merges those of its options into new ones
    before every step (`merge_nested_dicts`), and what a step had put in would be gone."""

    tensors: dict[tuple[Any, ...], Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class AttachedMemory:
    """A bank on a model. `segment_start` is the time of the sampled segment's first latent frame.

    `cross_attention` is the decoupled add-on, None without. `content` names all that the tokens
    follow from, in plain strings that `fingerprint_model` reads.
    """

    bank: MemoryBank
    injection: Injection
    strength: float
    segment_start: int
    content: tuple[str, ...]
    cross_attention: CrossAttention | None = None


Levels = tuple[tuple[float, int], ...]
"""(weight, how many memory tokens are seen): what image tokens read is the weighted mean."""


def strength_levels(attached: Sequence[AttachedMemory]) -> Levels:
    """Levels of memories that are sorted by falling strength.

    A memory of strength s is seen by a share s of the mean, so 0 is the model without it and 1 the
    whole memory; one memory at strength 1 is one level, and every further strength costs one more
    attention of the image tokens per block.
    """
    levels, seen, above = [], 0, 1.0
    for memory in attached:
        levels.append((above - memory.strength, seen))
        seen, above = seen + memory.bank.tokens, memory.strength
    levels.append((above, seen))
    return tuple((weight, count) for weight, count in levels if weight > 0.0)


@dataclass(eq=False, kw_only=True)
class MemoryStream:
    """The memory tokens of one call: `tokens` (b m d) are replaced by every block.

    `rope` is the model's own table for their positions, `modulation` its time embedding at t = 0.
    """

    network: Any
    tokens: Tensor
    rope: Tensor
    modulation: Tensor
    levels: Levels
    attached: tuple[AttachedMemory, ...]


class Injection(Protocol):
    """How memory enters one model family."""

    @property
    def name(self) -> str: ...

    def recognises(self, model: ModelPatcher) -> bool: ...

    def width(self, network: Any) -> int:
        """The model's inner width."""
        ...

    def patch_size(self, network: Any) -> tuple[int, int, int]:
        """Latent cells of one token: time, height, width."""
        ...

    def project(self, network: Any, latents: Tensor) -> Tensor:
        """The first projection of latents `b c t h w` to `b d t h w`; other channels are zero."""
        ...

    def install(self, model: ModelPatcher) -> None:
        """Put the wrapper and the block patches on a clone."""
        ...


def once_in_run(
    transformer_options: dict[str, Any], key: tuple[Any, ...], make: Callable[[], Tensor]
) -> Tensor:
    """A tensor that all steps of a sampling share; made anew where no sampling is under way."""
    run: RunStore | None = transformer_options.get(RUN)
    if run is None:
        return make()
    if key not in run.tensors:
        run.tensors[key] = make()
    return run.tensors[key]


def memory_tokens(
    attached: Sequence[AttachedMemory],
    project: Callable[[Tensor], Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """All tokens `1 m d`: each piece's projected latents plus its fine part."""
    pieces = [
        piece for memory in attached for entry in memory.bank.entries for piece in entry.pieces
    ]
    low = _projected_pieces(pieces, project, device, dtype)
    parts = []
    for piece, base in zip(pieces, low, strict=True):
        fine = None if piece.fine is None else read_cached(piece.fine, device, dtype)
        both = [part for part in (base, fine) if part is not None]
        parts.append(both[0] + both[1] if len(both) > 1 else both[0])
    return torch.cat(parts, dim=0)[None]


def _projected_pieces(
    pieces: Sequence[MemoryPiece],
    project: Callable[[Tensor], Tensor],
    device: torch.device,
    dtype: torch.dtype,
) -> list[Tensor | None]:
    """The projection `n d` of each piece's low-resolution latents, None for pieces without.

    A token is one latent frame long, so pieces of one picture size are projected in one call, one
    after the other in time.
    """
    found: list[Tensor | None] = [None] * len(pieces)
    groups: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
    for index, piece in enumerate(pieces):
        if piece.low is not None:
            low = read_cached(piece.low, device, dtype)
            groups.setdefault(tuple(low.shape[2:]), []).append((index, low))
    for group in groups.values():
        lows = [low for _, low in group]
        projected = project(torch.cat(lows, dim=1)[None])[0]  # d t h w
        lengths = [low.shape[1] for low in lows]
        for (index, _), part in zip(group, projected.split(lengths, dim=1), strict=True):
            found[index] = part.flatten(1).transpose(0, 1)
    return found


def memory_times(attached: Sequence[AttachedMemory], device: torch.device) -> Tensor:
    """Positions m 3 (time, row, column) whose time counts from the segment's first latent frame."""
    parts = []
    for memory in attached:
        for entry in memory.bank.entries:
            shift = torch.tensor([float(entry.start - memory.segment_start), 0.0, 0.0])
            parts += [piece.positions.float().cpu() + shift for piece in entry.pieces]
    return torch.cat(parts, dim=0).to(device)


def window_start(transformer_options: dict[str, Any]) -> int:
    """Latent frames of the segment before what this call sees: 0 but for core's context windows.

    A window's rotary positions begin at 0 in every window; the frame that core puts before a
    window (`causal_window_fix`) takes that place.
    """
    window = transformer_options.get("context_window")
    if window is None:
        return 0
    anchor = getattr(window, "causal_anchor_index", None)
    return int(window.index_list[0] if anchor is None or anchor < 0 else anchor)


class SharedAttention:
    """An attention override for one block: its first self-attention also reads the memory.

    While the keys of the image are at hand the memory's own queries are answered too: `output`
    (b m d) is theirs, None in a block after which nobody reads the memory (`query` None). `tokens`
    is how many keys that self-attention has (None: do not look); an attention of another length,
    such as the one to the text, passes. `next_query` is that of the attention that came after.
    """

    def __init__(
        self, query: Tensor | None, key: Tensor, value: Tensor, levels: Levels, tokens: int | None
    ) -> None:
        self._projected: tuple[Tensor | None, Tensor, Tensor] | None = (query, key, value)
        self.levels, self.tokens = levels, tokens
        self.output: Tensor | None = None
        self.next_query: Tensor | None = None
        self.previous: Callable[..., Tensor] | None = None

    def options(self, transformer_options: dict[str, Any]) -> dict[str, Any]:
        """Options in which this override stands before the one that was there."""
        self.previous = transformer_options.get(OVERRIDE)
        return {**transformer_options, OVERRIDE: self}

    def __call__(
        self,
        attention: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        run = attention if self.previous is None else partial(self.previous, attention)
        if self._projected is None:
            self.next_query = q if self.next_query is None else self.next_query
            return run(q, k, v, *args, **kwargs)
        if self.tokens is not None and k.shape[-2] != self.tokens:
            return run(q, k, v, *args, **kwargs)
        query, key, value = self._projected
        self._projected = None  # nothing of it is needed while the block goes on
        own, count = k.shape[-2], key.shape[-2]
        k, v = torch.cat([k, key], dim=-2), torch.cat([v, value], dim=-2)
        del key, value
        if query is not None:
            masked = _with_mask(kwargs, partial(_memory_mask, queries=q.shape[-2], count=count))
            self.output = run(query, k, v, *args, **masked)
        del query
        mixed: Tensor | None = None
        for weight, seen in self.levels:
            keys, values = k[..., : own + seen, :], v[..., : own + seen, :]
            part = run(q, keys, values, *args, **_with_mask(kwargs, partial(_widen, count=seen)))
            if weight == 1.0:
                return part
            mixed = part * weight if mixed is None else mixed.add_(part, alpha=weight)
        assert mixed is not None  # levels sum to 1
        return mixed

    def attended(self, block: int) -> Tensor | None:
        """What the memory's queries read. Raises ValueError when no attention was seen."""
        if self._projected is not None:
            raise ValueError(
                f"memory enters through ComfyUI's attention, and block {block} did not use it: "
                "another node replaced its self-attention; remove that node or the memory"
            )
        return self.output


def _with_mask(kwargs: dict[str, Any], change: Callable[[Tensor], Tensor | None]) -> dict[str, Any]:
    """An attention's arguments with another mask, where there is one."""
    mask = kwargs.get("mask")
    return kwargs if mask is None else {**kwargs, "mask": change(mask)}


def _widen(mask: Tensor, count: int) -> Tensor:
    """An attention mask over `count` more keys that everyone may read."""
    return F.pad(mask, (0, count), value=1.0 if mask.dtype == torch.bool else 0.0)


def _memory_mask(mask: Tensor, queries: int, count: int) -> Tensor | None:
    """The mask of the memory's queries: that of all queries, nothing where each has its own."""
    each_has_its_own = mask.ndim > 1 and mask.shape[-2] == queries and queries > 1
    return None if each_has_its_own else _widen(mask, count)


def read_cross_attention(
    attached: Sequence[AttachedMemory], block: int, query: Tensor, heads: int
) -> Tensor | None:
    """What image queries `b n d` read of all add-ons of a block; None where there is none."""
    total: Tensor | None = None
    for memory in attached:
        store = memory.cross_attention
        if store is not None and store.has(block):
            part = store.read(block, query, heads) * memory.strength
            total = part if total is None else total + part
    return total


def has_cross_attention(attached: Sequence[AttachedMemory], block: int) -> bool:
    stores = (memory.cross_attention for memory in attached)
    return any(store is not None and store.has(block) for store in stores)


BlockRun = Callable[[Any, int, dict[str, Any], Callable[..., Any]], dict[str, Any]]
"""One block with memory: (stream, block number, args, original block) gives core's result."""


def replace_blocks(model: ModelPatcher, kind: str, blocks: int, run: BlockRun) -> None:
    """Put a patch on every block of a kind; one that was there before runs around ours."""
    options = model.model_options.get("transformer_options", {})
    before = options.get("patches_replace", {}).get("dit", {})
    for index in range(blocks):
        patch = partial(_patched_block, index, run, before.get((kind, index)))
        model.set_model_patch_replace(patch, "dit", kind, index)


def _patched_block(
    index: int,
    run: BlockRun,
    before: Callable[..., Any] | None,
    args: dict[str, Any],
    extra: dict[str, Any],
) -> dict[str, Any]:
    ours = partial(_with_memory, index, run, extra["original_block"])
    return ours(args) if before is None else before(args, {**extra, "original_block": ours})


def _with_memory(
    index: int, run: BlockRun, original_block: Callable[..., Any], args: dict[str, Any]
) -> dict[str, Any]:
    stream = args["transformer_options"].get(STREAM)
    if stream is None:
        return original_block(args)
    return run(stream, index, args, original_block)
