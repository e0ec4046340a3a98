"""The sums of the memory budget, computed by hand in units that a reader can check."""

from __future__ import annotations

from dataclasses import replace

import pytest

from throughline.planning.budget import (
    CONTEXT,
    GIB,
    MIB,
    Card,
    MemoryRate,
    Placement,
    SegmentLength,
    TokenCost,
    Weights,
    gigabytes,
    place,
    recommend,
)
from throughline.planning.budget_report import Question, describe_budget

CARD = Card(total=12 * GIB, reserve=GIB // 2, least=GIB)
COST = TokenCost(activation=MIB, cached=MIB // 8)
LONG = SegmentLength(frames=81, latent_frames=21, tokens=4096)
SHORT = SegmentLength(frames=17, latent_frames=5, tokens=1024)
WIDE = Weights(dtype="bfloat16", blocks=(2 * GIB,) * 4, other=GIB, buffer=GIB // 4)
NARROW = Weights(dtype="fp8_e4m3fn", blocks=(GIB,) * 4, other=GIB // 2, buffer=GIB // 8)
FINE = MemoryRate(name="2x2x2", tokens=2048)
MIDDLE = MemoryRate(name="2x2x4", tokens=1024)
COARSE = MemoryRate(name="4x4x2", tokens=512)
SPARSE = MemoryRate(name="2x2x8", tokens=256)
RATES = (SPARSE, COARSE, MIDDLE, FINE)


def test_the_parts_of_one_setting() -> None:
    """12 GB less 0.5 for CUDA; 4 + 2 of activations + 0.5 reserve; 0.25 of cache: 4.75 left."""
    placed = place(CARD, COST, WIDE, LONG, FINE)
    assert CONTEXT == GIB // 2
    assert (placed.activations, placed.memory_activations) == (4 * GIB, 2 * GIB)
    assert placed.kept_free == 13 * GIB // 2
    assert placed.cache == GIB // 4
    assert placed.for_weights == 19 * GIB // 4
    # 9 GB do not fit in 4.75: 1 of other modules and 0.25 to stream through leave 3.5, one block
    assert (placed.blocks_on_card, placed.streamed, placed.fits) == (1, 3, True)


def test_the_least_that_comfyui_keeps_free() -> None:
    tiny = SegmentLength(frames=1, latent_frames=1, tokens=1)
    none = MemoryRate(name="2x2x2", tokens=0)
    placed = place(CARD, COST, NARROW, tiny, none)
    assert placed.kept_free == CARD.least
    assert placed.for_weights == 12 * GIB - CONTEXT - GIB
    assert (placed.blocks_on_card, placed.streamed) == (4, 0)


@pytest.mark.parametrize(
    ("total", "blocks", "streamed"),
    [(0, 4, 0), (-1, 3, 1), (-GIB // 8 - 1, 3, 1), (-GIB - GIB // 8 - 1, 2, 2)],
)
def test_one_byte_decides(total: int, blocks: int, streamed: int) -> None:
    """A card with exactly room for all of NARROW, then with less."""
    placed = place(CARD, COST, NARROW, LONG, COARSE)
    exact = CARD.total - placed.for_weights + NARROW.total
    found = place(replace(CARD, total=exact + total), COST, NARROW, LONG, COARSE)
    assert (found.blocks_on_card, found.streamed) == (blocks, streamed)


def test_without_room_for_the_buffer_nothing_fits() -> None:
    placed = place(CARD, COST, NARROW, LONG, COARSE)
    exact = CARD.total - placed.for_weights + NARROW.other + NARROW.buffer
    assert place(replace(CARD, total=exact), COST, NARROW, LONG, COARSE).blocks_on_card == 0
    less = place(replace(CARD, total=exact - 1), COST, NARROW, LONG, COARSE)
    assert (less.fits, less.blocks_on_card, less.streamed) == (False, None, 4)


def choice(gib: float, weights: tuple[Weights, ...] = (WIDE, NARROW)) -> Placement | None:
    card = replace(CARD, total=int(gib * GIB))
    return recommend(card, COST, weights, (LONG, SHORT), RATES)


@pytest.mark.parametrize(
    ("gib", "rate", "dtype", "frames", "streamed"),
    [
        (16.25, "2x2x2", "bfloat16", 81, 0),  # 0.5 + 6.5 + 0.25 + 9
        (15.2, "2x2x4", "bfloat16", 81, 0),  # 0.5 + 5.5 + 0.125 + 9 = 15.125
        (14.6, "4x4x2", "bfloat16", 81, 0),  # 0.5 + 5 + 0.0625 + 9 = 14.5625
        (14.4, "2x2x8", "bfloat16", 81, 0),  # 0.5 + 4.75 + 0.03125 + 9 = 14.28125
        (14.0, "2x2x2", "fp8_e4m3fn", 81, 0),  # 0.5 + 6.5 + 0.25 + 4.5 = 11.75
        (9.5, "4x4x2", "fp8_e4m3fn", 81, 1),  # 4x4x2: 3.9375 of 4.5 left; less 0.625: 3 blocks
        (6.2, "4x4x2", "fp8_e4m3fn", 81, 4),  # 0.6375 left, of which 0.625 are needed
        (6.1, "2x2x8", "fp8_e4m3fn", 81, 4),  # 0.5375 there, 0.81875 here
        (5.0, "4x4x2", "fp8_e4m3fn", 17, 3),  # the shorter segment: 2.4375 left
    ],
)
def test_the_recommendation(gib: float, rate: str, dtype: str, frames: int, streamed: int) -> None:
    chosen = choice(gib)
    assert chosen is not None
    found = (chosen.rate.name, chosen.weights.dtype, chosen.segment.frames, chosen.streamed)
    assert found == (rate, dtype, frames, streamed)


def test_nothing_fits_a_card_that_is_too_small() -> None:
    assert choice(3.0) is not None  # 0.71875 left of 0.625
    assert choice(2.9) is None  # 0.61875


def test_more_card_never_gives_less() -> None:
    def worth(gib: float) -> tuple[int, int]:
        chosen = choice(gib)
        return (0, 0) if chosen is None else (chosen.segment.frames, -chosen.streamed)

    worths = [worth(quarter / 4) for quarter in range(8, 80)]
    assert worths == sorted(worths)
    assert worths[0] == (0, 0) and worths[-1] == (81, 0)


QUESTION = Question(
    model="Wan T2V",
    card_gigabytes=12,
    width=832,
    height=480,
    fps=16.0,
    history_seconds=20.0,
    asked_frames=81,
    decode=3 * GIB,
)


def test_the_report_says_the_sums() -> None:
    chosen = place(CARD, COST, WIDE, LONG, FINE)
    text = describe_budget(QUESTION, CARD, chosen, LONG, [chosen])
    assert text.splitlines()[0] == (
        "Wan T2V, 832 x 480 at 16 fps, 20 s of history, on 12 GB: rate 2x2x2, segments of 81 "
        "frames, weights in bfloat16, 1 of 4 blocks on the card, 3 streamed."
    )
    for part in (
        "Card 12.00 GB, of which CUDA and the desktop take 0.50 GB",
        "activations of 4,096 tokens: 4.00 GB",
        "activations of 2,048 memory tokens (33 % of all): 2.00 GB",
        "kept free by ComfyUI beside them: 0.50 GB",
        "remembered tokens in the cache: 0.25 GB",
        "= 4.75 GB left for weights of 9.00 GB and 0.25 GB to stream through",
        "Decoding a segment afterwards: 3.00 GB of 11.50 GB",
        "- 2x2x2 in bfloat16: 2,048 tokens, 6.75 GB beside the weights: 3 of 4 blocks streamed",
    ):
        assert part in text
    assert "Warning" not in text


def test_the_report_warns() -> None:
    question = replace(QUESTION, asked_frames=121, decode=13 * GIB)
    text = describe_budget(question, CARD, place(CARD, COST, NARROW, SHORT, COARSE), LONG, [])
    assert "Warning, segments of 81 frames do not fit; 17 do" in text
    assert "Warning, 121 frames were asked for, the model was trained on 81" in text
    assert "Warning, decoding a whole segment does not fit the card: decode in tiles" in text
    nothing = describe_budget(QUESTION, CARD, None, LONG, [])
    assert "on 12 GB: nothing fits." in nothing
    assert "Warning, nothing fits: choose a smaller picture" in nothing


def test_bytes_are_told_in_gb_of_two_to_the_thirty() -> None:
    assert gigabytes(GIB * 3 // 2) == "1.50 GB"
    assert gigabytes(-GIB) == "-1.00 GB"
    assert gigabytes(40 * MIB) == "40.0 MB"
    assert gigabytes(103 * MIB) == "0.10 GB"
