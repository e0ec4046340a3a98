"""ThroughlineSegment: one segment, for graphs that loop by themselves."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..planning.segments import SEED_RANGE
from .film import plan_segment
from .rendering import render_one
from .widgets import MAX_RESOLUTION, SAMPLER_NAMES


class Segment(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineSegment",
            display_name="Sample one segment",
            category="Throughline",
            description=(
                "Samples one segment that starts from the tail of the latent before it, for graphs "
                "that loop by themselves. Nothing is written to disk."
            ),
            search_aliases=["extend video", "continue video", "segment"],
            inputs=[
                io.Model.Input("model", tooltip="A video model that can continue a clip."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Conditioning.Input("positive", tooltip="What this segment shows."),
                io.Conditioning.Input("negative", tooltip="What it should not show."),
                io.Latent.Input(
                    "previous",
                    optional=True,
                    tooltip="The segment before; this one starts from its last latent frames.",
                ),
                io.Image.Input(
                    "start_image",
                    optional=True,
                    tooltip="Start of the first segment, instead of previous.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Noise levels, instead of scheduler and steps: for distilled models.",
                ),
                io.Sampler.Input(
                    "sampler",
                    optional=True,
                    tooltip="A sampler with settings of its own, instead of sampler_name.",
                ),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="For models that look at the start image through CLIP vision.",
                ),
                io.Model.Input(
                    "low_noise_model",
                    optional=True,
                    tooltip="The low-noise expert of Wan 2.2 14B; model is the high-noise one.",
                ),
                io.Int.Input(
                    "width",
                    default=832,
                    min=16,
                    max=MAX_RESOLUTION,
                    step=8,
                    tooltip="Width in pixels; must be that of previous.",
                ),
                io.Int.Input(
                    "height",
                    default=480,
                    min=16,
                    max=MAX_RESOLUTION,
                    step=8,
                    tooltip="Height in pixels; must be that of previous.",
                ),
                io.Int.Input(
                    "segment_frames",
                    default=81,
                    min=1,
                    max=10001,
                    tooltip="Frames of the segment, the handed ones included (Wan 4n+1).",
                ),
                io.Int.Input(
                    "tail_latent_frames",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Latent frames taken over from previous; 0 is the model's default.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=SEED_RANGE - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Give every segment another one.",
                ),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=1000,
                    tooltip="Sampler steps. Lower it for drafts and distilled models.",
                ),
                io.Float.Input(
                    "cfg",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How closely the prompt is followed. Distilled models want 1.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=SAMPLER_NAMES,
                    default="euler",
                    tooltip="The sampler. Causal Wan needs ar_video.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.SCHEDULER_NAMES,
                    default="simple",
                    tooltip="How the noise levels fall.",
                ),
                io.Float.Input(
                    "switch_sigma",
                    default=0.9,
                    min=0.01,
                    max=0.99,
                    step=0.005,
                    advanced=True,
                    tooltip="Only with low_noise_model: noise level below which it takes over. "
                    "Wan 2.2 was trained with 0.9 for I2V and 0.875 for T2V.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="segment",
                    tooltip="The whole segment, the handed frames included: the next previous.",
                ),
                io.Latent.Output(
                    display_name="new_frames",
                    tooltip="Only what is new: join these along time to get the film.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        film = plan_segment(inputs)
        latent = render_one(film, str(cls.hidden.unique_id))
        handed = film.segments[0].known_latent_frames if inputs.get("previous") else 0
        return io.NodeOutput({"samples": latent}, {"samples": latent[:, :, handed:]})


NODES: list[type[io.ComfyNode]] = [Segment]
