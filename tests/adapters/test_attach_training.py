"""What a model is trained to read is what it is given: the trainer's forward and the injection."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from .memory_banks import call_model, random_bank, slow_positions, slow_tokens

TOLERANCE = 1e-4
MEMORY_SCALE = 0.3
"""Random memory about as large as the demo's own tokens."""


@pytest.fixture(scope="module")
def shipped(comfy: ModuleType) -> Any:
    """The demo's MODEL, as its loader gives it."""
    from throughline.adapters.demo_models import load_demo_models

    return load_demo_models()[0]


@pytest.fixture(scope="module")
def trained() -> Any:
    """The same weights in diffusers' class, with the trainer's forward."""
    from throughline.adapters.demo_models import VIDEO_FILE
    from throughline.training.memory_model import WanMemoryModel, wan_from_comfy

    return WanMemoryModel(wan_from_comfy(VIDEO_FILE)).eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of diffusers
@pytest.mark.parametrize("size", [(5, 8, 12), (3, 6, 10)])
def test_the_demo_model_reads_memory_as_it_was_trained(
    size: tuple[int, int, int], shipped: Any, trained: Any
) -> None:
    from throughline.adapters.attach import attach_memory

    generator = torch.Generator().manual_seed(3)
    network = shipped.model.diffusion_model
    x = torch.randn((2, 36, *size), generator=generator)
    text = torch.randn((2, 17, trained.text_dim), generator=generator)
    time = torch.tensor([640.0, 640.0])
    bank = random_bank(network.dim, 16, (1, 2, 2), scale=MEMORY_SCALE)
    made = call_model(attach_memory(shipped, bank), x, time, text)
    with torch.no_grad():
        tokens = slow_tokens([bank], lambda low: trained.project(low[None])[0])
        places = slow_positions([bank], -bank.latent_frames)
        both = (tokens.expand(2, -1, -1), places.expand(2, -1, -1))
        expected = trained(x, time, text, *both, torch.zeros(2))
        nothing = (both[0][:, :0], both[1][:, :0])
        plain = trained(x, time, text, *nothing, torch.zeros(2))
    torch.testing.assert_close(made, expected, atol=TOLERANCE, rtol=0.0)
    torch.testing.assert_close(call_model(shipped, x, time, text), plain, atol=TOLERANCE, rtol=0.0)
    assert float((expected - plain).abs().max()) > 0.01
