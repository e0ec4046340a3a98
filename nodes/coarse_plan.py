"""ThroughlineCoarsePlan: the sampler plans a film coarsely before it makes it finely."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .coarse_plan_value import GUIDE_WAYS, NOISY_START, read_coarse_plan
from .sockets import TL_COARSE_PLAN, TL_HIERARCHY_HEAD, TL_HIERARCHY_PLANNER

START_NOISE = 0.65
"""The middle of what the shared design proposes (`hierarchical-latents.md`, section 7.4)."""


class CoarsePlan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineCoarsePlan",
            display_name="Coarse plan",
            category="Throughline",
            description=(
                "Lets the long video sampler plan coarsely, then make each segment from the plan. "
                "With nothing connected the plan is the video model's own: several segments as one "
                "clip of half the size and up to a quarter of the frame rate, enlarged as a guide. "
                "With a planner it is codes that also see what was made before."
            ),
            search_aliases=["coarse to fine", "MilliVid", "guide", "low resolution first"],
            inputs=[
                TL_HIERARCHY_PLANNER.Input(
                    "hierarchy_planner",
                    optional=True,
                    tooltip="Plans codes from your prompts and from what was made. Leave it empty "
                    "for the video model's own plan: one small, fast clip for several segments, "
                    "which knows nothing that a small clip of the model does not know.",
                ),
                TL_HIERARCHY_HEAD.Input(
                    "hierarchy_head",
                    optional=True,
                    tooltip="The head that the planner was trained with. Only with a planner.",
                ),
                io.Float.Input(
                    "start_noise",
                    default=START_NOISE,
                    min=0.05,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the guide is covered by noise at the start. Lower it to "
                    "follow the plan more closely, raise it when the film looks blurred.",
                ),
                io.Combo.Input(
                    "guide_as",
                    options=list(GUIDE_WAYS),
                    default=NOISY_START,
                    tooltip="Choose the second for Wan VACE: the plan is then shown as a control "
                    "video and start_noise does nothing.",
                ),
            ],
            outputs=[
                TL_COARSE_PLAN.Output(
                    display_name="coarse_plan", tooltip="For the long video sampler."
                )
            ],
        )

    @classmethod
    def execute(cls, start_noise: float, guide_as: str, **inputs: Any) -> io.NodeOutput:
        planner, head = inputs.get("hierarchy_planner"), inputs.get("hierarchy_head")
        return io.NodeOutput(read_coarse_plan(planner, head, start_noise, guide_as))


NODES: list[type[io.ComfyNode]] = [CoarsePlan]
