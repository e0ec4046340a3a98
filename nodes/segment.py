"""ThroughlineSegment: one segment, for graphs that loop by themselves."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..planning.segments import SEED_RANGE
from .film import plan_segment
from .rendering import render_one
from .sockets import TL_MEMORY
from .widgets import (
    guidance_widgets,
    low_noise_model_input,
    memory_strength_widget,
    sampler_overrides,
    size_widgets,
    switch_sigma_widget,
)


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
                *sampler_overrides(),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    optional=True,
                    tooltip="For models that look at the start image through CLIP vision.",
                ),
                low_noise_model_input(),
                *size_widgets(
                    "Width in pixels; must be that of previous.",
                    "Height in pixels; must be that of previous.",
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
                *guidance_widgets(),
                switch_sigma_widget(),
                TL_MEMORY.Input(
                    "memory",
                    optional=True,
                    tooltip="What came before this segment, from a memory encoder.",
                ),
                memory_strength_widget(),
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
