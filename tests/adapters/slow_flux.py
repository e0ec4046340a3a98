"""The slow, obvious reference of the joint mode: one concatenated sequence and an explicit mask.

All pairs, of whatever sizes and noise levels, are one sequence [txt1 | img1 | txt2 | img2 | ...]
that goes through ComfyUI's own Flux blocks with one modulation per token. Nothing of the pack's
joint attention is used here; only a model's weights are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """One pair as the network gets it: x [1, c, h, w] noisy at `sigma`, text [1, n, d].

    `ids` are the positions (time, row, column) [h/2 * w/2, 3] of the picture's tokens.
    """

    x: Tensor
    sigma: float
    text: Tensor
    pooled: Tensor
    guidance: float
    ids: Tensor


def grid_ids(height: int, width: int, over: tuple[int, int] | None = None, t: float = 0) -> Tensor:
    """Positions of a picture of height x width tokens, `over` the grid that it is spread on."""
    whole = over or (height, width)
    rows, columns = (
        (torch.arange(n, dtype=torch.float64) + 0.5) * of / n - 0.5
        for n, of in zip((height, width), whole, strict=True)
    )
    ids = torch.zeros(height, width, 3, dtype=torch.float64)
    ids[..., 0], ids[..., 1], ids[..., 2] = t, rows[:, None], columns[None]
    return ids.reshape(-1, 3).float()


def patches_of(x: Tensor) -> Tensor:
    """Tokens [1, n, c * 4] of a latent [1, c, h, w]; a token is channel, row, column."""
    _, channels, height, width = x.shape
    cut = x.reshape(channels, height // 2, 2, width // 2, 2).permute(1, 3, 0, 2, 4)
    return cut.reshape(1, -1, channels * 4)


def picture_of(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `patches_of`."""
    channels = tokens.shape[-1] // 4
    cut = tokens.reshape(height // 2, width // 2, channels, 2, 2).permute(2, 0, 3, 1, 4)
    return cut.reshape(1, channels, height, width)


def time_embedding(value: float) -> Tensor:
    """Core's sinusoids of a time in 0..1 or of a guidance."""
    half = 128
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angles = 1000.0 * value * frequencies
    return torch.cat((angles.cos(), angles.sin()))[None]


def slow_joint(
    network: Any, pairs: Sequence[Pair], sees: Any, first_token: float = 0.0
) -> list[Tensor]:
    """What the network says of every pair: `sees(q, k)` is whether pair q sees pair k in single
    blocks. In double blocks a pair sees itself. `first_token` is added to the scores of each pair's
    first token for its own queries, as a patch of another pack may do."""
    vectors = [_vector(network, pair) for pair in pairs]
    texts = [network.txt_in(pair.text) for pair in pairs]
    pictures = [network.img_in(patches_of(pair.x)) for pair in pairs]
    count = range(len(pairs))
    text_owner = torch.cat([torch.full((texts[i].shape[1],), i) for i in count])
    picture_owner = torch.cat([torch.full((pictures[i].shape[1],), i) for i in count])
    owner = torch.cat((text_owner, picture_owner))  # as double blocks have the tokens
    ids = torch.cat([torch.zeros(len(text_owner), 3), *(pair.ids for pair in pairs)])
    text, picture = torch.cat(texts, dim=1), torch.cat(pictures, dim=1)
    own = torch.eye(len(pairs), dtype=torch.bool)
    firsts = torch.cat([torch.arange(n.shape[1]) == 0 for n in (*texts, *pictures)])
    firsts[len(text_owner) :] = False
    for block in network.double_blocks:
        plain = copy.deepcopy(block)
        plain.modulation = False  # the modulation comes from here, one per token
        vec = (
            block.img_mod(_each(vectors, picture_owner)),
            block.txt_mod(_each(vectors, text_owner)),
        )
        pe = network.pe_embedder(ids[None])
        mask = _mask(own, owner) + _bias(firsts, owner, first_token)
        picture, text = plain(picture, text, vec, pe, attn_mask=mask)
    order = torch.argsort(owner, stable=True)  # txt1 img1 txt2 img2 ...
    owner, ids, firsts = owner[order], ids[order], firsts[order]
    x = torch.cat((text, picture), dim=1)[:, order]
    seen = torch.tensor([[bool(sees(q, k)) for k in count] for q in count])
    for block in network.single_blocks:
        pe = network.pe_embedder(ids[None])
        mask = _mask(seen, owner) + _bias(firsts, owner, first_token)
        x = block(x, _each(vectors, owner), pe, attn_mask=mask)
    x = network.final_layer(x, _each(vectors, owner))
    found = []
    for i, pair in enumerate(pairs):
        tokens = x[:, owner == i][:, pair.text.shape[1] :]
        found.append(picture_of(tokens, *pair.x.shape[2:]))
    return found


def _vector(network: Any, pair: Pair) -> Tensor:
    vector = network.time_in(time_embedding(pair.sigma)) + network.vector_in(pair.pooled)
    return vector + network.guidance_in(time_embedding(pair.guidance))


def _each(vectors: Sequence[Tensor], owner: Tensor) -> Tensor:
    """The vector of every token, [1, n, d]."""
    return torch.cat(list(vectors))[owner][None]


def _mask(seen: Tensor, owner: Tensor) -> Tensor:
    """An additive n x n mask from what pairs see."""
    free = seen[owner][:, owner]
    return torch.zeros(free.shape).masked_fill(~free, -torch.inf)


def _bias(firsts: Tensor, owner: Tensor, value: float) -> Tensor:
    return value * (firsts[None] & (owner[:, None] == owner[None])).float()
