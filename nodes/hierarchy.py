"""The nodes around a hierarchy of codes: load weights, encode, decode, guide a model, commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io, ui

from ..adapters.hierarchy_value import Timeline
from ..adapters.hierarchy_weights import (
    HEADS,
    PLANNERS,
    LoadedHead,
    load_head,
    load_planner,
)
from ..adapters.weight_folders import weight_names, weight_path
from .hierarchy_codes import (
    commit_latent,
    decode_level,
    describe_head,
    describe_planner,
    describe_timeline,
    encode_latent,
    guide_latent,
)
from .hierarchy_picture import level_pictures
from .rollout import MOST_FRAMES
from .sockets import TL_HIERARCHY, TL_HIERARCHY_HEAD, TL_HIERARCHY_PLANNER

DEFAULT_LEVELS = 4
"""Level 0 and three coarser ones, as in the paper (arXiv 2606.09056, page 3)."""

SWITCHED_AT = 1
"""The finest planned level of a planner that leaves level 0 to a video model (shared design, 7.3).
"""


def span_widgets(level: int, first: str, count: str) -> list[io.Input]:
    """A level and the latent frames of a film at it; `first` and `count` are tooltips."""
    return [
        io.Int.Input(
            "level",
            default=level,
            min=0,
            max=8,
            tooltip="0 is the finest. Coarser levels are planned earlier and show less.",
        ),
        io.Int.Input("first_frame", default=0, min=0, max=MOST_FRAMES, tooltip=first),
        io.Int.Input("latent_frames", default=0, min=0, max=MOST_FRAMES, tooltip=count),
    ]


class LoadHierarchyHead(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineLoadHierarchyHead",
            display_name="Load hierarchy head",
            category="Throughline",
            description=(
                "Loads a trained head from models/hierarchy_heads: what turns a latent frame into "
                "a few tokens per level, and back. It belongs to one VAE. Without one, a hierarchy "
                "is made by averaging, which needs no weights and keeps less detail."
            ),
            search_aliases=["MilliVid", "HierHead", "hierarchy weights"],
            inputs=[
                io.Combo.Input(
                    "head_name",
                    options=weight_names(HEADS),
                    tooltip="Choose the head that was trained for your model's VAE.",
                ),
            ],
            outputs=[
                TL_HIERARCHY_HEAD.Output(
                    display_name="hierarchy_head", tooltip="For Encode hierarchy."
                ),
                io.String.Output(
                    display_name="card", tooltip="What the head was trained for, as text."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, head_name: str) -> str:
        return file_state(weight_path(HEADS, head_name, "head_name"))

    @classmethod
    def execute(cls, head_name: str) -> io.NodeOutput:
        loaded = load_head(weight_path(HEADS, head_name, "head_name"))
        card = describe_head(loaded)
        return io.NodeOutput(loaded, card, ui=ui.PreviewText(card))


class LoadHierarchyPlanner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineLoadHierarchyPlanner",
            display_name="Load hierarchy planner",
            category="Throughline",
            description=(
                "Loads a trained planner from models/hierarchy_planners: what makes the coarse "
                "codes of a film's next chunk. It belongs to the head whose codes it was trained "
                "on, and to one rollout."
            ),
            search_aliases=["MilliVid", "planner weights"],
            inputs=[
                io.Combo.Input(
                    "planner_name",
                    options=weight_names(PLANNERS),
                    tooltip="Choose the planner that was trained with your head.",
                ),
            ],
            outputs=[
                TL_HIERARCHY_PLANNER.Output(
                    display_name="hierarchy_planner", tooltip="For Plan hierarchy."
                ),
                io.String.Output(
                    display_name="card", tooltip="What the planner was trained for, as text."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, planner_name: str) -> str:
        return file_state(weight_path(PLANNERS, planner_name, "planner_name"))

    @classmethod
    def execute(cls, planner_name: str) -> io.NodeOutput:
        loaded = load_planner(weight_path(PLANNERS, planner_name, "planner_name"))
        card = describe_planner(loaded)
        return io.NodeOutput(loaded, card, ui=ui.PreviewText(card))


def file_state(path: Path) -> str:
    """Changes when the file does."""
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


class HierarchyEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineHierarchyEncode",
            display_name="Encode hierarchy",
            category="Throughline",
            description=(
                "Turns a video latent into codes at several levels: level 0 is the latent itself, "
                "each further level a whole code of every latent frame in a quarter of the tokens. "
                "It begins the timeline that Plan hierarchy continues."
            ),
            search_aliases=["MilliVid", "hierarchical latents", "codes"],
            inputs=[
                io.Model.Input("model", tooltip="The video model whose latents these are."),
                io.Latent.Input("latent", tooltip="A video latent, one clip from its first frame."),
                TL_HIERARCHY_HEAD.Input(
                    "hierarchy_head",
                    optional=True,
                    tooltip="A trained head. Leave it empty to average, which needs no weights.",
                ),
                io.Int.Input(
                    "levels",
                    default=DEFAULT_LEVELS,
                    min=2,
                    max=8,
                    tooltip="How many levels there are without a head. Lower it for small "
                    "pictures.",
                ),
                io.Boolean.Input(
                    "size_only",
                    default=False,
                    tooltip="Turn it on for a cold start: only the size of the latent is taken, "
                    "and nothing of it is remembered.",
                ),
            ],
            outputs=[
                TL_HIERARCHY.Output(display_name="hierarchy", tooltip="Codes of all levels."),
                io.String.Output(display_name="report", tooltip="Levels and tokens as text."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        latent: dict[str, Any],
        levels: int,
        size_only: bool,
        hierarchy_head: LoadedHead | None = None,
    ) -> io.NodeOutput:
        timeline = encode_latent(model, latent, hierarchy_head, levels, size_only)
        return io.NodeOutput(timeline, describe_timeline(timeline))


class HierarchyDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineHierarchyDecode",
            display_name="Decode hierarchy",
            category="Throughline",
            description=(
                "Gives any level of a hierarchy back as a latent, and shows what every level knows "
                "of the same latent frames."
            ),
            search_aliases=["MilliVid", "hierarchical latents", "preview"],
            is_output_node=True,
            inputs=[
                TL_HIERARCHY.Input("hierarchy", tooltip="Codes of a film."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Draws the previews in the film's own colours. Without it they are "
                    "ComfyUI's quick guess.",
                ),
                *span_widgets(
                    level=SWITCHED_AT,
                    first="First latent frame, counted from 0 at the film's beginning.",
                    count="How many latent frames; 0 is up to the last one that the level knows.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The level as a video latent."),
                io.Image.Output(display_name="previews", tooltip="A row per level, finest on top."),
                io.String.Output(display_name="report", tooltip="Levels and tokens as text."),
            ],
        )

    @classmethod
    def execute(
        cls,
        hierarchy: Timeline,
        level: int,
        first_frame: int,
        latent_frames: int,
        vae: Any = None,
    ) -> io.NodeOutput:
        latent, span = decode_level(hierarchy, level, first_frame, latent_frames)
        previews = level_pictures(hierarchy, span, vae)
        return io.NodeOutput(
            latent,
            previews,
            describe_timeline(hierarchy),
            ui=ui.PreviewImage(previews, cls=cls),
        )


class HierarchyGuide(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineHierarchyGuide",
            display_name="Guide from hierarchy",
            category="Throughline",
            description=(
                "A window of the film for a video model to refine: finished latent frames first, "
                "which a noise mask keeps, then what the plan shows. Sample it with denoise at "
                "0.55 to 0.75, then commit the result."
            ),
            search_aliases=["MilliVid", "img2img", "coarse to fine", "refine"],
            inputs=[
                TL_HIERARCHY.Input("hierarchy", tooltip="Codes of a film, with a planned part."),
                *span_widgets(
                    level=SWITCHED_AT,
                    first="First latent frame to be refined, counted from 0 at the film's "
                    "beginning.",
                    count="How many latent frames to refine: what your model makes at once, less "
                    "overlap_frames. 0 is up to the last planned one.",
                ),
                io.Int.Input(
                    "overlap_frames",
                    default=5,
                    min=0,
                    max=MOST_FRAMES,
                    tooltip="Finished latent frames in front that the model sees and keeps. Raise "
                    "it when windows do not join; 0 for the film's beginning.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="Overlap and guide, with the noise mask that keeps the overlap.",
                ),
                io.Int.Output(
                    display_name="overlap_frames",
                    tooltip="For skip_frames of Commit to hierarchy.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        hierarchy: Timeline,
        level: int,
        first_frame: int,
        latent_frames: int,
        overlap_frames: int,
    ) -> io.NodeOutput:
        guide = guide_latent(hierarchy, level, first_frame, latent_frames, overlap_frames)
        return io.NodeOutput(guide, overlap_frames)


class HierarchyCommit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineHierarchyCommit",
            display_name="Commit to hierarchy",
            category="Throughline",
            description=(
                "Puts what was really made in place of the plan, at every level, so that the next "
                "chunk is planned from it. Gives a new hierarchy; the one that comes in stays as "
                "it is."
            ),
            search_aliases=["MilliVid", "write back", "coarse to fine"],
            inputs=[
                TL_HIERARCHY.Input("hierarchy", tooltip="The hierarchy that was refined."),
                io.Latent.Input("latent", tooltip="The refined latent."),
                io.Int.Input(
                    "first_frame",
                    default=0,
                    min=0,
                    max=MOST_FRAMES,
                    tooltip="Where the first latent frame that is not left out stands in the film.",
                ),
                io.Int.Input(
                    "skip_frames",
                    default=5,
                    min=0,
                    max=MOST_FRAMES,
                    tooltip="Latent frames in front that are left out: the overlap. Leave out the "
                    "first one of a clip that began from an image, too: it holds a single picture.",
                ),
            ],
            outputs=[
                TL_HIERARCHY.Output(display_name="hierarchy", tooltip="The film as it is now."),
                io.String.Output(display_name="report", tooltip="Levels and tokens as text."),
            ],
        )

    @classmethod
    def execute(
        cls, hierarchy: Timeline, latent: dict[str, Any], first_frame: int, skip_frames: int
    ) -> io.NodeOutput:
        timeline = commit_latent(hierarchy, latent, first_frame, skip_frames)
        return io.NodeOutput(timeline, describe_timeline(timeline))


NODES: list[type[io.ComfyNode]] = [
    LoadHierarchyHead,
    LoadHierarchyPlanner,
    HierarchyEncode,
    HierarchyDecode,
    HierarchyGuide,
    HierarchyCommit,
]
