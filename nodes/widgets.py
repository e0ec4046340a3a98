"""What the sampling nodes' widgets offer, and what is checked before a graph runs."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..planning.formats import read_storyboard
from ..planning.segments import SEED_RANGE, parse_takes
from ..runs.paths import run_path
from .film_sampler import SWITCH_SIGMA
from .rendering import runs_root
from .sockets import TL_LORAS

MAX_RESOLUTION = 16384
"""The range of ComfyUI's own size widgets (`MAX_RESOLUTION` in its nodes.py)."""

SAMPLER_NAMES = [*comfy.samplers.SAMPLER_NAMES, "ar_video"]
"""Core's list and the sampler of causal Wan, which core offers as a node only."""

RENDER, SHOW = "render", "only show what would be rendered"
"""What a node does when it is queued."""

LEAVE = "leave it to a schedule"
"""What nodes that an Adaptive schedule runs can do, too."""

NOT_LINKED = "not linked"
"""In `validate_inputs` the host gives None for a linked input and leaves an absent one out."""


def size_widgets(width_tooltip: str, height_tooltip: str) -> list[io.Input]:
    """Width and height of a film in pixels; the defaults are Wan's 480p."""
    values = (("width", 832, width_tooltip), ("height", 480, height_tooltip))
    return [
        io.Int.Input(name, default=default, min=16, max=MAX_RESOLUTION, step=8, tooltip=tooltip)
        for name, default, tooltip in values
    ]


def check_widgets(script: str | None, run_name: str | None, retakes: str | None) -> bool | str:
    """True, or what is wrong with the texts; None stands for a text that is not known yet."""
    try:
        if script is not None:
            read_storyboard(script)
        if run_name is not None:
            run_path(runs_root(), run_name)
        if retakes is not None:
            parse_takes(retakes)
    except ValueError as error:
        return str(error)
    return True


def text_inputs() -> list[io.Input]:
    """What a film says, as prompts to be encoded or as finished conditionings."""
    return [
        io.Clip.Input(
            "clip",
            optional=True,
            tooltip="Encodes one prompt per shot. Leave empty when you connect positive.",
        ),
        io.Conditioning.Input(
            "positive",
            optional=True,
            tooltip="One conditioning for every shot, instead of clip.",
        ),
        io.Conditioning.Input(
            "negative",
            optional=True,
            tooltip="Used instead of the negative prompt below.",
        ),
    ]


def loras_input() -> io.Input:
    """LoRAs by shot and character."""
    return TL_LORAS.Input(
        "loras",
        optional=True,
        tooltip="LoRAs that the script names for single shots and characters.",
    )


def negative_prompt_widget() -> io.Input:
    """What a film does not show."""
    return io.String.Input(
        "negative_prompt",
        multiline=True,
        default="",
        tooltip="What no shot should show. Only used with clip and a cfg above 1.",
    )


def shot_widgets(fps_tooltip: str) -> list[io.Input]:
    """How shots become seconds and cuts."""
    return [
        io.Float.Input(
            "seconds_per_shot",
            default=5.0,
            min=0.05,
            max=3600.0,
            step=0.05,
            tooltip="Length of shots that do not say theirs. Long shots take several segments.",
        ),
        io.Float.Input("fps", default=16.0, min=1.0, max=240.0, step=0.01, tooltip=fps_tooltip),
        io.Combo.Input(
            "unmarked_shots",
            options=["continue", "cut"],
            default="continue",
            tooltip="What shots do that say neither: continue the picture before, or cut to a new "
            "one made from the text.",
        ),
    ]


def seed_and_steps(seed_tooltip: str, steps: int, steps_tooltip: str) -> list[io.Input]:
    """The seed, which stays as it is from queue to queue, and the sampler's steps."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=SEED_RANGE - 1,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip=seed_tooltip,
        ),
        io.Int.Input("steps", default=steps, min=1, max=1000, tooltip=steps_tooltip),
    ]


def run_widgets(
    name: str, name_tooltip: str, retakes_tooltip: str, scheduled: bool = False
) -> list[io.Input]:
    """The run folder of what a node makes, what of it is made again, and a look before. `scheduled`
    nodes can leave their work to an Adaptive schedule."""
    look = "Choose the second to see which segments a change would cost."
    leave = " The third lets an Adaptive schedule run this."
    return [
        io.String.Input("run_name", default=name, tooltip=name_tooltip),
        io.String.Input("retakes", default="", tooltip=retakes_tooltip),
        io.Combo.Input(
            "when_queued",
            options=[RENDER, SHOW, *([LEAVE] if scheduled else [])],
            default=RENDER,
            tooltip=look + leave * scheduled,
        ),
    ]


def sampler_overrides() -> list[io.Input]:
    """What replaces the sampler widgets where it is connected."""
    return [
        io.Sigmas.Input(
            "sigmas",
            optional=True,
            tooltip="Noise levels, instead of scheduler and steps: for distilled models.",
        ),
        io.Sampler.Input(
            "sampler",
            optional=True,
            tooltip="A sampler with settings of its own, instead of sampler_name.",
        ),
    ]


def guidance_widgets() -> list[io.Input]:
    """Guidance, sampler and schedule, as in core's KSampler."""
    return [
        io.Float.Input(
            "cfg",
            default=5.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="How closely the prompt is followed. Distilled models want 1.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=SAMPLER_NAMES,
            default="euler",
            tooltip="The sampler. Causal Wan needs ar_video.",
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.SCHEDULER_NAMES,
            default="simple",
            tooltip="How the noise levels fall.",
        ),
    ]


def low_noise_model_input() -> io.Input:
    """The second expert of Wan 2.2 14B."""
    return io.Model.Input(
        "low_noise_model",
        optional=True,
        tooltip="The low-noise expert of Wan 2.2 14B; model is the high-noise one.",
    )


def switch_sigma_widget() -> io.Input:
    """Where the second expert takes over."""
    return io.Float.Input(
        "switch_sigma",
        optional=True,
        default=SWITCH_SIGMA,
        min=0.01,
        max=0.99,
        step=0.005,
        advanced=True,
        tooltip="Only with low_noise_model: noise level below which it takes over. "
        "Wan 2.2 was trained with 0.9 for I2V and 0.875 for T2V.",
    )


def memory_strength_widget() -> io.Input:
    """How much of the memory is read."""
    return io.Float.Input(
        "memory_strength",
        optional=True,
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.05,
        advanced=True,
        tooltip="Only with memory: 1 is as trained. Lower it when earlier shots show through; 0 "
        "is the model without memory.",
    )
