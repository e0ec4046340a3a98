"""From the MilliVid node's inputs to a video: decided first, then rolled out chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from PIL import Image
from torch import Tensor

from ..adapters.fingerprint import fingerprint_value
from ..adapters.millivid import (
    CATEGORY,
    LoadedAutoencoder,
    LoadedVideo,
    StepSettings,
    Told,
    check_pair,
    load_autoencoder,
    load_video,
    roll_out,
)
from ..adapters.weight_folders import weight_path
from ..memory.millivid_codes import VideoCodes, unpack_codes
from ..planning.actions import ACTIONS, actions_text, parse_actions, repeated, steered
from ..planning.rollout import RolloutStep
from ..planning.rollout_choice import rollout_name
from ..planning.segments import SEED_RANGE, TAKE_STRIDE, Segment, parse_takes
from ..runs.folder import RunFolder
from ..runs.keys import KIND
from ..runs.render import RenderedSegment, SegmentEvent, render_run
from .events import announce_segment
from .film_keyframes import film_pixels
from .rendering import PREVIEW_SIDE, jpeg_bytes, runs_root

MILLIVID = "millivid"
"""Kind of the run folder: its latents are the authors' codes, not those of a VAE."""

CONVERT = (
    "make one from the authors' checkpoint with `dev.py convert millivid`, put it there and reload "
    "the page"
)

SEGMENT_FRAMES = 16
"""A segment on disk holds at least this many frames (our choice): the baselines make 3 or 7 at a
time, and a file for each would be many."""

PREVIEW_EVERY = 10
"""Evaluations between two previews (our choice): a picture costs a tenth of an evaluation."""

SHOWN_COLUMNS = 8
"""Frames per level on the sheet of levels."""


@dataclass(frozen=True, kw_only=True)
class Rolling:
    """What will be made. `context` are the pictures [n, h, w, 3] that the first chunk looks back
    on, `context_actions` and the segments' prompts the actions that led to each frame."""

    video: LoadedVideo
    autoencoder: LoadedAutoencoder
    context: Tensor
    context_actions: tuple[int, ...]
    actions: tuple[int, ...]
    frames: int
    segments: tuple[Segment, ...]
    steps: int
    cfg: float
    run_name: str

    @property
    def kept_levels(self) -> int:
        """Levels whose codes are kept: the baselines make level 0 only."""
        rollout = self.video.rollout
        return 1 if rollout.kind == "patchified" else 1 + max(rollout.levels)

    @property
    def cells(self) -> tuple[int, ...]:
        return self.autoencoder.sizes.tokens[: self.kept_levels]

    @property
    def rounds(self) -> int:
        """Chunks of the rollout in a segment."""
        return self.segments[0].latent_frames // self.video.rollout.chunk

    @property
    def evaluations(self) -> int:
        """Of the network, per segment."""
        return self.rounds * self.video.rollout.steps_per_chunk * self.steps

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that affects the codes beside the segments' own fields."""
        return {
            KIND: MILLIVID,
            "video_model": self.video.file.digest,
            "autoencoder": self.autoencoder.file.digest,
            "context": fingerprint_value(self.context),
            "context_actions": actions_text(self.context_actions),
            "steps": self.steps,
            "cfg": self.cfg,
        }


@dataclass(frozen=True)
class RolledVideo:
    """`frames` [n, h, w, 3] and `levels` [1, height, width, 3] in 0..1; `report` in words."""

    frames: Tensor
    levels: Tensor
    report: str


def plan_rolling(inputs: Mapping[str, Any]) -> Rolling:
    """Check every input and decide the chunks. Raises ValueError naming input, rule and value."""
    context_actions = parse_actions(inputs["context_actions"], "context_actions")
    takes = parse_takes(inputs["retakes"])
    video = load_video(_chosen("video_model_name", inputs))
    autoencoder = load_autoencoder(_chosen("autoencoder_name", inputs))
    check_pair(video, autoencoder)
    pictures = _pictures(inputs["context"])
    history = video.rollout.history
    if len(pictures) < history:
        raise ValueError(
            f"context must be {history} frames or more for {video.file.name}, which looks back "
            f"that far, got {len(pictures)}"
        )
    if len(context_actions) != len(pictures):
        raise ValueError(
            f"context_actions must say one action per frame of context, {len(pictures)}, got "
            f"{len(context_actions)}: {ACTIONS[0]} {len(pictures)} says that nobody turned"
        )
    length = _segment_frames(video.rollout.chunk)
    count = -(-inputs["frames"] // length)
    actions = _actions(inputs, count * length)
    _check_actions(video, (*context_actions, *actions))
    if takes and max(takes) >= count:
        raise ValueError(f"retakes must name segments 1 to {count}, got {max(takes) + 1}")
    side = autoencoder.sizes.picture
    return Rolling(
        video=video,
        autoencoder=autoencoder,
        context=film_pixels(pictures[-history:], side, side).contiguous(),
        context_actions=context_actions[-history:],
        actions=actions,
        frames=inputs["frames"],
        segments=tuple(
            _segment(index, length, actions, inputs["seed"], takes.get(index, 0))
            for index in range(count)
        ),
        steps=inputs["steps"],
        cfg=inputs["cfg"],
        run_name=inputs["run_name"],
    )


def _chosen(name: str, inputs: Mapping[str, Any]) -> Path:
    return weight_path(CATEGORY, inputs[name], name, CONVERT)


def _pictures(value: Any) -> Tensor:
    """The frames [n, h, w, 3] of an IMAGE or a VIDEO."""
    images = value if isinstance(value, Tensor) else value.get_components().images
    return images[..., :3]


def _segment_frames(chunk: int) -> int:
    return chunk * max(1, -(-SEGMENT_FRAMES // chunk))


def _actions(inputs: Mapping[str, Any], frames: int) -> tuple[int, ...]:
    """The action that leads to each new frame."""
    steering = inputs.get("steering")
    if steering is not None:
        made = steered(_curve(steering), inputs["frames"])
        return (*made, *[made[-1]] * (frames - len(made)))
    given = parse_actions(inputs["actions"], "actions")
    if not given:
        raise ValueError(
            "actions must say what the viewer does, such as 'forward 18, left 9', got nothing"
        )
    return repeated(given, frames)


def _curve(value: Any) -> Callable[[float], float]:
    """The height of a core CURVE, or of bare points, at 0..1."""
    from comfy_api.input import CurveInput

    return CurveInput.from_raw(value).interp


def _check_actions(video: LoadedVideo, actions: tuple[int, ...]) -> None:
    known = video.sizes.actions
    if max(actions) >= known:
        raise ValueError(
            f"actions must be ones that {video.file.name} knows, {', '.join(ACTIONS[:known])}, got "
            f"{ACTIONS[max(actions)]!r}"
        )


def _segment(index: int, length: int, actions: tuple[int, ...], seed: int, take: int) -> Segment:
    """A segment of the run folder: its prompt says the actions, so that other ones later in the
    video leave it as it is."""
    return Segment(
        index=index,
        shot=index,
        shot_id=f"chunk {index + 1}",
        chain=0,
        start="tail" if index else "text",
        latent_frames=length,
        known_latent_frames=0,
        prompt=actions_text(actions[index * length : (index + 1) * length]),
        negative="",
        seed=(seed + take * TAKE_STRIDE) % SEED_RANGE,
        take=take,
    )


def roll(rolling: Rolling, node_id: str) -> RolledVideo:
    """Make the chunks that the run folder lacks, then decode the video from disk."""
    with RunFolder.open(
        runs_root(), rolling.run_name, rolling.parameters, rolling.segments, fps=None
    ) as folder:
        missing = frozenset(state.index for state in folder.state() if state.needs_render)
        renderer = ChunkRenderer(rolling, node_id, missing, folder.read_segment)
        rendered = render_run(
            folder, rolling.segments, renderer.render, lambda _: None, renderer.report
        )
        frames = _decoded(rolling, folder.read_segment)
        levels = _level_sheet(rolling, folder.read_segment)
    return RolledVideo(frames, levels, _report(rolling, len(rendered)))


ReadCodes = Callable[[int], Tensor]
"""The packed codes of a finished segment (0-based), from disk."""


class ChunkRenderer:
    """Makes one segment after the other; holds the codes that the next one looks back on."""

    def __init__(
        self, rolling: Rolling, node_id: str, missing: frozenset[int], read: ReadCodes
    ) -> None:
        self._rolling, self._node_id, self._read = rolling, node_id, read
        self._codes: VideoCodes | None = None
        self._actions = torch.tensor([*rolling.context_actions, *rolling.actions])
        self._progress = comfy.utils.ProgressBar(max(1, len(missing) * rolling.evaluations))
        self._done = 0

    def render(self, segment: Segment, known: Tensor | None) -> RenderedSegment:
        """`known` is not used: a chunk looks back further than one segment."""
        rolling, length = self._rolling, segment.latent_frames
        history, chunk = rolling.video.rollout.history, rolling.video.rollout.chunk
        begin = history + segment.index * length
        codes = self._past(begin, segment)
        codes.extend(length)
        settings = StepSettings(rolling.steps, rolling.cfg, segment.seed)
        for start in range(begin, begin + length, chunk):
            for step, make in roll_out(rolling.video, codes, start, self._actions, settings):
                make(self._teller(step))
        made = codes.packed(begin, begin + length)
        codes.drop(begin + length - history)
        middle = codes.read(0, begin + length - 1, begin + length)
        preview = self._picture(0, middle)
        preview.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        return RenderedSegment(latent=made, preview=jpeg_bytes(preview))

    def report(self, event: SegmentEvent) -> None:
        rolling, segment = self._rolling, event.segment
        announce_segment(
            {
                "run": rolling.run_name,
                "node": self._node_id,
                "segment": segment.number,
                "segments": len(rolling.segments),
                "status": event.status,
                "reason": event.reason,
                "shot": segment.shot_id,
                "prompt": segment.prompt,
                "seed": segment.seed,
                "take": segment.take,
            }
        )

    def _past(self, begin: int, segment: Segment) -> VideoCodes:
        """The codes that the segment from frame `begin` on looks back on: those that this renderer
        has made, else the context's and those of the segments on disk."""
        if self._codes is None or self._codes.stop != begin:
            rolling, kept = self._rolling, self._rolling.kept_levels
            history = rolling.video.rollout.history
            context = rolling.autoencoder.encode(rolling.context.movedim(-1, 1))
            self._codes = VideoCodes(context[:kept])
            for index in range(segment.index):
                levels = unpack_codes(self._read(index), rolling.cells)
                stop = self._codes.stop
                self._codes.extend(len(levels[0]))
                for level, codes in enumerate(levels):
                    self._codes.write(level, stop, codes)
                self._codes.drop(self._codes.stop - history)
        return self._codes

    def _teller(self, step: RolloutStep) -> Told:
        """Progress after every evaluation, and now and then a picture of the level being made."""
        began = self._done
        patched = self._rolling.video.rollout.kind == "patchified"

        def told(number: int, clean: Tensor) -> None:
            self._done = began + number
            picture = None
            if number % PREVIEW_EVERY == 0 or number == self._rolling.steps:
                level = 0 if patched else step.target.level
                middle = len(clean) // 2
                shown = self._picture(level, clean[middle : middle + 1])
                picture = ("JPEG", shown, self._rolling.autoencoder.sizes.picture)
            self._progress.update_absolute(self._done, self._progress.total, picture)

        return told

    def _picture(self, level: int, codes: Tensor) -> Image.Image:
        pixels = self._rolling.autoencoder.decode(level, codes.float().cpu())[0]
        return Image.fromarray((pixels * 255.0).round().to(torch.uint8).numpy())


def _segments_codes(
    rolling: Rolling, read: ReadCodes
) -> Iterator[tuple[int, int, tuple[Tensor, ...]]]:
    """First frame, number of frames that are wanted, and codes of each segment."""
    for segment in rolling.segments:
        begin = segment.index * segment.latent_frames
        wanted = min(segment.latent_frames, rolling.frames - begin)
        yield begin, wanted, unpack_codes(read(segment.index), rolling.cells)


def _decoded(rolling: Rolling, read: ReadCodes) -> Tensor:
    """The whole video [frames, h, w, 3], decoded from level 0 (section 1.3)."""
    side = rolling.autoencoder.sizes.picture
    video = torch.zeros(rolling.frames, side, side, 3)
    for begin, wanted, levels in _segments_codes(rolling, read):
        video[begin : begin + wanted] = rolling.autoencoder.decode(0, levels[0][:wanted])
    return video


def _level_sheet(rolling: Rolling, read: ReadCodes) -> Tensor:
    """Frames across the video, a row per level, coarsest first: what was planned and what became
    of it."""
    columns = min(SHOWN_COLUMNS, rolling.frames)
    shown = {index * rolling.frames // columns for index in range(columns)}
    rows: list[list[Tensor]] = [[] for _ in range(rolling.kept_levels)]
    for begin, wanted, levels in _segments_codes(rolling, read):
        here = [frame - begin for frame in sorted(shown) if begin <= frame < begin + wanted]
        for level, codes in enumerate(levels):
            if here:
                rows[level].append(rolling.autoencoder.decode(level, codes[here]))
    pictures = [torch.cat(row) for row in reversed(rows)]  # each [columns, h, w, 3]
    return torch.cat([torch.cat(tuple(row), dim=1) for row in pictures], dim=0)[None]


def _report(rolling: Rolling, made: int) -> str:
    rollout, count = rolling.video.rollout, len(rolling.segments)
    return "\n".join(
        (
            f"{rolling.run_name}: {rolling.frames} frames in {count} segments, {made} made now, "
            f"{count - made} reused from disk",
            f"{rollout_name(rollout)}: {rolling.rounds * rollout.steps_per_chunk} steps per "
            f"segment of {rolling.segments[0].latent_frames} frames, {rolling.steps} evaluations "
            "each",
            f"looks back {rollout.history} frames",
        )
    )
