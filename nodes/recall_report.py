"""Why a shot recalls what it recalls, in words and in pictures: what stands on the node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..memory.drift_gate import Drift
from ..memory.retrieval import Ranked, Wanted

PARTS = ("picture", "text", "characters", "location", "recency")
WIDTH = 11
"""Characters of a column; the longest heading is "characters"."""

SHOWN = 8
"""How many of those not chosen are listed; the best ones."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A picture that the drift gate closed on: whose anchor, which picture that is, how far."""

    id: str
    character: str
    anchor: str
    drift: Drift


def recall_report(
    wanted: Wanted,
    scorer: str,
    chosen: Sequence[Ranked],
    others: Sequence[Ranked],
    left_out: Sequence[LeftOut],
) -> str:
    """The chosen and the best others with every part of their scores, who drifted, who is missing.

    "-" stands for a part that nothing measured.
    """
    about = [", ".join(wanted.characters), f"at {wanted.location}" if wanted.location else ""]
    lines = [f"shot {wanted.shot_id}: {' '.join(filter(None, about))}".rstrip(": "), scorer, ""]
    width = max([len(one.candidate.id) for one in (*chosen, *others)], default=0) + 4
    lines.append("recalled".ljust(width) + "".join(head.rjust(WIDTH) for head in ("score", *PARTS)))
    lines += [
        f"{place}. {one.candidate.id}".ljust(width) + _parts(one) + f"  {one.why}"
        for place, one in enumerate(chosen, 1)
    ]
    lines += [] if chosen else ["nothing: there is no earlier picture yet"]
    passed = [one for one in others if not one.candidate.drifted]
    if passed:
        lines += ["", "not recalled"]
        lines += [one.candidate.id.ljust(width) + _parts(one) for one in passed[:SHOWN]]
        lines += [f"and {len(passed) - SHOWN} more"] if len(passed) > SHOWN else []
    lines += _warnings(wanted, chosen, left_out)
    return "\n".join(lines)


def recalled_captions(chosen: Sequence[Ranked]) -> str:
    """One line per recalled picture: its id and caption."""
    return "\n".join(f"{one.candidate.id} | {one.candidate.caption}" for one in chosen)


def _parts(one: Ranked) -> str:
    values = [one.score, *(getattr(one, name) for name in PARTS)]
    return "".join(("-" if v is None else f"{v:.2f}").rjust(WIDTH) for v in values)


def _warnings(wanted: Wanted, chosen: Sequence[Ranked], left_out: Sequence[LeftOut]) -> list[str]:
    lines = [
        f"left out: {one.id} has drifted by {one.drift.percent:.0f} % from {one.anchor}, the "
        f"anchor of {one.character} (most in {one.drift.worst}, "
        f"{one.drift.measures[one.drift.worst]:+.0f} %)"
        for one in left_out
        if one.id not in {held.candidate.id for held in chosen}
    ]
    asked = {one.why.removeprefix("asked for: ") for one in chosen}
    lines += [
        f"asked for by hand, but there is no picture of it: {name}"
        for name in wanted.recall
        if name not in asked and name not in {one.candidate.id for one in chosen}
    ]
    shown = {name for one in chosen for name in one.candidate.characters}
    lines += [
        f"nothing that is recalled shows {name}" for name in wanted.characters if name not in shown
    ]
    return ["", *lines] if lines else []
