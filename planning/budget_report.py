"""The memory budget in plain words and numbers, for the artist who chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .budget import CONTEXT, Card, Placement, SegmentLength, gigabytes


@dataclass(frozen=True, kw_only=True)
class Question:
    """What was asked. `decode` is what decoding a segment takes, None without a VAE."""

    model: str
    card_gigabytes: int
    width: int
    height: int
    fps: float
    history_seconds: float
    asked_frames: int
    decode: int | None


def describe_budget(
    question: Question,
    card: Card,
    chosen: Placement | None,
    segment: SegmentLength,
    compared: Sequence[Placement],
) -> str:
    """The recommendation, its sums, every rate for comparison, and warnings, one to a line.

    `segment` is the length that the comparison is made for. Not in columns: the page sets the
    words of a node in a proportional font.
    """
    lines = [_headline(question, chosen)]
    if chosen is not None:
        lines += [*_sums(card, chosen), *_decoding(question, card)]
    lines += ["", f"Every rate with segments of {segment.frames} frames:"]
    lines += [_compared(placement) for placement in compared]
    warnings = _warnings(question, card, chosen, segment)
    return "\n".join([*lines, *(f"Warning, {warning}" for warning in warnings)])


def _headline(question: Question, chosen: Placement | None) -> str:
    where = (
        f"{question.model}, {question.width} x {question.height} at {question.fps:g} fps, "
        f"{question.history_seconds:g} s of history, on {question.card_gigabytes} GB"
    )
    if chosen is None:
        return f"{where}: nothing fits."
    blocks = len(chosen.weights.blocks)
    if not chosen.streamed:
        placed = f"all {blocks} blocks on the card"
    else:
        placed = (
            f"{chosen.blocks_on_card} of {blocks} blocks on the card, {chosen.streamed} streamed"
        )
    return (
        f"{where}: rate {chosen.rate.name}, segments of {chosen.segment.frames} frames, "
        f"weights in {chosen.weights.dtype}, {placed}."
    )


def _sums(card: Card, chosen: Placement) -> list[str]:
    floor = chosen.kept_free - chosen.activations - chosen.memory_activations
    weights = chosen.weights
    return [
        f"Card {gigabytes(card.total)}, of which CUDA and the desktop take {gigabytes(CONTEXT)}",
        f"- activations of {chosen.segment.tokens:,} tokens: {gigabytes(chosen.activations)}",
        f"- activations of {chosen.rate.tokens:,} memory tokens "
        f"({_share(chosen)}): {gigabytes(chosen.memory_activations)}",
        f"- kept free by ComfyUI beside them: {gigabytes(floor)}",
        f"- remembered tokens in the cache: {gigabytes(chosen.cache)}",
        f"= {gigabytes(chosen.for_weights)} left for weights of {gigabytes(weights.total)}"
        + (f" and {gigabytes(weights.buffer)} to stream through" if chosen.streamed else ""),
        f"RAM for the weights: {gigabytes(weights.total)}, beside the text encoder's",
    ]


def _share(placement: Placement) -> str:
    share = 100 * placement.rate.tokens / (placement.rate.tokens + placement.segment.tokens)
    return f"{share:.0f} % of all"


def _decoding(question: Question, card: Card) -> list[str]:
    if question.decode is None:
        return []
    return [
        f"Decoding a segment afterwards: {gigabytes(question.decode)} of {gigabytes(card.usable)}"
    ]


def _compared(placement: Placement) -> str:
    where = f"{placement.rate.name} in {placement.weights.dtype}: {placement.rate.tokens:,} tokens"
    needs = gigabytes(placement.kept_free + placement.cache)
    if not placement.fits:
        return f"- {where}, {needs} beside the weights: does not fit"
    streamed = f"{placement.streamed} of {len(placement.weights.blocks)} blocks streamed"
    return f"- {where}, {needs} beside the weights: {streamed}"


def _warnings(
    question: Question, card: Card, chosen: Placement | None, segment: SegmentLength
) -> list[str]:
    if chosen is None:
        return [
            "nothing fits: choose a smaller picture, a shorter history, a smaller model or a "
            "larger card"
        ]
    warnings = []
    if chosen.segment.frames < segment.frames:
        warnings.append(
            f"segments of {segment.frames} frames do not fit; {chosen.segment.frames} do"
        )
    if segment.frames < question.asked_frames:
        warnings.append(
            f"{question.asked_frames} frames were asked for, the model was trained on "
            f"{segment.frames}"
        )
    if question.decode is not None and question.decode > card.usable:
        warnings.append("decoding a whole segment does not fit the card: decode in tiles")
    return warnings
