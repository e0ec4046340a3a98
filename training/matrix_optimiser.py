"""Muon for the matrices of a network's blocks, AdamW for everything else, as one optimiser."""

from __future__ import annotations

import torch
from torch import nn


class MatrixOptimiser:
    """Two optimisers that keep what they remember in one `state`, so that checkpoints hold both.

    Muon makes the update of a matrix orthogonal (Jordan 2024; torch.optim.Muon) and gives it the
    size of AdamW's (arXiv 2502.16982, section 2.2), so both take the same rate.
    """

    def __init__(self, module: nn.Module, blocks: nn.Module, weight_decay: float) -> None:
        matrices = [each for each in blocks.parameters() if each.ndim == 2]
        known = {id(each) for each in matrices}
        others = [each for each in module.parameters() if id(each) not in known]
        adamw = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=weight_decay)
        self.state = adamw.state
        self._both: list[torch.optim.Optimizer] = [adamw]
        if matrices:
            muon = torch.optim.Muon(
                matrices, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )
            muon.state = self.state
            self._both.append(muon)

    def set_rate(self, rate: float) -> None:
        """The learning rate of the next step."""
        for optimiser in self._both:
            for group in optimiser.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimiser in self._both:
            optimiser.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Change all parameters by their gradients."""
        for optimiser in self._both:
            optimiser.step()
