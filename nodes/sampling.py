"""ThroughlineARSegmentSampler: a whole film, segment by segment."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker

from .film import SHOT_PROMPTS, film_request, plan_film
from .film_keyframes import KEYFRAME_USES, START_AND_END
from .rendering import describe_film, render_film, run_digest
from .sockets import (
    TL_COARSE_PLAN,
    TL_KEYFRAMES,
    TL_MEMORY,
    TL_PLAN,
    TL_RUN,
    TL_STORYBOARD,
)
from .widgets import (
    NOT_LINKED,
    RENDER,
    check_widgets,
    guidance_widgets,
    loras_input,
    low_noise_model_input,
    memory_strength_widget,
    negative_prompt_widget,
    run_widgets,
    sampler_overrides,
    seed_and_steps,
    shot_widgets,
    size_widgets,
    switch_sigma_widget,
    text_inputs,
)

EXAMPLE_SCRIPT = """[5s] A woman in a green raincoat walks along a rainy street at night.
[5s, continue] She stops in front of a diner and looks through the window.
[5s, continue] She opens the door and steps inside."""


class ARSegmentSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineARSegmentSampler",
            display_name="Sample long video",
            category="Throughline",
            description=(
                "Makes a long video segment by segment. Each segment starts from the latent tail "
                "of the one before and is on disk before the next begins; queue the same graph "
                "again after a crash or a change and only what is missing is rendered."
            ),
            search_aliases=["long video", "extend video", "autoregressive", "segments", "resume"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="A video model that can continue a clip."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                *text_inputs(),
                io.Image.Input(
                    "start_image",
                    optional=True,
                    tooltip="The film begins with this image, or with these 4n+1 frames.",
                ),
                io.Latent.Input(
                    "start_latent",
                    optional=True,
                    tooltip="The film continues the end of this latent, e.g. of another run.",
                ),
                TL_STORYBOARD.Input(
                    "storyboard",
                    optional=True,
                    tooltip="Shots from a storyboard node; replaces the script below.",
                ),
                TL_MEMORY.Input(
                    "memory",
                    optional=True,
                    tooltip="How the film remembers itself, from a memory encoder. Connect it when "
                    "places and characters come back.",
                ),
                TL_PLAN.Input(
                    "plan", optional=True, tooltip="A macro plan that fixes frames in advance."
                ),
                *sampler_overrides(),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="For models that look at the start image through CLIP vision, such "
                    "as Wan 2.1 I2V.",
                ),
                low_noise_model_input(),
                io.String.Input(
                    "script",
                    multiline=True,
                    default=EXAMPLE_SCRIPT,
                    tooltip="One shot per line. Optional in front: [5s, continue] or [3s, cut].",
                ),
                negative_prompt_widget(),
                *size_widgets(
                    "Width of the film in pixels; the start image is cropped to it.",
                    "Height of the film in pixels.",
                ),
                *shot_widgets(
                    "Frames per second the model was trained on (Wan 16, TI2V-5B and "
                    "HunyuanVideo 24). A storyboard that says its own wins."
                ),
                io.Int.Input(
                    "segment_frames",
                    default=0,
                    min=0,
                    max=10001,
                    tooltip="Longest segment in frames, the handed ones included; 0 is what the "
                    "model was trained on. Lower it when memory runs out.",
                ),
                io.Int.Input(
                    "tail_latent_frames",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Latent frames handed from segment to segment; 0 is the model's "
                    "default. More keeps motion steadier and leaves less room for new frames.",
                ),
                *seed_and_steps(
                    "Segment s is made with seed + s. Another seed makes another film.",
                    20,
                    "Sampler steps per segment. Lower it for drafts and distilled models.",
                ),
                *guidance_widgets(),
                *run_widgets(
                    "long_take",
                    "Folder of this film below output/throughline. The same name resumes; "
                    "a new name starts afresh.",
                    "Segments to do again with another seed: '4:1, 7:2' is take 1 of "
                    "segment 4 and take 2 of segment 7. The sidebar writes this for you.",
                ),
                switch_sigma_widget(),
                loras_input(),
                memory_strength_widget(),
                TL_KEYFRAMES.Input(
                    "keyframes",
                    optional=True,
                    tooltip="A first picture for each shot, from a keyframe planner or from your "
                    "own images. Connect it when shots must look as planned.",
                ),
                io.Combo.Input(
                    "keyframe_use",
                    options=list(KEYFRAME_USES),
                    default=START_AND_END,
                    optional=True,
                    tooltip="Only with keyframes. Take the start frames alone when continued shots "
                    "freeze at the end; add context when characters change within a shot: through "
                    "the memory, or for Bernini or Phantom weights by their name.",
                ),
                io.Combo.Input(
                    "shot_prompts",
                    options=list(SHOT_PROMPTS),
                    default=SHOT_PROMPTS[0],
                    optional=True,
                    tooltip="Choose the second when shots of a scene drift apart: each prompt then "
                    "begins with what all of them share. It wants an encoder for long texts.",
                ),
                TL_COARSE_PLAN.Input(
                    "coarse_plan",
                    optional=True,
                    tooltip="Plans several segments coarsely, then makes each from the plan. "
                    "Connect it when long shots wander.",
                ),
            ],
            outputs=[
                TL_RUN.Output(display_name="run", tooltip="The run folder, for assembly."),
                io.Latent.Output(
                    display_name="last_latent", tooltip="The last segment's whole latent."
                ),
                io.Image.Output(
                    display_name="contact_sheet", tooltip="One small picture per segment."
                ),
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
        keyframes: Any = NOT_LINKED,
    ) -> bool | str:
        is_read = storyboard is NOT_LINKED and keyframes is NOT_LINKED
        return check_widgets(script if is_read else None, run_name, retakes)

    @classmethod
    def fingerprint_inputs(cls, run_name: str, **inputs: Any) -> str:
        return run_digest(run_name)

    @classmethod
    def execute(cls, when_queued: str, **inputs: Any) -> io.NodeOutput:
        film, node_id = plan_film(film_request(inputs)), str(cls.hidden.unique_id)
        if when_queued != RENDER:
            stop = ExecutionBlocker(None)
            return io.NodeOutput(stop, stop, stop, ui=ui.PreviewText(describe_film(film, node_id)))
        result = render_film(film, node_id)
        return io.NodeOutput(
            result.run,
            {"samples": result.last_latent},
            result.sheet,
            ui=ui.PreviewText(result.summary),
        )


NODES: list[type[io.ComfyNode]] = [ARSegmentSampler]
