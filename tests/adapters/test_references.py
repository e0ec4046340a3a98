"""Reference pictures: made smaller by area, never larger, laid on atlases, mixed with noise."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from throughline.memory.atlas import Atlas, AtlasTile
from throughline.memory.golden import PackingPolicy, pack_references
from throughline.memory.golden_atlas import merge_left_over


def grey(height: int, width: int, value: float = 0.5) -> torch.Tensor:
    return torch.full((1, height, width, 3), value)


def test_a_picture_of_the_size_stays_as_it_is(comfy: ModuleType) -> None:
    from throughline.adapters.references import shrink

    picture = torch.rand(1, 6, 8, 3)
    assert torch.equal(shrink(picture, 6, 8), picture)


def test_shrinking_is_the_mean_of_each_cell(comfy: ModuleType) -> None:
    from throughline.adapters.references import shrink

    picture = torch.rand(1, 6, 8, 3)
    small = shrink(picture, 3, 4)
    by_hand = picture.view(1, 3, 2, 4, 2, 3).mean(dim=(2, 4))
    assert torch.allclose(small, by_hand, atol=1e-6)


def test_another_shape_is_cut_around_the_middle(comfy: ModuleType) -> None:
    from throughline.adapters.references import shrink

    picture = torch.zeros(1, 4, 8, 3)
    picture[:, :, 2:6] = 1.0  # what is left of 8 columns for a square
    assert torch.equal(shrink(picture, 2, 2), torch.ones(1, 2, 2, 3))


@pytest.mark.parametrize("size", [(7, 8), (6, 9)])
def test_a_picture_is_never_enlarged(size: tuple[int, int], comfy: ModuleType) -> None:
    from throughline.adapters.references import shrink

    with pytest.raises(ValueError, match=r"of 8 x 6 pixels is never enlarged, got "):
        shrink(torch.rand(1, 6, 8, 3), *size)


def test_an_atlas_shows_every_picture_in_its_tile(comfy: ModuleType) -> None:
    from throughline.adapters.references import atlas_picture

    atlas = Atlas(
        32, 48, (AtlasTile(16, 0, 32, 32), AtlasTile(0, 0, 16, 16), AtlasTile(0, 16, 16, 16))
    )
    made = atlas_picture([grey(64, 64, 0.1), grey(64, 64, 0.2), grey(64, 64, 0.3)], atlas)
    assert made.shape == (1, 32, 48, 3)
    for tile, value in zip(atlas.tiles, (0.1, 0.2, 0.3), strict=True):
        part = made[:, tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
        assert torch.allclose(part, torch.tensor(value))


def test_a_tile_of_another_shape_shows_the_whole_picture(comfy: ModuleType) -> None:
    """64 x 32 on a square of 32: 32 x 16 in the middle, bars of the mean colour."""
    from throughline.adapters.references import atlas_picture

    picture = grey(32, 64, 1.0)
    picture[:, :, :32] = 0.0
    made = atlas_picture([picture], Atlas(32, 32, (AtlasTile(0, 0, 32, 32),)))[0, :, :, 0]
    assert torch.equal(made[:8], torch.full((8, 32), 0.5))
    assert torch.equal(made[24:], torch.full((8, 32), 0.5))
    assert torch.equal(made[8:24, :16], torch.zeros(16, 16))
    assert torch.equal(made[8:24, 16:], torch.ones(16, 16))


def test_a_tenth_is_cut_off_rather_than_barred(comfy: ModuleType) -> None:
    from throughline.adapters.references import atlas_picture

    picture = torch.rand(1, 32, 34, 3)
    made = atlas_picture([picture], Atlas(32, 32, (AtlasTile(0, 0, 32, 32),)))
    assert torch.equal(made, picture[:, :, 1:33])


def test_a_small_picture_lies_unenlarged_in_its_tile(comfy: ModuleType) -> None:
    from throughline.adapters.references import atlas_picture

    picture = torch.rand(1, 10, 10, 3)
    made = atlas_picture([picture], Atlas(32, 32, (AtlasTile(0, 0, 32, 32),)))
    assert torch.equal(made[:, 11:21, 11:21], picture)
    assert torch.allclose(made[:, 0, 0], picture.mean(dim=(1, 2)))


def test_packed_references_are_the_sources_at_their_sizes(comfy: ModuleType) -> None:
    from development.tiny_images import IMAGE_FAMILIES
    from throughline.adapters.image_families import image_family_of
    from throughline.adapters.references import packed_pictures, shrink

    pictures = [torch.rand(1, 128, 128, 3), torch.rand(1, 96, 64, 3), *[grey(64, 64)] * 3]
    sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
    policy = PackingPolicy(levels=2, least_side=0)
    packing = merge_left_over(pack_references(sizes, (128, 128), policy), sizes, (128, 128), policy)
    made = packed_pictures(pictures, packing)
    assert torch.equal(made[0], pictures[0])
    assert torch.equal(made[1], shrink(pictures[1], 80, 48))  # 5 x 3 of 16 tokens
    assert packing.atlas is not None
    assert made[2].shape[1:3] == (packing.atlas.atlas.height, packing.atlas.atlas.width)
    tiny = IMAGE_FAMILIES["flux2_dev"]
    family = image_family_of(tiny.model())
    latents = [family.encode_reference(tiny.vae(), picture) for picture in made]
    assert sum(latent.shape[2] * latent.shape[3] for latent in latents) == packing.tokens


def test_noise_is_a_share_of_what_the_model_sees(comfy: ModuleType) -> None:
    from development.tiny_images import IMAGE_FAMILIES
    from throughline.adapters.references import noisy_latents

    model = IMAGE_FAMILIES["flux"].model()
    latent_format: Any = model.get_model_object("latent_format")
    latents = [torch.randn(1, 16, 4, 4), torch.randn(1, 16, 2, 2)]
    noisy = noisy_latents(model, latents, 0.25, seed=5)
    generator = torch.Generator().manual_seed(5)
    for clean, mixed in zip(latents, noisy, strict=True):
        noise = torch.randn(clean.shape, generator=generator)
        wanted = 0.75 * latent_format.process_in(clean) + 0.25 * noise
        assert torch.allclose(latent_format.process_in(mixed), wanted, atol=1e-6)
    assert not torch.equal(noisy_latents(model, latents, 0.25, seed=6)[0], noisy[0])
    assert all(
        same is clean
        for same, clean in zip(noisy_latents(model, latents, 0.0, seed=5), latents, strict=True)
    )
    with pytest.raises(ValueError, match=r"reference_noise must be 0 to 1, got 1\.5"):
        noisy_latents(model, latents, 1.5, seed=0)
