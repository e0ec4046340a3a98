"""The node ThroughlineRecall: which earlier pictures a shot should see, and why."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from .recall_report import recalled_captions
from .recalled_pictures import DEFAULT_WEIGHTS, recall_pictures, recall_request, recall_sheet
from .recalling import DRIFT_THRESHOLD
from .sockets import TL_KEYFRAMES, TL_STORYBOARD

MOST = 64
"""Pictures that may be asked for; the most references of any family is far below."""

LARGEST_WEIGHT = 10.0
LARGEST_DRIFT = 1000.0


def weight_widgets() -> list[io.Input]:
    """The weights of the score."""
    texts = {
        "picture": "How much it counts that the picture looks like the shot's words; needs clip "
        "and clip_vision of one CLIP. Lower it when it prefers pictures of the wrong person.",
        "text": "How much it counts that both captions say the same. Raise it when captions are "
        "written with care. Without clip_vision it counts for the pictures, too.",
        "characters": "How much it counts that the same people are tagged. Raise it when faces "
        "matter more than places.",
        "location": "How much it counts that it is the same place. Raise it when rooms must stay "
        "the same room.",
        "recency": "How much it counts that a picture is recent. Raise it for a film without "
        "returns; 0 ranks by meaning alone.",
    }
    return [
        io.Float.Input(
            f"weight_{name}",
            default=getattr(DEFAULT_WEIGHTS, name),
            min=0.0,
            max=LARGEST_WEIGHT,
            step=0.05,
            optional=True,
            advanced=True,
            tooltip=tooltip,
        )
        for name, tooltip in texts.items()
    ]


def drift_widgets() -> list[io.Input]:
    """The drift gate."""
    return [
        io.Boolean.Input(
            "drift_gate",
            default=True,
            optional=True,
            tooltip="Leaves out generated pictures whose colours, contrast or sharpness have "
            "drifted from their character's anchor. Turn it off where the story changes the look, "
            "as in a night of red light.",
        ),
        io.Float.Input(
            "drift_threshold",
            default=DRIFT_THRESHOLD,
            min=0.0,
            max=LARGEST_DRIFT,
            step=1.0,
            optional=True,
            advanced=True,
            tooltip="Percent of drift from which a picture is left out. Lower it when recalled "
            "pictures look worn; raise it when good ones are left out.",
        ),
    ]


class Recall(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineRecall",
            display_name="Recall",
            category="Throughline",
            description=(
                "Chooses the earlier pictures that a shot should see, by what they show and not by "
                "when they came: words, people, place, time, and what you ask for by hand. Shows "
                "why each was chosen. Without a text encoder it compares words."
            ),
            search_aliases=["retrieve", "reference", "similar shots", "flashback", "CLIP search"],
            is_output_node=True,
            inputs=[
                TL_STORYBOARD.Input(
                    "storyboard",
                    tooltip="The script. Pictures that it names with ref: are candidates, too.",
                ),
                io.String.Input(
                    "shot",
                    default="1.1",
                    tooltip="The shot that looks for pictures, as the storyboard numbers it: scene "
                    "and shot, such as 2.1.",
                ),
                io.Int.Input(
                    "how_many",
                    default=3,
                    min=1,
                    max=MOST,
                    tooltip="How many pictures at most. Take what your image model is good with: "
                    "1 to 3 for Qwen-Image-Edit, 4 for Flux.2 klein, 6 for Flux.2 dev.",
                ),
                TL_KEYFRAMES.Input(
                    "keyframes",
                    optional=True,
                    tooltip="Pictures of the storyboard's shots, from a keyframe planner.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Pictures of your own; say in captions what they show.",
                ),
                io.String.Input(
                    "captions",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="One line per image: what it shows, with tags as in the script, or "
                    "only the number of the shot that it belongs to.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Compares captions by meaning. Connect a CLIP that has its text "
                    "projection to compare them with pictures.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="The picture side of the same CLIP: ViT-L with CLIP-L, bigG with "
                    "CLIP-G. What does not fit is not used, and the node says why.",
                ),
                io.String.Input(
                    "also_recall",
                    default="",
                    optional=True,
                    tooltip="What must be recalled whatever the scores say, with commas between: "
                    "shots, later ones too, names of people or places, image 2.",
                ),
                *drift_widgets(),
                *weight_widgets(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    is_output_list=True,
                    tooltip="The recalled pictures as a list, the most important first, each at "
                    "its own size. Nothing is sent on where there are none.",
                ),
                io.String.Output(
                    display_name="captions", tooltip="Name and caption of each, one per line."
                ),
                io.String.Output(
                    display_name="report", tooltip="Every part of the scores, as text."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, storyboard: Any, shot: str, how_many: int, **inputs: Any) -> io.NodeOutput:
        recalled = recall_pictures(recall_request(storyboard, shot, how_many, inputs))
        sheet = recall_sheet(recalled)
        shown = ui.PreviewText(recalled.report).as_dict()
        if sheet is not None:
            shown |= ui.PreviewImage(sheet, cls=cls).as_dict()
        return io.NodeOutput(
            list(recalled.pictures) or [ExecutionBlocker(None)],
            recalled_captions(recalled.chosen),
            recalled.report,
            ui=shown,
        )


NODES = [Recall]
