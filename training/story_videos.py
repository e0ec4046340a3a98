"""Videos with timed captions, encoded once into the stories that `memory_data` reads.

A video is cut into segments of one length and size, and runs of segments into stories. Beside each
video lies a file of the same name with its captions, `.json` or `.txt`:

    {"captions": [{"time": 0.0, "caption": "a harbour at dawn"}, {"time": 4.5, "caption": "..."}]}

    [0:00] a harbour at dawn
    [0:04.5] a woman in a red coat steps off the boat

A `.txt` without times is one caption for the whole video. Encoding goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..memory.rates import Grid, Rate, cell_frames, memory_grid
from .checkpoints import write_tensors
from .libraries import library

VIDEO_ENDINGS = (".mp4", ".mkv", ".mov", ".webm", ".avi")
COMMON_FILE = "common.safetensors"
"""What all stories of a folder share: `empty_text` n d and `grey` c t h w."""

TIMED_LINE = re.compile(r"\[(?:(\d+):)?(?:(\d+):)?(\d+(?:\.\d+)?)\]\s*(.+)")


class Codec(Protocol):
    """What turns pictures and words into what the video model reads (`pretrained.WanCodec`)."""

    text_tokens: int

    @property
    def spatial_stride(self) -> int: ...

    @property
    def temporal_stride(self) -> int: ...

    def latents(self, clip: Tensor) -> Tensor: ...

    def text(self, captions: list[str]) -> Tensor: ...


@dataclass(frozen=True)
class CutSettings:
    """How videos are cut: `frames` of a segment (4 n + 1), `segments` of a story."""

    frames: int = 21
    segments: int = 14
    height: int = 480
    width: int = 832
    fps: float = 16.0
    rates: tuple[str, ...] = ("2x2x2", "4x4x2")
    patch: tuple[int, int] = (2, 2)

    def check(self, codec: Codec) -> None:
        """Raises ValueError for what the VAE and the patches cannot divide."""
        stride = codec.temporal_stride
        if self.frames < 1 or (self.frames - 1) % stride:
            raise ValueError(f"a segment has {stride}n+1 frames, got {self.frames}")
        for name, size, patch in zip(
            ("height", "width"), (self.height, self.width), self.patch, strict=True
        ):
            unit = codec.spatial_stride * patch
            if size < 1 or size % unit:
                raise ValueError(f"the {name} must be a multiple of {unit}, got {size}")


@dataclass(frozen=True)
class TimedCaption:
    """A caption and the second at which it begins to hold."""

    time: float
    caption: str


def read_captions(video: Path) -> tuple[TimedCaption, ...]:
    """Captions beside a video, in the order of time. Raises ValueError when there are none."""
    for ending, read in ((".json", _captions_of_json), (".txt", _captions_of_text)):
        path = video.with_suffix(ending)
        if path.is_file():
            found = read(path.read_text(encoding="utf-8"))
            if not found:
                raise ValueError(f"{path} holds no captions")
            return tuple(sorted(found, key=lambda each: each.time))
    raise ValueError(f"{video} has no captions: {video.stem}.json or {video.stem}.txt is missing")


def _captions_of_json(text: str) -> list[TimedCaption]:
    value = json.loads(text)
    entries = value.get("captions", value.get("caption")) if isinstance(value, dict) else value
    if isinstance(entries, str):
        return [TimedCaption(0.0, entries)]
    try:
        return [TimedCaption(float(each["time"]), str(each["caption"])) for each in entries or ()]
    except (KeyError, TypeError) as error:
        raise ValueError(
            'captions read like [{"time": 0.0, "caption": "..."}, ...], got ' + text[:80]
        ) from error


def _captions_of_text(text: str) -> list[TimedCaption]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    matches = [TIMED_LINE.fullmatch(line) for line in lines]
    if not any(matches):
        return [TimedCaption(0.0, " ".join(lines))] if lines else []
    found = []
    for line, match in zip(lines, matches, strict=True):
        if match is None:
            raise ValueError(f"either all lines have a time like [0:04.5] or none has, got {line}")
        first, second, seconds, caption = match.groups()
        hours, minutes = (first, second) if second is not None else (0, first or 0)
        time = 3600 * float(hours) + 60 * float(minutes) + float(seconds)
        found.append(TimedCaption(time, caption))
    return found


def caption_at(captions: Sequence[TimedCaption], time: float) -> str:
    """The caption that holds at `time`: the last to begin until then, else the first."""
    begun = [each.caption for each in captions if each.time <= time]
    return begun[-1] if begun else captions[0].caption


def read_segments(video: Path, settings: CutSettings) -> Iterator[Tensor]:
    """Whole segments `frames height width 3` of a video, uint8; a rest is left away.

    Frames are picked at the settings' rate, scaled to cover the size and cut around the middle.
    """
    iio = library("imageio.v3")
    own_rate = float(iio.immeta(video, plugin="pyav")["fps"])
    held: list[Tensor] = []
    wanted = 0
    for index, frame in enumerate(iio.imiter(video, plugin="pyav")):
        # the frame that shows at a moment; of a video slower than the settings more than once
        while math.floor(wanted * own_rate / settings.fps + 1e-6) <= index:
            held.append(fit_picture(frame, settings.height, settings.width))
            wanted += 1
            if len(held) == settings.frames:
                yield torch.stack(held)
                held = []


def fit_picture(frame: np.ndarray, height: int, width: int) -> Tensor:
    """A picture `h w 3` scaled to cover `height` x `width` and cut around its middle, uint8."""
    picture = torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float()
    scale = max(height / picture.shape[2], width / picture.shape[3])
    size = [
        max(n, round(scale * m)) for n, m in zip((height, width), picture.shape[2:], strict=True)
    ]
    if size != list(picture.shape[2:]):
        picture = F.interpolate(picture, size=size, mode="bilinear", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    picture = picture[0, :, top : top + height, left : left + width]
    return picture.permute(1, 2, 0).round().clamp(0, 255).byte()


def low_pictures(clip: Tensor, rate: Rate, codec: Codec, patch: tuple[int, int]) -> Tensor:
    """Latents `1 c cells h w` of one small picture per cell of a clip `1 3 t h w` in -1..1.

    A picture is as many times smaller as the rate says; sides that do not fill a cell are padded by
    their edge, as the encoder pads latents, so that both branches see the same place.
    """
    latent_frames = (clip.shape[2] - 1) // codec.temporal_stride + 1
    frames = clip[0, :, list(cell_frames(latent_frames, rate.time, codec.temporal_stride))]
    unit = [codec.spatial_stride * each for each in patch]
    tokens = Grid(1, clip.shape[3] // unit[0], clip.shape[4] // unit[1])
    cells = memory_grid(tokens, rate, "ceil")
    small = (cells.height * unit[0], cells.width * unit[1])
    missing = (small[0] * rate.height - clip.shape[3], small[1] * rate.width - clip.shape[4])
    frames = F.pad(frames.transpose(0, 1), (0, missing[1], 0, missing[0]), mode="replicate")
    pictures = F.interpolate(frames, size=small, mode="area")
    return torch.cat([codec.latents(each[None, :, None]) for each in pictures], dim=2)


def encode_segment(codec: Codec, frames: Tensor, settings: CutSettings) -> dict[str, Tensor]:
    """`latents` c t h w and `low.RATE` c cells h w of a segment `t h w 3` in uint8."""
    clip = frames.permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0
    encoded = {"latents": codec.latents(clip)[0].half()}
    for rate in settings.rates:
        low = low_pictures(clip, Rate.parse(rate), codec, settings.patch)
        encoded[f"low.{rate}"] = low[0].half()
    return encoded


def encode_video(
    codec: Codec, video: Path, folder: Path, number: int, settings: CutSettings
) -> int:
    """Write the stories of a video that the folder lacks; returns how many it has."""
    captions = read_captions(video)
    metadata = {"settings": _described(settings), "text_tokens": str(codec.text_tokens)}
    held: list[dict[str, Tensor]] = []
    texts: list[str] = []
    stories = 0
    for index, frames in enumerate(read_segments(video, settings)):
        path = folder / f"story_{number:05d}_{stories:03d}.safetensors"
        if not path.exists():
            held.append(encode_segment(codec, frames, settings))
        middle = (index + 0.5) * settings.frames / settings.fps
        texts.append(caption_at(captions, middle))
        if len(texts) == settings.segments:
            if not path.exists():
                tensors = {name: torch.stack([each[name] for each in held]) for name in held[0]}
                tensors["text"] = codec.text(texts).half()
                written = {**metadata, "captions": json.dumps(texts), "video": video.name}
                write_tensors(path, tensors, written)
            held, texts, stories = [], [], stories + 1
    return stories


def encode_videos(
    make_codec: Callable[[], Codec],
    videos: Path,
    folder: Path,
    settings: CutSettings,
    process: int = 0,
    processes: int = 1,
) -> None:
    """Encode every video of a folder that is not encoded yet; of several processes each takes its
    share. The codec is made when there is something to encode: it may be large.

    Raises ValueError when there are no videos, when the settings do not divide, or when the folder
    was made with other settings.
    """
    codec: Codec | None = None
    paths = sorted(path for path in videos.glob("*") if path.suffix.lower() in VIDEO_ENDINGS)
    if not paths:
        raise ValueError(f"{videos} holds no videos ({', '.join(VIDEO_ENDINGS)})")
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        if number % processes != process:
            continue
        marker = folder / f"video_{number:05d}.json"
        wanted: dict[str, Any] = {"video": path.name, "settings": json.loads(_described(settings))}
        if marker.is_file():
            made = json.loads(marker.read_text(encoding="utf-8"))
            stories = made.pop("stories")
            if made != wanted:
                raise ValueError(
                    f"{folder} was encoded from {made}, this is {wanted}: give another --stories"
                )
        else:
            codec = codec or _checked(make_codec(), settings)
            stories = encode_video(codec, path, folder, number, settings)
            partial = marker.with_suffix(".partial")
            partial.write_text(json.dumps({**wanted, "stories": stories}), encoding="utf-8")
            partial.replace(marker)
        print(f"{path.name}: {stories} stories", flush=True)
    if process == 0 and not (folder / COMMON_FILE).exists():
        write_common(codec or _checked(make_codec(), settings), folder, settings)


def _checked(codec: Codec, settings: CutSettings) -> Codec:
    settings.check(codec)
    return codec


def write_common(codec: Codec, folder: Path, settings: CutSettings) -> None:
    """The text states of no caption, and grey as an I2V model's unknown frames hold it."""
    grey = torch.zeros(1, 3, settings.frames, settings.height, settings.width)
    text = codec.text([""])[0]
    empty = F.pad(text, (0, 0, 0, codec.text_tokens - len(text)))
    tensors = {"grey": codec.latents(grey)[0], "empty_text": empty}
    write_tensors(folder / COMMON_FILE, tensors, {"settings": _described(settings)})


def _described(settings: CutSettings) -> str:
    return json.dumps(asdict(settings))
