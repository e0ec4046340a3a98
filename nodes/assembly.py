"""ThroughlineAssembleVideo and ThroughlineDriftReport: a finished run as a film and in numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths
from comfy_api.latest import InputImpl, io, ui

from ..memory.drift_table import drift_table
from ..runs.assemble import COLOUR_MATCHES, LARGEST_BLEND, AssemblySettings, Film
from ..runs.assemble import contact_frames as read_contact_frames
from ..runs.video_file import CRF_RANGE, FORMATS
from .assembling import assemble_run, file_metadata, prefix_refusal, report_drift
from .drift_plot import draw_drift
from .sockets import TL_RUN

if TYPE_CHECKING:
    from comfy.sd import VAE

    from ..runs.run import Run


class AssembleVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineAssembleVideo",
            display_name="Assemble video",
            category="Throughline",
            description=(
                "Decodes a run segment by segment straight into a video file. Memory does not grow "
                "with the length of the film. Queued again with nothing changed, the finished file "
                "is reused."
            ),
            search_aliases=["save long video", "decode long video", "export run", "join segments"],
            is_output_node=True,
            inputs=[
                TL_RUN.Input("run", tooltip="A run from a Throughline sampler."),
                io.Vae.Input("vae", tooltip="The VAE that the run was made with."),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    tooltip="Frames per second of the file. 0 takes the run's own; set another to "
                    "play it faster or slower.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="mp4 h264",
                    tooltip="mp4 for the web and for looking at it, mov prores for editing, mkv "
                    "ffv1 to lose nothing.",
                ),
                io.Int.Input(
                    "crf",
                    default=18,
                    min=CRF_RANGE[0],
                    max=CRF_RANGE[1],
                    tooltip="Quality of h264 only: lower is better and larger. Raise to 23 for "
                    "small files.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="video/throughline",
                    tooltip="File name below ComfyUI's output folder, with folders if you like. "
                    "%date:yyyy-MM-dd% and the like work as in core's save nodes.",
                ),
                io.Combo.Input(
                    "colour_match",
                    options=list(COLOUR_MATCHES),
                    default="off",
                    tooltip="Pulls each segment's colours back to the first segment of its scene. "
                    "Use it when the drift report shows luma, chroma or contrast wandering; leave "
                    "it off when the camera travels to other places or the light changes.",
                ),
                io.Float.Input(
                    "colour_match_strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of the colour match is applied. Lower it when it shows.",
                ),
                io.Int.Input(
                    "overlap_blend",
                    default=0,
                    min=0,
                    max=LARGEST_BLEND,
                    tooltip="Latent frames over which one segment passes into the next. Raise it "
                    "only for models that change the frames they are handed, when the drift report "
                    "shows seams above 1.5.",
                ),
                io.Int.Input(
                    "contact_frames",
                    default=8,
                    min=1,
                    max=64,
                    tooltip="How many evenly spaced frames of the film come out as images.",
                ),
            ],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The saved file."),
                io.Image.Output(
                    display_name="frames", tooltip="Evenly spaced frames, read from the file."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return True if filename_prefix is None else prefix_refusal(filename_prefix) or True

    @classmethod
    def execute(
        cls,
        run: Run,
        vae: VAE,
        fps: float,
        format: str,
        crf: int,
        filename_prefix: str,
        colour_match: str,
        colour_match_strength: float,
        overlap_blend: int,
        contact_frames: int,
    ) -> io.NodeOutput:
        settings = AssemblySettings(
            fps=fps,
            format=format,
            crf=crf,
            colour_match=colour_match,
            colour_match_strength=colour_match_strength,
            overlap_blend=overlap_blend,
            contact_frames=contact_frames,
        )
        metadata = file_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        film = assemble_run(run, vae, settings, filename_prefix, metadata)
        return io.NodeOutput(
            InputImpl.VideoFromFile(str(film.path)),
            read_contact_frames(film, contact_frames),
            ui=_shown(film),
        )


class DriftReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineDriftReport",
            display_name="Drift report",
            category="Throughline",
            description=(
                "Measures how a run wanders from its beginning: brightness, colour, contrast, "
                "sharpness and motion per hop and against segment 1, and whether the joins show. "
                "No weights are needed."
            ),
            search_aliases=["drift", "colour shift", "seam", "quality over time", "burn-in"],
            is_output_node=True,
            inputs=[
                TL_RUN.Input("run", tooltip="A run from a Throughline sampler."),
                io.Vae.Input("vae", tooltip="The VAE that the run was made with."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="Every figure as JSON."),
                io.Image.Output(display_name="plot", tooltip="The figures as curves."),
                io.String.Output(display_name="table", tooltip="The figures as text."),
            ],
        )

    @classmethod
    def execute(cls, run: Run, vae: VAE) -> io.NodeOutput:
        report = report_drift(run, vae)
        table = drift_table(report, run.name)
        return io.NodeOutput(
            json.dumps(report.to_json()),
            draw_drift(report, run.name),
            table,
            ui=ui.PreviewText(table),
        )


def _shown(film: Film) -> ui._UIOutput:
    """The film on the node where a browser can play it, otherwise where it lies."""
    path = film.path.relative_to(Path(folder_paths.get_output_directory()))
    if path.suffix != ".mp4":
        return ui.PreviewText(f"{film.frames} frames in output/{path.as_posix()}")
    folder = path.parent.as_posix() if path.parent != Path() else ""
    return ui.PreviewVideo([ui.SavedResult(path.name, folder, io.FolderType.output)])


NODES: list[type[io.ComfyNode]] = [AssembleVideo, DriftReport]
