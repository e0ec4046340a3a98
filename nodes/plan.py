"""ThroughlineMacroPlan: the anchors of a whole film, before the expensive part."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker

from ..planning.segments import SEED_RANGE
from .macro_plan import LAYOUTS, PLANNERS, SEEDS_FROM, describe_macro, plan_macro, render_macro
from .rendering import run_digest
from .sampling import EXAMPLE_SCRIPT
from .sockets import TL_KEYFRAMES, TL_LORAS, TL_PLAN, TL_STORYBOARD
from .widgets import (
    NOT_LINKED,
    check_widgets,
    guidance_widgets,
    low_noise_model_input,
    sampler_overrides,
    size_widgets,
    switch_sigma_widget,
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
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Encodes one prompt per shot. Leave empty when you connect positive.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="One conditioning for every shot, instead of clip.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="Used instead of the negative prompt below.",
                ),
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
                TL_LORAS.Input(
                    "loras",
                    optional=True,
                    tooltip="LoRAs that the script names for single shots and characters.",
                ),
                io.Combo.Input(
                    "planner",
                    options=list(PLANNERS),
                    default=next(iter(PLANNERS)),
                    tooltip="Draft works with every model: it samples whole segments and throws "
                    "away all but the anchors. Choose sparse only with MMPL weights, which make "
                    "the anchors alone.",
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
                io.String.Input(
                    "negative_prompt",
                    multiline=True,
                    default="",
                    tooltip="What no shot should show. Only used with clip and a cfg above 1.",
                ),
                *size_widgets("Width of the film in pixels.", "Height of the film in pixels."),
                io.Float.Input(
                    "seconds_per_shot",
                    default=5.0,
                    min=0.05,
                    max=3600.0,
                    step=0.05,
                    tooltip="Length of shots that do not say theirs. Long shots take several "
                    "segments.",
                ),
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=1.0,
                    max=240.0,
                    step=0.01,
                    tooltip="Frames per second the model was trained on. A storyboard that says "
                    "its own wins.",
                ),
                io.Combo.Input(
                    "unmarked_shots",
                    options=["continue", "cut"],
                    default="continue",
                    tooltip="What shots do that say neither: continue the picture before, or cut "
                    "to a new one made from the text.",
                ),
                io.Int.Input(
                    "segment_frames",
                    default=0,
                    min=0,
                    max=10001,
                    tooltip="Longest segment in frames; 0 is what the model was trained on. Lower "
                    "it when memory runs out.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEED_RANGE - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Segment s is planned with seed + s. Another seed plans another film.",
                ),
                io.Int.Input(
                    "steps",
                    default=8,
                    min=1,
                    max=1000,
                    tooltip="Sampler steps per segment. A plan needs fewer than a film; raise it "
                    "when anchors are blurred.",
                ),
                *guidance_widgets(),
                io.String.Input(
                    "run_name",
                    default="plan",
                    tooltip="Folder of this plan below output/throughline. The same name resumes; "
                    "a new name starts afresh.",
                ),
                io.String.Input(
                    "retakes",
                    default="",
                    tooltip="Segments to plan again with another seed: '4:1, 7:2'. Those that "
                    "continue them are planned again, too. The sidebar writes this for you.",
                ),
                io.Combo.Input(
                    "when_queued",
                    options=["render", "only show what would be rendered"],
                    default="render",
                    tooltip="Choose the second to see which segments a change would cost.",
                ),
                switch_sigma_widget(),
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
        storyboard: Any = NOT_LINKED,
    ) -> bool | str:
        return check_widgets(script if storyboard is NOT_LINKED else None, run_name, retakes)

    @classmethod
    def fingerprint_inputs(cls, run_name: str, **inputs: Any) -> str:
        return run_digest(run_name)

    @classmethod
    def execute(cls, when_queued: str, **inputs: Any) -> io.NodeOutput:
        macro, node_id = plan_macro(inputs), str(cls.hidden.unique_id)
        if when_queued != "render":
            stop = ExecutionBlocker(None)
            return io.NodeOutput(
                stop, stop, stop, ui=ui.PreviewText(describe_macro(macro, node_id))
            )
        plan, sheet, report = render_macro(macro, node_id)
        return io.NodeOutput(plan, sheet, report, ui=ui.PreviewText(report))


NODES: list[type[io.ComfyNode]] = [MacroPlan]
