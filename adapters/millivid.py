"""MilliVid's released networks as ComfyUI's models, and the rollout of a video with them.

arXiv 2606.09056; shared design `hierarchical-latents.md`, sections 2.4, 3 and 5. The schedule is
`planning/rollout.py`'s; each of its steps is one sampling here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import blake3
import comfy.model_management
import comfy.ops
import torch
from torch import Tensor

from ..memory.millivid_autoencoder import AutoencoderSizes, MilliVidAutoencoder
from ..memory.millivid_codes import VideoCodes
from ..memory.millivid_format import MilliVidFile, read_millivid_file
from ..memory.millivid_video import (
    CodeBlock,
    MilliVidVideo,
    VideoSizes,
    denoise,
    patches_of,
    signal_and_noise,
)
from ..planning.rollout import Rollout, RolloutStep, Span, Windows
from ..planning.rollout_choice import choose_rollout
from .hierarchy_weights import as_patcher

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

CATEGORY = "millivid"
"""Folder of ComfyUI's models folder that converted files lie in."""

FRAMES_AT_ONCE = 16
"""Pictures that go through the autoencoder at a time (our choice: 340 tokens each)."""


@dataclass(frozen=True, eq=False)
class LoadedAutoencoder:
    """The autoencoder behind a patcher that ComfyUI moves."""

    patcher: ModelPatcher
    file: MilliVidFile

    @property
    def network(self) -> MilliVidAutoencoder:
        module = self.patcher.model
        assert isinstance(module, MilliVidAutoencoder)
        return module

    @property
    def sizes(self) -> AutoencoderSizes:
        return self.network.sizes

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Codes `f n c` per level of pictures `f 3 h w` in 0..1, on the CPU."""
        parts = [self._on_device(self.network.encode, f) for f in frames.split(FRAMES_AT_ONCE)]
        return tuple(torch.cat(level) for level in zip(*parts, strict=True))

    @torch.inference_mode()
    def decode(self, level: int, codes: Tensor) -> Tensor:
        """Pictures `f h w 3` in 0..1 of codes `f n c` of one level, on the CPU."""
        parts = [
            self._on_device(lambda c: (self.network.decode(level, c),), part)[0]
            for part in codes.split(FRAMES_AT_ONCE)
        ]
        return torch.cat(parts).clamp(0.0, 1.0).permute(0, 2, 3, 1)

    def _on_device(
        self, run: Callable[[Tensor], Sequence[Tensor]], inputs: Tensor
    ) -> tuple[Tensor, ...]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        comfy.model_management.load_models_gpu([self.patcher])
        device = self.patcher.load_device
        with half_precision(device):
            return tuple(one.float().cpu() for one in run(inputs.float().to(device)))


@dataclass(frozen=True, eq=False)
class LoadedVideo:
    """The video model behind a patcher, and the rollout that it was trained for."""

    patcher: ModelPatcher
    file: MilliVidFile
    rollout: Rollout

    @property
    def network(self) -> MilliVidVideo:
        module = self.patcher.model
        assert isinstance(module, MilliVidVideo)
        return module

    @property
    def sizes(self) -> VideoSizes:
        return self.network.sizes


def load_autoencoder(path: Path) -> LoadedAutoencoder:
    """Raises ValueError naming the file that is none, or holds something else."""
    file = read_millivid_file(path)
    if not isinstance(file.sizes, AutoencoderSizes):
        raise ValueError(f"autoencoder must be one of MilliVid's, got the video model {path.name}")
    module = MilliVidAutoencoder(file.sizes, comfy.ops.manual_cast, dtype=_dtype(file))
    module.load_state_dict(dict(file.tensors))
    return LoadedAutoencoder(as_patcher(module), file)


def load_video(path: Path) -> LoadedVideo:
    """Raises ValueError naming the file that is none, holds something else, or windows that do not
    nest."""
    file = read_millivid_file(path)
    if not isinstance(file.sizes, VideoSizes) or file.rollout is None:
        raise ValueError(f"video_model must be one of MilliVid's, got the autoencoder {path.name}")
    try:
        rollout = choose_rollout(file.rollout, Windows(file.windows))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    module = MilliVidVideo(file.sizes, comfy.ops.manual_cast, dtype=_dtype(file))
    module.load_state_dict(dict(file.tensors))
    return LoadedVideo(as_patcher(module), file, rollout)


def check_pair(video: LoadedVideo, autoencoder: LoadedAutoencoder) -> None:
    """Raises ValueError where the video model's codes are not the autoencoder's."""
    wanted = (autoencoder.sizes.channels, autoencoder.sizes.levels)
    if (video.sizes.channels, video.sizes.levels) != wanted:
        raise ValueError(
            f"video_model {video.file.name} makes codes of {video.sizes.channels} channels and "
            f"{video.sizes.levels} levels, got an autoencoder ({autoencoder.file.name}) of "
            f"{wanted[0]} and {wanted[1]}: use the one that it was trained with"
        )


def _dtype(file: MilliVidFile) -> torch.dtype:
    return next(iter(file.tensors.values())).dtype


def half_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast to bfloat16 as the authors sample (section 2.4), where the device is made for it."""
    if comfy.model_management.is_device_cpu(device):
        return nullcontext()
    if not comfy.model_management.should_use_bf16(device):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


@dataclass(frozen=True)
class StepSettings:
    """How each step is sampled: `steps` evaluations, guidance `cfg` (1 is off), and the seed."""

    steps: int
    cfg: float
    seed: int


Told = Callable[[int, Tensor], None]
"""Called after every evaluation of a step: its number from 1, the clean codes expected `f n c`."""


def roll_out(
    video: LoadedVideo, codes: VideoCodes, start: int, actions: Tensor, settings: StepSettings
) -> Iterator[tuple[RolloutStep, Callable[[Told], None]]]:
    """The steps of the chunk from frame `start` on, each with the function that makes it.

    A step writes its target into `codes` and nothing else. `actions` holds the one that led to each
    frame, by the frame's number. Noise follows from the seed, the level and the frame, so that a
    video made in two calls is the one made in one.
    """
    for step in video.rollout.steps(start, codes.first):
        yield step, _Step(video, codes, step, actions, settings).run


@dataclass(frozen=True, eq=False)
class _Step:
    video: LoadedVideo
    codes: VideoCodes
    step: RolloutStep
    actions: Tensor
    settings: StepSettings

    @torch.inference_mode()
    def run(self, told: Told) -> None:
        """Denoise the step's spans; only the target is kept."""
        management = comfy.model_management
        management.load_models_gpu([self.video.patcher])
        device = self.video.patcher.load_device
        target = self._block(self.step.target, device)
        context = [self._block(span, device) for span in self.step.context]
        blank = [self._noised(block, index) for index, block in enumerate(context)]
        cfg = self.settings.cfg

        def velocity(noisy: Tensor, time: float) -> Tensor:
            management.throw_exception_if_processing_interrupted()
            moved = replace(target, codes=noisy, time=time)
            with half_precision(device):
                said = self.video.network(moved, context).float()
                if cfg == 1.0:
                    return said
                plain = self.video.network(replace(moved, actions=None), blank).float()
            return plain + cfg * (said - plain)

        noise = self._noise(target.codes.shape, "target").to(device)
        made = denoise(
            noise, velocity, self.settings.steps, lambda number, clean: told(number, clean[0])
        )
        self.codes.write(self.step.target.level, self.step.target.start, made[0].cpu())

    def _block(self, span: Span, device: torch.device) -> CodeBlock:
        patched = self.video.rollout.kind == "patchified"
        level = 0 if patched else span.level
        codes = self.codes.read(level, span.start, span.stop)[None].to(device)
        return CodeBlock(
            level=span.level,
            frames=torch.arange(span.start, span.stop, device=device),
            codes=patches_of(codes, span.level) if patched else codes,
            actions=self.actions[span.start : span.stop].to(device),
            time=0.0,
        )

    def _noised(self, block: CodeBlock, index: int) -> CodeBlock:
        """What guidance compares with: no action, and nothing of the context to be seen (2.4)."""
        alpha, sigma = signal_and_noise(1.0)
        noise = self._noise(block.codes.shape, f"context {index}").to(block.codes)
        codes = alpha * block.codes + sigma * noise
        return replace(block, codes=codes, actions=None, time=1.0)

    def _noise(self, shape: Sequence[int], what: str) -> Tensor:
        return step_noise(self.settings.seed, self.step.target, what, shape)


def step_noise(seed: int, target: Span, what: str, shape: Sequence[int]) -> Tensor:
    """Normal noise of a step that makes `target`; `what` tells apart the parts of the step."""
    name = f"{seed} {target.level} {target.start} {what}"
    digest = blake3.blake3(name.encode()).digest(8)
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    return torch.randn(shape, generator=generator)
