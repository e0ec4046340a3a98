"""What a packing of references is, in lines of text: every number is counted, none is promised."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..adapters.image_family import ImageCapabilities
from ..memory.golden import LeftOutReason, PackedReference, Packing

REASONS: dict[LeftOutReason, str] = {
    "smaller than one token": "smaller than one token of the model",
    "beyond the last level": "there are no more levels",
    "below the least side": "their level is smaller than least_side",
    "over the cap": "more than the model or max_references allows",
}

METHODS = {
    "offset": "side by side on one plane (offset)",
    "index": "each at its own index (index)",
    "index_timestep_zero": "each at its own index, as clean pictures (index_timestep_zero)",
    "uxo": "along the diagonal (uxo)",
}


def packing_report(
    packing: Packing, names: Sequence[str], family: str, capabilities: ImageCapabilities
) -> str:
    """Lines for the node: tokens in all and per level, the bound, what is left out and why.

    `names` has one short name per source, `family` is the model's. Tokens are of the references
    alone; text and the picture that is made come on top. The page may read it as Markdown.
    """
    lines = [*_levels(packing, names), _bound(packing)]
    for reason, words in REASONS.items():
        sources = [item.source for item in packing.left_out if item.reason == reason]
        if sources:
            lines.append(f"Left out, {words}: {_listed(sources, names)}")
    if capabilities.method:
        lines.append(f"Places: {METHODS.get(capabilities.method, capabilities.method)}")
    lines += _warnings(packing, names, family, capabilities)
    return "\n- ".join([_headline(packing, family), *lines])


def used_sources(packing: Packing) -> list[int]:
    """The sources that are references, those of the atlas last."""
    atlas = packing.atlas.sources if packing.atlas else ()
    return [*(reference.source for reference in packing.references), *atlas]


def references_by_level(packing: Packing) -> dict[int, list[PackedReference]]:
    """The references of each level that has any, the largest first."""
    levels = sorted({reference.level for reference in packing.references})
    return {
        level: [reference for reference in packing.references if reference.level == level]
        for level in levels
    }


def percent_of_naive(packing: Packing) -> float:
    """Tokens against those of the same sources at full size, in percent."""
    return 100.0 * packing.tokens / packing.naive_tokens if packing.naive_tokens else 0.0


def _headline(packing: Packing, family: str) -> str:
    used, slots = len(used_sources(packing)), len(packing.references) + bool(packing.atlas)
    pictures = "1 picture" if used == 1 else f"{used} pictures"
    references = "1 reference" if slots == 1 else f"{slots} references"
    return (
        f"{family}: {pictures} in {references}, {packing.tokens:,} tokens, "
        f"{percent_of_naive(packing):.1f} % of {packing.naive_tokens:,} at full size"
    )


def _levels(packing: Packing, names: Sequence[str]) -> list[str]:
    lines = []
    for level, references in references_by_level(packing).items():
        tokens = sum(reference.tokens for reference in references)
        sizes = sorted({(one.width, one.height) for one in references}, reverse=True)
        shapes = ", ".join(f"{width} x {height}" for width, height in sizes)
        named = ", ".join(
            names[one.source] + (" (pinned)" if one.pinned else "") for one in references
        )
        lines.append(f"level {level}, {shapes}: {tokens:,} tokens, {named}")
    if packing.atlas is not None:
        atlas = packing.atlas
        lines.append(
            f"atlas at level {atlas.level}, {atlas.atlas.width} x {atlas.atlas.height}: "
            f"{atlas.tokens:,} tokens, {_listed(atlas.sources, names)}"
        )
    return lines


def _bound(packing: Packing) -> str:
    base = packing.base
    full = f"t_0 = {base.short} x {base.long} = {base.tokens:,}"
    if not math.isfinite(packing.bound):
        return f"No bound: with ratio 1 every level is as large as the first ({full})"
    factor = packing.bound / base.tokens
    return f"Bound however many there are: {packing.bound:,.0f} tokens, {factor:.3f} x t_0 ({full})"


def _warnings(
    packing: Packing, names: Sequence[str], family: str, capabilities: ImageCapabilities
) -> list[str]:
    warnings = []
    slots = len(packing.references) + bool(packing.atlas)
    advised = capabilities.advised_references
    if advised is not None and slots > advised:
        warnings.append(f"Warning, {family} is advised {advised} references at most, got {slots}")
    small = [
        one.source
        for one in packing.references
        if min(one.height, one.width) < capabilities.least_side
    ]
    if small:
        warnings.append(
            f"Warning, below {capabilities.least_side} pixels a reference of {family} says little "
            f"more than colour and layout: {_listed(small, names)}"
        )
    most = capabilities.most_pixels
    large = [
        one.source
        for one in packing.references
        if most is not None and one.height * one.width > most
    ]
    if large and slots > 1:
        warnings.append(
            f"Warning, the makers of {family} give one of several references {most:,} pixels at "
            f"most: lower base_short for {_listed(large, names)}"
        )
    return warnings


def _listed(sources: Sequence[int], names: Sequence[str]) -> str:
    return ", ".join(names[source] for source in sources)
