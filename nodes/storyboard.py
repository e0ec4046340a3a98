"""The node ThroughlineStoryboard: a script becomes the value that the samplers read."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io, ui

from ..planning.script import parse_storyboard
from ..planning.storyboard import MAX_FPS, Storyboard, StoryboardError, check_fps
from ..planning.storyboard_summary import describe_storyboard
from .sockets import TL_STORYBOARD

EXAMPLE_SCRIPT = """\
title: The last diner
style: 35mm film, muted teal, soft tungsten
@Ana = woman, 30, short red hair, green raincoat
#diner = 1950s roadside diner at night, rain on the windows

== Scene 1 #diner ==
[wide, 5s] <Ana> sits alone at the counter, coffee steaming.
[close-up, 3s, cut] Her hand turns an old key. {motion: slow push-in}
[medium, 4s, continue] <Ana> looks up at the door."""


def read_script(script: str, fps: float) -> Storyboard:
    """The storyboard of a script; an `fps` above 0 replaces the script's own."""
    storyboard = parse_storyboard(script)
    if fps == 0.0:
        return storyboard
    check_fps(fps)
    return replace(storyboard, fps=fps)


class ThroughlineStoryboard(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineStoryboard",
            display_name="Storyboard",
            category="Throughline",
            description=(
                "Reads a script with one shot per line. Characters, places, lengths, cuts and "
                "settings of single shots can be added; mistakes are named by line and column "
                "before anything is sampled. Run it alone to see the table of shots."
            ),
            search_aliases=["script", "screenplay", "shot list", "prompt schedule", "scenes"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "script",
                    multiline=True,
                    default=EXAMPLE_SCRIPT,
                    tooltip="One shot per line; plain sentences are enough. Change it whenever "
                    "the story changes: only shots that differ are rendered again. The help page "
                    "of this node lists what a line can say.",
                ),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=MAX_FPS,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Frames per second of the film. Leave it at 0 to use the script's "
                    "fps line, or the sampler's value where the script has none.",
                ),
            ],
            outputs=[
                TL_STORYBOARD.Output(
                    display_name="storyboard",
                    tooltip="The shots, for samplers and planners.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, script: str | None = None) -> bool | str:
        if script is None:  # linked: it is read when it has come
            return True
        try:
            parse_storyboard(script)
        except StoryboardError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, script: str, fps: float = 0.0) -> io.NodeOutput:
        storyboard = read_script(script, fps)
        return io.NodeOutput(storyboard, ui=ui.PreviewText(describe_storyboard(storyboard)))


NODES = [ThroughlineStoryboard]
