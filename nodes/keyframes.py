"""ThroughlineKeyframePlanner: one keyframe for every shot of a storyboard, in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker

from ..planning.segments import SEED_RANGE
from .keyframe_plan import MOST_GUIDANCE, keyframe_request, plan_story
from .keyframe_rendering import describe_story, render_story
from .keyframe_ways import AUTOMATIC, MODES
from .recall import drift_widgets, weight_widgets
from .rendering import run_digest
from .sockets import TL_KEYFRAMES, TL_MEMORY, TL_STORYBOARD
from .widgets import (
    RENDER,
    SHOW,
    check_widgets,
    guidance_widgets,
    loras_input,
    low_noise_model_input,
    memory_strength_widget,
    sampler_overrides,
    size_widgets,
    switch_sigma_widget,
)


class KeyframePlanner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineKeyframePlanner",
            display_name="Keyframe planner",
            category="Throughline",
            description=(
                "Draws one keyframe for every shot of a storyboard, each beside the earlier "
                "pictures that mean the most for it. Each is on disk before the next begins; queue "
                "the same graph again after a crash or a change and only what is missing is made."
            ),
            search_aliases=["storyboard to images", "keyframes", "consistent characters", "shots"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="An image model that takes references, or a video model, which then "
                    "draws single frames.",
                ),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                TL_STORYBOARD.Input("storyboard", tooltip="Its shots become the keyframes."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Connect the vision half of the same CLIP to choose pictures by what "
                    "they show; without it words are compared.",
                ),
                TL_MEMORY.Input(
                    "memory",
                    optional=True,
                    tooltip="Only for video models: how they remember references. Connect a "
                    "trained one; without it references are small pictures, which help little.",
                ),
                loras_input(),
                *sampler_overrides(),
                io.String.Input(
                    "negative_prompt",
                    multiline=True,
                    default="",
                    tooltip="What no keyframe should show. Only used with a cfg above 1.",
                ),
                *size_widgets("Width of the keyframes in pixels.", "Height of the keyframes."),
                io.Int.Input(
                    "references",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="How many earlier pictures each keyframe sees at most; 0 is what the "
                    "model's makers advise. Lower it when pictures are copied, or for speed.",
                ),
                io.Combo.Input(
                    "reference_mode",
                    options=list(MODES),
                    default=AUTOMATIC,
                    tooltip="Automatic is what the model does by itself. Take the atlas for models "
                    "trained with one reference, joint for Flux.1-dev, which has no references, "
                    "and none to see what they are good for.",
                ),
                io.Int.Input(
                    "group_size",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Pictures of equal size before the next ones shrink by the golden "
                    "ratio; 0 makes all of them fit. In the joint mode the shots drawn at once.",
                ),
                io.Int.Input(
                    "levels",
                    default=3,
                    min=1,
                    max=16,
                    tooltip="How many sizes there are. Raise it for more pictures at hardly more "
                    "cost; small ones say little but colour and layout.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEED_RANGE - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Shot s is drawn with seed + s, or with its own. Another seed draws "
                    "another story.",
                ),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=1000,
                    tooltip="Sampler steps per keyframe. Lower it for drafts and distilled models.",
                ),
                *guidance_widgets(),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=MOST_GUIDANCE,
                    step=0.1,
                    tooltip="Only for models with guidance built in, such as Flux dev; 0 is the "
                    "model's own. Raise it when the prompt is not followed, with a cfg of 1.",
                ),
                io.String.Input(
                    "run_name",
                    default="keyframes",
                    tooltip="Folder of these keyframes below output/throughline. The same name "
                    "resumes; a film needs another name.",
                ),
                io.String.Input(
                    "retakes",
                    default="",
                    tooltip="Keyframes to draw again with another seed: '4:1, 7:2' is take 1 of "
                    "shot 4 and take 2 of shot 7. Later ones that saw them follow.",
                ),
                io.Combo.Input(
                    "when_queued",
                    options=[RENDER, SHOW],
                    default=RENDER,
                    tooltip="Choose the second to see which keyframes a change would cost.",
                ),
                io.Int.Input(
                    "first_level",
                    optional=True,
                    default=0,
                    min=0,
                    max=8,
                    advanced=True,
                    tooltip="Size of the best picture: 0 is the keyframe's own. Take 1 when memory "
                    "or time run short.",
                ),
                io.Int.Input(
                    "least_side",
                    optional=True,
                    default=0,
                    min=0,
                    max=4096,
                    advanced=True,
                    tooltip="No picture's short side is made smaller than this many pixels; 0 is "
                    "what the model's makers advise.",
                ),
                memory_strength_widget(),
                *drift_widgets(),
                *weight_widgets(),
                low_noise_model_input(),
                switch_sigma_widget(),
            ],
            outputs=[
                TL_KEYFRAMES.Output(
                    display_name="keyframes", tooltip="For the long video sampler."
                ),
                io.Image.Output(display_name="images", tooltip="All keyframes, in order."),
                io.Image.Output(
                    display_name="contact_sheet", tooltip="One small picture per keyframe."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="What each shot recalled, why, and how many tokens that is.",
                ),
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
        story, node_id = plan_story(keyframe_request(inputs)), str(cls.hidden.unique_id)
        if when_queued != RENDER:
            stop, report = ExecutionBlocker(None), describe_story(story, node_id)
            return io.NodeOutput(stop, stop, stop, report, ui=ui.PreviewText(report))
        made = render_story(story, node_id)
        return io.NodeOutput(
            made.keyframes,
            made.keyframes.images,
            made.sheet,
            made.report,
            ui=ui.PreviewText(made.report),
        )


NODES: list[type[io.ComfyNode]] = [KeyframePlanner]
