"""Films of keyframes with captions, encoded once for the interleaved training.

A film is a folder of pictures in the order of their names, each with its caption in a text file of
the same name:

    films/the_last_diner/001.png  001.txt  002.png  002.txt ...

Encoded it is one file: `latents` n c h w in the model's input space, `text` n l d and `pooled` n d.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from .checkpoints import write_tensors
from .interleaved_plan import StepPlan
from .libraries import library
from .story_videos import fit_picture

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class KeyframeCodec(Protocol):
    """What turns pictures and captions into what the image model reads (`pretrained.FluxCodec`)."""

    @property
    def unit(self) -> int:
        """Pixels along a side of one token."""
        ...

    def latents(self, pictures: Tensor) -> Tensor:
        """Latents `n c h w` of pictures `n 3 height width` in -1..1, on the CPU."""
        ...

    def text(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Text states `n l d`, all of one length, and pooled ones `n d`, on the CPU."""
        ...


@dataclass(frozen=True)
class PictureSize:
    """Size that pictures are cut to around their middle; the paper's is 400 x 800 (section 5.1)."""

    height: int = 400
    width: int = 800

    def check(self, unit: int) -> None:
        """Raises ValueError for sides that tokens do not divide."""
        for name, side in (("height", self.height), ("width", self.width)):
            if side < unit or side % unit:
                raise ValueError(f"the {name} must be a multiple of {unit}, got {side}")


class KeyframeFilms:
    """Encoded films of a folder; each step reads what it needs from the files."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError for a folder without films, and for films that differ in shape."""
        self.paths = tuple(sorted(folder.glob("film_*.safetensors")))
        if not self.paths:
            raise ValueError(f"{folder} holds no encoded films")
        shapes = [self._shapes(path) for path in self.paths]
        self.lengths = tuple(int(latents[0]) for latents, _, _ in shapes)
        kinds = {(latents[1:], text[1:], pooled[1:]) for latents, text, pooled in shapes}
        if len(kinds) > 1:
            raise ValueError(f"{folder} holds films of several shapes: {sorted(kinds)[:2]}")
        self.latent_shape, self.text_shape, self.pooled_shape = kinds.pop()

    @staticmethod
    def _shapes(path: Path) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        with safe_open(path, "pt") as file:
            found = [
                tuple(file.get_slice(name).get_shape()) for name in ("latents", "text", "pooled")
            ]
        return found[0], found[1], found[2]

    def read(self, plan: StepPlan) -> tuple[Tensor, Tensor, Tensor]:
        """Latents `f p c h w`, text `f p l d` and pooled `f p d` of a step, float32."""
        parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for film, keyframes in zip(plan.films, plan.keyframes, strict=True):
            with safe_open(self.paths[film], "pt") as file:
                for part, name in zip(parts, ("latents", "text", "pooled"), strict=True):
                    whole = file.get_slice(name)
                    part.append(torch.cat([whole[k : k + 1] for k in keyframes]).float())
        latents, text, pooled = (torch.stack(part) for part in parts)
        return latents, text, pooled


def write_film(
    path: Path, codec: KeyframeCodec, pictures: Sequence[Tensor], captions: Sequence[str]
) -> None:
    """Encode pictures `height width 3` in uint8 with their captions into one file."""
    latents = [
        codec.latents(picture.permute(2, 0, 1)[None].float() / 127.5 - 1.0) for picture in pictures
    ]
    text, pooled = codec.text(list(captions))
    tensors = {"latents": torch.cat(latents), "text": text, "pooled": pooled}
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    write_tensors(path, halves, {"captions": json.dumps(list(captions))})


def read_film(folder: Path, size: PictureSize) -> tuple[list[Tensor], list[str]]:
    """Pictures and captions of a film's folder. Raises ValueError naming a picture without one."""
    iio = library("imageio.v3")
    pictures, captions = [], []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_ENDINGS):
        caption = path.with_suffix(".txt")
        words = caption.read_text(encoding="utf-8").strip() if caption.is_file() else ""
        if not words:
            raise ValueError(f"{path} has no caption: {caption.name} is missing or empty")
        pictures.append(fit_picture(iio.imread(path, mode="RGB"), size.height, size.width))
        captions.append(words)
    return pictures, captions


def encode_films(
    make_codec: Callable[[], KeyframeCodec], films: Path, folder: Path, size: PictureSize
) -> None:
    """Encode every film of a folder that `folder` lacks; the codec is made when it is needed.

    Raises ValueError when there are none, when the size does not divide, or when `folder` was made
    with other settings.
    """
    sources = sorted(path for path in films.iterdir() if path.is_dir())
    if not sources:
        raise ValueError(f"{films} holds no films: one folder of pictures with captions for each")
    marker, wanted = folder / "settings.json", json.dumps(asdict(size))
    if marker.is_file() and marker.read_text(encoding="utf-8") != wanted:
        made = marker.read_text(encoding="utf-8")
        raise ValueError(f"{folder} was encoded with {made}, this is {wanted}: give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    codec: KeyframeCodec | None = None
    for number, source in enumerate(sources):
        path = folder / f"film_{number:05d}.safetensors"
        if path.is_file():
            continue
        codec = codec or make_codec()
        size.check(codec.unit)
        marker.write_text(wanted, encoding="utf-8")
        pictures, captions = read_film(source, size)
        if not pictures:
            raise ValueError(f"{source} holds no pictures ({', '.join(PICTURE_ENDINGS)})")
        write_film(path, codec, pictures, captions)
        print(f"{source.name}: {len(pictures)} keyframes", flush=True)
