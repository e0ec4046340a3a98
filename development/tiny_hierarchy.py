"""Heads and planners of hierarchies with random weights, as files, for tests of what is around
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from throughline.memory.hierarchy import PATCH
from throughline.memory.hierarchy_format import (
    HeadCard,
    PlannerCard,
    read_head_file,
    write_head_file,
    write_planner_file,
)
from throughline.memory.hierarchy_heads import HeadConfig, build_head
from throughline.memory.hierarchy_planner import HierarchyPlanner, PlannerConfig

SPREAD = 0.3
"""Standard deviation of the weights: large enough that what a planner sees changes what it makes
(a fresh planner begins as the identity)."""


def randomised(module: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """The state of a module, every tensor but its buffers drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    drawn = dict(module.named_parameters())
    return {
        name: torch.randn(value.shape, generator=generator) * SPREAD if name in drawn else value
        for name, value in module.state_dict().items()
    }


def write_tiny_head(
    path: Path, channels: int = 16, levels: int = 3, latent_format: str = "Wan21", seed: int = 0
) -> str:
    """A learned head; gives its name."""
    config = HeadConfig(channels=channels, levels=levels, code=8, width=16, blocks=1, heads=2)
    head = build_head(config)
    write_head_file(path, randomised(head, seed), HeadCard(config, latent_format, "tiny head"))
    return read_head_file(path)[0].name


def write_tiny_planner(
    path: Path,
    windows: tuple[int, ...] = (1, 2, 4),
    head: str = "pooled",
    code_channels: tuple[int, ...] | None = None,
    latent_format: str = "Wan21",
    seed: int = 0,
    finest: int = 0,
    condition: int = 0,
    text: int = 0,
    **card: Any,
) -> None:
    """A planner of these windows over codes of 16 latent channels unless others are given."""
    channels = code_channels or (16 * PATCH**2,) * len(windows)
    config = PlannerConfig(
        channels, finest=finest, condition=condition, text=text, width=16, blocks=1, heads=2
    )
    said = {"rollout": "coarse to fine", "reads": "nothing", "steps": 2, **card}
    write_planner_file(
        path,
        randomised(HierarchyPlanner(config), seed),
        PlannerCard(config=config, head=head, latent_format=latent_format, windows=windows, **said),
    )
