"""Storyboard nodes: a text in any form becomes the value that the samplers read, and back."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io, ui

from ..planning.formats import WRITTEN_FORMS, detect_form, export_storyboard, read_storyboard
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
    """The storyboard of a script in any form; an `fps` above 0 replaces the script's own."""
    if fps == 0.0:
        return read_storyboard(script)
    check_fps(fps)
    return replace(read_storyboard(script, fps), fps=fps)


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
                "before anything is sampled. Story scripts of StoryMem, HoloCine, LCT and "
                "StoryDiffusion, frame schedules and JSON are read as they are. Run it alone to "
                "see the table of shots."
            ),
            search_aliases=[
                "script",
                "screenplay",
                "shot list",
                "prompt schedule",
                "scenes",
                "StoryMem",
                "HoloCine",
                "StoryDiffusion",
            ],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "script",
                    multiline=True,
                    default=EXAMPLE_SCRIPT,
                    tooltip="One shot per line; plain sentences are enough. Change it whenever "
                    "the story changes: only shots that differ are rendered again. Texts of other "
                    "tools may be pasted as they are; the help page of this node lists them and "
                    "what a line can say.",
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
                    "fps line, or the sampler's value where the script has none. A frame schedule "
                    "at 0 counts 16 frames per second.",
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
            read_storyboard(script)
        except StoryboardError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, script: str, fps: float = 0.0) -> io.NodeOutput:
        storyboard = read_script(script, fps)
        described = describe_storyboard(storyboard, detect_form(script))
        return io.NodeOutput(storyboard, ui=ui.PreviewText(described))


class ThroughlineExportStoryboard(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineExportStoryboard",
            display_name="Export storyboard",
            category="Throughline",
            description=(
                "Writes a storyboard as a script, as JSON, in the form of another tool, or as "
                "prompts, one per line. The node shows the text, and above it what that form has "
                "no place for."
            ),
            search_aliases=["storyboard to text", "prompts", "StoryMem", "HoloCine", "convert"],
            is_output_node=True,
            inputs=[
                TL_STORYBOARD.Input("storyboard", tooltip="The shots to write."),
                io.Combo.Input(
                    "storyboard_form",
                    options=list(WRITTEN_FORMS),
                    default=WRITTEN_FORMS[0],
                    tooltip="Choose script or JSON to keep everything, another tool's form to go "
                    "on there, and prompts for nodes that take one prompt per line. Tiled prompts "
                    "repeat what a whole scene shares in every shot.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="text",
                    tooltip="The storyboard in the chosen form, without the warnings.",
                ),
                io.String.Output(
                    display_name="warnings",
                    tooltip="What the chosen form has no place for, one sentence per line.",
                ),
            ],
        )

    @classmethod
    def execute(cls, storyboard: Storyboard, storyboard_form: str) -> io.NodeOutput:
        if not isinstance(storyboard, Storyboard):
            raise ValueError(
                f"storyboard must come from a Storyboard node, got {type(storyboard).__name__}"
            )
        written = export_storyboard(storyboard, storyboard_form)
        warnings = "\n".join(written.warnings)
        above = [f"Warning, {warning}" for warning in written.warnings]
        shown = "\n".join([*above, "", written.text] if above else [written.text])
        return io.NodeOutput(written.text, warnings, ui=ui.PreviewText(shown))


NODES = [ThroughlineStoryboard, ThroughlineExportStoryboard]
