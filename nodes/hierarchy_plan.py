"""ThroughlineHierarchyPlan: the next chunks of a film as coarse codes, safe on disk."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker

from .hierarchy_planning import describe_codes, make_codes, plan_codes
from .rendering import run_digest
from .sockets import TL_HIERARCHY, TL_HIERARCHY_PLANNER, TL_ROLLOUT
from .widgets import RENDER, check_widgets, run_widgets, seed_and_steps

MOST_CHUNKS = 10_000


class HierarchyPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineHierarchyPlan",
            display_name="Plan hierarchy",
            category="Throughline",
            description=(
                "Plans what a film shows next, as codes: coarse ones of a whole chunk first, then "
                "finer ones, each step seeing far back and far ahead. Finished chunks are on disk; "
                "queueing again continues where it stopped."
            ),
            search_aliases=["MilliVid", "planner", "coarse to fine", "rollout"],
            is_output_node=True,
            inputs=[
                TL_HIERARCHY.Input("hierarchy", tooltip="The film so far; it is continued."),
                TL_HIERARCHY_PLANNER.Input(
                    "hierarchy_planner",
                    tooltip="A planner that was trained on codes of the hierarchy's head.",
                ),
                TL_ROLLOUT.Input(
                    "rollout",
                    optional=True,
                    tooltip="Connect a schedule to be told when it is not the one that the planner "
                    "was trained with. Without it the planner's own is used.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="The prompt, for a planner that reads text; its card says so.",
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="Draws the previews in the film's own colours."
                ),
                io.Int.Input(
                    "chunks",
                    default=1,
                    min=1,
                    max=MOST_CHUNKS,
                    tooltip="How many rounds to plan ahead. Plan one, refine it and commit it when "
                    "the next is to follow what was really made.",
                ),
                io.String.Input(
                    "conditions",
                    default="",
                    multiline=True,
                    tooltip="For a planner that reads numbers: what is true of each latent frame "
                    "of the film, from the first on. '3+17, 4+17*5' is 3 and 17, then five times "
                    "4 and 17.",
                ),
                *seed_and_steps(
                    "Another seed plans another film.",
                    12,
                    "Denoising steps of each step of the rollout; the planner's card says how many "
                    "it wants. Raise it when codes are blurred.",
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="1 is none. About 1.5 keeps closer to history and conditions, at twice "
                    "the time, with a planner that was trained for it.",
                ),
                *run_widgets(
                    "codes",
                    "Folder of the planned codes below output/throughline. The same name resumes; "
                    "a new name starts afresh.",
                    "Chunks to plan again with another seed: '2:1'. What follows them is planned "
                    "again, too; what comes before is kept.",
                ),
            ],
            outputs=[
                TL_HIERARCHY.Output(
                    display_name="hierarchy", tooltip="The film with its planned chunks."
                ),
                io.Image.Output(
                    display_name="contact_sheet", tooltip="Three latent frames of every chunk."
                ),
                io.String.Output(display_name="report", tooltip="Chunks as text."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, run_name: str | None = None, retakes: str | None = None) -> bool | str:
        return check_widgets(None, run_name, retakes)

    @classmethod
    def fingerprint_inputs(cls, run_name: str, **inputs: Any) -> str:
        return run_digest(run_name)

    @classmethod
    def execute(cls, when_queued: str, **inputs: Any) -> io.NodeOutput:
        optional = dict.fromkeys(("rollout", "positive", "vae"))
        plan, node_id = plan_codes({**optional, **inputs}), str(cls.hidden.unique_id)
        if when_queued != RENDER:
            stop = ExecutionBlocker(None)
            return io.NodeOutput(stop, stop, stop, ui=ui.PreviewText(describe_codes(plan, node_id)))
        timeline, sheet, report = make_codes(plan, node_id)
        return io.NodeOutput(timeline, sheet, report, ui=ui.PreviewText(report))


NODES: list[type[io.ComfyNode]] = [HierarchyPlan]
