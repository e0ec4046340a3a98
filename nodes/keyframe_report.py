"""What the keyframe planner says: per shot what it recalled, why, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..adapters.flux_joint import kept_bytes
from ..memory.retrieval import Ranked
from ..planning.keyframe_prompts import LONGEST_PROMPT, estimated_tokens
from ..planning.keyframes import KeyframeSegment
from .keyframe_ways import Arranged, Together
from .recall_report import LeftOut

if TYPE_CHECKING:
    from .keyframe_plan import Story


@dataclass(frozen=True, kw_only=True)
class ShotReport:
    """One keyframe: what it is shown (None: not decided yet), what the drift gate left out for it,
    and what became of it."""

    segment: KeyframeSegment
    arranged: Arranged | None
    drifted: tuple[LeftOut, ...]
    outcome: str


def said_of(ranked: Ranked) -> str:
    """Why a picture was chosen, with the parts of its score that count."""
    parts = {
        "picture": ranked.picture,
        "text": ranked.text,
        "characters": ranked.characters,
        "place": ranked.location,
        "recency": ranked.recency,
    }
    counted = [f"{name} {value:.2f}" for name, value in parts.items() if value]
    return f"{ranked.why}, score {ranked.score:.2f}: {', '.join(counted) or 'nothing in common'}"


def story_report(story: Story, shots: Sequence[ShotReport], made: int) -> str:
    """One line for the whole, a paragraph for every shot, one line for every warning."""
    on_disk = sum(1 for shot in shots if shot.outcome == "on disk")
    lines = [
        f"{story.request.run_name}: {len(shots)} keyframes, {made} made now, {on_disk} on disk",
        f"{story.family.name}, {story.way.name}",
    ]
    if story.way.most:
        lines.append(f"recall: {story.recaller.scorer}")
    if isinstance(story.way, Together):
        kept = max((shot.arranged.tokens for shot in shots if shot.arranged), default=0)
        megabytes = kept_bytes(story.request.model, kept) / 1e6
        lines.append(
            f"kept while sampling: at most {megabytes:.0f} MB of keys and values, which ComfyUI "
            "moves to RAM where they do not fit"
        )
    for shot in shots:
        lines += _shot_lines(shot)
        if shot.arranged is not None and story.way.most:
            step = next(step for step in story.steps if shot.segment.index in step)
            beside = [story.storyboard.shots[index].id for index in step]
            recall = story.storyboard.shots[shot.segment.index].recall
            lines += [
                f"  Warning, asked for by hand, but not shown: {name}"
                for name in not_shown(recall, beside, shot.arranged)
            ]
    return "\n".join([*lines, *(f"Warning, {warning}" for warning in story.warnings)])


def not_shown(recall: Sequence[str], beside: Sequence[str], arranged: Arranged) -> tuple[str, ...]:
    """What a shot recalls by hand, ids of shots and names, and is not shown: there is no picture of
    it yet, or no place for it. Shots `beside` are drawn together with it."""
    shown = {*beside, *(source.name for source in arranged.sources)}
    for source in arranged.sources:
        shown |= {*source.shows.characters, source.shows.location or ""}
    return tuple(name for name in recall if name not in shown)


def _shot_lines(shot: ShotReport) -> Iterator[str]:
    segment, arranged = shot.segment, shot.arranged
    yield f"{segment.shot_id}: {shot.outcome}, seed {segment.seed}"
    if arranged is None:
        return
    yield f"  {_seen(arranged)}"
    yield from (f"  {sentence}" for sentence in arranged.left_out)
    for one in shot.drifted:
        yield (
            f"  {one.id} is left out: {one.character} has drifted by {one.drift.percent:.0f} % "
            f"from {one.anchor}"
        )
    tokens = estimated_tokens(segment.prompt)
    if tokens > LONGEST_PROMPT:
        yield (
            f"  Warning, the prompt has about {tokens} tokens and may be cut off: text encoders "
            f"read {LONGEST_PROMPT}"
        )


def _seen(arranged: Arranged) -> str:
    if not arranged.sources:
        return "sees no other picture"
    pictures = [
        f"{source.name} at {width} x {height} ({source.why})"
        for source, (height, width) in zip(arranged.sources, arranged.sizes, strict=True)
    ]
    text = f"sees {'; '.join(pictures)}: {arranged.tokens} tokens"
    packing = arranged.packing
    if packing is None or not packing.naive_tokens:
        return text
    share = round(100 * arranged.tokens / packing.naive_tokens)
    bound = "" if math.isinf(packing.bound) else f", never above {packing.bound:.0f}"
    return f"{text}{bound}, {share} % of {packing.naive_tokens} at full size"
