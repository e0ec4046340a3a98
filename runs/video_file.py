"""A video file written frame by frame, complete under its name or not there at all.

Through PyAV, which ComfyUI itself installs and imageio's pyav plugin wraps: the plugin can set
neither crf nor a fast start nor colour tags (imageio 2.38, plugins/pyav.py, init_video_stream).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from .atomic import DISK_FULL, disk_full, replace, sync_folder

BT709 = 1
"""The value of colour primaries, transfer and matrix in ITU-T H.273; RGB is converted to and marked
as such, or players would guess by the picture's height."""

LIMITED_RANGE = 1
"""AVCOL_RANGE_MPEG: luma 16 to 235 in 8 bits, what players expect."""


RGB_FORMATS = ("bgr0", "gbrp")


@dataclass(frozen=True)
class VideoFormat:
    """One choice of the format widget."""

    extension: str
    codec: str
    pixel_format: str
    source_format: str
    uses_crf: bool = False
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def rgb(self) -> bool:
        """Whether the file keeps RGB as it is."""
        return self.pixel_format in RGB_FORMATS


# FFmpeg turns 8-bit RGB into YUV half a step too dark (measured: mean error -0.0020 in 0..1, and
# -0.0002 from 16 bits), so YUV is made from 16 bits.
FORMATS: dict[str, VideoFormat] = {
    "mp4 h264": VideoFormat(".mp4", "h264", "yuv420p", "rgb48le", uses_crf=True),
    # profile 3 is ProRes 422 HQ
    "mov prores": VideoFormat(
        ".mov", "prores_ks", "yuv422p10le", "rgb48le", options={"profile": "3", "vendor": "apl0"}
    ),
    # version 3 with a checksum per slice is what archives use (FFV1, RFC 9043)
    "mkv ffv1": VideoFormat(
        ".mkv", "ffv1", "bgr0", "rgb24", options={"level": "3", "slices": "4", "slicecrc": "1"}
    ),
}

CRF_RANGE = (0, 51)
"""x264's scale for 8 bits: 0 is lossless, 51 the worst."""


class VideoWriter:
    """Writes one video; use it with `with`. Leaving it by an exception leaves no file."""

    def __init__(
        self,
        path: Path,
        video_format: VideoFormat,
        rate: Fraction,
        crf: int,
        metadata: Mapping[str, Any],
    ) -> None:
        """`metadata` values go in as JSON text, as core's SaveVideo does. Nothing is written yet.

        The first frame decides the size.
        """
        self.path = path
        self.partial = partial_path(path)
        self.frames = 0
        self._format, self._rate, self._crf, self._metadata = video_format, rate, crf, metadata
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None:
            self._abort()
            return
        try:
            self._finish()
        except BaseException as failure:
            self._abort()
            raise self._explained(failure) from failure

    def write(self, frames: Tensor) -> None:
        """Append frames [n, h, w, 3] in 0..1. Raises ValueError for a change of size, and
        DiskFullError."""
        try:
            for frame in frames:
                self._write_one(frame)
        except OSError as failure:
            raise self._explained(failure) from failure

    def _write_one(self, frame: Tensor) -> None:
        height, width = frame.shape[:2]
        if self._stream is None:
            self._open(width, height)
        if (width, height) != (self._stream.width, self._stream.height):
            raise ValueError(
                f"all frames of a film must have one size, got {width}x{height} after "
                f"{self._stream.width}x{self._stream.height}"
            )
        picture = av.VideoFrame.from_ndarray(
            _pixels(frame, self._format.source_format), format=self._format.source_format
        )
        if not self._format.rgb:
            picture = picture.reformat(
                format=self._format.pixel_format,
                dst_colorspace=BT709,
                dst_color_range=LIMITED_RANGE,
            )
        self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def _open(self, width: int, height: int) -> None:
        check_size(self._format, width, height)
        self.partial.unlink(missing_ok=True)
        mp4 = self._format.extension in (".mp4", ".mov")
        options = {"movflags": "use_metadata_tags+faststart"} if mp4 else {}
        self._container = av.open(str(self.partial), mode="w", options=options)
        for key, value in self._metadata.items():  # before any stream, as in core
            self._container.metadata[key] = json.dumps(value)
        stream = self._container.add_stream(self._format.codec, rate=self._rate)
        stream.width, stream.height = width, height
        stream.pix_fmt = self._format.pixel_format
        crf = {"crf": str(self._crf)} if self._format.uses_crf else {}
        stream.options = {**self._format.options, **crf}
        if not self._format.rgb:
            context = stream.codec_context
            context.color_primaries = context.color_trc = context.colorspace = BT709
            context.color_range = LIMITED_RANGE
        self._stream = stream

    def _finish(self) -> None:
        if self._stream is None:
            raise ValueError("a film must have at least one frame, got none")
        self._container.mux(self._stream.encode(None))
        self._container.close()
        replace(self.partial, self.path)
        sync_folder(self.path.parent)

    def _abort(self) -> None:
        if self._container is not None:
            try:
                self._container.close()
            except OSError:  # a full disk also refuses the end of the file, which goes now
                pass
        self.partial.unlink(missing_ok=True)

    def _explained(self, failure: BaseException) -> BaseException:
        if isinstance(failure, OSError) and failure.errno in DISK_FULL:
            written = self.partial.stat().st_size if self.partial.exists() else 0
            return disk_full(self.path, written + 1)
        return failure


def partial_path(path: Path) -> Path:
    """Where a film is written before it has its name."""
    return path.with_name(f".{path.stem}.partial{path.suffix}")


def check_size(video_format: VideoFormat, width: int, height: int) -> None:
    """Raise ValueError for a picture size that the format cannot hold."""
    across, down = {"yuv420p": (2, 2), "yuv422p10le": (2, 1)}.get(video_format.pixel_format, (1, 1))
    if width % across or height % down:
        raise ValueError(
            f"{video_format.codec} takes pictures of even width and height only, got "
            f"{width}x{height}: choose 'mkv ffv1'"
        )


def frame_rate(fps: float) -> Fraction:
    """Frames per second as core writes them: to a thousandth."""
    return Fraction(round(fps * 1000), 1000)


def read_frames(path: Path, places: Sequence[int]) -> Tensor:
    """The frames at `places` (frame numbers from 0) of a finished file, [n, h, w, 3] in 0..1.

    Decodes from the key frame before each. Raises ValueError when a frame is not there.
    """
    with av.open(str(path)) as container:
        found = [_read_frame(container, place) for place in places]
    for place, frame in zip(places, found, strict=True):
        if frame is None:
            raise ValueError(f"{path.name} has no frame {place + 1}: it is not whole")
    return torch.stack([frame for frame in found if frame is not None])


def _read_frame(container: Any, place: int) -> Tensor | None:
    stream = container.streams.video[0]
    container.seek(int(place / (stream.average_rate * stream.time_base)), stream=stream)
    for frame in container.decode(stream):
        number = round(frame.pts * stream.time_base * stream.average_rate)
        if number == place:
            if frame.format.name in RGB_FORMATS:
                return torch.from_numpy(frame.to_ndarray(format="rgb24").astype(np.float32) / 255.0)
            pixels = frame.to_ndarray(format="gbrp16le").astype(np.float32)
            return torch.from_numpy(pixels / 65535.0)
        if number > place:
            break
    return None


def _pixels(frame: Tensor, source_format: str) -> np.ndarray:
    """A frame [h, w, 3] in 0..1 as whole numbers, rounded to the nearest."""
    largest, kind = (65535, np.uint16) if source_format == "rgb48le" else (255, np.uint8)
    scaled = frame.clamp(0.0, 1.0).double() * largest + 0.5
    return np.ascontiguousarray(scaled.numpy().astype(kind))
