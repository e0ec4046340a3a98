"""The nodes that remember: load an encoder, encode a history, put it on a model, look at it."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..adapters.encoders import CATEGORY, LoadedEncoder, load_encoder
from ..adapters.memory_value import Memory
from ..adapters.weight_folders import weight_names, weight_path
from ..memory.rates import RATES
from ..planning.recall import parse_shots
from ..planning.segments import SEED_RANGE
from .film_loras import warn_of_missing_loras
from .film_memory import check_memory_fits
from .memory_summary import describe_memory
from .remembering import (
    ANCHORS,
    AUTOMATIC,
    FORMS,
    PIN_REFERENCES,
    PIN_SHOT,
    REMEMBER,
    chosen_bank,
    make_memory,
    memory_request,
    new_cache,
    remembering_model,
)
from .retrieval import PreviewRequest, preview_memory
from .sockets import TL_ENCODER, TL_MEMORY, TL_RUN
from .widgets import MAX_RESOLUTION

DEFAULT_RATE = "2x2x2"
"""The knee of the paper's table D: half of what 2x2x1 costs, most of what it gives."""


class LoadMemoryEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineLoadMemoryEncoder",
            display_name="Load memory encoder",
            category="Throughline",
            description=(
                "Loads a trained history encoder from models/memory_encoders. It belongs to one "
                "video model and to the LoRA it was trained with: load that LoRA, too."
            ),
            search_aliases=["history encoder", "memory weights", "PFP", "TinyHistory"],
            inputs=[
                io.Combo.Input(
                    "encoder_name",
                    options=weight_names(CATEGORY),
                    tooltip="Choose the encoder that was trained for your video model. 4x4x2 in "
                    "its name costs a quarter of the tokens of 2x2x2 and keeps less detail.",
                ),
            ],
            outputs=[
                TL_ENCODER.Output(display_name="encoder", tooltip="For the memory encoder."),
                io.String.Output(
                    display_name="card", tooltip="What the encoder was trained for, as text."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, encoder_name: str) -> str:
        stat = weight_path(CATEGORY, encoder_name, "encoder_name").stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"

    @classmethod
    def execute(cls, encoder_name: str) -> io.NodeOutput:
        loaded = load_encoder(weight_path(CATEGORY, encoder_name, "encoder_name"), new_cache())
        card = describe_encoder(loaded)
        return io.NodeOutput(loaded, card, ui=ui.PreviewText(card))


def describe_encoder(loaded: LoadedEncoder) -> str:
    """What a file of memory weights says about itself, in lines of text."""
    card = loaded.card
    rates = ", ".join(map(str, card.rates))
    lines = [
        card.title or card.name,
        f"for {card.base}: {card.in_channels} latent channels, width {card.inner_dim}",
        f"rate {rates}, segments of {card.segment_latents} latent frames at {card.fps:g} fps",
        f"companion LoRA: {card.lora or 'none named'}",
    ]
    return "\n".join([*lines, *([f"licence: {card.license}"] if card.license else [])])


class MemoryEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineMemoryEncoder",
            display_name="Memory encoder",
            category="Throughline",
            description=(
                "Decides how a film is remembered, and encodes what you give it: references, a "
                "latent, a finished run. With nothing given the memory is empty and the long video "
                "sampler fills it while it works. Without an encoder it needs no trained weights."
            ),
            search_aliases=["memory", "history", "reference", "consistency", "remember"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The video model that will read the memory."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                TL_ENCODER.Input(
                    "encoder",
                    optional=True,
                    tooltip="A trained encoder. Leave it empty for memory without training.",
                ),
                TL_ENCODER.Input(
                    "second_encoder",
                    optional=True,
                    tooltip="A second one whose tokens are added, e.g. a finer rate for faces.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Encodes captions for encoders that read them. The sampler brings its "
                    "own for the shots of the film.",
                ),
                io.Latent.Input(
                    "history", optional=True, tooltip="A clip that came before, as a video latent."
                ),
                io.Image.Input(
                    "references",
                    optional=True,
                    tooltip="Pictures to remember in every shot: a face, a place, a style. They "
                    "are never dropped.",
                ),
                TL_RUN.Input(
                    "run",
                    optional=True,
                    tooltip="The finished segments of another run, to go on from its story.",
                ),
                io.Combo.Input(
                    "form",
                    options=[AUTOMATIC, *FORMS],
                    default=AUTOMATIC,
                    tooltip="Automatic uses the encoder where one is connected, else small "
                    "pictures. The forms marked no training work with any supported model but "
                    "recall less.",
                ),
                io.Combo.Input(
                    "rate",
                    options=[str(rate) for rate in RATES],
                    default=DEFAULT_RATE,
                    tooltip="Only for small pictures: height x width x time that become one token. "
                    "Take 4x4x2 when memory or time run short. An encoder has its own rate.",
                ),
                io.Combo.Input(
                    "recent_frames",
                    options=[AUTOMATIC, REMEMBER, ANCHORS],
                    default=AUTOMATIC,
                    tooltip="Automatic remembers every segment with a trained encoder and anchors "
                    "only without, because untrained memory of recent frames makes drift worse.",
                ),
                io.Int.Input(
                    "window",
                    default=0,
                    min=0,
                    max=10_000,
                    tooltip="How many of the newest latent frames are remembered; 0 is all, or 8 "
                    "for whole recent frames. Lower it when a long film gets slow.",
                ),
                io.Combo.Input(
                    "pin",
                    options=[PIN_SHOT, PIN_REFERENCES],
                    default=PIN_SHOT,
                    tooltip="What is never forgotten. Choose references only when the first shot "
                    "is not what the others should look like.",
                ),
                io.String.Input(
                    "captions",
                    multiline=True,
                    default="",
                    tooltip="One line per reference, then per part of the history: what it shows. "
                    "Encoders that read captions find it by these words.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=MAX_RESOLUTION,
                    step=8,
                    tooltip="Width of the film in pixels, to fit references to it; 0 takes that of "
                    "the history or the picture.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=MAX_RESOLUTION,
                    step=8,
                    tooltip="Height of the film in pixels; 0 as for the width.",
                ),
            ],
            outputs=[
                TL_MEMORY.Output(
                    display_name="memory", tooltip="For a sampler, Apply memory or the preview."
                ),
                io.String.Output(
                    display_name="summary",
                    tooltip="Tokens, seconds covered and what they cost, as text.",
                ),
            ],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        request = memory_request(inputs)
        made = make_memory(request)
        summary = describe_memory(made, request.model)
        return io.NodeOutput(made.memory, summary, ui=ui.PreviewText(summary))


class ApplyMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineApplyMemory",
            display_name="Apply memory",
            category="Throughline",
            description=(
                "Puts a memory on a model for any sampler. The model then sees what is remembered "
                "as clean frames of the past. The long video sampler takes the memory directly."
            ),
            search_aliases=["memory to model", "attach memory", "reference"],
            inputs=[
                io.Model.Input("model", tooltip="The video model, with the encoder's LoRA on it."),
                TL_MEMORY.Input("memory", tooltip="What it shall remember; must hold something."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="1 is the memory as trained. Lower it when the past shows too much; 0 "
                    "is the model without memory. Values between cost a second attention.",
                ),
                io.String.Input(
                    "shots",
                    default="",
                    tooltip="Which shots it sees, like '1-3, 5'; empty is all. References are "
                    "always seen.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="The text of the shot that will be sampled. Connect it when the "
                    "encoder recalls by captions: the shot then finds what its words name.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The empty latent that will be sampled, to recall for its length; "
                    "without it that of the encoder's own segments.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model that remembers.")],
        )

    @classmethod
    def validate_inputs(cls, shots: str | None = None) -> bool | str:
        try:
            parse_shots(shots or "")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        memory: Any,
        strength: float,
        shots: str,
        positive: Any = None,
        latent: Any = None,
    ) -> io.NodeOutput:
        held = filled_memory(memory)
        check_memory_fits(held, model)
        bank = chosen_bank(held.bank, parse_shots(shots))
        warn_of_missing_loras(held, [model])
        return io.NodeOutput(remembering_model(model, held, bank, strength, positive, latent))


def filled_memory(value: object) -> Memory:
    """A memory that holds something. Raises ValueError for anything else."""
    if not isinstance(value, Memory):
        raise ValueError(f"memory must come from a memory encoder node, got {type(value).__name__}")
    if not value.bank.entries:
        raise ValueError(
            "memory must hold something here, got an empty one: connect references, a history or a "
            "run to the memory encoder, or give it to the long video sampler, which fills it"
        )
    return value


class MemoryPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineMemoryPreview",
            display_name="Memory preview",
            category="Throughline",
            description=(
                "Shows what a memory holds: a picture of each entry with its tokens. With a model "
                "and a trained encoder it also asks the memory for each picture again, so that you "
                "see what survives."
            ),
            search_aliases=["what is remembered", "retrieve", "memory contact sheet"],
            is_output_node=True,
            inputs=[
                TL_MEMORY.Input(
                    "memory", tooltip="From a memory encoder that was given something."
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="With the encoder's LoRA on it: each entry is sampled from the memory "
                    "alone and shown beside the real picture.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Encodes the captions of the entries for that."
                ),
                io.Int.Input(
                    "steps",
                    default=12,
                    min=1,
                    max=1000,
                    tooltip="Sampler steps for a retrieved picture. Raise it when they look noisy.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEED_RANGE - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Another seed retrieves with other noise: what stays is remembered.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="pictures", tooltip="All entries on one sheet."),
                io.String.Output(
                    display_name="report", tooltip="Entries, tokens and PSNR as text."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, memory: Any, **inputs: Any) -> io.NodeOutput:
        request = PreviewRequest(
            memory=filled_memory(memory),
            model=inputs.get("model"),
            clip=inputs.get("clip"),
            steps=inputs["steps"],
            seed=inputs["seed"],
        )
        sheet, report = preview_memory(request)
        return io.NodeOutput(sheet, report, ui=ui.PreviewImage(sheet, cls=cls))


NODES: list[type[io.ComfyNode]] = [LoadMemoryEncoder, MemoryEncoder, ApplyMemory, MemoryPreview]
