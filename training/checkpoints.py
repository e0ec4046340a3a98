"""Checkpoints of a training: one safetensors file that holds all that is needed to continue.

Written beside the target and renamed, so that a killed training leaves the last whole checkpoint.
"""

import dataclasses
import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

OPTIMISER_SLOTS = ("exp_avg", "exp_avg_sq", "step", "momentum_buffer")
"""`step` counts a parameter's own updates: fewer than all where not every step uses it. AdamW
remembers the first three, Muon the last."""


class Optimiser(Protocol):
    """What a checkpoint needs of an optimiser: what it remembers of each parameter."""

    @property
    def state(self) -> MutableMapping[Tensor, Any]: ...


def trained_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that a training changes; a frozen base model's are left out."""
    return (named for named in module.named_parameters() if named[1].requires_grad)


class MovingAverage:
    """Exponential moving average of what is trained; the decay warms up as (1 + n) / (10 + n)."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in trained_parameters(module)}

    @torch.no_grad()
    def add(self, module: nn.Module, step: int) -> None:
        """Mix in the parameters after optimiser step `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = dict(trained_parameters(module))
        torch._foreach_lerp_(
            list(self.values.values()), [current[name].detach() for name in self.values], 1 - decay
        )


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file by atomic rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, temporary, metadata)
    temporary.chmod(0o644)  # safetensors makes it readable for its owner only
    temporary.replace(path)


def save_checkpoint(
    path: Path,
    module: nn.Module,
    average: MovingAverage,
    optimiser: Optimiser,
    step: int,
    config: Any,
) -> None:
    """Write everything that `load_checkpoint` needs to continue after `step` finished steps."""
    tensors = {}
    for name, parameter in trained_parameters(module):
        tensors[f"weights.{name}"] = parameter
        tensors[f"average.{name}"] = average.values[name]
        for slot in OPTIMISER_SLOTS:
            state = optimiser.state.get(parameter, {})
            if slot in state:
                tensors[f"{slot}.{name}"] = state[slot]
    metadata = {"step": str(step), "training": json.dumps(dataclasses.asdict(config))}
    write_tensors(path, tensors, metadata)


def load_checkpoint(
    path: Path, module: nn.Module, average: MovingAverage, optimiser: Optimiser | None
) -> int:
    """Load a checkpoint in place and return the number of finished steps."""
    with safe_open(path, "pt") as file, torch.no_grad():
        step = int(file.metadata()["step"])
        names = set(file.keys())
        for name, parameter in trained_parameters(module):
            parameter.copy_(file.get_tensor(f"weights.{name}"))
            average.values[name].copy_(file.get_tensor(f"average.{name}"))
            slots = {
                slot: file.get_tensor(f"{slot}.{name}")
                for slot in OPTIMISER_SLOTS
                if f"{slot}.{name}" in names
            }
            if optimiser is not None and slots:
                state = {"step": torch.tensor(float(step)), **slots}
                for slot in slots.keys() - {"step"}:
                    state[slot] = state[slot].to(parameter.device)
                optimiser.state[parameter] = state
    return step


def load_average(path: Path, module: nn.Module) -> list[str]:
    """Give what is trained its averaged values, in place; returns the names that the file lacks,
    which stay as they are."""
    lacking = []
    with safe_open(path, "pt") as file, torch.no_grad():
        names = set(file.keys())
        for name, parameter in trained_parameters(module):
            if f"average.{name}" in names:
                parameter.copy_(file.get_tensor(f"average.{name}"))
            else:
                lacking.append(name)
    return lacking


def learning_rate(step: int, steps: int, peak: float, warm_up: int, decay_from: float) -> float:
    """Linear warm-up, constant, half cosine to 2 % of `peak` from the share `decay_from` on."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    start = decay_from * steps
    if step < start:
        return peak
    progress = torch.tensor((step - start) / max(1.0, steps - start)).clamp(max=1.0)
    return peak * (0.02 + 0.98 * 0.5 * (1 + torch.cos(torch.pi * progress).item()))
