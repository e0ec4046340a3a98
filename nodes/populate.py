"""ThroughlinePopulateSegments: the frames between the anchors of a plan, segment by segment."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker

from .fill_running import chosen_executor, render_population
from .plan_value import Fills
from .populating import FILLERS, describe_population, plan_population
from .rendering import run_digest
from .sockets import TL_EXECUTOR, TL_FILLS, TL_PLAN, TL_RUN
from .widgets import (
    LEAVE,
    RENDER,
    check_widgets,
    guidance_widgets,
    loras_input,
    low_noise_model_input,
    negative_prompt_widget,
    run_widgets,
    sampler_overrides,
    seed_and_steps,
    switch_sigma_widget,
    text_inputs,
)


class PopulateSegments(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlinePopulateSegments",
            display_name="Populate segments",
            category="Throughline",
            description=(
                "Makes the frames between the anchors of a plan. No segment depends on another, so "
                "each can be redone alone, and errors do not add up. Assemble video joins them "
                "where they share frames."
            ),
            search_aliases=["fill plan", "inbetween", "MMPL", "interpolate", "populate"],
            is_output_node=True,
            inputs=[
                TL_PLAN.Input("plan", tooltip="From Plan film."),
                io.Model.Input(
                    "model",
                    tooltip="Wan T2V, I2V, FLF2V, VACE or TI2V-5B. It need not be the one that "
                    "planned: plan with a fast model, fill with the best you have.",
                ),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                *text_inputs(),
                io.Vae.Input(
                    "plan_vae",
                    optional=True,
                    tooltip="Only when the plan was made with another VAE than this model's: "
                    "connect that one, and the anchors travel as pictures.",
                ),
                *sampler_overrides(),
                low_noise_model_input(),
                loras_input(),
                io.Combo.Input(
                    "filler",
                    options=list(FILLERS),
                    default=FILLERS[0],
                    tooltip="Between the anchors works with every model named above. Choose "
                    "continue to the anchors when what it makes is smeared: for models that only "
                    "learned to continue a clip. Choose sparse only with MMPL weights, block by "
                    "block only with causal ones.",
                ),
                negative_prompt_widget(),
                *seed_and_steps(
                    "Segment s is filled with seed + s. Another seed fills the same plan anew.",
                    20,
                    "Sampler steps per segment. Lower it for drafts and distilled models.",
                ),
                *guidance_widgets(),
                *run_widgets(
                    "populated",
                    "Folder of this film below output/throughline, another than the "
                    "plan's. The same name resumes.",
                    "Segments to fill again with another seed: '4:1, 7:2'. Only they are "
                    "filled again. The sidebar writes this for you.",
                    scheduled=True,
                ),
                switch_sigma_widget(),
                TL_EXECUTOR.Input(
                    "executor",
                    optional=True,
                    tooltip="Fills several segments at once, on more devices than one. Connect "
                    "it where you have them.",
                ),
            ],
            outputs=[
                TL_RUN.Output(display_name="run", tooltip="The run folder, for assembly."),
                io.Image.Output(
                    display_name="contact_sheet", tooltip="One small picture per segment."
                ),
                io.String.Output(display_name="report", tooltip="Segments and lengths as text."),
                TL_FILLS.Output(
                    display_name="fills",
                    tooltip="For Adaptive schedule, when this is left to a schedule.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def validate_inputs(cls, run_name: str | None = None, retakes: str | None = None) -> bool | str:
        return check_widgets(None, run_name, retakes)

    @classmethod
    def fingerprint_inputs(cls, run_name: str, **inputs: Any) -> str:
        return run_digest(run_name)

    @classmethod
    def execute(cls, when_queued: str, **inputs: Any) -> io.NodeOutput:
        left, node_id = when_queued == LEAVE, str(cls.hidden.unique_id)
        executor = chosen_executor(inputs.get("executor"))
        population, stop = plan_population(inputs, left), ExecutionBlocker(None)
        if when_queued != RENDER:
            said = describe_population(population, node_id)
            fills = stop
            if left:
                fills = Fills(inputs=inputs, node_id=node_id, prompt=cls.hidden.prompt)
            return io.NodeOutput(stop, stop, stop, fills, ui=ui.PreviewText(said))
        run, sheet, report = render_population(population, node_id, executor, cls.hidden.prompt)
        return io.NodeOutput(run, sheet, report, stop, ui=ui.PreviewText(report))


NODES: list[type[io.ComfyNode]] = [PopulateSegments]
