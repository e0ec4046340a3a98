"""Heads and planners of hierarchies as ComfyUI's models: found in its folders, moved by it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ..memory.hierarchy import (
    CellState,
    Hierarchy,
    HierarchyGrid,
    HierarchyHead,
    PooledHead,
    grid_of,
)
from ..memory.hierarchy_format import HeadCard, PlannerCard, read_head_file, read_planner_file
from ..memory.hierarchy_planner import HierarchyPlanner
from ..planning.rollout import Rollout, Windows
from ..planning.rollout_choice import choose_rollout
from .fingerprint import fingerprint_value

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.model_patcher import ModelPatcher

HEADS = "hierarchy_heads"
PLANNERS = "hierarchy_planners"
CATEGORIES = (HEADS, PLANNERS)
"""Folders of ComfyUI's models folder, and of the pack's weights."""

READS = {
    "nothing": "needs no conditions",
    "poses": "reads numbers for every latent frame (conditions)",
    "text": "reads the prompt (positive)",
}
"""What a planner is told about a latent frame, as its card says it and for people."""

FRAMES_AT_ONCE = 64
"""Latent frames that go through a head at a time, so that memory stays flat (our choice)."""


@dataclass(frozen=True, eq=False)
class LoadedHead:
    """The value on the socket TL_HIERARCHY_HEAD. `patcher` holds learned weights for ComfyUI and
    `card` says what they were trained for; both are None for a head without weights."""

    head: HierarchyHead
    patcher: ModelPatcher | None = None
    card: HeadCard | None = None

    @property
    def name(self) -> str:
        return self.head.name

    @property
    def levels(self) -> int:
        return self.head.levels

    def grid(self, latents: Tensor) -> HierarchyGrid:
        """The tokens of latents `1 c t h w` at each level. Raises ValueError for pictures that are
        too small for so many levels."""
        patch = math.isqrt(self.head.code_channels[0] // latents.shape[1])
        return grid_of(latents, self.levels, patch)

    def encode(self, latents: Tensor, first: Tensor) -> Hierarchy:
        """The codes of normalised latents `1 c t h w`, all final, on the CPU."""
        device = self._device()
        parts = []
        with torch.inference_mode():
            for frames, marks in zip(
                latents.split(FRAMES_AT_ONCE, dim=2), first.split(FRAMES_AT_ONCE), strict=True
            ):
                codes = self.head.encode(frames.to(device), marks.to(device))
                parts.append(tuple(level[0].float().cpu() for level in codes))
        codes = tuple(torch.cat(level) for level in zip(*parts, strict=True))
        grid = self.grid(latents)
        state = torch.full((self.levels, latents.shape[2]), CellState.FINAL, dtype=torch.uint8)
        return Hierarchy(codes, state, first, grid, self.name)

    def decode(self, level: int, codes: Tensor, grid: HierarchyGrid, first: Tensor) -> Tensor:
        """Normalised latents `1 c t h w` of the codes `1 t n c` of one level, on the CPU."""
        device = self._device()
        with torch.inference_mode():
            made = [
                self.head.decode(level, part.to(device), grid, marks.to(device)).float().cpu()
                for part, marks in zip(
                    codes.split(FRAMES_AT_ONCE, dim=1), first.split(FRAMES_AT_ONCE), strict=True
                )
            ]
        return torch.cat(made, dim=2)

    def _device(self) -> torch.device:
        if self.patcher is None:
            return torch.device("cpu")
        return load_whole(self.patcher)


@dataclass(frozen=True, eq=False)
class LoadedPlanner:
    """The value on the socket TL_HIERARCHY_PLANNER: weights that ComfyUI moves, and what they are.

    `rollout` is the one that it was trained with.
    """

    patcher: ModelPatcher
    card: PlannerCard
    rollout: Rollout

    @property
    def network(self) -> HierarchyPlanner:
        module = self.patcher.model
        assert isinstance(module, HierarchyPlanner)
        return module

    @property
    def digest(self) -> str:
        """Changes with the weights and with what they were trained for."""
        return fingerprint_value([self.network.state_dict(), repr(self.card)])

    def read_text(self, states: Tensor, frames: Tensor) -> Tensor:
        """What latent frames `frames` of a shot are told by its text `1 n d`, `t k` on the CPU.

        Raises ValueError for a text encoder of another width than the planner was trained with.
        """
        if states.shape[-1] != self.card.config.text:
            raise ValueError(
                f"this planner reads text of width {self.card.config.text}, got a text encoder of "
                f"width {states.shape[-1]}"
            )
        reader, device = self.network.reader, load_whole(self.patcher)
        assert reader is not None
        with torch.inference_mode():
            told: Tensor = reader(states.float().to(device), frames.to(device))
        return told[0].float().cpu()


def load_head(path: Path) -> LoadedHead:
    """Load a learned head. Raises ValueError naming file, rule and value."""
    head, card = read_head_file(path)
    return LoadedHead(head, as_patcher(head), card)


def load_planner(path: Path) -> LoadedPlanner:
    """Load a planner. Raises ValueError naming file, rule and value."""
    network, card = read_planner_file(path)
    if card.reads not in READS:
        raise ValueError(
            f"{path.name}: a planner reads {', '.join(READS)}, got {card.reads!r:.60}: update "
            "Throughline"
        )
    try:
        rollout = choose_rollout(card.rollout, Windows(card.windows), card.finest)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    return LoadedPlanner(as_patcher(network), card, rollout)


def check_latent_format(trained_for: str, latent_format: LatentFormat, what: str) -> None:
    """Refuse weights of another VAE's latents. Raises ValueError naming both."""
    given = type(latent_format).__name__
    if trained_for != given:
        raise ValueError(
            f"{what} was trained on latents of {trained_for}, got a video model of {given}: use "
            "one of your model's VAE"
        )


def pooled_head(channels: int, levels: int) -> LoadedHead:
    """The head that needs no weights."""
    return LoadedHead(PooledHead(channels, levels))


def load_whole(patcher: ModelPatcher) -> torch.device:
    """Bring a small model to its device, whole, since its layers do not stream; where it is now."""
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    device: torch.device = patcher.load_device
    return device


def as_patcher(module: nn.Module) -> ModelPatcher:
    """A trained module behind a patcher of core's own kind."""
    module.requires_grad_(False)
    return comfy.model_patcher.CoreModelPatcher(
        module.train(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
