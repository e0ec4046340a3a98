"""ThroughlineMicroPlan: the anchors of one segment, for graphs that plan step by step."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker

from .macro_plan import LAYOUTS, PLANNERS, describe_macro, render_macro
from .micro_plan import plan_micro
from .rendering import run_digest
from .sockets import TL_PLAN
from .widgets import (
    RENDER,
    check_widgets,
    guidance_widgets,
    loras_input,
    low_noise_model_input,
    negative_prompt_widget,
    run_widgets,
    sampler_overrides,
    seed_and_steps,
    size_widgets,
    switch_sigma_widget,
    text_inputs,
)


class MicroPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineMicroPlan",
            display_name="Plan segment",
            category="Throughline",
            description=(
                "Plans one segment: what it begins with, a few frames of it, and where it ends. "
                "For graphs that plan step by step, and for a way from one picture to another."
            ),
            search_aliases=["micro plan", "anchors", "first last frame", "MMPL", "in-between"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A video model that can continue a clip; a fast one is enough for a "
                    "plan. Causal Wan drafts fastest.",
                ),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                *text_inputs(),
                TL_PLAN.Input(
                    "previous",
                    optional=True,
                    tooltip="The plan before; this segment starts from its last anchors.",
                ),
                io.Image.Input(
                    "start_image",
                    optional=True,
                    tooltip="The segment begins with this image, instead of previous.",
                ),
                io.Latent.Input(
                    "start_latent",
                    optional=True,
                    tooltip="The segment begins where this latent ends; one of 2 latent frames is "
                    "taken as it is.",
                ),
                io.Image.Input(
                    "middle_image",
                    optional=True,
                    tooltip="A picture that the segment passes in its middle. With it or end_image "
                    "nothing is sampled here, the filler finds the way.",
                ),
                io.Image.Input(
                    "end_image",
                    optional=True,
                    tooltip="The picture that the segment ends on. It needs something to start "
                    "from.",
                ),
                *sampler_overrides(),
                low_noise_model_input(),
                loras_input(),
                io.Combo.Input(
                    "planner",
                    options=list(PLANNERS),
                    default=next(iter(PLANNERS)),
                    tooltip="Draft works with every model. Choose sparse only with MMPL weights. "
                    "Pictures alone refuses to sample where a picture is missing.",
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default=LAYOUTS[0],
                    tooltip="Which frames of a segment are planned. Change it when motion between "
                    "the anchors goes wrong (more anchors) or they disagree (fewer).",
                ),
                io.String.Input(
                    "prompt", multiline=True, default="", tooltip="What this segment shows."
                ),
                negative_prompt_widget(),
                *size_widgets(
                    "Width in pixels; must be that of previous.",
                    "Height in pixels; must be that of previous.",
                ),
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=1.0,
                    max=240.0,
                    step=0.01,
                    tooltip="Frames per second the model was trained on.",
                ),
                io.Int.Input(
                    "segment_frames",
                    default=0,
                    min=0,
                    max=10001,
                    tooltip="Frames of the segment, the handed ones included (Wan 4n+1); 0 is what "
                    "the model was trained on.",
                ),
                *seed_and_steps(
                    "Another seed plans another segment.",
                    8,
                    "Sampler steps. A plan needs fewer than a film; raise it when anchors are "
                    "blurred.",
                ),
                *guidance_widgets(),
                *run_widgets(
                    "plan",
                    "Folder of this plan below output/throughline. Give every Plan segment node "
                    "another one.",
                    "'1:1' plans the segment again with another seed. The sidebar writes this for "
                    "you.",
                ),
                switch_sigma_widget(),
            ],
            outputs=[
                TL_PLAN.Output(
                    display_name="plan",
                    tooltip="For Populate segments, and the previous of the next Plan segment.",
                ),
                io.Image.Output(
                    display_name="contact_sheet", tooltip="Three frames of the segment."
                ),
                io.String.Output(display_name="report", tooltip="Segments and lengths as text."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, run_name: str | None = None, retakes: str | None = None) -> bool | str:
        return check_widgets(None, run_name, retakes)

    @classmethod
    def fingerprint_inputs(cls, run_name: str, **inputs: Any) -> str:
        return run_digest(run_name)

    @classmethod
    def execute(cls, when_queued: str, **inputs: Any) -> io.NodeOutput:
        plan, node_id = plan_micro(inputs), str(cls.hidden.unique_id)
        if when_queued != RENDER:
            stop = ExecutionBlocker(None)
            return io.NodeOutput(stop, stop, stop, ui=ui.PreviewText(describe_macro(plan, node_id)))
        made, sheet, report = render_macro(plan, node_id)
        return io.NodeOutput(made, sheet, report, ui=ui.PreviewText(report))


NODES: list[type[io.ComfyNode]] = [MicroPlan]
