"""Measures of a run's segments (memory/drift.py), kept in the run folder beside the segments.

They are taken while a film is decoded, whoever decodes it first, and read by who comes later:
measures.json, {"version": 2, "measures": {key: SegmentMeasures}}. The key covers the VAE and every
latent that reaches the segment's frames. The file is a cache: whatever is wrong with it, the
measures are taken again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..memory.colour import ColourStatistics
from ..memory.drift import SegmentMeasures, SegmentMeter
from .atomic import write_atomic
from .film import Decode, FilmPart, film_parts
from .keys import hash_json

if TYPE_CHECKING:
    from ..planning.frames import FrameGrid
    from .run import Run

FILE_NAME = "measures.json"
VERSION = 2
KEPT = 4000
"""Entries kept besides those of the present film; each is some 600 bytes."""

Report = Callable[[int], None]
"""Told how many more frames were dealt with."""


def measure_keys(run: Run, vae_fingerprint: str, overlap_blend: int) -> tuple[str, ...]:
    """The key of each segment's measures: the VAE and all latents of its chain up to it.

    With a blend the latents of the next segment reach into this one, so they count too.
    """
    keys: list[str] = []
    for chain in run.chains:
        contents = [(record.content, record.known_latent_frames) for record in chain]
        for position in range(len(chain)):
            until = position + 1 + (1 if overlap_blend else 0)
            keys.append(hash_json([VERSION, vae_fingerprint, overlap_blend, contents[:until]]))
    return tuple(keys)


def read_measures(run: Run, keys: tuple[str, ...]) -> dict[int, SegmentMeasures]:
    """The measures that are known already, by segment index."""
    known = _read_file(run.path)
    found = {}
    for index, key in enumerate(keys):
        try:
            found[index] = _from_json(known[key])
        except (KeyError, TypeError, ValueError):
            continue  # not measured yet, or not readable: measured again
    return found


def write_measures(
    run: Run, keys: tuple[str, ...], measures: Mapping[int, SegmentMeasures]
) -> None:
    """Add measures by segment index to the run folder's cache."""
    known = _read_file(run.path)
    new = {keys[index]: asdict(value) for index, value in measures.items()}
    others = [(key, value) for key, value in known.items() if key not in keys][-KEPT:]
    kept = {key: value for key, value in known.items() if key in keys}
    data = {"version": VERSION, "measures": {**dict(others), **kept, **new}}
    write_atomic(run.path / FILE_NAME, json.dumps(data, allow_nan=False).encode())


class FilmMeter:
    """Measures every segment of a film whose parts pass by in order."""

    def __init__(self, grid: FrameGrid) -> None:
        self._grid = grid
        self.measures: dict[int, SegmentMeasures] = {}
        self._index: int | None = None
        self._meter = SegmentMeter()

    def add(self, part: FilmPart) -> None:
        """Take the next part; its frames are not changed."""
        if part.record.index != self._index:
            self.finish()
            tail = part.record.start == "tail"
            before: Tensor | None = self._meter.last if tail else None
            self._index = part.record.index
            lone_frames = 0 if tail else 1
            self._meter = SegmentMeter(before, self._grid.frames_per_latent, lone_frames)
        self._meter.add(part.frames)

    def finish(self) -> None:
        """Close the segment in hand."""
        if self._index is not None:
            self.measures[self._index] = self._meter.measures()


def measure_run(
    run: Run,
    decode: Decode,
    grid: FrameGrid,
    vae_fingerprint: str,
    overlap_blend: int,
    report: Report,
) -> tuple[SegmentMeasures, ...]:
    """The measures of all segments; chains that are not measured yet are decoded, streamed."""
    keys = measure_keys(run, vae_fingerprint, overlap_blend)
    measures = read_measures(run, keys)
    for chain in run.chains:
        if all(record.index in measures for record in chain):
            report(sum(measures[record.index].frames for record in chain))
            continue
        meter = FilmMeter(grid)
        for part in film_parts(run, chain, decode, grid, overlap_blend):
            meter.add(part)
            report(part.frames.shape[0])
        meter.finish()
        measures |= meter.measures
        write_measures(run, keys, meter.measures)
    return tuple(measures[index] for index in range(len(run.segments)))


def _read_file(folder: Path) -> dict[str, Any]:
    try:
        data = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(data, dict) or data.get("version") != VERSION:
        return {}
    measures = data.get("measures")
    return measures if isinstance(measures, dict) else {}


def _from_json(entry: Mapping[str, Any]) -> SegmentMeasures:
    colour = entry["colour"]
    mean, std = (tuple(float(x) for x in colour[name]) for name in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3:
        raise ValueError("colour statistics have three channels")
    plain = {
        name: None if entry[name] is None else float(entry[name])
        for name in ("motion", "median_step", "entry_step")
    }
    return SegmentMeasures(
        frames=int(entry["frames"]),
        luma=float(entry["luma"]),
        chroma=float(entry["chroma"]),
        contrast=float(entry["contrast"]),
        texture=float(entry["texture"]),
        colour=ColourStatistics((mean[0], mean[1], mean[2]), (std[0], std[1], std[2])),
        **plain,
    )
