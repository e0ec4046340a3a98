"""The LoRAs of a film: which segment is made with which, decided before anything is sampled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..adapters.lora_pairing import missing_lora
from ..adapters.lora_switch import FittedLora, LoraSwitch, OfferedLora, fit_experts
from ..planning.segments import Segment
from ..planning.shot_loras import AppliedLora, loras_of_shots
from ..planning.storyboard import Storyboard
from ..planning.storyboard_summary import ignored_settings
from ..runs.keys import LORAS

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

    from ..adapters.memory_value import Memory


@dataclass(frozen=True)
class FilmLoras:
    """`fitted` are all connected LoRAs, `of_shots` those of each shot. `follows` are the settings
    of a shot that the sampler follows because they are connected."""

    fitted: tuple[FittedLora, ...] = ()
    of_shots: tuple[tuple[AppliedLora, ...], ...] = ()
    follows: tuple[str, ...] = ()

    def of(self, segment: Segment) -> tuple[AppliedLora, ...]:
        return self.of_shots[segment.shot] if self.of_shots else ()

    def parameters(self, segments: Sequence[Segment]) -> dict[str, Any]:
        """The entry of the run's parameters; none where no segment has a LoRA."""
        entries = {
            str(segment.index): [
                f"{self.fitted[one.index].digest} {one.strength!r}" for one in self.of(segment)
            ]
            for segment in segments
            if self.of(segment)
        }
        return {LORAS: entries} if entries else {}

    def switch(
        self,
        model: ModelPatcher,
        low_noise_model: ModelPatcher | None,
        segments: Sequence[Segment],
    ) -> LoraSwitch:
        """Made once for all segments of a film."""
        applied = [self.of(segment) for segment in segments]
        return LoraSwitch(model, low_noise_model, self.fitted, applied)


def film_warnings(
    storyboard: Storyboard,
    loras: FilmLoras,
    memory: Memory | None,
    models: Sequence[ModelPatcher],
    follows: Sequence[str] = (),
) -> tuple[str, ...]:
    """What an artist should know before a film is made; a missing memory LoRA is also logged.

    `follows` are settings of shots that have taken effect elsewhere.
    """
    missing = warn_of_missing_loras(memory, models)
    ignored = ignored_settings(storyboard, (*loras.follows, *follows))
    return (*storyboard.warnings, *ignored, *missing)


def warn_of_missing_loras(memory: Memory | None, models: Sequence[ModelPatcher]) -> tuple[str, ...]:
    """Log and give a sentence for each encoder whose LoRA is not on each of the models."""
    missing = missing_loras(memory, models)
    for text in missing:
        logging.warning(text)
    return missing


def missing_loras(memory: Memory | None, models: Sequence[ModelPatcher]) -> tuple[str, ...]:
    """A sentence for each encoder of `memory` whose LoRA is not on each of the models."""
    encoders = () if memory is None else memory.encoders
    found = [missing_lora(model, encoder.card) for encoder in encoders for model in models]
    return tuple(dict.fromkeys(text for text in found if text is not None))


def plan_loras(
    loras: object,
    storyboard: Storyboard,
    model: ModelPatcher,
    low_noise_model: ModelPatcher | None,
) -> FilmLoras:
    """Read the input `loras` (None: not connected).

    Raises ValueError for another value, a name in the script that no LoRA has, and a LoRA that does
    not fit the model, also one that no shot uses.
    """
    if loras is None:
        return FilmLoras()
    offered = offered_loras(loras)
    of_shots = loras_of_shots(storyboard, [one.offer for one in offered])
    fitted = tuple(fit_experts(model, low_noise_model, one) for one in offered)
    return FilmLoras(fitted, of_shots, ("lora",))


def offered_loras(loras: object) -> tuple[OfferedLora, ...]:
    """The value on TL_LORAS, None where nothing is connected. Raises ValueError for another one."""
    if loras is None:
        return ()
    if not isinstance(loras, tuple) or not all(isinstance(one, OfferedLora) for one in loras):
        raise ValueError(f"loras must come from a Shot LoRA node, got {type(loras).__name__}")
    return loras
