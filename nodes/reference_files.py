"""Reference pictures that a script names: files in ComfyUI's input folder, read before sampling.

The rules, each with its error or note:

- The name stays inside the input folder, links followed; a folder, a missing file and a file that
  is no whole picture are refused.
- The size is read from the file's head, before its pixels: above REFUSED_PIXELS it is refused,
  above MOST_PIXELS the picture is reduced on load.
- Of an animated file the first frame counts, and a note says so. The camera's rotation (EXIF) is
  applied.
- Transparency stands on white. 16-bit grey becomes 8-bit; CMYK, palettes and grey become RGB.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import folder_paths
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..planning.references import check_reference_name, reference_names
from ..planning.storyboard import Storyboard

REFUSED_PIXELS = 178_956_970
"""Twice PIL's own MAX_IMAGE_PIXELS: where PIL by default refuses a file as a decompression bomb.
Kept here because packs switch PIL's limit off for the whole process."""

MOST_PIXELS = 4_194_304
"""2048 x 2048: the most that a family looks at in one reference (Flux.2 takes 2024 x 2024, design
golden-memory-and-keyframes.md, section 9.2)."""

SMALLEST_SIDE = 16
"""Pixels: one token of the supported image models; less is nothing to recall."""

BACKGROUND = (255, 255, 255)
"""Behind transparency: character sheets are cut out for white paper."""

SIXTEEN_BIT = "I"
"""PIL's modes for 16-bit grey begin with it; `convert("RGB")` clips them at 255 (Pillow's issue
3011)."""

DAMAGED = (
    OSError,
    SyntaxError,
    EOFError,
    ValueError,
    IndexError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What PIL's readers raise at a broken file."""


@dataclass(frozen=True, kw_only=True)
class References:
    """Pictures [1, height, width, 3] in 0..1 by the name as written, and notes for the artist."""

    pictures: dict[str, Tensor]
    notes: tuple[str, ...]


def read_references(storyboard: Storyboard) -> References:
    """Every picture that the script mentions. Call it before anything is sampled.

    Raises ValueError for the first that cannot be used.
    """
    read = {name: read_reference(name) for name in reference_names(storyboard)}
    return References(
        pictures={name: picture for name, (picture, _) in read.items()},
        notes=tuple(note for _, notes in read.values() for note in notes),
    )


def read_reference(name: str) -> tuple[Tensor, tuple[str, ...]]:
    """A picture of the input folder, [1, height, width, 3] in 0..1, and notes.

    Raises ValueError naming the file, the rule and what came; the rules stand above.
    """
    path = reference_path(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit holds
        try:
            opened = Image.open(path)
        except UnidentifiedImageError:
            raise ValueError(
                f"reference {name!r} must be a picture, got a file of no picture format"
            ) from None
        except Image.DecompressionBombError:
            raise _too_large(name, "more") from None
        except DAMAGED as error:
            raise _damaged(name, error) from None
        with opened:
            _check_size(opened, name)
            try:
                return _read(opened, name)
            except DAMAGED as error:
                raise _damaged(name, error) from None


def reference_path(name: str) -> Path:
    """The file of a reference, links followed. Raises ValueError for what is not inside the input
    folder, not there, or no file."""
    check_reference_name(name)
    folder = Path(folder_paths.get_input_directory()).resolve()
    try:
        path = (folder / name).resolve()
        there, is_file = path.exists(), path.is_file()
    except (OSError, RuntimeError):  # a name too long, a link to itself
        path, there, is_file = folder / name, False, False
    if not path.is_relative_to(folder):
        raise ValueError(
            f"reference {name!r} must stay inside ComfyUI's input folder, got a link out of it"
        )
    if not there:
        raise ValueError(f"reference {name!r} must be in ComfyUI's input folder, got no such file")
    if not is_file:
        raise ValueError(f"reference {name!r} must be a file, got a folder or a device")
    return path


def _too_large(name: str, got: str) -> ValueError:
    return ValueError(
        f"reference {name!r} must have at most {REFUSED_PIXELS:,} pixels, got {got}: make it "
        "smaller first"
    )


def _damaged(name: str, error: BaseException) -> ValueError:
    return ValueError(f"reference {name!r} must be a whole picture, got a damaged one: {error}")


def _check_size(picture: Image.Image, name: str) -> None:
    width, height = picture.size
    if width * height > REFUSED_PIXELS:
        raise _too_large(name, f"{width} x {height}")
    if min(width, height) < SMALLEST_SIDE:
        raise ValueError(
            f"reference {name!r} must be at least {SMALLEST_SIDE} pixels wide and high, got "
            f"{width} x {height}"
        )
    if picture.mode == "F":
        raise ValueError(
            f"reference {name!r} must have 8 or 16 bits per channel, got floating point"
        )


def _read(picture: Image.Image, name: str) -> tuple[Tensor, tuple[str, ...]]:
    notes = []
    count = getattr(picture, "n_frames", 1)
    if count > 1:
        notes.append(f"reference {name!r} holds {count} pictures; the first is used")
        picture.seek(0)
    width, height = picture.size
    if width * height > MOST_PIXELS:
        picture.draft("RGB", _reduced(width, height))  # a JPEG is decoded at a part of its size
    upright = ImageOps.exif_transpose(_in_rgb(picture))
    if width * height > MOST_PIXELS:
        upright = upright.resize(_reduced(*upright.size), Image.Resampling.LANCZOS)
        notes.append(
            f"reference {name!r} is {width} x {height} in its file; it is used at "
            f"{upright.size[0]} x {upright.size[1]}"
        )
    pixels = torch.from_numpy(np.array(upright, dtype=np.float32) / 255.0)
    return pixels.unsqueeze(0), tuple(notes)


def _reduced(width: int, height: int) -> tuple[int, int]:
    """The size with the same shape that has at most MOST_PIXELS."""
    scale = min(1.0, math.sqrt(MOST_PIXELS / (width * height)))
    return max(1, int(width * scale)), max(1, int(height * scale))


def _in_rgb(picture: Image.Image) -> Image.Image:
    """The picture as 8-bit RGB, with its EXIF; transparency stands on BACKGROUND."""
    if picture.mode.startswith(SIXTEEN_BIT):
        levels = np.asarray(picture, dtype=np.float64).clip(0, 65535) / 257.0  # 65535 = 255 x 257
        grey = Image.fromarray(levels.round().astype(np.uint8), "L")
        grey.info = picture.info
        return grey.convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    shown = picture.convert("RGBA")
    page = Image.new("RGBA", shown.size, (*BACKGROUND, 255))
    flat = Image.alpha_composite(page, shown).convert("RGB")
    flat.info = picture.info
    return flat
