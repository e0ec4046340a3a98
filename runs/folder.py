"""The run folder as its one writer sees it: what is there, what is to be made, and making it safe.

    <root>/<run name>/manifest.json
                      segments/0001-3f9c0d7a11b2.safetensors    number, first digits of the key
                      previews/0001.jpg                          of the take that is in the film
                      .lock

A segment is on disk, whole, before the manifest says so, and the manifest is replaced whole; so a
process killed at any instant leaves a run that opens, with every finished segment in it. Files are
found by key: an earlier take comes back for free, and a segment made from other parameters has
another key and can never be taken for this one.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import filelock
import torch
from torch import Tensor

from .atomic import DISK_FULL, disk_full, remove_temporaries, write_atomic
from .keys import canonical, segment_keys
from .manifest import FILE_NAME, Manifest, SegmentRecord, manifest_to_json
from .opening import manifest_before, take_lock
from .paths import run_path
from .planned import RunPlan
from .run import PREVIEWS, SEGMENTS, Run
from .segment_file import StoredSegment, read_segment_file, write_segment_file
from .states import SegmentState, recalled_content

if TYPE_CHECKING:
    from ..planning.segments import Segment

KEPT_TAKES = 3
"""Earlier takes kept per segment, the newest first. A choice: a 720p segment of 81 frames is 19 MB,
so a minute of film keeps some 0.7 GB of takes at most."""


def plan_run(
    root: Path, name: str, parameters: Mapping[str, Any], segments: Sequence["Segment"]
) -> tuple[SegmentState, ...]:
    """What opening and making this run would reuse and make again. Reads only, takes no lock.

    Raises ValueError like RunFolder.open.
    """
    return read_plan(root, name, parameters, segments).states()


def read_plan(
    root: Path, name: str, parameters: Mapping[str, Any], segments: Sequence["Segment"]
) -> RunPlan:
    """The plan of a run and what is on disk of it. Reads only, takes no lock.

    Raises ValueError like RunFolder.open.
    """
    path = run_path(root, name)
    plain = canonical(parameters)
    return RunPlan(path, plain, segments, manifest_before(path, plain))


class RunFolder:
    """A run folder held by its only writer, from `open` to `close`; use it with `with`."""

    def __init__(
        self,
        path: Path,
        lock: filelock.BaseFileLock,
        before: Manifest | None,
        parameters: Mapping[str, Any],
        segments: tuple["Segment", ...],
        fps: float | None,
        pack_version: str,
        kept_takes: int,
        clock: Callable[[], float],
    ) -> None:
        """Not for callers: RunFolder.open checks what this takes for granted."""
        self.path = path
        self._lock, self._before, self._clock = lock, before, clock
        self._fps, self._pack_version = fps, pack_version
        self._kept_takes = kept_takes
        self._plan = RunPlan(path, parameters, segments, before)
        self._created = before.created if before else _utc(clock())

    @classmethod
    def open(
        cls,
        root: Path,
        name: str,
        parameters: Mapping[str, Any],
        segments: Sequence["Segment"],
        *,
        fps: float | None = None,
        pack_version: str = "",
        kept_takes: int = KEPT_TAKES,
        clock: Callable[[], float] = time.time,
    ) -> "RunFolder":
        """Open the run `name` below `root` for writing, or make it.

        `parameters` are JSON data: everything that affects pixels. Its entry "starts" is special,
        see keys.STARTS. `fps` defaults to the parameter of that name. Other parameters than last
        time are fine: the keys decide what is reused. Raises ValueError, leaving everything as it
        is, for a bad name, no segments, a folder that is not a run, a malformed manifest or one of
        a newer version, and a run that another process is writing.
        """
        path = run_path(root, name)
        plain = canonical(parameters)
        if not segments:
            raise ValueError(f"run {name!r} needs at least one segment, got none")
        rate = plain.get("fps") if fps is None else fps
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise ValueError(f"fps of run {name!r} must be above 0, got {rate}")
        segment_keys(plain, segments)
        manifest_before(path, plain)
        lock = take_lock(path, name)
        try:
            folder = cls(
                path,
                lock,
                manifest_before(path, plain),
                plain,
                tuple(segments),
                rate,
                pack_version,
                kept_takes,
                clock,
            )
            folder._settle()
        except BaseException:
            lock.release()
            raise
        return folder

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the lock. Everything is on disk already."""
        self._lock.release()

    @property
    def name(self) -> str:
        return self.path.name

    def state(self) -> tuple[SegmentState, ...]:
        """What is reused and what is to be made, and why. Changes with every write."""
        return self._plan.states()

    @property
    def segments(self) -> tuple["Segment", ...]:
        return self._plan.segments

    def replan(self, segment: "Segment") -> None:
        """Another plan for the segment at its index, decided now that its turn has come.

        What is on disk under the new plan is found again, preview and manifest with it.
        """
        changed = self._plan.replan(segment)
        if changed:
            self._settle_previews(changed)
            self._write_manifest()

    def follow(self, index: int, planned: Sequence[Any]) -> None:
        """Say what of a plan segment `index` (0-based) follows, where the plan was made after this
        run was opened (keys.PLANNED). What is on disk for it is found again."""
        changed = self._plan.follow(index, planned)
        if changed:
            self._settle_previews(changed)
            self._write_manifest()

    def read_segment(self, index: int) -> Tensor:
        """The latent of segment `index` (0-based), [1, c, t, h, w] float32, verified.

        Raises ValueError when it is not on disk as planned, or no longer whole.
        """
        return Run(self.path, self._manifest()).latent(index)

    def write_segment(
        self,
        index: int,
        latent: Tensor,
        statistics: Mapping[str, Any],
        seconds: float,
        preview_jpeg: bytes | None = None,
    ) -> SegmentRecord:
        """Put segment `index` (0-based) on disk: file, preview, manifest, each atomically.

        `latent` is [1, c, t, h, w] with the known latent frames, any floating type and device; it
        is kept as float32. `seconds` is what the sampler took. Raises ValueError for another shape,
        values that are not finite, and a segment whose parent is not on disk; DiskFullError when
        there is no room, with everything finished earlier intact.
        """
        segment = self.segments[index]
        plain = _checked(latent, segment, self.name)
        parent = self._plan.found[index - 1] if segment.start == "tail" else None
        if segment.start == "tail" and not isinstance(parent, StoredSegment):
            raise ValueError(
                f"segment {index + 1} of run {self.name!r} continues segment {index}, which is not "
                "on disk"
            )
        recalled = recalled_content(segment, self._plan.found)
        if segment.looks_back_at and recalled is None:
            raise ValueError(
                f"segment {index + 1} of run {self.name!r} remembers segments that are not on disk"
            )
        stored = write_segment_file(
            self.path / SEGMENTS,
            index,
            plain,
            preview_jpeg,
            key=self._plan.keys[index],
            parent_content=parent.content if isinstance(parent, StoredSegment) else None,
            statistics=statistics,
            seconds=seconds,
            finished_at=_utc(self._clock()),
            recalled_content=recalled,
        )
        self._plan.found[index] = stored
        self._write_preview(index, preview_jpeg)
        self._prune(index)
        return self._write_manifest().segments[index]

    @property
    def run(self) -> Run:
        """The run as it is now, for the graph (TL_RUN)."""
        return Run(self.path, self._manifest())

    def _settle(self) -> None:
        """Bring the folder to the plan: no leftovers of a killed process, previews, manifest."""
        for folder in (self.path, self.path / SEGMENTS, self.path / PREVIEWS):
            try:
                folder.mkdir(exist_ok=True)
            except OSError as error:
                if error.errno in DISK_FULL:
                    raise disk_full(folder, 4096) from error
                raise
            remove_temporaries(folder)
        self._settle_previews(range(len(self.segments)))
        self._write_manifest()

    def _settle_previews(self, indices: Iterable[int]) -> None:
        """Each segment on disk shows its own picture: another take of it may have been the last."""
        for index in indices:
            stored = self._plan.found[index]
            if isinstance(stored, StoredSegment) and not self._preview_is_current(index):
                _, _, preview = read_segment_file(self.path / SEGMENTS / stored.file)
                self._write_preview(index, preview)

    def _preview_is_current(self, index: int) -> bool:
        """The manifest is written after the preview, so its key says whose preview it is. A power
        cut may leave an empty file."""
        if self._before is None or index >= len(self._before.segments):
            return False
        record = self._before.segments[index]
        same = record.finished and record.key == self._plan.keys[index]
        if not same or record.preview is None:
            return same
        preview = self.path / record.preview
        return preview.is_file() and preview.stat().st_size > 0

    def _write_preview(self, index: int, preview: bytes | None) -> None:
        path = self.path / PREVIEWS / _preview_name(index)
        if preview:
            write_atomic(path, preview, durable=False)  # the segment's file has it, too
        else:
            path.unlink(missing_ok=True)

    def _prune(self, index: int) -> None:
        """Keep the newest `kept_takes` files of segment `index` that are not part of the film."""
        folder = self.path / SEGMENTS
        used = self._used_files()
        takes = [p for p in folder.glob(f"{index + 1:04d}-*.safetensors") if p.name not in used]
        takes.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in takes[self._kept_takes :]:
            path.unlink(missing_ok=True)

    def _used_files(self) -> set[str]:
        return {stored.file for stored in self._plan.found if isinstance(stored, StoredSegment)}

    def _record(self, index: int, reused: bool) -> SegmentRecord:
        """A segment that waits for its parent is not finished, whatever lies in its file."""
        segment, stored = self.segments[index], self._plan.found[index]
        planned: dict[str, Any] = {
            field: getattr(segment, field)
            for field in (
                "index shot shot_id chain start latent_frames known_latent_frames prompt negative "
                "seed take"
            ).split()
        }
        if not reused or not isinstance(stored, StoredSegment):
            return SegmentRecord(**planned, key=self._plan.keys[index])
        preview = f"{PREVIEWS}/{_preview_name(index)}"
        return SegmentRecord(
            **planned,
            key=self._plan.keys[index],
            content=stored.content,
            parent_content=stored.parent_content,
            statistics=stored.statistics,
            seconds=stored.seconds,
            finished_at=stored.finished_at,
            file=f"{SEGMENTS}/{stored.file}",
            preview=preview if (self.path / preview).is_file() else None,
        )

    def _manifest(self) -> Manifest:
        files = (self.path / SEGMENTS).glob("*.safetensors")
        unused = sorted(path.name for path in files if path.name not in self._used_files())
        return Manifest(
            name=self.name,
            pack_version=self._pack_version,
            created=self._created,
            fps=self._fps,
            parameters=self._plan.parameters,
            segments=tuple(self._record(s.index, not s.needs_render) for s in self.state()),
            unused=tuple(f"{SEGMENTS}/{name}" for name in unused),
        )

    def _write_manifest(self) -> Manifest:
        manifest = self._manifest()
        write_atomic(self.path / FILE_NAME, manifest_to_json(manifest).encode())
        return manifest


def _checked(latent: Tensor, segment: "Segment", name: str) -> Tensor:
    """The latent as contiguous float32 on the CPU, refused when it is not what was planned."""
    where = f"segment {segment.index + 1} of run {name!r}"
    expected = segment.latent_frames
    if latent.ndim != 5 or latent.shape[0] != 1 or latent.shape[2] != expected:
        raise ValueError(
            f"{where} must be [1, channels, {expected}, height, width], got {list(latent.shape)}"
        )
    plain = latent.detach().to("cpu", torch.float32).contiguous()
    if not bool(torch.isfinite(plain).all()):
        raise ValueError(f"{where} came out with NaN or infinite values and was not kept")
    return plain


def _preview_name(index: int) -> str:
    return f"{index + 1:04d}.jpg"


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
