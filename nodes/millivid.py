"""ThroughlineMilliVidRollout: the authors' own models, steered through a world by actions."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..adapters.millivid import CATEGORY
from ..adapters.weight_folders import weight_names
from ..planning.actions import parse_actions
from ..planning.segments import parse_takes
from ..runs.paths import run_path
from .millivid_rolling import plan_rolling, roll
from .rendering import run_digest, runs_root
from .widgets import seed_and_steps

MOST_FRAMES = 100_000
"""Of one video (our choice): 83 minutes at the models' 20 frames per second."""

CHUNK = 192
"""Frames that the released model makes in one go (shared design `hierarchical-latents.md`, 3.1)."""


class MilliVidRollout(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineMilliVidRollout",
            display_name="MilliVid rollout",
            category="Throughline",
            description=(
                "Continues a walk through a world with the models that the authors of MilliVid "
                "published: coarse first, then finer, so that places look the same when the "
                "viewer comes back. The published weights know one game's swamp and three "
                "actions; for other video use the nodes for hierarchies."
            ),
            search_aliases=["MilliVid", "world model", "Minecraft", "actions", "long video"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "video_model_name",
                    options=weight_names(CATEGORY),
                    tooltip="A video model in models/millivid, made from the authors' checkpoint "
                    "with dev.py convert millivid. Choose a baseline to compare with it.",
                ),
                io.Combo.Input(
                    "autoencoder_name",
                    options=weight_names(CATEGORY),
                    tooltip="The autoencoder that the video model was trained with, in the same "
                    "folder.",
                ),
                io.MultiType.Input(
                    "context",
                    [io.Image, io.Video],
                    tooltip="Frames before the video, 255 or more for the released model; the "
                    "last ones are used, cropped to a square. A clip of the game, best 256 frames.",
                ),
                io.String.Input(
                    "context_actions",
                    multiline=True,
                    default="forward 256",
                    tooltip="The action that led to each frame of the context. Change it to what "
                    "was really done there, or the model turns the wrong way.",
                ),
                io.String.Input(
                    "actions",
                    multiline=True,
                    default="forward 27, left 9, forward 27, left 9",
                    tooltip="What the viewer does, frame by frame: forward, left, right, each with "
                    "its frames (9 turn by 90 degrees). Begins anew when it ends.",
                ),
                io.Int.Input(
                    "frames",
                    default=CHUNK,
                    min=1,
                    max=MOST_FRAMES,
                    tooltip="Length of the new video. The released model makes 192 frames at a "
                    "time, so multiples of that waste nothing.",
                ),
                *seed_and_steps(
                    "Another seed shows another world where the context leaves it open.",
                    50,
                    "Evaluations per step; the authors take 50. Lower it for a draft.",
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="1 is what the authors measured. 1.5 looks slightly better and takes "
                    "twice as long.",
                ),
                io.String.Input(
                    "run_name",
                    default="millivid",
                    tooltip="Folder of the finished chunks below output/throughline. Queue again "
                    "to go on after a stop.",
                ),
                io.String.Input(
                    "retakes",
                    default="",
                    tooltip="Chunks to make once more: 2:1 gives chunk 2 its second take, and all "
                    "that follow it. Numbers stay in the run, so keep them here.",
                ),
                io.Custom("CURVE").Input(
                    "steering",
                    optional=True,
                    extra_dict={"forceInput": True},
                    tooltip="Steers instead of actions: a curve over the video, left below a "
                    "third, right above two thirds.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="frames", tooltip="The new video, without the context."
                ),
                io.Image.Output(
                    display_name="levels",
                    tooltip="Frames across the video, a row per level, coarsest first.",
                ),
                io.String.Output(display_name="report", tooltip="Steps and what was reused."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        context_actions: str | None = None,
        actions: str | None = None,
        run_name: str | None = None,
        retakes: str | None = None,
    ) -> bool | str:
        try:
            parse_actions(context_actions or "", "context_actions")
            parse_actions(actions or "", "actions")
            parse_takes(retakes or "")
            if run_name is not None:
                run_path(runs_root(), run_name)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, run_name: str, **inputs: Any) -> str:
        return run_digest(run_name)

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        made = roll(plan_rolling(inputs), str(cls.hidden.unique_id))
        preview = ui.PreviewImage(made.levels, cls=cls)
        return io.NodeOutput(made.frames, made.levels, made.report, ui=preview)


NODES: list[type[io.ComfyNode]] = [MilliVidRollout]
