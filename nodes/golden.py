"""ThroughlineGoldenMemPack: many references at the price of one and a half."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker

from ..adapters.flux_joint import kept_bytes
from ..memory.golden import PHI
from ..planning.segments import SEED_RANGE
from .golden_packing import (
    JOINT,
    LEAVE_OUT,
    LEFT_OVER,
    REFERENCE_LIST,
    REFERENCE_MODES,
    attach_references,
    family_and_abilities,
    golden_request,
    plan_references,
)
from .golden_picture import packing_picture
from .golden_report import packing_report
from .sockets import TL_KEYFRAMES
from .widgets import MAX_RESOLUTION

MOST_RATIO = 3.0
"""A third of a side from level to level: further ones would be nothing but a colour."""

MOST_NOISE = 0.25
"""The most noise that the paper trains its context with (section 5.4 of the design)."""


class GoldenMemPack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineGoldenMemPack",
            display_name="Golden memory pack",
            category="Throughline",
            description=(
                "Gives an image model many reference pictures at little cost: the best one at full "
                "size, each next one smaller by the golden ratio, all together below 1.62 times "
                "the tokens of the first. Shows the packing and counts its tokens."
            ),
            search_aliases=["GoldenMem", "reference latents", "multi reference", "consistency"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Flux.1 Kontext, Flux.2, Qwen-Image-Edit or OmniGen2; Flux.1-dev with "
                    "the mode joint K/V.",
                ),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Conditioning.Input("positive", tooltip="The prompt; it gets the references."),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="Connect it when cfg is above 1: it gets the references where the "
                    "model needs them there, too.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The references, best first: a batch, or a list with sizes of their "
                    "own. None is ever enlarged.",
                ),
                TL_KEYFRAMES.Input(
                    "keyframes",
                    optional=True,
                    tooltip="Keyframes of a story, newest first behind the images.",
                ),
                io.Int.Input(
                    "width",
                    default=1024,
                    min=16,
                    max=MAX_RESOLUTION,
                    step=8,
                    tooltip="Width of the picture that will be sampled; the first level has its "
                    "size.",
                ),
                io.Int.Input(
                    "height",
                    default=1024,
                    min=16,
                    max=MAX_RESOLUTION,
                    step=8,
                    tooltip="Height of the picture that will be sampled.",
                ),
                io.Int.Input(
                    "group_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Pictures that share a level. Raise it when small references are not "
                    "recognised; the cost grows as much.",
                ),
                io.Int.Input(
                    "levels",
                    default=6,
                    min=1,
                    max=16,
                    tooltip="How many sizes there are. Lower it to use the best pictures only.",
                ),
                io.Int.Input(
                    "first_level",
                    default=0,
                    min=0,
                    max=8,
                    tooltip="Choose 1 when references need less detail than the picture itself: it "
                    "saves most of the tokens.",
                ),
                io.Int.Input(
                    "least_side",
                    default=256,
                    min=0,
                    max=MAX_RESOLUTION,
                    step=16,
                    tooltip="Levels with a shorter side are not used. Stock models were not "
                    "trained with smaller ones; lower it for colour and layout hints.",
                ),
                io.Int.Input(
                    "max_references",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="0 is what the model takes: Flux.2 dev 6, klein 4, Qwen 3, OmniGen2 5, "
                    "and 4 for Kontext, which was trained with 1. Lower it when pictures mix.",
                ),
                io.Int.Input(
                    "pinned",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="So many of the first pictures keep the first level and are never left "
                    "out: for character sheets.",
                ),
                io.Combo.Input(
                    "reference_mode",
                    options=list(REFERENCE_MODES),
                    default=REFERENCE_LIST,
                    tooltip="Take the atlas for models trained with one reference: all pictures on "
                    "one canvas. Take joint K/V for stock Flux.1-dev, which looks like Kontext.",
                ),
                io.Combo.Input(
                    "left_over",
                    options=list(LEFT_OVER),
                    default=LEAVE_OUT,
                    tooltip="Pictures beyond the last place: left out, put on one last small "
                    "atlas, or an error.",
                ),
                io.Int.Input(
                    "base_short",
                    optional=True,
                    default=0,
                    min=0,
                    max=MAX_RESOLUTION,
                    step=16,
                    advanced=True,
                    tooltip="Short side of the first level in pixels, 0 is that of the picture. "
                    "Lower it when memory or time run short.",
                ),
                io.Float.Input(
                    "ratio",
                    optional=True,
                    default=PHI,
                    min=1.0,
                    max=MOST_RATIO,
                    step=0.01,
                    round=False,
                    advanced=True,
                    tooltip="By how much a side shrinks from level to level. Lower it to keep "
                    "more detail; 1 keeps all at full size, without a bound.",
                ),
                io.Float.Input(
                    "reference_noise",
                    optional=True,
                    default=0.0,
                    min=0.0,
                    max=MOST_NOISE,
                    step=0.01,
                    advanced=True,
                    tooltip="Leave it at 0 for stock models. Raise it for models trained with "
                    "noisy context, or when references are copied too closely.",
                ),
                io.Int.Input(
                    "seed",
                    optional=True,
                    default=0,
                    min=0,
                    max=SEED_RANGE - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    advanced=True,
                    tooltip="Draws the noise of the references; without reference_noise it does "
                    "nothing.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The same, but with joint K/V, which is on it."
                ),
                io.Conditioning.Output(
                    display_name="positive", tooltip="The prompt with the references."
                ),
                io.Conditioning.Output(
                    display_name="negative", tooltip="Only where a negative is connected."
                ),
                io.Image.Output(
                    display_name="packing", tooltip="Golden rectangles with the pictures in them."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Tokens of each level and in all, the bound, and what is left out.",
                ),
            ],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        request = golden_request({**OPTIONAL, **inputs})
        family, capabilities = family_and_abilities(request)
        packing = plan_references(request, family, capabilities)
        made = attach_references(request, family, packing)
        report = packing_report(packing, request.names, family.name, capabilities)
        if request.mode == JOINT:
            report += f"\n- {kept_line(request.model, packing.tokens)}"
        picture = packing_picture(packing, request.pictures, request.names)
        negative = made.negative or ExecutionBlocker("negative must be connected to be used")
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), **ui.PreviewText(report).as_dict()}
        return io.NodeOutput(made.model, made.positive, negative, picture, report, ui=shown)


def kept_line(model: Any, tokens: int) -> str:
    """What the joint mode keeps for the references while it samples."""
    return (
        f"Kept while sampling: {kept_bytes(model, tokens) / 1e6:,.1f} MB of keys and values, in "
        "RAM where they do not fit the card"
    )


OPTIONAL: dict[str, list[Any]] = {
    "base_short": [0],
    "ratio": [PHI],
    "reference_noise": [0.0],
    "seed": [0],
}
"""What a saved workflow that lacks the advanced widgets means; lists, as the host gives inputs."""

NODES: list[type[io.ComfyNode]] = [GoldenMemPack]
