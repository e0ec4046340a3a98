"""ThroughlineMemoryBudget: what fits a card, said before anything is sampled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io, ui

from ..adapters.budget import (
    ModelFacts,
    decode_bytes,
    memory_rates,
    read_card,
    read_model,
    segment_lengths,
)
from ..planning.budget import SPARSEST_FIRST, place, recommend
from ..planning.budget_report import Question, describe_budget
from ..planning.storyboard import MAX_FPS, MAX_SECONDS, Storyboard
from .sockets import TL_STORYBOARD
from .widgets import size_widgets

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

CARDS = ("8 GB", "12 GB", "16 GB", "24 GB")


def history_of(storyboard: Storyboard, seconds_per_segment: float) -> float:
    """Seconds that lie behind the last segment of a film; a shot without a length lasts one."""
    film = sum(shot.seconds or seconds_per_segment for shot in storyboard.shots)
    return max(0.0, film - seconds_per_segment)


class MemoryBudget(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineMemoryBudget",
            display_name="Memory budget",
            category="Throughline",
            description=(
                "Says before anything is sampled what fits a graphics card: the rate of the "
                "memory, the length of a segment, the type of the weights and how many blocks "
                "stay on the card, with the sums. Nothing is loaded onto the card for it."
            ),
            search_aliases=["vram", "12 GB", "out of memory", "tokens", "low vram", "OOM"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The video model that the film is made with."),
                *size_widgets(
                    "Width of the film in pixels. Lower it when nothing fits.",
                    "Height of the film in pixels.",
                ),
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=1.0,
                    max=MAX_FPS,
                    step=0.01,
                    tooltip="Frames per second of the film (Wan 16, TI2V-5B and HunyuanVideo 24). "
                    "A storyboard that says its own wins.",
                ),
                io.Float.Input(
                    "seconds_per_segment",
                    default=5.0,
                    min=0.05,
                    max=MAX_SECONDS,
                    step=0.05,
                    tooltip="New seconds in one segment. The recommendation is shorter when that "
                    "long does not fit.",
                ),
                io.Float.Input(
                    "seconds_of_history",
                    default=20.0,
                    min=0.0,
                    max=MAX_SECONDS,
                    step=0.5,
                    tooltip="How much of the film is remembered at most. A storyboard replaces it "
                    "by the film's length without its last segment.",
                ),
                io.Combo.Input(
                    "card",
                    options=list(CARDS),
                    default="12 GB",
                    tooltip="Memory of the graphics card that the film will be made on.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Adds what decoding a segment takes, by the VAE's own estimate.",
                ),
                TL_STORYBOARD.Input(
                    "storyboard",
                    optional=True,
                    tooltip="Takes the length of the history and the frame rate from the script.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="report", tooltip="The recommendation and its sums as text."
                ),
                io.String.Output(
                    display_name="rate",
                    tooltip="The recommended rate, such as 4x4x2, for the memory encoder.",
                ),
                io.Int.Output(
                    display_name="segment_frames",
                    tooltip="The recommended frames per segment, for the sampler.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        width: int,
        height: int,
        fps: float,
        seconds_per_segment: float,
        seconds_of_history: float,
        card: str,
        vae: VAE | None = None,
        storyboard: Storyboard | None = None,
    ) -> io.NodeOutput:
        if storyboard is not None:
            fps = storyboard.fps or fps
            seconds_of_history = history_of(storyboard, seconds_per_segment)
        if card not in CARDS:
            raise ValueError(f"card must be one of {', '.join(CARDS)}, got {card!r}")
        report, rate, frames = budget(
            read_model(model),
            int(card.removesuffix(" GB")),
            (width, height),
            fps,
            (seconds_per_segment, seconds_of_history),
            vae,
        )
        return io.NodeOutput(report, rate, frames, ui=ui.PreviewText(report))


def budget(
    facts: ModelFacts,
    card_gigabytes: int,
    size: tuple[int, int],
    fps: float,
    seconds: tuple[float, float],
    vae: VAE | None,
) -> tuple[str, str, int]:
    """Report, rate and frames of a segment. `size` is width and height in pixels, `seconds` those
    of a segment and of the history. When nothing fits, the least that there is comes out."""
    (width, height), (new_seconds, history_seconds) = size, seconds
    card = read_card(card_gigabytes)
    segments = segment_lengths(facts, new_seconds, fps, height, width)
    rates = memory_rates(facts, history_seconds, fps, height, width)
    chosen = recommend(card, facts.cost, facts.weights, segments, rates)
    latent_frames = (chosen.segment if chosen else segments[-1]).latent_frames
    question = Question(
        model=facts.name,
        card_gigabytes=card_gigabytes,
        width=width,
        height=height,
        fps=fps,
        history_seconds=history_seconds,
        asked_frames=facts.asked_frames(new_seconds, fps),
        decode=None if vae is None else decode_bytes(vae, facts, latent_frames, height, width),
    )
    whole = chosen is not None and not chosen.streamed and chosen.weights is facts.weights[0]
    compared = [
        place(card, facts.cost, weights, segments[0], rate)
        for weights in facts.weights[: 1 if whole else None]
        for rate in rates
    ]
    report = describe_budget(question, card, chosen, segments[0], compared)
    rate = chosen.rate.name if chosen else SPARSEST_FIRST[0]
    return report, rate, facts.geometry.grid.frames(latent_frames)


NODES: list[type[io.ComfyNode]] = [MemoryBudget]
