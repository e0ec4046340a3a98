"""How a script names LoRAs: `coat 0.8, night`, names apart by commas, each with its strength."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .lists import LISTED, NUMBER
from .references import check_reference_name

MAX_LORA_STRENGTH = 100.0
"""ComfyUI's own LoRA widgets run from -100 to 100 (`LoraLoader` in its nodes.py)."""

_WITH_STRENGTH = re.compile(rf"(.*\S)\s+([+-]?{NUMBER})", re.I | re.A)
_SIGNS = re.compile(r"[;；|{}]")


@dataclass(frozen=True)
class NamedLora:
    """A LoRA as a script names it; `strength` None leaves the strength to the graph."""

    name: str
    strength: float | None


def check_lora_strength(strength: float) -> None:
    """Refuse a LoRA strength outside -100 to 100."""
    if not (math.isfinite(strength) and abs(strength) <= MAX_LORA_STRENGTH):
        raise ValueError(
            f"the strength of a LoRA must be from -{MAX_LORA_STRENGTH:g} to "
            f"{MAX_LORA_STRENGTH:g}, got {strength:g}"
        )


def check_lora_name(name: str) -> None:
    """Refuse a name that a script could not hold, and file names that leave their folder."""
    check_reference_name(name)
    if LISTED.search(name) or _SIGNS.search(name) or _WITH_STRENGTH.fullmatch(name):
        raise ValueError(
            "the name of a LoRA holds no comma, semicolon, bar or brace and does not end with a "
            f"number apart by a space, got {name!r}"
        )


def parse_loras(text: str) -> tuple[NamedLora, ...]:
    """Read `coat 0.8, night`; an empty text names none.

    Raises ValueError for an empty name, a strength out of range and a name given twice.
    """
    found: dict[str, NamedLora] = {}
    for item in (part.strip() for part in LISTED.split(text) if text.strip()):
        match = _WITH_STRENGTH.fullmatch(item)
        name, strength = (match[1], float(match[2])) if match else (item, None)
        check_lora_name(name)
        if strength is not None:
            check_lora_strength(strength)
        if name.casefold() in found:
            raise ValueError(f"a LoRA may be named once, got {name!r} twice")
        found[name.casefold()] = NamedLora(name, strength)
    return tuple(found.values())
