"""From a run to a video file, streamed: latents from disk, frames to the encoder, nothing piles up.

A finished film is remembered in the run folder (films.json), so that asking for the same film again
costs nothing while its file is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..memory.colour import IDENTITY, ColourCorrection, apply_corrections, correction_to
from .atomic import write_atomic
from .film import Decode, FilmPart, film_parts, segment_frames
from .keys import hash_json
from .measures import (
    FilmMeter,
    Report,
    measure_keys,
    measure_run,
    read_measures,
    write_measures,
)
from .paths import is_inside
from .video_file import (
    CRF_RANGE,
    FORMATS,
    VideoWriter,
    check_size,
    frame_rate,
    partial_path,
    read_frames,
)

if TYPE_CHECKING:
    from ..planning.frames import FrameGrid
    from .run import Run

FILE_NAME = "films.json"
REMEMBERED = 100
"""Films remembered per run; an entry is a few hundred bytes."""

COLOUR_MATCHES = ("off", "mean", "mean and contrast")
LARGEST_BLEND = 5
FPS_RANGE = (0.01, 1000.0)
"""What core's SaveWEBM takes."""

NOT_IN_THE_FILE = ("fps", "contact_frames")
"""Settings that are not part of a film's key by themselves; the rate it is played at is."""


@dataclass(frozen=True, kw_only=True)
class AssemblySettings:
    """How the film of a run becomes a file. `fps` 0 takes the run's own; `contact_frames` are how
    many frames of it are wanted as images."""

    fps: float = 0.0
    format: str = "mp4 h264"
    crf: int = 18
    colour_match: str = "off"
    colour_match_strength: float = 1.0
    overlap_blend: int = 0
    contact_frames: int = 8

    def __post_init__(self) -> None:
        if self.fps and not FPS_RANGE[0] <= self.fps <= FPS_RANGE[1]:
            raise ValueError(
                f"fps must be {FPS_RANGE[0]} to {FPS_RANGE[1]}, or 0 for the run's own, "
                f"got {self.fps}"
            )
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if not CRF_RANGE[0] <= self.crf <= CRF_RANGE[1]:
            raise ValueError(f"crf must be {CRF_RANGE[0]} to {CRF_RANGE[1]}, got {self.crf}")
        if self.colour_match not in COLOUR_MATCHES:
            raise ValueError(
                f"colour match must be one of {', '.join(COLOUR_MATCHES)}, got "
                f"{self.colour_match!r}"
            )
        if not 0.0 <= self.colour_match_strength <= 1.0:
            raise ValueError(
                f"colour match strength must be 0 to 1, got {self.colour_match_strength}"
            )
        if not 0 <= self.overlap_blend <= LARGEST_BLEND:
            raise ValueError(
                f"overlap blend must be 0 to {LARGEST_BLEND} latent frames, got "
                f"{self.overlap_blend}"
            )

        if self.contact_frames < 1:
            raise ValueError(f"contact frames must be 1 or more, got {self.contact_frames}")

    @property
    def matches_colour(self) -> bool:
        return self.colour_match != "off" and self.colour_match_strength > 0.0


@dataclass(frozen=True, kw_only=True)
class Film:
    """A finished film: its file, its length, and whether it was there already."""

    path: Path
    frames: int
    fps: float
    reused: bool


def check_run(run: Run, width: int, height: int, settings: AssemblySettings) -> float:
    """Everything that can be refused before the first frame is decoded; gives the film's fps.

    `width` and `height` are the film's, in pixels. Reads every segment once, so that a damaged one
    is named now and not after an hour. Raises ValueError.
    """
    run.require_finished()
    fps = settings.fps or run.fps
    if fps is None:
        raise ValueError(f"run {run.name!r} does not say its fps: set fps, got 0")
    check_size(FORMATS[settings.format], width, height)
    shape = run.latent(0).shape
    for record in run.segments[1:]:
        other = run.latent(record.index).shape
        if other[1] != shape[1] or other[3:] != shape[3:]:
            raise ValueError(
                f"segment {record.number} of run {run.name!r} has latents {list(other)}, segment 1 "
                f"has {list(shape)}: queue the sampler to make the run of one piece"
            )
    return fps


def work_frames(run: Run, grid: FrameGrid, settings: AssemblySettings) -> int:
    """Frames that `assemble` will report: the film's, twice where colours are measured first."""
    return sum(segment_frames(run, grid)) * (2 if settings.matches_colour else 1)


def assemble(
    run: Run,
    decode: Decode,
    grid: FrameGrid,
    settings: AssemblySettings,
    fps: float,
    vae_fingerprint: str,
    output_root: Path,
    choose_file: Callable[[str], Path],
    metadata: Mapping[str, Any],
    report: Report,
) -> Film:
    """Make the film of a run, or find it made already.

    `fps` comes from `check_run`. `choose_file` gives a new path below `output_root` for a file
    extension; it is called only when a film is made. `metadata` goes into the file as core's
    SaveVideo puts it; it does not decide whether a finished film is reused. `report` is told of
    frames, `work_frames` in all. Whatever interrupts this leaves no half film.
    """
    films = _Films(run, output_root)
    rate = frame_rate(fps)
    plain = {n: value for n, value in asdict(settings).items() if n not in NOT_IN_THE_FILE}
    key = hash_json([run.content_key(), vae_fingerprint, str(rate), plain])
    finished = films.find(key)
    if finished is not None:
        report(work_frames(run, grid, settings))
        return finished
    corrections = None
    if settings.matches_colour:
        blend = settings.overlap_blend
        measured = measure_run(run, decode, grid, vae_fingerprint, blend, report)
        corrections = _corrections(run, measured, settings)
    video_format = FORMATS[settings.format]
    path = choose_file(video_format.extension)
    films.begin(path)
    meter = FilmMeter(grid)
    counts = segment_frames(run, grid)
    with VideoWriter(path, video_format, rate, settings.crf, metadata) as writer:
        for chain in run.chains:
            for part in film_parts(run, chain, decode, grid, settings.overlap_blend):
                meter.add(part)
                frames = part.frames
                if corrections is not None:
                    frames = _corrected(part, counts[part.record.index], corrections)
                writer.write(frames)
                report(frames.shape[0])
    meter.finish()
    keys = measure_keys(run, vae_fingerprint, settings.overlap_blend)
    if len(read_measures(run, keys)) < len(keys):
        write_measures(run, keys, meter.measures)
    return films.finish(key, path, writer.frames, float(rate))


def contact_frames(film: Film, count: int) -> Tensor:
    """`count` evenly spaced frames of the finished file, the first and the last among them.

    [n, h, w, 3] in 0..1; all frames where the film has fewer.
    """
    count = min(count, film.frames)
    last = film.frames - 1
    places = [0] if count == 1 else [round(i * last / (count - 1)) for i in range(count)]
    return read_frames(film.path, places)


def _corrections(
    run: Run, measured: tuple[Any, ...], settings: AssemblySettings
) -> dict[int, tuple[ColourCorrection, ...]]:
    """Per segment the corrections of the segment before, its own, and the one after it.

    The anchor of a segment is the first of its chain, which stays as it is.
    """
    contrast = settings.colour_match == "mean and contrast"
    around: dict[int, tuple[ColourCorrection, ...]] = {}
    for chain in run.chains:
        anchor = measured[chain[0].index].colour
        own = [IDENTITY] + [
            correction_to(
                measured[record.index].colour, anchor, settings.colour_match_strength, contrast
            )
            for record in chain[1:]
        ]
        for place, record in enumerate(chain):
            before, after = own[max(place - 1, 0)], own[min(place + 1, len(own) - 1)]
            around[record.index] = (before, own[place], after)
    return around


def _corrected(
    part: FilmPart, count: int, corrections: dict[int, tuple[ColourCorrection, ...]]
) -> Tensor:
    """Frames with the correction that slides from the middle of each segment to the next one's.

    A constant one per segment would show as a step at the seams; drift itself is gradual.
    """
    offsets = torch.arange(part.offset, part.offset + part.frames.shape[0], dtype=torch.float32)
    positions = (offsets + 0.5) / count + 0.5  # 1.0 in the middle of this segment
    return apply_corrections(part.frames, corrections[part.record.index], positions)


class _Films:
    """films.json: the films that were made of a run, newest last, and the one in the making."""

    def __init__(self, run: Run, output_root: Path) -> None:
        self._path = run.path / FILE_NAME
        self._root = output_root
        self._entries = self._read()

    def _read(self) -> list[dict[str, Any]]:
        """A cache: whatever is wrong with it, films are made again."""
        try:
            films = json.loads(self._path.read_text(encoding="utf-8"))["films"]
            return [entry for entry in films if self._reads(entry)]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return []

    def _reads(self, entry: dict[str, Any]) -> bool:
        """Whether an entry is one of ours: a file below the output folder, and its length."""
        inside = is_inside(self._root, self._root / entry["file"])
        numbers = isinstance(entry.get("frames"), int) and isinstance(entry.get("fps"), int | float)
        return inside and ("key" not in entry or numbers)

    def _write(self) -> None:
        data = {"version": 1, "films": self._entries[-REMEMBERED:]}
        write_atomic(self._path, json.dumps(data, indent=1).encode())

    def find(self, key: str) -> Film | None:
        """The newest film made under `key` whose file is still the one that was written."""
        for entry in reversed(self._entries):
            path = self._root / entry["file"]
            if entry.get("key") != key or not path.is_file():
                continue
            status = path.stat()
            if [status.st_size, status.st_mtime_ns] == [entry.get("size"), entry.get("mtime_ns")]:
                return Film(path=path, frames=entry["frames"], fps=entry["fps"], reused=True)
        return None

    def begin(self, path: Path) -> None:
        """Remember what is being written, and remove what a killed process left."""
        for entry in self._entries:
            if "key" not in entry:
                partial_path(self._root / entry["file"]).unlink(missing_ok=True)
        made = [entry for entry in self._entries if "key" in entry]
        self._entries = [*made, {"file": path.relative_to(self._root).as_posix()}]
        self._write()

    def finish(self, key: str, path: Path, frames: int, fps: float) -> Film:
        status = path.stat()
        self._entries[-1] |= {
            "key": key,
            "frames": frames,
            "fps": fps,
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
        }
        self._write()
        return Film(path=path, frames=frames, fps=fps, reused=False)
