"""ThroughlineMacroPlan: the anchors of a whole film, before the expensive part."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker

from ..planning.anchor_pictures import parse_places
from .macro_plan import (
    ENDS,
    LAYOUTS,
    PLANNERS,
    SEEDS_FROM,
    describe_macro,
    leave_plan,
    plan_macro,
    render_macro,
)
from .rendering import run_digest
from .sampling import EXAMPLE_SCRIPT
from .sockets import TL_KEYFRAMES, TL_PLAN, TL_STORYBOARD
from .widgets import (
    LEAVE,
    NOT_LINKED,
    RENDER,
    check_widgets,
    guidance_widgets,
    loras_input,
    low_noise_model_input,
    negative_prompt_widget,
    run_widgets,
    sampler_overrides,
    seed_and_steps,
    shot_widgets,
    size_widgets,
    switch_sigma_widget,
    text_inputs,
)


class MacroPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineMacroPlan",
            display_name="Plan film",
            category="Throughline",
            description=(
                "Decides where a long film goes before it is made: a few frames of each segment, "
                "handed on from segment to segment without their errors. Look at them, redo what "
                "is wrong, then fill the segments one by one."
            ),
            search_aliases=["storyboard of motion", "MMPL", "macro plan", "anchors", "preview"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A video model that can continue a clip; a fast one is enough for a "
                    "plan. Causal Wan drafts fastest.",
                ),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                *text_inputs(),
                io.Image.Input(
                    "start_image", optional=True, tooltip="The film begins with this image."
                ),
                TL_STORYBOARD.Input(
                    "storyboard",
                    optional=True,
                    tooltip="Shots from a storyboard node; replaces the script below.",
                ),
                TL_KEYFRAMES.Input(
                    "keyframes",
                    optional=True,
                    tooltip="Shots that cut begin with their keyframe.",
                ),
                *sampler_overrides(),
                low_noise_model_input(),
                loras_input(),
                io.Combo.Input(
                    "planner",
                    options=list(PLANNERS),
                    default=next(iter(PLANNERS)),
                    tooltip="Draft works with every model: it samples whole segments and throws "
                    "away all but the anchors. Choose sparse only with MMPL weights, which make "
                    "the anchors alone, and pictures when every segment has one of yours.",
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default=LAYOUTS[0],
                    tooltip="Which frames of a segment are planned. Change it when motion between "
                    "the anchors goes wrong (more anchors) or they disagree (fewer).",
                ),
                io.Combo.Input(
                    "seed_from",
                    options=list(SEEDS_FROM),
                    default=next(iter(SEEDS_FROM)),
                    tooltip="Where the next segment starts. From the middle, segments are half as "
                    "long and fill with less memory, and more of them are needed.",
                ),
                io.String.Input(
                    "script",
                    multiline=True,
                    default=EXAMPLE_SCRIPT,
                    tooltip="One shot per line. Optional in front: [5s, continue] or [3s, cut].",
                ),
                negative_prompt_widget(),
                *size_widgets("Width of the film in pixels.", "Height of the film in pixels."),
                *shot_widgets(
                    "Frames per second the model was trained on. A storyboard that says "
                    "its own wins."
                ),
                io.Int.Input(
                    "segment_frames",
                    default=0,
                    min=0,
                    max=10001,
                    tooltip="Longest segment in frames; 0 is what the model was trained on. Lower "
                    "it when memory runs out.",
                ),
                *seed_and_steps(
                    "Segment s is planned with seed + s. Another seed plans another film.",
                    8,
                    "Sampler steps per segment. A plan needs fewer than a film; raise it "
                    "when anchors are blurred.",
                ),
                *guidance_widgets(),
                *run_widgets(
                    "plan",
                    "Folder of this plan below output/throughline. The same name resumes; "
                    "a new name starts afresh.",
                    "Segments to plan again with another seed: '4:1, 7:2'. Those that "
                    "continue them are planned again, too. The sidebar writes this for you.",
                    scheduled=True,
                ),
                switch_sigma_widget(),
                io.Combo.Input(
                    "keyframe_use",
                    options=list(ENDS),
                    default=ENDS[0],
                    optional=True,
                    tooltip="Only with keyframes. Choose the second when shots continue: the "
                    "segment before then ends on the next shot's keyframe.",
                ),
                io.Image.Input(
                    "anchor_images",
                    optional=True,
                    tooltip="Your own pictures as anchors: segments that have one are not sampled, "
                    "the filler finds the way from picture to picture.",
                ),
                io.String.Input(
                    "anchor_places",
                    default="",
                    optional=True,
                    tooltip="Where each picture of anchor_images stands: '2:end, 3:middle'.",
                ),
            ],
            outputs=[
                TL_PLAN.Output(display_name="plan", tooltip="For Populate segments."),
                io.Image.Output(
                    display_name="contact_sheet", tooltip="Three frames of every segment."
                ),
                io.String.Output(display_name="report", tooltip="Segments and lengths as text."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        script: str | None = None,
        run_name: str | None = None,
        retakes: str | None = None,
        anchor_places: str | None = None,
        storyboard: Any = NOT_LINKED,
    ) -> bool | str:
        try:
            parse_places(anchor_places or "")
        except ValueError as error:
            return str(error)
        return check_widgets(script if storyboard is NOT_LINKED else None, run_name, retakes)

    @classmethod
    def fingerprint_inputs(cls, run_name: str, **inputs: Any) -> str:
        return run_digest(run_name)

    @classmethod
    def execute(cls, when_queued: str, **inputs: Any) -> io.NodeOutput:
        macro, node_id = plan_macro(inputs), str(cls.hidden.unique_id)
        if when_queued == LEAVE:
            left = leave_plan(macro, inputs, node_id)
            said = describe_macro(macro, node_id)
            return io.NodeOutput(left, ExecutionBlocker(None), said, ui=ui.PreviewText(said))
        if when_queued != RENDER:
            stop = ExecutionBlocker(None)
            return io.NodeOutput(
                stop, stop, stop, ui=ui.PreviewText(describe_macro(macro, node_id))
            )
        plan, sheet, report = render_macro(macro, node_id)
        return io.NodeOutput(plan, sheet, report, ui=ui.PreviewText(report))


NODES: list[type[io.ComfyNode]] = [MacroPlan]
