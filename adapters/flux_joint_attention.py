"""The attention of the joint mode: pairs in a batch, whose keys and values are shared in the single
blocks of ComfyUI's Flux class.

One object per call of the network. It stands before whatever attention override is installed and
calls that one, with keys and values already joined; no mask over all tokens is ever made, so flash
and sage kernels stay in use. Captain Cinema (arXiv 2507.18634), the hybrid mask: double blocks see
their own pair, single blocks all of them. The shared design `golden-memory-and-keyframes.md`, 3.2.

Axes: g groups (cfg passes in one batch), p pairs of a group, h heads, n tokens of a pair, d width
of a head; core's batch is "g p" with the pairs of a group side by side. Tokens are [text, picture].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..planning.joint import JointPlan

OVERRIDE = "optimized_attention_override"
"""Core's key for a function that every attention of a model goes through."""

Attention = Callable[..., Tensor]

Mask = Tensor | None
"""Core's: n n, b n n or b h n n over the tokens of a pair, additive or True where it may look."""

ReadContext = Callable[[int, Tensor], AbstractContextManager[Tensor]]
"""Keys and values [2, h, m, d] of the context in a single block, on the device and in the type of a
tensor. A context manager, since ComfyUI may lend a buffer for as long as they are read."""


class JointAttention:
    """The attention override of one call.

    `plan` says who sees whom, `groups` how many cfg passes lie in the batch. `padded_text` are the
    text tokens that every row has, of which a pair's own come first: the others are padding that
    nobody reads. `captured` receives this call's own keys and values by single block (one pair).
    """

    def __init__(
        self,
        plan: JointPlan,
        groups: int,
        padded_text: int,
        context: ReadContext | None = None,
        captured: dict[int, Tensor] | None = None,
    ) -> None:
        self.plan, self.groups, self.padded_text = plan, groups, padded_text
        self.context, self.captured = context, captured
        self.previous: Attention | None = None

    def options(self, transformer_options: dict[str, Any]) -> dict[str, Any]:
        """Options in which this override stands before the one that was there."""
        self.previous = transformer_options.get(OVERRIDE)
        return {**transformer_options, OVERRIDE: self}

    def __call__(
        self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        run = attention if self.previous is None else partial(self.previous, attention)
        options = kwargs.get("transformer_options") or {}
        if not self._is_own(q, k, options, kwargs):
            return run(q, k, v, *args, **kwargs)
        mask = kwargs.get("mask")
        call = partial(_run_masked, run, args, kwargs)
        if options["block_type"] == "single":
            return self._shared(call, q, k, v, mask, int(options["block_index"]))
        return self._local(call, q, k, v, mask)

    def _is_own(
        self, q: Tensor, k: Tensor, options: dict[str, Any], kwargs: dict[str, Any]
    ) -> bool:
        """Whether this is a block's self-attention, not one that another pack added."""
        single = options.get("block_type") == "single"
        tokens = options["img_slice"][1] if single else k.shape[-2]
        return (
            bool(kwargs.get("skip_reshape"))
            and "block_index" in options
            and q.shape == k.shape
            and tokens == k.shape[-2] >= self.padded_text
            and len(q) == self.groups * len(self.plan.pairs)
        )

    def _local(self, call: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """Every pair reads itself: core's own batch, but for the padding of texts."""
        if all(pair.text == self.padded_text for pair in self.plan.pairs):
            return call(q, k, v, mask)
        parts = [
            call(self._rows(q, i), self._read(k, i), self._read(v, i), self._own_mask(mask, i))
            for i in range(len(self.plan.pairs))
        ]
        return torch.stack(parts, dim=1).flatten(0, 1)

    def _shared(
        self, call: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Mask, block: int
    ) -> Tensor:
        """A single block: every pair also reads the context and the pairs that it sees."""
        if self.captured is not None:
            self.captured[block] = torch.stack((self._read(k, 0)[0], self._read(v, 0)[0]))
        if self.context is None:
            return self._joined(call, q, k, v, mask, None)
        with self.context(block, k) as kept:
            assert kept.shape[-2] == self.plan.context_tokens
            return self._joined(call, q, k, v, mask, kept)

    def _joined(
        self, call: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Mask, kept: Tensor | None
    ) -> Tensor:
        plan, pairs = self.plan, len(self.plan.pairs)
        if plan.mode == "separate":
            if kept is None:
                return self._local(call, q, k, v, mask)
            parts = [
                self._answer(call, q, self._join(k, v, kept, (i,)), mask, i) for i in range(pairs)
            ]
            return torch.stack(parts, dim=1).flatten(0, 1)
        joined = self._join(k, v, kept, range(pairs))
        if mask is None and plan.mode == "full":
            together = q.unflatten(0, (self.groups, pairs)).transpose(1, 2).flatten(2, 3)
            answer = call(together, *joined, None)  # g (p n) (h d)
            return answer.unflatten(1, (pairs, q.shape[-2])).flatten(0, 1)
        ends = list(accumulate(self._length(k, i) for i in range(pairs)))
        start = joined[0].shape[-2] - ends[-1]
        parts = []
        for i in range(pairs):
            stop = start + ends[plan.sees(i)[-1]]
            seen = (joined[0][..., :stop, :], joined[1][..., :stop, :])
            parts.append(self._answer(call, q, seen, mask, i, start + ends[i]))
        return torch.stack(parts, dim=1).flatten(0, 1)

    def _answer(
        self,
        call: Attention,
        q: Tensor,
        seen: tuple[Tensor, Tensor],
        mask: Mask,
        pair: int,
        own_end: int | None = None,
    ) -> Tensor:
        """What the queries of one pair read, g n (h d); its own keys end at `own_end`."""
        count = seen[0].shape[-2]
        end = count if own_end is None else own_end
        return call(self._rows(q, pair), *seen, self._wide_mask(mask, pair, end, count))

    def _join(
        self, k: Tensor, v: Tensor, kept: Tensor | None, pairs: Iterable[int]
    ) -> tuple[Tensor, Tensor]:
        """Keys and values g h n d of the context and of some pairs, one behind the other."""
        both = []
        for side, own in enumerate((k, v)):
            parts = [self._read(own, i) for i in pairs]
            if kept is not None:
                parts.insert(0, kept[side].expand(self.groups, -1, -1, -1))
            both.append(torch.cat(parts, dim=-2))
        return both[0], both[1]

    def _rows(self, rows: Tensor, pair: int) -> Tensor:
        """One pair's rows of a batch "g p"."""
        return rows[pair :: len(self.plan.pairs)]

    def _read(self, tokens: Tensor, pair: int) -> Tensor:
        """The tokens of one pair, g h n d, without the padding of its text."""
        return self._without_padding(self._rows(tokens, pair), pair)

    def _length(self, tokens: Tensor, pair: int) -> int:
        return tokens.shape[-2] - self.padded_text + self.plan.pairs[pair].text

    def _without_padding(self, tokens: Tensor, pair: int) -> Tensor:
        text = self.plan.pairs[pair].text
        if text == self.padded_text:
            return tokens
        return torch.cat((tokens[..., :text, :], tokens[..., self.padded_text :, :]), dim=-2)

    def _own_mask(self, mask: Mask, pair: int) -> Mask:
        """The mask of one pair's rows, without columns for padding."""
        if mask is None:
            return None
        if mask.ndim > 2 and len(mask) > 1:
            mask = self._rows(mask, pair)
        return self._without_padding(mask.transpose(-1, -2), pair).transpose(-1, -2)

    def _wide_mask(self, mask: Mask, pair: int, end: int, tokens: int) -> Mask:
        """A pair's own mask over all that it sees, of which its own part ends at `end`: what the
        others say is not masked."""
        own = self._own_mask(mask, pair)
        if own is None:
            return None
        free = 1.0 if own.dtype == torch.bool else 0.0
        return F.pad(own, (end - own.shape[-1], tokens - end), value=free)


def _run_masked(
    run: Attention,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask,
) -> Tensor:
    return run(q, k, v, *args, **{**kwargs, "mask": mask})
