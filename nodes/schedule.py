"""ThroughlineAdaptiveSchedule: plans and fills of a film in the order that serves the artist."""

from __future__ import annotations

from typing import Any, get_args

from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker

from ..planning.forecast import Goal
from ..runs.contact_sheet import contact_sheet
from .gantt import draw_schedule
from .schedule_report import describe_schedule, head_lines, report
from .schedule_running import Wishes, run_schedule
from .scheduling import read_task
from .sockets import TL_FILLS, TL_RUN
from .widgets import RENDER, SHOW

GOALS: tuple[Goal, ...] = get_args(Goal)


class AdaptiveSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineAdaptiveSchedule",
            display_name="Adaptive schedule",
            category="Throughline",
            description=(
                "Plans and fills a film in the order that suits you: the first seconds to watch as "
                "soon as possible, the whole storyboard first, or everything done soonest on all "
                "your devices. It measures the first jobs, says when what will be ready, and shows "
                "how it went."
            ),
            search_aliases=["gantt", "scheduler", "multi GPU", "order", "adaptive", "MMPL"],
            is_output_node=True,
            inputs=[
                TL_FILLS.Input(
                    "fills",
                    tooltip="From Populate segments, which must leave its work to a schedule. Let "
                    "Plan film leave its work, too, and plans and fills take turns.",
                ),
                io.Combo.Input(
                    "goal",
                    options=list(GOALS),
                    default=GOALS[0],
                    tooltip="Automatic is shortest time on several devices and earliest footage on "
                    "one. Choose storyboard first to judge all plans before the fills.",
                ),
                io.Boolean.Input(
                    "clips",
                    default=True,
                    tooltip="Writes a small video of each segment as soon as it is filled. Turn it "
                    "off when decoding takes long and nobody watches.",
                ),
                io.Float.Input(
                    "first_footage_within",
                    default=0.0,
                    min=0.0,
                    max=86400.0,
                    step=1.0,
                    tooltip="Seconds until a segment should be done, 0 for any. What takes longer "
                    "is planned in shorter segments, from the middle.",
                ),
                io.Float.Input(
                    "memory_gb",
                    default=0.0,
                    min=0.0,
                    max=10000.0,
                    step=0.5,
                    tooltip="Memory for a sampler step beside the weights, 0 for what the device "
                    "has. Lower it when segments do not fit: they are made shorter.",
                ),
                io.Combo.Input(
                    "when_queued",
                    options=[RENDER, SHOW],
                    default=RENDER,
                    tooltip="Choose the second to see what it would take.",
                ),
            ],
            outputs=[
                TL_RUN.Output(display_name="run", tooltip="The run folder, for assembly."),
                io.Image.Output(
                    display_name="contact_sheet", tooltip="One small picture per segment."
                ),
                io.Image.Output(
                    display_name="chart",
                    tooltip="Which device did what when, as expected and as it came.",
                ),
                io.String.Output(display_name="report", tooltip="The same in words."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        fills: Any,
        goal: Goal,
        clips: bool,
        first_footage_within: float,
        memory_gb: float,
        when_queued: str,
    ) -> io.NodeOutput:
        task = read_task(fills)
        wishes = Wishes(goal=goal, clips=clips, wait=first_footage_within, memory_gb=memory_gb)
        if when_queued != RENDER:
            stop, said = ExecutionBlocker(None), describe_schedule(task, wishes)
            return io.NodeOutput(stop, stop, stop, said, ui=ui.PreviewText(said))
        made = run_schedule(task, wishes)
        said = report(made)
        chart = ExecutionBlocker(None)
        if made.chart is not None:
            chart = draw_schedule(made.chart, head_lines(made.chart))
        return io.NodeOutput(
            made.run, contact_sheet(made.run), chart, said, ui=ui.PreviewText(said)
        )


NODES: list[type[io.ComfyNode]] = [AdaptiveSchedule]
