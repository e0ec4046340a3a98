"""Blank clips: what a model sees where nothing is known is what core's own nodes encode."""

from __future__ import annotations

from types import ModuleType

import torch


def test_a_start_image_is_encoded_as_core_does_it(comfy: ModuleType) -> None:
    from comfy_extras.nodes_wan import WanImageToVideo

    from development.tiny_models import FAMILIES, tiny_wan_vae
    from throughline.adapters.blank import BlankClips
    from throughline.adapters.wan import WanImage

    vae, tiny = tiny_wan_vae(), FAMILIES["wan22_i2v"]
    image = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    positive, _, _ = WanImageToVideo.execute(
        tiny.conditioning(1), tiny.conditioning(2), vae, 32, 32, 13, 1, image
    ).args
    latent = torch.zeros(1, 16, 4, 4, 4)
    latent[:, :, :1] = vae.encode(image)
    inputs = WanImage().prepare(
        tiny.model(),
        BlankClips(vae, image),
        tiny.conditioning(1),
        tiny.conditioning(2),
        latent,
        1,
    )
    ours, theirs = inputs.positive[0][1], positive[0][1]
    assert torch.allclose(
        ours["concat_latent_image"], theirs["concat_latent_image"], atol=1e-5, rtol=0
    )
    assert torch.equal(ours["concat_mask"], theirs["concat_mask"].to(ours["concat_mask"]))


def test_behind_a_tail_is_grey(comfy: ModuleType) -> None:
    from development.tiny_models import tiny_wan_vae
    from throughline.adapters.blank import BlankClips

    vae = tiny_wan_vae()
    blanks, latent = BlankClips(vae), torch.zeros(1, 16, 3, 2, 4)
    grey = vae.encode(torch.full((9, 16, 32, 3), 0.5))
    assert torch.equal(blanks.grey(latent), grey)
    assert torch.equal(blanks.behind_start(latent), grey)
    blanks.grey(latent).zero_()
    assert torch.equal(blanks.grey(latent), grey), "a caller's copy is its own"
