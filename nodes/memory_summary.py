"""A memory in words: what it holds, what it costs, what a film adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..adapters.geometry import read_geometry
from ..adapters.memory_value import Memory
from .remembering import FORMS, MadeMemory

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def describe_memory(made: MadeMemory, model: ModelPatcher) -> str:
    """Tokens, seconds and sizes of a memory, and what a film adds to it, in lines of text."""
    memory, bank = made.memory, made.memory.bank
    form = next(name for name, value in FORMS.items() if value == memory.form)
    names = " + ".join(encoder.card.name for encoder in memory.encoders)
    lines = [f"{form}{f': {names}' if names else ''}"]
    lines.append(
        f"holds {len(bank.entries)} entries, {bank.tokens} tokens, "
        f"{_seconds(memory, model)}{memory.cache.sizes().total / 1e6:.1f} MB"
    )
    if memory.latent_size is not None:
        height, width = memory.latent_size
        per_frame = -(-height // memory.patch[1]) * -(-width // memory.patch[2])
        lines.append(
            f"budget: every step reads {bank.tokens} tokens more, as many as "
            f"{bank.tokens / per_frame:.1f} latent frames of the film ({per_frame} tokens each)"
        )
    lines.append(_policy_line(memory))
    lines += [f"{entry.title}: {entry.tokens} tokens" for entry in bank.entries]
    lines += [f"Warning, {warning}" for warning in made.warnings]
    return "\n".join(lines)


def _seconds(memory: Memory, model: ModelPatcher) -> str:
    """How long the remembered film is, where the frame rate is known."""
    latent_frames = sum(entry.latent_frames for entry in memory.bank.entries)
    frames = latent_frames * read_geometry(model).grid.frames_per_latent
    if not memory.encoders:
        return f"{frames} frames, "
    fps = memory.encoders[0].card.fps
    return f"{frames} frames ({frames / fps:.1f} s at {fps:g} fps), "


def _policy_line(memory: Memory) -> str:
    policy = memory.policy
    kept = ["what it is given"] if memory.bank.entries else []
    kept += ["its first shot"] if policy.pin_first_shot else []
    if policy.recent:
        reach = policy.latent_frames
        kept.append(f"its newest {reach} latent frames" if reach else "all earlier segments")
    return f"a film remembers {', '.join(kept) or 'nothing'}"
