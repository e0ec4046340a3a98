"""From the plan node's inputs to a planned hierarchy: decided first, then made chunk by chunk.

A chunk is what one round of the rollout makes. In the run folder it is a segment that continues the
one before: its codes lie there as one latent of one channel, a row of numbers per latent frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.utils
import torch
from PIL import Image
from torch import Tensor

from ..adapters.fingerprint import fingerprint_value
from ..adapters.hierarchy_value import Timeline, picture_marks
from ..adapters.hierarchy_weights import LoadedPlanner, load_whole
from ..memory.hierarchy import CellState, Hierarchy
from ..memory.hierarchy_sampling import Denoising, plan_chunk
from ..planning.frame_conditions import parse_conditions
from ..planning.rollout import Rollout
from ..planning.rollout_choice import rollout_name
from ..planning.segments import SEED_RANGE, TAKE_STRIDE, Segment, parse_takes
from ..runs.contact_sheet import contact_sheet
from ..runs.folder import RunFolder, plan_run
from ..runs.keys import KIND, PLANNED, STARTS
from ..runs.render import RenderedSegment, SegmentEvent, render_run
from .events import announce_segment
from .hierarchy_codes import check_rollout
from .hierarchy_picture import latent_picture
from .rendering import SHOWN_STATUS, jpeg_bytes, runs_root

if TYPE_CHECKING:
    from comfy.sd import VAE

HIERARCHY = "hierarchy"
"""Kind of the run folder."""

SHOWN = 3
"""Latent frames of a chunk on its thumbnail: its first, its middle, its last."""


@dataclass(frozen=True, kw_only=True)
class CodePlan:
    """Chunks that will be planned behind `timeline`; `conditions` are `t k` from the film's first
    latent frame on, None where the planner needs none."""

    timeline: Timeline
    planner: LoadedPlanner
    rollout: Rollout
    denoising: Denoising
    conditions: Tensor | None
    segments: tuple[Segment, ...]
    run_name: str
    vae: VAE | None

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that affects the codes beside the segments' own fields."""
        start = self.timeline.frames
        seen = max(0, start - self.rollout.history)
        return {
            KIND: HIERARCHY,
            "planner": self.planner.digest,
            "head": self.timeline.head.name,
            "rollout": rollout_name(self.rollout),
            "steps": self.denoising.steps,
            "cfg": self.denoising.guidance,
            "begins": start,
            "cells": [self.timeline.grid.height, self.timeline.grid.width],
            STARTS: {"latent": self.timeline.content(seen, start)},
            PLANNED: {str(one.index): self._told(one) for one in self.segments},
        }

    def start(self, segment: Segment) -> int:
        """The film's latent frame that a chunk begins at."""
        return self.timeline.frames + segment.index * self.rollout.chunk

    def _told(self, segment: Segment) -> str | None:
        """What the steps of a chunk are told, so that another end of a film keeps its beginning."""
        if self.conditions is None:
            return None
        stop = self.start(segment) + self.rollout.chunk
        begin = max(0, self.start(segment) - self.rollout.history)
        return fingerprint_value(self.conditions[begin:stop])


def plan_codes(inputs: Mapping[str, Any]) -> CodePlan:
    """Check every input and decide the chunks. Raises ValueError naming input, rule and value."""
    timeline, planner = inputs["hierarchy"], inputs["hierarchy_planner"]
    if not isinstance(timeline, Timeline):
        raise ValueError(
            f"hierarchy must come from an Encode hierarchy node, got {type(timeline).__name__}"
        )
    if not isinstance(planner, LoadedPlanner):
        raise ValueError(
            "hierarchy_planner must come from a Load hierarchy planner node, got "
            f"{type(planner).__name__}"
        )
    rollout = check_rollout(timeline, planner, inputs["rollout"])
    chunks = int(inputs["chunks"])
    stop = timeline.frames + chunks * rollout.chunk
    takes = parse_takes(inputs["retakes"])
    surplus = sorted(index + 1 for index in takes if index >= chunks)
    if surplus:
        raise ValueError(f"retakes name chunks 1 to {chunks} only, got {surplus[0]}")
    return CodePlan(
        timeline=timeline,
        planner=planner,
        rollout=rollout,
        denoising=Denoising(inputs["steps"], inputs["cfg"], inputs["seed"]),
        conditions=_conditions(planner, inputs["conditions"], inputs["positive"], stop),
        segments=_segments(chunks, rollout.chunk, inputs["seed"], takes),
        run_name=inputs["run_name"],
        vae=inputs["vae"],
    )


def _segments(
    chunks: int, latent_frames: int, seed: int, takes: Mapping[int, int]
) -> tuple[Segment, ...]:
    """A chunk as the run folder knows it: each continues the one before, whole."""
    return tuple(
        Segment(
            index=index,
            shot=0,
            shot_id="plan",
            chain=0,
            start="tail" if index else "latent",
            latent_frames=latent_frames,
            known_latent_frames=0,
            prompt="",
            negative="",
            seed=(seed + takes.get(index, 0) * TAKE_STRIDE) % SEED_RANGE,
            take=takes.get(index, 0),
        )
        for index in range(chunks)
    )


def _conditions(planner: LoadedPlanner, text: str, positive: Any, frames: int) -> Tensor | None:
    """What the planner is told about each of so many latent frames, `t k`."""
    reads, length = planner.card.reads, planner.card.config.condition
    if reads == "text":
        if not positive:
            raise ValueError("this planner reads the prompt: connect positive")
        return planner.read_text(positive[0][0], torch.arange(frames))
    if reads == "nothing":
        return None
    told = parse_conditions(text, length)
    if len(told) < frames:
        raise ValueError(
            f"conditions must tell of {frames} latent frames, from the film's first to the end of "
            f"the last chunk, got {len(told)}"
        )
    rows = torch.zeros(frames, length)
    for row, numbers in zip(rows, told, strict=False):
        row[list(numbers)] = 1.0
    return rows


def describe_codes(plan: CodePlan, node_id: str) -> str:
    """What queueing the plan would make and why, without making or writing anything."""
    states = plan_run(runs_root(), plan.run_name, plan.parameters, plan.segments)
    lines = []
    for segment, state in zip(plan.segments, states, strict=True):
        _announce(
            plan, node_id, segment, SHOWN_STATUS.get(state.status, state.status), state.reason
        )
        start = plan.start(segment)
        outcome = f"to plan, {state.reason}" if state.needs_render else "finished"
        lines.append(
            f"chunk {segment.number}, latent frames {start} to {start + plan.rollout.chunk - 1}: "
            f"{outcome}"
        )
    return "\n".join(lines)


def make_codes(plan: CodePlan, node_id: str) -> tuple[Timeline, Tensor, str]:
    """Plan the chunks that the run folder lacks; gives the film, its sheet and a summary."""
    with RunFolder.open(runs_root(), plan.run_name, plan.parameters, plan.segments) as folder:
        to_make = sum(state.needs_render for state in folder.state())
        planner = ChunkPlanner(plan, node_id, to_make, folder.read_segment)
        made = render_run(folder, plan.segments, planner.render, _nothing, planner.report)
        timeline = planner.until(len(plan.segments))
        run = folder.run
    summary = (
        f"{plan.run_name}: {len(plan.segments)} chunks of {plan.rollout.chunk} latent frames, "
        f"{len(made)} made now, {len(plan.segments) - len(made)} reused from disk"
    )
    return timeline, contact_sheet(run), summary


def _nothing(segment: Segment) -> Tensor | None:
    """The first chunk continues the timeline, which is no latent of the run."""
    return None


class ChunkPlanner:
    """Plans one chunk after the other; `read` gives a chunk that is on disk."""

    def __init__(
        self, plan: CodePlan, node_id: str, to_make: int, read: Callable[[int], Tensor]
    ) -> None:
        self._plan, self._node_id, self._read = plan, node_id, read
        self._timeline, self._done = plan.timeline, 0
        self._evaluations = plan.rollout.steps_per_chunk * plan.denoising.steps
        self._bar = comfy.utils.ProgressBar(max(1, to_make * self._evaluations))

    def until(self, chunks: int) -> Timeline:
        """The film with so many chunks, read from disk where they are not here yet."""
        for index in range(self._done, chunks):
            self._keep(index, self._unpacked(index, self._read(index)))
        return self._timeline

    def render(self, segment: Segment, before: Tensor | None) -> RenderedSegment:
        """`before` is the chunk before as the run folder has it; the timeline has it as well."""
        plan, timeline = self._plan, self.until(segment.index)
        start = plan.start(segment)
        base = max(0, start - plan.rollout.history)
        window = timeline.window(base, start).extended(plan.rollout.chunk, self._marks(start))
        load_whole(plan.planner.patcher)
        told = (
            None if plan.conditions is None else plan.conditions[base : start + plan.rollout.chunk]
        )
        made = plan_chunk(
            plan.planner.network,
            window,
            plan.rollout.steps(start - base),
            told,
            replace(plan.denoising, seed=segment.seed),
            base,
            report=self._evaluated,
        )
        piece = behind(made, start - base)
        self._keep(segment.index, piece)
        return RenderedSegment(
            latent=packed(piece, plan.rollout.levels), preview=jpeg_bytes(self._thumbnail(start))
        )

    def report(self, event: SegmentEvent) -> None:
        _announce(self._plan, self._node_id, event.segment, event.status, event.reason)

    def _evaluated(self) -> None:
        """After every evaluation of the network; raises core's interruption."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update(1)

    def _marks(self, start: int) -> Tensor:
        chunk, latent_format = self._plan.rollout.chunk, self._plan.timeline.latent_format
        return picture_marks(chunk, latent_format, begins=start == 0)

    def _keep(self, index: int, piece: Hierarchy) -> None:
        assert index == self._done
        start = self._plan.start(self._plan.segments[index])
        self._timeline, self._done = self._timeline.written(start, piece), index + 1

    def _unpacked(self, index: int, latent: Tensor) -> Hierarchy:
        plan = self._plan
        start = plan.start(plan.segments[index])
        empty = Hierarchy.empty(plan.timeline.head.head, plan.timeline.grid, 0)
        return unpacked(
            latent, empty.extended(plan.rollout.chunk, self._marks(start)), plan.rollout.levels
        )

    def _thumbnail(self, start: int) -> Image.Image:
        """The finest planned level of three latent frames, side by side."""
        plan, last = self._plan, self._plan.rollout.chunk - 1
        pictures = []
        for i in range(SHOWN):
            frame = start + round(i * last / (SHOWN - 1))
            latent = self._timeline.latents(plan.rollout.levels[0], frame, frame + 1)
            pictures.append(latent_picture(latent, plan.timeline.latent_format, plan.vae))
        width, height = pictures[0].size
        row = Image.new("RGB", (width * SHOWN, height))
        for place, picture in enumerate(pictures):
            row.paste(picture, (place * width, 0))
        self._bar.update_absolute(self._bar.current, self._bar.total, ("JPEG", row, None))
        return row


def behind(hierarchy: Hierarchy, frame: int) -> Hierarchy:
    """The latent frames from `frame` on."""
    return replace(
        hierarchy,
        codes=tuple(each[frame:] for each in hierarchy.codes),
        state=hierarchy.state[:, frame:],
        first=hierarchy.first[frame:],
    )


def packed(piece: Hierarchy, levels: tuple[int, ...]) -> Tensor:
    """The codes of these levels as one latent [1, 1, t, 1, n], for the run folder."""
    rows = torch.cat([piece.codes[level].flatten(1) for level in levels], dim=1)
    return rows[None, None, :, None]


def unpacked(latent: Tensor, empty: Hierarchy, levels: tuple[int, ...]) -> Hierarchy:
    """The inverse of `packed`, written into a hierarchy of as many unknown latent frames.

    Raises ValueError for a latent of another length or size.
    """
    sizes = [empty.codes[level][0].numel() for level in levels]
    if tuple(latent.shape) != (1, 1, empty.frames, 1, sum(sizes)):
        raise ValueError(
            f"a chunk of {empty.frames} latent frames has {sum(sizes)} numbers per frame, got "
            f"{list(latent.shape)}"
        )
    result = empty
    for level, rows in zip(levels, latent[0, 0, :, 0].split(sizes, dim=1), strict=True):
        codes = rows.unflatten(1, tuple(empty.codes[level].shape[1:]))
        result = result.with_codes(level, 0, codes, CellState.PLANNED)
    return result


def _announce(
    plan: CodePlan, node_id: str, segment: Segment, status: str, reason: str = ""
) -> None:
    """Tell the page what becomes of a chunk."""
    announce_segment(
        {
            "run": plan.run_name,
            "node": node_id,
            "segment": segment.number,
            "segments": len(plan.segments),
            "status": status,
            "reason": reason,
            "shot": segment.shot_id,
            "prompt": segment.prompt,
            "seed": segment.seed,
            "take": segment.take,
            "step": 0,
            "steps": plan.rollout.steps_per_chunk,
        }
    )
