"""Whether a history encoder and the LoRA on the model were trained together.

An encoder without its LoRA, or the LoRA without its encoder, still gives a picture, only a worse
one; so nothing is refused here, and everything is said loudly. The files name each other by content
(memory/lora_digest.py): the encoder's metadata hold the digest of its LoRA, the LoRA's metadata the
names of its encoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..memory.lora_digest import ENCODER_KEY, LORA_HASH_KEY
from .lora_files import LoraFile

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

ATTACHMENT = "throughline_memory_loras"
"""Name of the patcher's attachment that holds the digests of the memory LoRAs on it."""

SHOWN_DIGITS = 12


class Card(Protocol):
    """What is read of an encoder's metadata (memory/weight_format.py, EncoderCard)."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def lora(self) -> str: ...
    @property
    def lora_hash(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """One sentence on what was found; `warning` says that something is missing or wrong."""

    text: str
    warning: bool


def pair(lora: LoraFile, strength: float, card: Card | None) -> Pairing:
    """How a LoRA goes with the encoder of `card`, None where no encoder is connected."""
    stated = lora.metadata.get(LORA_HASH_KEY, "")
    if stated and stated != lora.digest:
        return _warn(
            f"{lora.name} says it has the hash {_short(stated)}, but its tensors have "
            f"{_short(lora.digest)}: the file was changed after training."
        )
    if card is None:
        return _without_encoder(lora)
    if not card.lora_hash:
        return _warn(
            f"The encoder {_called(card)!r} names no LoRA. If it was trained with one, only its "
            "maker can say whether it is this."
        )
    if card.lora_hash != lora.digest:
        return _warn(
            f"The encoder {_called(card)!r} was trained with {card.lora or 'another LoRA'} "
            f"(hash {_short(card.lora_hash)}), but {lora.name} has {_short(lora.digest)}. "
            "Load the LoRA that belongs to the encoder."
        )
    if strength != 1.0:
        return _warn(
            f"{lora.name} belongs to the encoder {_called(card)!r}, but was trained at strength 1 "
            f"and is at {strength:g}."
        )
    return Pairing(text=f"{lora.name} belongs to the encoder {_called(card)!r}.", warning=False)


def _without_encoder(lora: LoraFile) -> Pairing:
    encoders = lora.metadata.get(ENCODER_KEY, "")
    if encoders:
        return _warn(
            f"{lora.name} was trained together with the history encoder {encoders}. Connect that "
            "encoder here and apply its memory to the model: without it the LoRA misleads."
        )
    return Pairing(
        text=f"{lora.name} is not marked as trained with a history encoder.", warning=False
    )


def with_memory_lora(model: ModelPatcher, lora: LoraFile) -> ModelPatcher:
    """A clone of `model` that remembers which memory LoRAs its weights have."""
    clone = model.clone()
    clone.set_attachments(ATTACHMENT, (*memory_loras(model), lora.digest))
    return clone


def memory_loras(model: ModelPatcher) -> tuple[str, ...]:
    """Digests of the memory LoRAs that were put on a model or a clone of it."""
    return model.get_attachment(ATTACHMENT) or ()


def missing_lora(model: ModelPatcher, card: Card) -> str | None:
    """A warning where an encoder is used on a model without its LoRA, else None."""
    if not card.lora_hash or card.lora_hash in memory_loras(model):
        return None
    return (
        f"The encoder {_called(card)!r} was trained with the LoRA {card.lora or 'of another file'} "
        f"(hash {_short(card.lora_hash)}), which is not on this model: the model does not "
        "understand its memory without it. Put the node Load memory LoRA before this one."
    )


def _warn(text: str) -> Pairing:
    return Pairing(text=f"Warning: {text}", warning=True)


def _called(card: Card) -> str:
    return card.title or card.name


def _short(digest: str) -> str:
    return digest[:SHOWN_DIGITS]
