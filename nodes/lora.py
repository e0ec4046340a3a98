"""LoRAs: the one that belongs to a history encoder, and those of single shots and characters."""

from __future__ import annotations

import logging
from pathlib import PurePath
from typing import Any

from comfy_api.latest import io, ui

from ..adapters.encoders import LoadedEncoder
from ..adapters.lora import add_lora
from ..adapters.lora_folders import load_lora_file, lora_names, lora_stamp
from ..adapters.lora_pairing import pair, with_memory_lora
from ..adapters.lora_switch import OfferedLora
from ..planning.lists import LISTED
from ..planning.lora_words import MAX_LORA_STRENGTH, check_lora_name, check_lora_strength
from ..planning.shot_loras import LoraOffer
from .film_loras import offered_loras
from .sockets import TL_ENCODER, TL_LORAS

NONE = "none"
SAME = "same file"


def strength_widget(tooltip: str) -> io.Input:
    return io.Float.Input(
        "strength",
        default=1.0,
        min=-MAX_LORA_STRENGTH,
        max=MAX_LORA_STRENGTH,
        step=0.01,
        tooltip=tooltip,
    )


class LoadMemoryLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineLoadMemoryLoRA",
            display_name="Load memory LoRA",
            category="Throughline",
            description=(
                "Puts the LoRA that was trained together with a history encoder on the model, and "
                "says loudly when the two do not belong together. Reads LoRAs of ComfyUI, kohya, "
                "diffusers and PEFT; a tensor that does not fit the model is an error, never "
                "passed over."
            ),
            search_aliases=["lora", "memory", "history encoder", "peft"],
            inputs=[
                io.Model.Input("model", tooltip="The video model that the LoRA was trained for."),
                io.Combo.Input(
                    "lora_name",
                    options=lora_names(),
                    tooltip="The LoRA's file. Choose the one that the encoder names; a PEFT "
                    "adapter is chosen by its adapter_model.safetensors.",
                ),
                strength_widget("Leave it at 1 with a history encoder: it was trained so."),
                TL_ENCODER.Input(
                    "encoder",
                    optional=True,
                    tooltip="Connect the encoder that is used with this model, to have the pair "
                    "checked.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the LoRA."),
                io.String.Output(
                    display_name="report", tooltip="Whether LoRA and encoder belong together."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, **inputs: Any) -> str:
        return lora_stamp(lora_name)

    @classmethod
    def execute(
        cls, model: Any, lora_name: str, strength: float, encoder: Any | None = None
    ) -> io.NodeOutput:
        check_lora_strength(strength)
        if not isinstance(encoder, LoadedEncoder | None):
            raise ValueError(
                f"encoder must come from a Load memory encoder node, got {type(encoder).__name__}"
            )
        lora = load_lora_file(lora_name)
        patched = with_memory_lora(add_lora(model, lora, strength), lora) if strength else model
        pairing = pair(lora, strength, encoder.card if encoder else None)
        if pairing.warning:
            logging.warning(pairing.text)
        return io.NodeOutput(patched, pairing.text, ui=ui.PreviewText(pairing.text))


class ShotLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineShotLoRA",
            display_name="Shot LoRA",
            category="Throughline",
            description=(
                "Offers a LoRA to the script: only shots that name it, or that show a character "
                "who has it, are made with it. All other shots come out as without it. Chain "
                "several of these nodes for several LoRAs."
            ),
            search_aliases=["lora", "per shot", "character lora", "regional lora"],
            inputs=[
                io.Combo.Input(
                    "lora_name",
                    options=[NONE, *lora_names()],
                    default=NONE,
                    tooltip="The LoRA's file; none leaves this node without effect.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="What the script calls it, as in lora: coat 0.8 between braces. Give a "
                    "short word; empty is the file's name without its ending.",
                ),
                strength_widget("Counts where the script says no number. 0 leaves it off."),
                io.String.Input(
                    "used_in",
                    default="",
                    tooltip="Shots, characters or places that have the LoRA although the script "
                    "does not name it, such as: 1.2, Ana. Empty: only where the script names it.",
                ),
                io.Combo.Input(
                    "low_noise_lora",
                    options=[SAME, NONE, *lora_names()],
                    default=SAME,
                    optional=True,
                    advanced=True,
                    tooltip="Only with a low-noise model: the file for it. Choose the second file "
                    "where a LoRA for Wan 2.2 comes as a pair.",
                ),
                TL_LORAS.Input(
                    "loras",
                    optional=True,
                    tooltip="LoRAs of another Shot LoRA node, to have several.",
                ),
            ],
            outputs=[
                TL_LORAS.Output(
                    display_name="loras",
                    tooltip="For the input loras of Sample long video, or of another Shot LoRA.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, low_noise_lora: str = SAME, **inputs: Any) -> str:
        return f"{lora_stamp(lora_name)} {lora_stamp(low_noise_lora)}"

    @classmethod
    def execute(
        cls,
        lora_name: str,
        name: str,
        strength: float,
        used_in: str,
        low_noise_lora: str = SAME,
        loras: Any | None = None,
    ) -> io.NodeOutput:
        before = offered_loras(loras)
        if lora_name == NONE:
            return io.NodeOutput(before)
        return io.NodeOutput((*before, offer(lora_name, name, strength, used_in, low_noise_lora)))


def offer(
    lora_name: str, name: str, strength: float, used_in: str, low_noise_lora: str
) -> OfferedLora:
    """A LoRA with all that a script may call it. Raises ValueError naming what is wrong."""
    file = load_lora_file(lora_name)
    low_noise = {SAME: file, NONE: None}
    if low_noise_lora not in low_noise:
        low_noise[low_noise_lora] = load_lora_file(low_noise_lora)
    return OfferedLora(
        offer=LoraOffer(
            names=script_names(lora_name, name),
            strength=strength,
            used_in=tuple(filter(None, (part.strip() for part in LISTED.split(used_in)))),
        ),
        file=file,
        low_noise_file=low_noise[low_noise_lora],
    )


def script_names(lora_name: str, name: str) -> tuple[str, ...]:
    """The artist's own name first, then the file's without and with its ending and folder.

    A file whose own name no script could hold goes by the given name alone.
    """
    path = PurePath(lora_name.replace("\\", "/"))
    given = name.strip()
    others = (path.stem, path.name, path.as_posix())
    first = given or path.stem
    return tuple(dict.fromkeys((first, *filter(_can_be_written, others))))


def _can_be_written(name: str) -> bool:
    try:
        check_lora_name(name)
    except ValueError:
        return False
    return True


NODES: list[type[io.ComfyNode]] = [LoadMemoryLoRA, ShotLoRA]
