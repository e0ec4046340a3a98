"""ThroughlinePackedContext: a hierarchy as extra tokens of the video model itself."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..adapters.hierarchy_value import Timeline
from ..adapters.packed_context import (
    CATEGORY,
    LoadedPacked,
    attach_packed,
    load_packed,
    untrained_packed,
)
from ..adapters.weight_folders import weight_names, weight_path
from ..planning.packed import step_at
from ..planning.rollout import CoarseToFine, Windows
from ..planning.rollout_choice import rollout_name
from .sockets import TL_HIERARCHY, TL_ROLLOUT

UNTRAINED = "none (untrained)"

MOST_FRAMES = 1_000_000
"""Latent frames, as in Rollout schedule."""

NO_PROMISE = (
    "Untrained: this model was never taught to read these tokens, so nothing is promised. Train it "
    "with dev.py train packed."
)


class PackedContext(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlinePackedContext",
            display_name="Packed context",
            category="Throughline",
            description=(
                "Lets a Wan model see a hierarchy while it makes a few latent frames: the near "
                "past whole, the far past and the plan ahead as coarse codes. It works with a "
                "file and a LoRA that were trained for it; without training it promises nothing "
                "and mostly spoils the picture."
            ),
            search_aliases=["MilliVid", "FramePack", "context packing", "long context"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model", tooltip="A Wan model, with the LoRA that the file was trained with."
                ),
                TL_HIERARCHY.Input(
                    "hierarchy",
                    tooltip="What is known of the film: made frames at all levels, planned ones at "
                    "coarse levels.",
                ),
                io.Combo.Input(
                    "packed_name",
                    options=[UNTRAINED, *weight_names(CATEGORY)],
                    default=UNTRAINED,
                    tooltip="A file in models/packed_context, made with dev.py train packed. "
                    "Untrained reads pooled codes only and is there for experiments.",
                ),
                io.Int.Input(
                    "first_frame",
                    default=0,
                    min=0,
                    max=MOST_FRAMES,
                    tooltip="The film's latent frame that the sampled latent begins with; raise it "
                    "by the finest window from step to step.",
                ),
                io.Int.Input(
                    "known_frames",
                    default=0,
                    min=0,
                    max=MOST_FRAMES,
                    tooltip="Latent frames before the first chunk, as in Rollout schedule. Change "
                    "it when the film begins with given frames.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="1 is as trained. Lower it when the context shows through; 0 is the "
                    "model alone.",
                ),
                TL_ROLLOUT.Input(
                    "rollout",
                    optional=True,
                    tooltip="Which frames are seen, coarse to fine. Leave it empty for the "
                    "schedule that the file was trained with.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For a sampler."),
                io.Latent.Output(
                    display_name="latent", tooltip="The empty latent of the frames to be made."
                ),
                io.String.Output(
                    display_name="report", tooltip="What the model sees, and whether trained."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        hierarchy: Timeline,
        packed_name: str,
        first_frame: int,
        known_frames: int,
        strength: float,
        rollout: Any = None,
    ) -> io.NodeOutput:
        packed = (
            untrained_packed(model, hierarchy)
            if packed_name == UNTRAINED
            else load_packed(weight_path(CATEGORY, packed_name, "packed_name"))
        )
        chosen = _rollout(packed, hierarchy, rollout)
        step = step_at(chosen, first_frame, known_frames)
        made, seen = attach_packed(model, packed, hierarchy, step, strength)
        size = (hierarchy.grid.height, hierarchy.grid.width)
        channels = int(hierarchy.latent_format.latent_channels)
        latent = {"samples": torch.zeros(1, channels, step.target.frames, *size)}
        report = _report(packed, hierarchy, chosen, seen)
        return io.NodeOutput(made, latent, report, ui=ui.PreviewText(report))


def _rollout(packed: LoadedPacked, hierarchy: Timeline, given: Any) -> CoarseToFine:
    """The given rollout, else the one that was trained. Raises ValueError for one of another kind
    or of other levels."""
    if given is None:
        if packed.card is None:
            raise ValueError(
                "rollout must be connected where no file says how it was trained: use Rollout "
                f"schedule with {hierarchy.levels} windows"
            )
        given = CoarseToFine(Windows(packed.card.windows))
    if not isinstance(given, CoarseToFine):
        raise ValueError(f"rollout must be coarse to fine here, got {rollout_name(given)}")
    if len(given.windows.frames) != hierarchy.levels:
        raise ValueError(
            f"rollout must have a window per level of the hierarchy, {hierarchy.levels}, got "
            f"{len(given.windows.frames)} ({given.windows})"
        )
    return given


def _report(packed: LoadedPacked, hierarchy: Timeline, rollout: CoarseToFine, seen: Any) -> str:
    target = seen.target
    lines = [
        f"makes latent frames {target.start} to {target.stop} ({rollout_name(rollout)})",
        *(
            f"sees level {span.level}, latent frames {span.start} to {span.stop}: "
            f"{span.frames * hierarchy.grid.cells(span.level)} tokens"
            for span in seen.context
        ),
    ]
    if not seen.context:
        lines.append("sees nothing: no cell of its context is known yet")
    lines.append(NO_PROMISE if packed.card is None else f"trained for {packed.card.base}")
    if packed.card is not None and packed.card.lora:
        lines.append(f"belongs to the LoRA {packed.card.lora}")
    return "\n".join(lines)


NODES: list[type[io.ComfyNode]] = [PackedContext]
