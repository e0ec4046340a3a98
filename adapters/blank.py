"""Latents of clips that show nothing yet, encoded once and kept in files for the films after."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch
import torch

from .fingerprint import fingerprint_value

if TYPE_CHECKING:
    from comfy.sd import VAE

GREY = 0.5
"""Pixel value of frames that are not known yet (core's WanImageToVideo and WanVaceToVideo)."""

SETTLING = 5
"""Latent frames of grey that are encoded to see whether the VAE has settled: Wan's settles after
three, bit for bit (measured), since its convolutions look back only and not far."""

SETTLED = 3
"""Latent frames in a row that must be the same bits for the VAE to count as settled (our choice:
one more than a chance pair)."""

KEPT_CLIPS = 8
"""Clips kept in files, the newest first: 19 MB each at 720p (our choice)."""


@dataclass(frozen=True)
class ClipFiles:
    """Encoded clips in `folder`, so that redoing a segment does not load and run the VAE for grey.

    `vae` is the VAE's fingerprint; `write(path, data)` must leave the whole file or none.
    """

    folder: Path
    vae: str
    write: Callable[[Path, bytes], None]

    def find(self, key: object) -> torch.Tensor | None:
        """The clip kept under `key`, None where there is none that reads."""
        try:
            return safetensors.torch.load(self._path(key).read_bytes()).get("clip")
        except (OSError, ValueError, safetensors.SafetensorError):
            return None

    def keep(self, key: object, clip: torch.Tensor) -> None:
        """Put a clip under `key`, let the oldest go. A full disk costs only the next encoding."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.write(self._path(key), safetensors.torch.save({"clip": clip.contiguous()}))
            kept = sorted(
                self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns
            )
            for path in kept[:-KEPT_CLIPS]:
                path.unlink(missing_ok=True)
        except OSError as error:
            logging.warning("blank clips are not kept in %s: %s", self.folder, error)

    def _path(self, key: object) -> Path:
        return self.folder / f"{fingerprint_value([self.vae, key])}.safetensors"


class BlankClips:
    """Encodes blank clips with a VAE and keeps what it encoded, for the length of one run.

    What a model was trained to see where nothing is known is the VAE's encoding of grey frames
    behind the known ones. The borders of the picture matter to it, so the whole picture is encoded.
    `start` are the pixels [frames, height, width, 3] that a segment begins with, where they are
    known as pixels (a start image); a tail is known as a latent only. `end` [1, height, width, 3]
    is the picture that it ends on, None for most.

    Most VAEs look back only and forget: behind the first few grey frames each further one encodes
    to the same bits. Such a clip is encoded as far as that and continued; one of a VAE that does
    not settle is encoded whole. `files` keep what was encoded for later runs.
    """

    def __init__(
        self,
        vae: VAE,
        start: torch.Tensor | None = None,
        files: ClipFiles | None = None,
        end: torch.Tensor | None = None,
    ) -> None:
        self._vae, self._start, self._files, self._end = vae, start, files, end
        self._encoded: dict[tuple[int, ...], torch.Tensor] = {}

    def grey(self, latent: torch.Tensor) -> torch.Tensor:
        """A copy of the grey clip's latent with the shape, type and device of `latent`."""
        return self._clip(latent, None, None)

    def behind_start(self, latent: torch.Tensor) -> torch.Tensor:
        """The start frames with grey behind them, encoded as one clip (core's WanImageToVideo): the
        VAE carries a little of them into the first grey frames. Grey alone behind a tail. The last
        frame is the end picture, where there is one (core's WanFirstLastFrameToVideo)."""
        return self._clip(latent, self._start, self._end)

    def _clip(
        self, latent: torch.Tensor, start: torch.Tensor | None, end: torch.Tensor | None
    ) -> torch.Tensor:
        known = 0 if start is None else start.shape[0]
        shape = (known, 0 if end is None else 1, *latent.shape[2:])
        if shape not in self._encoded:
            self._encoded[shape] = self._found(shape, start, end)
        return self._encoded[shape].to(latent).clone()

    def _found(
        self, shape: tuple[int, ...], start: torch.Tensor | None, end: torch.Tensor | None
    ) -> torch.Tensor:
        if self._files is None:
            return self._encode(shape, start, end)
        key = [list(shape), GREY, start, end]
        clip = self._files.find(key)
        if clip is None:
            clip = self._encode(shape, start, end)
            self._files.keep(key, clip)
        return clip

    def _encode(
        self, shape: tuple[int, ...], start: torch.Tensor | None, end: torch.Tensor | None
    ) -> torch.Tensor:
        known, _, latent_frames, height, width = shape
        pixels = self._vae.spacial_compression_encode()
        stride = self._vae.temporal_compression_decode() or 1
        frames = stride * (latent_frames - 1) + 1
        grey = torch.full((1, 1, 1, 1), GREY).expand(frames, height * pixels, width * pixels, 3)
        clip = grey
        if start is not None:
            clip = torch.cat((start[:frames].to(clip), clip[start.shape[0] :]))
        settling = -(-known // stride) + SETTLING
        ending = clip[:0] if end is None else torch.cat((grey[: stride - 1], end.to(grey)))
        if settling + len(ending) // stride < latent_frames:
            begun = clip[: stride * (settling - 1) + 1]
            encoded = self._vae.encode(torch.cat((begun, ending)))
            last = encoded[:, :, settling - 1 : settling]
            if bool((encoded[:, :, settling - SETTLED : settling] == last).all()):
                more = last.expand(-1, -1, latent_frames - encoded.shape[2], -1, -1)
                return torch.cat((encoded[:, :, :settling], more, encoded[:, :, settling:]), dim=2)
        whole = clip if end is None else torch.cat((clip[:-1], end.to(clip)))
        return self._vae.encode(whole)
