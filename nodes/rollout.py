"""ThroughlineRolloutSchedule: in which order a long video is made, and what each step sees."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..adapters.hierarchy_value import Timeline
from ..planning.rollout import PRESETS, Windows
from ..planning.rollout_choice import COARSE_TO_FINE, ROLLOUTS, choose_rollout
from .rollout_picture import step_picture
from .rollout_report import RolloutView, quartered, rollout_report
from .sockets import TL_HIERARCHY, TL_ROLLOUT

MOST_FRAMES = 1_000_000
"""Latent frames that a schedule is asked about: 69 hours of Wan at 16 frames per second."""

WAN_TOKENS = 1560
"""Tokens of a latent frame of Wan at 832 x 480 (shared design `hierarchical-latents.md`, 7.1)."""


class RolloutSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineRolloutSchedule",
            display_name="Rollout schedule",
            category="Throughline",
            description=(
                "Decides in which order the latent frames of a long video are made: coarse codes "
                "of a whole chunk first, then finer ones block by block, each step seeing the "
                "near past fine and the far past coarse. Shows any step, and what it costs, "
                "before anything is sampled."
            ),
            search_aliases=["MilliVid", "FramePack", "coarse to fine", "windows", "context"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "rollout",
                    options=list(ROLLOUTS),
                    default=COARSE_TO_FINE,
                    tooltip="Choose what your planner was trained with; its card says so. The "
                    "others are there to be compared with.",
                ),
                io.String.Input(
                    "windows",
                    default=str(PRESETS[1]),
                    tooltip="Latent frames that one step makes, per level, finest first; each a "
                    "multiple of the one before. A further level looks four times as far back "
                    "and ahead. Full resolution takes one number.",
                ),
                io.Int.Input(
                    "finest_level",
                    default=0,
                    min=0,
                    max=8,
                    tooltip="Where planning stops. Raise it to 1 when a video model makes the "
                    "finest level from the plan.",
                ),
                io.Int.Input(
                    "tokens_per_frame",
                    default=WAN_TOKENS,
                    min=1,
                    max=1_000_000,
                    tooltip="Tokens of a latent frame at level 0, for the cost; each further level "
                    "has a quarter. 1560 is Wan at 832 x 480. A hierarchy says it exactly.",
                ),
                io.Int.Input(
                    "latent_frames",
                    default=256,
                    min=1,
                    max=MOST_FRAMES,
                    tooltip="How long the video is to become, for the number of steps.",
                ),
                io.Int.Input(
                    "known_frames",
                    default=85,
                    min=0,
                    max=MOST_FRAMES,
                    tooltip="Latent frames that are there before the first chunk. 0 shows a cold "
                    "start.",
                ),
                io.Int.Input(
                    "shown_step",
                    default=1,
                    min=1,
                    max=MOST_FRAMES,
                    tooltip="Change it to look at another step; it counts on through the chunks.",
                ),
                TL_HIERARCHY.Input(
                    "hierarchy",
                    optional=True,
                    tooltip="Takes the tokens of each level from it, exactly, instead of "
                    "tokens_per_frame.",
                ),
            ],
            outputs=[
                TL_ROLLOUT.Output(display_name="rollout", tooltip="For Plan hierarchy."),
                io.Image.Output(
                    display_name="picture", tooltip="What the shown step sees and makes."
                ),
                io.String.Output(display_name="report", tooltip="Steps and tokens as text."),
            ],
        )

    @classmethod
    def validate_inputs(cls, windows: str | None = None) -> bool | str:
        try:
            if windows is not None:
                Windows.from_text(windows)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        rollout: str,
        windows: str,
        finest_level: int,
        tokens_per_frame: int,
        latent_frames: int,
        known_frames: int,
        shown_step: int,
        hierarchy: Timeline | None = None,
    ) -> io.NodeOutput:
        chosen = choose_rollout(rollout, Windows.from_text(windows), finest_level)
        per_level = quartered(tokens_per_frame, chosen.levels[-1] + 1)
        if hierarchy is not None:
            per_level = hierarchy.grid.tokens
        view = RolloutView(chosen, per_level, latent_frames, known_frames)
        picture = step_picture(view, shown_step)
        report = rollout_report(view)
        return io.NodeOutput(chosen, picture, report, ui=ui.PreviewImage(picture, cls=cls))


NODES: list[type[io.ComfyNode]] = [RolloutSchedule]
