"""A run as the graph sees it (TL_RUN): a snapshot of the manifest, latents read from disk."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .keys import hash_json
from .manifest import Manifest, SegmentRecord, read_manifest
from .segment_file import DamagedSegmentError, StoredSegment, read_segment_file

SEGMENTS = "segments"
PREVIEWS = "previews"


@dataclass(frozen=True)
class Run:
    """A run folder at one moment. Holds no latents: each is read from disk when asked for."""

    path: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def fps(self) -> float | None:
        """Frames per second of the film, None where the run does not say."""
        return self.manifest.fps

    @property
    def segments(self) -> tuple[SegmentRecord, ...]:
        return self.manifest.segments

    @property
    def unfinished(self) -> tuple[int, ...]:
        """Numbers (1-based) of the planned segments that are not finished."""
        return tuple(record.number for record in self.segments if not record.finished)

    @property
    def chains(self) -> tuple[tuple[SegmentRecord, ...], ...]:
        """The segments by chain: each but the first of a chain continues the one before it."""
        chains: list[list[SegmentRecord]] = []
        for record in self.segments:
            if not record.continues:
                chains.append([])
            chains[-1].append(record)
        return tuple(tuple(chain) for chain in chains)

    def require_finished(self) -> None:
        """Raise ValueError naming the run and the segments that are missing, if any are."""
        if not self.segments:
            raise ValueError(f"run {self.name!r} has no segments")
        if self.unfinished:
            numbers = ", ".join(map(str, self.unfinished[:10]))
            more = f" and {len(self.unfinished) - 10} more" if len(self.unfinished) > 10 else ""
            raise ValueError(
                f"run {self.name!r} is not finished: {len(self.unfinished)} of "
                f"{len(self.segments)} segments are missing ({numbers}{more}). Queue its sampler"
            )

    def stored(self, index: int) -> tuple[StoredSegment, Tensor, bytes | None]:
        """Read segment `index` (0-based) from disk: what its file says, its latent, its preview.

        Raises ValueError naming run and segment when it is unfinished, gone, damaged, or no longer
        what this snapshot says.
        """
        if not 0 <= index < len(self.segments):
            raise ValueError(
                f"run {self.name!r} has segments 1 to {len(self.segments)}, got {index + 1}"
            )
        record = self.segments[index]
        where = f"segment {record.number} of run {self.name!r}"
        if record.file is None:
            raise ValueError(f"{where} is not finished. Queue its sampler")
        try:
            stored, latent, preview = read_segment_file(self.path / record.file)
        except FileNotFoundError as error:
            raise ValueError(f"{where} is gone from {self.path}. Queue its sampler") from error
        except DamagedSegmentError as error:
            raise ValueError(
                f"{where} is damaged: {error}. Queue its sampler, it will be made again"
            ) from error
        if (stored.key, stored.content) != (record.key, record.content):
            raise ValueError(f"{where} has been made again since. Queue the sampler")
        return stored, latent, preview

    def latent(self, index: int) -> Tensor:
        """The whole latent of segment `index` (0-based): [1, c, t, h, w] float32, verified."""
        return self.stored(index)[1]

    def content_key(self) -> str:
        """One hash over the finished segments and how they are joined: equal means same film."""
        return hash_json(
            [[record.content, record.start, record.known_latent_frames] for record in self.segments]
        )


def open_run(path: Path) -> Run:
    """Open a run folder for reading, without its lock.

    Raises ValueError when it is not a run, is malformed, or of a newer version.
    """
    return Run(path, read_manifest(path))


def list_runs(root: Path) -> tuple[Run, ...]:
    """The runs below `root` by name; folders that are no runs, or cannot be read, are left out."""
    runs = []
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        try:
            runs.append(open_run(path))
        except ValueError:
            continue  # a list of runs leaves out what is none; open_run says why to who asks
    return tuple(runs)
