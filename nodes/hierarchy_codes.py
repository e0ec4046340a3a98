"""What the hierarchy nodes do: a latent to codes, codes to latents, a window out and back in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..adapters.geometry import read_geometry
from ..adapters.hierarchy_value import Timeline, picture_marks
from ..adapters.hierarchy_weights import (
    READS,
    LoadedHead,
    LoadedPlanner,
    check_latent_format,
    pooled_head,
)
from ..memory.hierarchy import CellState
from ..planning.rollout import Rollout, Span
from ..planning.rollout_choice import rollout_name
from .remembering import new_cache

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

Latent = Mapping[str, Any]
"""ComfyUI's LATENT."""


def encode_latent(
    model: ModelPatcher, latent: Latent, head: LoadedHead | None, levels: int, size_only: bool
) -> Timeline:
    """A timeline that begins with this clip, or with nothing of its size. Raises ValueError for
    latents or a head of another model, and for pictures too small for so many levels."""
    latent_format = model.get_model_object("latent_format")
    channels = read_geometry(model).channels
    samples = video_samples(latent, channels)
    chosen = head or pooled_head(channels, levels)
    if not isinstance(chosen, LoadedHead):
        raise ValueError(
            f"hierarchy_head must come from a Load hierarchy head node, got {type(head).__name__}"
        )
    if chosen.card is not None:
        check_latent_format(chosen.card.latent_format, latent_format, "this hierarchy head")
    empty = Timeline((), chosen.grid(samples), chosen, latent_format, new_cache())
    if size_only:
        return empty
    marks = picture_marks(samples.shape[2], latent_format, begins=True)
    return empty.written(0, empty.encoded(samples, marks))


def video_samples(latent: Latent, channels: int) -> Tensor:
    """The samples `1 c t h w` of a LATENT. Raises ValueError for anything else."""
    samples = latent["samples"]
    if samples.ndim != 5 or samples.shape[:2] != (1, channels):
        raise ValueError(
            f"latent must be one video of {channels} channels (1 {channels} t h w), got "
            f"{list(samples.shape)}"
        )
    return samples.float()


def known_span(timeline: Timeline, level: int, first: int, count: int) -> Span:
    """The latent frames that a node is asked about; a count of 0 means up to the last frame that
    the level knows. Raises ValueError for a level and frames that the film does not have."""
    if not 0 <= level < timeline.levels:
        raise ValueError(
            f"level must be 0 to {timeline.levels - 1}, the levels of this hierarchy, got {level}"
        )
    known = (timeline.state[level] != CellState.UNKNOWN).nonzero()
    end = int(known[-1]) + 1 if len(known) else 0
    stop = first + count if count else end
    if not first < stop <= end:
        raise ValueError(
            f"level {level} knows latent frames up to {end}, got first_frame {first} and "
            f"latent_frames {count}"
        )
    return Span(level, first, stop)


def decode_level(
    timeline: Timeline, level: int, first: int, count: int
) -> tuple[dict[str, Tensor], Span]:
    """A level as LATENT, and which latent frames it is."""
    span = known_span(timeline, level, first, count)
    return {"samples": timeline.latents(*span)}, span


def guide_latent(
    timeline: Timeline, level: int, first: int, count: int, overlap: int
) -> dict[str, Tensor]:
    """`overlap` finished latent frames and behind them the plan, with a noise mask `1 1 t h w` of
    0 on the overlap and 1 on the plan. Raises ValueError where the overlap is not finished."""
    span = known_span(timeline, level, first, count)
    if overlap > first:
        raise ValueError(
            f"overlap_frames must be {first} or less, the latent frames before first_frame, got "
            f"{overlap}"
        )
    samples = timeline.latents(*span)
    if overlap:
        finished = timeline.state[0, first - overlap : first] == CellState.FINAL
        if not bool(finished.all()):
            raise ValueError(
                f"overlap_frames: latent frame {first - overlap + int((~finished).nonzero()[0])} "
                "is not finished yet. Commit the window before this one first, or lower "
                "overlap_frames"
            )
        samples = torch.cat([timeline.latents(0, first - overlap, first), samples], dim=2)
    mask = torch.ones(1, 1, *samples.shape[2:])
    mask[:, :, :overlap] = 0.0
    return {"samples": samples, "noise_mask": mask}


def commit_latent(timeline: Timeline, latent: Latent, first: int, skip: int) -> Timeline:
    """The film with these latent frames, less the first `skip`, as finished from `first` on.

    Raises ValueError for latents of another size, nothing left, and a gap behind the film's end.
    """
    samples = video_samples(latent, timeline.latent_format.latent_channels)
    if tuple(samples.shape[-2:]) != (timeline.grid.height, timeline.grid.width):
        raise ValueError(
            f"latent must be {timeline.grid.width} x {timeline.grid.height} cells as the "
            f"hierarchy is, got {samples.shape[-1]} x {samples.shape[-2]}"
        )
    if skip >= samples.shape[2]:
        raise ValueError(f"skip_frames must leave a latent frame of {samples.shape[2]}, got {skip}")
    made = samples[:, :, skip:]
    marks = picture_marks(made.shape[2], timeline.latent_format, begins=first == 0)
    return timeline.written(first, timeline.encoded(made, marks))


def check_rollout(timeline: Timeline, planner: LoadedPlanner, given: Rollout | None) -> Rollout:
    """The rollout to plan with: the planner's own. Raises ValueError for another one, codes of
    another head, and a history that is shorter than the planner was trained for."""
    if given is not None and given != planner.rollout:
        raise ValueError(
            f"rollout must be what the planner was trained with ({rollout_name(planner.rollout)}), "
            f"got {rollout_name(given)}"
        )
    check_latent_format(planner.card.latent_format, timeline.latent_format, "this planner")
    if planner.card.head != timeline.head.name:
        raise ValueError(
            f"this planner was trained on codes of head {planner.card.head}, got a hierarchy of "
            f"head {timeline.head.name}: encode with the planner's head"
        )
    channels = timeline.head.head.code_channels
    if tuple(planner.card.config.code_channels) != tuple(channels):
        raise ValueError(
            f"this planner was trained on codes of {planner.card.config.code_channels} channels, "
            f"got {channels}: encode with as many levels"
        )
    if timeline.frames < planner.card.least_history:
        raise ValueError(
            f"this planner needs {planner.card.least_history} latent frames before what it plans, "
            f"got {timeline.frames}: encode a longer clip"
        )
    rollout = planner.rollout
    start = timeline.frames
    for level in rollout.levels:
        first = max(0, start - rollout.history)
        if start > first and not timeline.known(level, first, start):
            raise ValueError(
                f"the hierarchy must know level {level} of the {start - first} latent frames "
                "before what is planned: commit or plan them first"
            )
    return rollout


def describe_timeline(timeline: Timeline) -> str:
    """A hierarchy in lines of text."""
    lines = [f"{timeline.frames:,} latent frames, head {timeline.head.name}"]
    names = {CellState.UNKNOWN: "unknown", CellState.PLANNED: "planned", CellState.FINAL: "final"}
    for level, row in enumerate(timeline.state):
        counts = {name: int((row == state).sum()) for state, name in names.items()}
        told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        grid = f"{timeline.grid.columns(level)} x {timeline.grid.rows(level)} tokens"
        lines.append(f"level {level}: {grid}; {told or 'no latent frames'}")
    return "\n".join(lines)


def describe_head(loaded: LoadedHead) -> str:
    """What the file of a head says about itself, in lines of text."""
    card = loaded.card
    assert card is not None
    lines = [
        card.title or loaded.name,
        f"for latents of {card.latent_format}: {card.config.channels} channels",
        f"{loaded.levels} levels, {card.config.code} channels per token above level 0",
    ]
    return "\n".join([*lines, *([f"licence: {card.license}"] if card.license else [])])


def describe_planner(loaded: LoadedPlanner) -> str:
    """What the file of a planner says about itself, in lines of text."""
    card = loaded.card
    lines = [
        card.title or "hierarchy planner",
        f"for latents of {card.latent_format} and head {card.head}",
        f"rollout: {rollout_name(loaded.rollout)}",
        f"{READS[card.reads]}; {card.steps} steps",
    ]
    return "\n".join([*lines, *([f"licence: {card.license}"] if card.license else [])])
