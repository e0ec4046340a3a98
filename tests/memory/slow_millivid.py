"""MilliVid's networks written a second time, straight from the constants of the shared design.

`hierarchical-latents.md`, sections 1.2, 1.3, 2.1 and 2.5: token by token and head by head, in
float64, over plain dicts of weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

State = Mapping[str, Tensor]


class Token(NamedTuple):
    """One token of a step of the video model; `action` None where it is not told."""

    code: Tensor
    level: int
    frame: int
    row: int
    column: int
    action: int | None
    time: float


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return state[f"{name}.weight"].double() @ x + state[f"{name}.bias"].double()


def waves(value: float, count: int) -> tuple[list[float], list[float]]:
    """Sines and cosines of a value times 1e4 ** (-i / (count - 1))."""
    angles = [value * 1e4 ** (-i / (count - 1)) for i in range(count)]
    return [math.sin(a) for a in angles], [math.cos(a) for a in angles]


def layer_norm(x: Tensor) -> Tensor:
    mean = sum(x) / len(x)
    return (x - mean) / torch.sqrt(sum((x - mean) ** 2) / len(x) + 1e-6)


def head_norm(x: Tensor, weight: Tensor) -> Tensor:
    epsilon = torch.finfo(torch.float32).eps
    return x / torch.sqrt((x**2).mean() + epsilon) * weight.double()


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention(state: State, name: str, xs: Sequence[Tensor]) -> list[Tensor]:
    width = len(xs[0])
    head = len(state[f"{name}.q_norm.weight"])
    packed = [linear(state, f"{name}.qkv", x) for x in xs]
    outputs = [torch.zeros(width, dtype=torch.float64) for _ in xs]
    for first in range(0, width, head):
        own = slice(first, first + head)
        query = [head_norm(p[:width][own], state[f"{name}.q_norm.weight"]) for p in packed]
        key = [head_norm(p[width : 2 * width][own], state[f"{name}.k_norm.weight"]) for p in packed]
        value = [p[2 * width :][own] for p in packed]
        for index, asked in enumerate(query):
            scores = torch.stack([asked @ other for other in key]) / math.sqrt(head)
            weights = torch.exp(scores - scores.max())
            weights = weights / weights.sum()
            outputs[index][own] = sum(w * v for w, v in zip(weights, value, strict=True))
    return [linear(state, f"{name}.proj", output) for output in outputs]


def mlp(state: State, name: str, x: Tensor) -> Tensor:
    return linear(state, f"{name}.fc2", gelu_tanh(linear(state, f"{name}.fc1", x)))


def transformer(
    state: State, prefix: str, depth: int, xs: list[Tensor], vectors: Sequence[Tensor] | None
) -> list[Tensor]:
    for block in range(depth):
        name = f"{prefix}.{block}"
        width = len(xs[0])
        if vectors is None:
            attended = attention(state, f"{name}.attn", [layer_norm(x) for x in xs])
            xs = [x + a for x, a in zip(xs, attended, strict=True)]
            xs = [x + mlp(state, f"{name}.mlp", layer_norm(x)) for x in xs]
            continue
        rows = [
            linear(state, f"{name}.adaLN_modulation.1", silu(vector)).view(6, width)
            for vector in vectors
        ]
        normed = [layer_norm(x) * (1 + r[1]) + r[0] for x, r in zip(xs, rows, strict=True)]
        attended = attention(state, f"{name}.attn", normed)
        xs = [x + r[2] * a for x, r, a in zip(xs, rows, attended, strict=True)]
        xs = [
            x + r[5] * mlp(state, f"{name}.mlp", layer_norm(x) * (1 + r[4]) + r[3])
            for x, r in zip(xs, rows, strict=True)
        ]
    return xs


def picture_place(row: int, column: int, width: int) -> Tensor:
    """x-sin, x-cos, y-sin, y-cos."""
    (x_sin, x_cos), (y_sin, y_cos) = waves(column, width // 4), waves(row, width // 4)
    return torch.tensor(x_sin + x_cos + y_sin + y_cos, dtype=torch.float64)


def pyramid(frame: Tensor, levels: int) -> list[Tensor]:
    """A picture 3 h w and its 2x2 means."""
    pictures = [frame.double()]
    for _ in range(levels - 1):
        p = pictures[-1]
        pictures.append((p[:, ::2, ::2] + p[:, 1::2, ::2] + p[:, ::2, 1::2] + p[:, 1::2, 1::2]) / 4)
    return pictures


def encode(state: State, frame: Tensor, levels: int, depth: int, patch: int) -> list[Tensor]:
    """Codes n c of every level of one picture 3 h w."""
    xs, counts = [], []
    width = state["encoder.patchify.weight"].shape[0]
    for level, picture in enumerate(pyramid(frame, levels)):
        side = picture.shape[1] // patch
        counts.append(side * side)
        for row in range(side):
            for column in range(side):
                cell = picture[
                    :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch
                ]
                embedded = linear(state, "encoder.patchify", cell.reshape(-1))
                level_row = state["encoder.level_embedding.weight"][level].double()
                xs.append(embedded + picture_place(row, column, width) + level_row)
    xs = transformer(state, "encoder.transformer.blocks", depth, xs, None)
    codes = torch.stack([torch.tanh(linear(state, "encoder.bottleneck", x)) for x in xs])
    return list(codes.split(counts))


def decode(
    state: State, level: int, codes: Tensor, sides: Sequence[int], depth: int, patch: int
) -> Tensor:
    """The picture 3 h w of one level's codes n c."""
    width = state["decoder.unbottleneck.weight"].shape[0]
    embedding = state["decoder.level_embedding.weight"].double()
    xs = []
    for one, side in enumerate(sides):
        for cell in range(side * side):
            kept = one == level
            code = codes[cell].double() if kept else torch.zeros(codes.shape[1]).double()
            place = picture_place(cell // side, cell % side, width)
            xs.append(linear(state, "decoder.unbottleneck", code) + place + embedding[one])
    xs = transformer(state, "decoder.transformer.blocks", depth, xs, [embedding[level]] * len(xs))
    side = sides[0]
    picture = torch.zeros(3, side * patch, side * patch, dtype=torch.float64)
    for cell in range(side * side):
        row, column = cell // side * patch, cell % side * patch
        pixels = linear(state, "decoder.unpatchify", xs[cell]).view(3, patch, patch)
        picture[:, row : row + patch, column : column + patch] = pixels
    return picture


def video(state: State, tokens: Sequence[Token], depth: int) -> list[Tensor]:
    """The velocity of every token."""
    width = state["dit.dit.level_embedding.weight"].shape[1]
    count = width // 6
    half = state["dit.dit.time_embedding.mlp.0.weight"].shape[1] // 2
    first = min(token.frame for token in tokens)
    xs, vectors = [], []
    for token in tokens:
        place: list[float] = []
        for value in (token.frame - first, token.row, token.column):
            sines, cosines = waves(value, count)
            place += sines + cosines
        place += [0.0] * (width - len(place))
        projected = linear(state, "dit.patchify", token.code.double())
        xs.append(projected + torch.tensor(place, dtype=torch.float64))
        sines, cosines = waves(1000 * token.time, half)
        hidden = silu(
            linear(
                state,
                "dit.dit.time_embedding.mlp.0",
                torch.tensor(cosines + sines, dtype=torch.float64),
            )
        )
        vector = linear(state, "dit.dit.time_embedding.mlp.2", hidden)
        vector = vector + state["dit.dit.level_embedding.weight"][token.level].double()
        if token.action is not None:
            table = state["dit.dit.action_encoder.action_embedding.weight"]
            vector = vector + table[token.action].double()
        vectors.append(vector)
    xs = transformer(state, "dit.dit.dit.blocks", depth, xs, vectors)
    outputs = []
    for x, vector in zip(xs, vectors, strict=True):
        shift, scale = linear(state, "dit.unpatchify.adaLN_modulation.1", silu(vector)).chunk(2)
        normed = layer_norm(x) * (1 + scale) + shift
        outputs.append(linear(state, "dit.unpatchify.linear", normed))
    return outputs
