"""The short hand-off against the released one, which pads both clips to their full length."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from throughline.planning.frames import FrameGrid
from throughline.planning.layout import mmpl_t2v, preset_layouts
from throughline.planning.macro import hand_off


def padded(vae: Any, latents: dict[int, torch.Tensor], first: int, last: int) -> torch.Tensor:
    """As `reencode` of the released code: 21 latent frames decoded, 81 frames encoded."""
    clip = torch.cat([latents[i] for i in (0, first, first, last)], dim=2)
    rest = torch.zeros(1, clip.shape[1], 17, *clip.shape[3:])
    frames = vae.decode(torch.cat((clip, rest), dim=2))
    frames = frames.reshape(-1, *frames.shape[-3:]).clamp(0.0, 1.0)
    grey = torch.full((76, *frames.shape[1:]), 0.5)
    return vae.encode(torch.cat((frames[8:13], grey)))[:, :, :2]


def finished(size: int = 4) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        i: torch.randn(1, 16, 1, size, size, generator=generator)
        for i in mmpl_t2v().known_to_fillers
    }


pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """ComfyUI runs graphs so."""
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("seed", [0, 1])
def test_the_short_hand_off_equals_the_padded_one(comfy: ModuleType, seed: int) -> None:
    from development.tiny_models import tiny_wan_vae
    from throughline.adapters.hand_off import hand_over

    vae, latents = tiny_wan_vae(seed=seed), finished()
    short = hand_over(vae, latents, hand_off(mmpl_t2v(), FrameGrid(4)))
    wanted = padded(vae, latents, 19, 20)
    assert short.shape == wanted.shape == (1, 16, 2, 4, 4)
    assert float((short - wanted).abs().max()) < 1e-5 and float(wanted.std()) > 1e-4


def test_the_middle_hands_over_its_own_anchors(comfy: ModuleType) -> None:
    from development.tiny_models import tiny_wan_vae
    from throughline.adapters.hand_off import hand_over

    vae, latents = tiny_wan_vae(), finished()
    short = hand_over(vae, latents, hand_off(mmpl_t2v(), FrameGrid(4), "middle"))
    assert float((short - padded(vae, latents, 11, 12)).abs().max()) < 1e-5


def test_the_demo_vae_hands_over_what_it_shows(comfy: ModuleType) -> None:
    """Real frames come back: the handed latents decode to the clip's last frames."""
    from throughline.adapters.demo_models import load_demo_vae
    from throughline.adapters.hand_off import hand_over, handed_frames
    from throughline.training.evaluate import frames_to_image
    from throughline.training.world import long_take
    from throughline.training.world_rendering import render_take

    vae, layout = load_demo_vae(), preset_layouts(6)["MMPL T2V"]
    frames = frames_to_image(render_take(long_take(1, 3, 6, 2), 0, 21))
    whole = vae.encode(frames)
    latents = {i: whole[:, :, i : i + 1] for i in range(6)}
    step = hand_off(layout, FrameGrid(4))
    shown = handed_frames(vae, latents, step)
    true = frames[-5:]
    assert float((shown - true).square().mean()) < 10**-2.2
    again = vae.decode(hand_over(vae, latents, step)).reshape(5, 64, 64, 3)
    assert float((again - true).square().mean()) < 10**-2.2


def test_what_is_missing_is_named(comfy: ModuleType) -> None:
    from development.tiny_models import tiny_wan_vae
    from throughline.adapters.hand_off import hand_over

    latents = finished()
    del latents[19]
    with pytest.raises(ValueError, match="needs latent frame 19 of the segment before"):
        hand_over(tiny_wan_vae(), latents, hand_off(mmpl_t2v(), FrameGrid(4)))
    with pytest.raises(ValueError, match="needs 25 frames of the VAE, got 13"):
        hand_over(tiny_wan_vae(), finished(), hand_off(mmpl_t2v(), FrameGrid(8)))
