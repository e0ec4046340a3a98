"""The demo models with a memory of true history: what the benches of the memory share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

STEPS = 8
"""As in workflows/02_memory.json."""

TOKENS_PER_LATENT_FRAME = 16
"""64 x 64 pixels, stride 8, patch 2."""


@dataclass(frozen=True)
class Remembered:
    """One shot of a story as latents 1 c t h w in the model's input space, its small pictures by
    rate, its caption and its true frames [21, h, w, 3] in 0..1."""

    latents: Tensor
    low: dict[str, Tensor]
    caption: str
    frames: Tensor


class Rememberer:
    """Model with its memory LoRA, encoders and packing, loaded as nodes load them.

    `weights` is a folder with `memory_encoders` and `loras`.
    """

    def __init__(self, weights: Path | None = None) -> None:
        import comfy.samplers
        import comfy.sd
        import comfy.utils

        from throughline.adapters.blank import BlankClips
        from throughline.adapters.cache import LatentCache
        from throughline.adapters.demo_models import VAE_FILE, WEIGHTS, load_demo_models
        from throughline.adapters.encoders import load_encoder
        from throughline.adapters.families import family_of
        from throughline.adapters.sampling import SamplerSettings, schedule_sigmas
        from throughline.training.vae_export import load_vae

        folder = weights or WEIGHTS
        self.base, self.clip, self.vae = load_demo_models()
        self.fast_vae = load_vae(VAE_FILE)
        lora = comfy.utils.load_torch_file(
            str(folder / "loras" / "throughline_demo_memory.safetensors")
        )
        self.model, _ = comfy.sd.load_lora_for_models(self.base, None, lora, 1.0, 0.0)
        files = folder / "memory_encoders"
        self.cache = LatentCache()
        self.encoders = {
            rate: load_encoder(files / f"throughline_demo_{rate}.safetensors", self.cache)
            for rate in ("2x2x2", "4x4x2")
        }
        self.packing = load_encoder(files / "throughline_demo_packing.safetensors", self.cache)
        self.family = family_of(self.base)
        self.blanks = BlankClips(self.vae)
        self.settings = SamplerSettings(
            sampler=comfy.samplers.sampler_object("euler"),
            sigmas=schedule_sigmas(self.base, "euler", "simple", STEPS),
            cfg=1.0,
        )
        self.texts: dict[str, Any] = {}

    def remember(self, story: Any, shots: Sequence[Any]) -> list[Remembered]:
        """Shots of a story, each encoded alone, as after a cut."""
        from throughline.memory.rates import Rate
        from throughline.training.evaluate import frames_to_image
        from throughline.training.memory_world import low_resolution_latents
        from throughline.training.vae_network import encode_clip
        from throughline.training.vae_training import clip_tensor
        from throughline.training.world import shot_caption
        from throughline.training.world_rendering import render

        model = self.base.model
        remembered = []
        for shot in shots:
            frames = render(story, shot)
            clip = clip_tensor(frames)[None]
            latents = model.process_latent_in(encode_clip(self.fast_vae, clip))
            low = {
                rate: model.process_latent_in(
                    low_resolution_latents(self.fast_vae, clip, Rate.parse(rate), latents.shape[2])
                )
                for rate in self.encoders
            }
            caption = shot_caption(story, shot)
            remembered.append(Remembered(latents, low, caption, frames_to_image(frames)))
        return remembered

    def bank(self, way: str, history: Sequence[Remembered], asked: Remembered | None = None) -> Any:
        """A history remembered one way: "memory RATE", "low RATE", "packed RATE", "window N",
        "framepack A B C" (latent frames at 1x, 2x and 4x) or "none".

        `asked` is the shot that follows: an encoder also recalls by its caption.
        """
        from throughline.adapters.recalled import with_recalled
        from throughline.memory.bank import MemoryBank, MemoryEntry

        kind, *numbers = way.split()
        pieces, now = [], 0
        if kind in ("memory", "low", "packed"):
            for shot in history:
                pieces.append((now, self._whole(kind, numbers[0], shot)))
                now += shot.latents.shape[2]
        elif kind in ("window", "framepack"):
            pieces = self._recent([int(number) for number in numbers], history)
        entries = tuple(
            MemoryEntry(
                key=f"{index}",
                title=f"segment {index + 1}",
                caption="",
                shot=index + 1,
                start=start,
                latent_frames=0,
                pinned=False,
                picture=None,
                pieces=(piece,),
            )
            for index, (start, piece) in enumerate(pieces)
        )
        bank = MemoryBank(entries=entries, rope_mode="history_negative", trained=True)
        if asked is None or kind != "memory":
            return bank
        return with_recalled(
            bank,
            [self.encoders[numbers[0]]],
            self.cache,
            torch.float32,
            self.text(asked.caption)[0][0],
            (asked.latents.shape[2], *asked.latents.shape[3:]),
            now,
        )

    def _whole(self, kind: str, rate: str, shot: Remembered) -> Any:
        from throughline.memory.rates import Rate

        low: Tensor | None = shot.low.get(rate)
        fine = addresses = None
        if kind == "memory":
            encoder, caption = self.encoders[rate].encoder, self.text(shot.caption)[0][0]
            hidden = encoder(shot.latents, low, lambda x: _Zero.like(encoder, x), caption).hidden
            fine = encoder.fine(hidden)[0]
            if encoder.addresses is not None:
                cells = encoder.config.memory_grid(shot.latents.shape)
                addresses = encoder.held_addresses(caption, cells)[0]
        elif kind == "packed":
            fine, low = self.packing.packer(Rate.parse(rate))(shot.latents)[0], None
        form = f"{'encoder' if kind == 'memory' else kind} {rate}"
        return self._piece(form, rate, low, fine, shot.latents.shape, addresses)

    def _recent(self, sizes: Sequence[int], history: Sequence[Remembered]) -> list[tuple[int, Any]]:
        """The newest latent frames: at 1x, and for three sizes the next ones at 2x and 4x."""
        from throughline.memory.packing import Bucket, packed_spans
        from throughline.memory.rates import Rate

        rates = (Rate(1, 1, 1), Rate(2, 2, 2), Rate(4, 4, 4))
        buckets = tuple(Bucket(rate, n) for rate, n in zip(rates, sizes, strict=False))
        film = torch.cat([shot.latents for shot in history], dim=2)
        pieces = []
        for span in packed_spans(film.shape[2], buckets):
            cut = film[:, :, span.first : span.stop]
            whole = span.rate.volume == 1
            fine = None if whole else self.packing.packer(span.rate)(cut)[0]
            low = cut if whole else None
            piece = self._piece("recent", str(span.rate), low, fine, cut.shape)
            pieces.append((span.first, piece))
        return pieces

    def _piece(
        self,
        form: str,
        rate: str,
        low: Tensor | None,
        fine: Tensor | None,
        shape: torch.Size,
        addresses: Tensor | None = None,
    ) -> Any:
        from throughline.adapters.cache import CachedTensor
        from throughline.adapters.pieces import digest, tensor_bytes
        from throughline.memory.bank import MemoryPiece
        from throughline.memory.positions import memory_positions
        from throughline.memory.rates import Grid, Rate

        grid = Grid(shape[2], shape[3] // 2, shape[4] // 2)
        return MemoryPiece(
            key=digest(form, *(tensor_bytes(x) for x in (low, fine) if x is not None)),
            form=form,
            rate=Rate.parse(rate),
            low=None if low is None else CachedTensor(low[0]),
            fine=None if fine is None else CachedTensor(fine.float()),
            hidden=None,
            positions=memory_positions(grid, Rate.parse(rate), "ceil"),
            addresses=addresses,
        )

    def text(self, caption: str) -> Any:
        """Core's conditioning of a caption, encoded once."""
        if caption not in self.texts:
            self.texts[caption] = self.clip.encode_from_tokens_scheduled(
                self.clip.tokenize(caption)
            )
        return self.texts[caption]

    def sample(
        self,
        bank: Any,
        caption: str,
        latent_frames: int,
        start: int,
        seed: int,
        known: Tensor | None = None,
        guide: Any | None = None,
    ) -> Tensor:
        """A latent 1 c t h w from time `start` on, made from text and memory, behind the latent
        frames `known` 1 c k h w and along a guide (adapters/guide.py), where there are any."""
        from throughline.adapters.attach import attach_memory
        from throughline.adapters.sampling import sample_segment

        model = attach_memory(self.model, bank, segment_start_latent_frames=start)
        text = self.text(caption)
        return sample_segment(
            self.family,
            model,
            self.blanks,
            text,
            text,
            self.settings,
            (1, 16, latent_frames, 8, 8),
            known,
            seed,
            guide=guide,
        )

    def decode(self, latent: Tensor) -> Tensor:
        """Frames [n, h, w, 3] in 0..1 of a latent in the VAE's space."""
        frames = self.vae.decode(latent)
        return frames.reshape(-1, *frames.shape[-3:]).clamp(0.0, 1.0)


class _Zero:
    """A projection that gives zeros of the right grid: the model's own is added by the adapter."""

    @staticmethod
    def like(encoder: Any, low: Tensor) -> Tensor:
        patch = encoder.config.patch
        sides = (low.shape[3] // patch[1], low.shape[4] // patch[2])
        return low.new_zeros(len(low), encoder.config.inner_dim, low.shape[2], *sides)


def decibels(error: float) -> float:
    """PSNR of a mean squared error of values in 0..1."""
    return float(10.0 * np.log10(1.0 / max(error, 1e-10)))
