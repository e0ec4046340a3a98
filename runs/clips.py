"""A playable clip of each segment, made as soon as the segment is.

    <run>/clips/0003-6f2a90c41be7.mp4    number, first digits of the segment's content

A clip shows what the segment adds to the film, so that the clips played one after the other are the
film. They are for watching while the rest is made; a film is assembled from the latents.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .film import Decode, film_parts
from .manifest import SegmentRecord
from .run import Run
from .segment_file import KEY_DIGITS
from .video_file import FORMATS, VideoWriter, frame_rate

if TYPE_CHECKING:
    from ..planning.frames import FrameGrid

CLIPS = "clips"
FORMAT = FORMATS["mp4 h264"]
CRF = 20
"""Close to what the eye tells from the frames themselves; a clip is thrown away (our choice)."""


def clip_path(run: Run, record: SegmentRecord) -> Path:
    """Where the clip of a finished segment lies, or would."""
    assert record.content is not None
    name = f"{record.number:04d}-{record.content[:KEY_DIGITS]}{FORMAT.extension}"
    return run.path / CLIPS / name


def write_clip(run: Run, index: int, decode: Decode, grid: FrameGrid) -> Path:
    """Decode segment `index` (0-based) into its clip; those of its earlier takes are deleted.

    Raises ValueError like Run.stored, and DiskFullError.
    """
    record = run.segments[index]
    path = clip_path(run, record)
    if path.is_file():
        return path
    path.parent.mkdir(exist_ok=True)
    assert run.fps is not None
    with VideoWriter(path, FORMAT, frame_rate(run.fps), CRF, {}) as writer:
        for part in film_parts(run, (record,), decode, grid, 0):
            writer.write(part.frames)
    for other in path.parent.glob(f"{record.number:04d}-*{FORMAT.extension}"):
        if other != path:
            other.unlink(missing_ok=True)
    return path
