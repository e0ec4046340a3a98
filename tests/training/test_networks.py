"""Training forms compute what core's classes compute; a resumed training is the same one."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from throughline.training.checkpoints import learning_rate


def _random_vae() -> torch.nn.Module:
    from throughline.training.vae_network import build_vae

    generator = torch.Generator().manual_seed(0)
    vae = build_vae(generator)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            change = torch.randn(parameter.shape, generator=generator) * 0.05
            if "time_conv" in name:
                parameter += change
            elif name.endswith("residual.6.weight"):
                parameter[:, :, -1] += change[:, :, -1]
    return vae


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_the_fast_vae_equals_the_class(comfy: ModuleType, frames: int) -> None:
    from throughline.training.vae_network import decode_clip, encode_clip

    vae = _random_vae()
    clip = torch.rand(2, 3, frames, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(clip)
        assert torch.allclose(encode_clip(vae, clip), latents, atol=1e-4)
        assert torch.allclose(decode_clip(vae, latents), vae.decode(latents), atol=1e-4)


def test_norm_and_silu_have_the_gradient_of_the_composed_operators(comfy: ModuleType) -> None:
    from throughline.training.vae_network import NormThenSilu

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 16, 4, 4, generator=generator).requires_grad_()
    gamma = torch.rand(16, generator=generator).requires_grad_()
    weight = torch.randn(2, 16, 4, 4, generator=generator)
    plain = F.silu(F.normalize(x, dim=1) * 4 * gamma[:, None, None])
    fast = NormThenSilu.apply(x, gamma)
    assert torch.allclose(fast, plain, atol=1e-5)
    expected = torch.autograd.grad((plain * weight).sum(), (x, gamma))
    given = torch.autograd.grad((fast * weight).sum(), (x, gamma))
    for a, b in zip(given, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_folding_the_latent_scale_keeps_the_round_trip(comfy: ModuleType) -> None:
    from throughline.training.vae_export import fold_latent_scale

    vae = _random_vae()
    clip = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, std = torch.linspace(-1, 1, 16), torch.linspace(0.5, 2, 16)
    to_mean, to_std = torch.linspace(2, -2, 16), torch.linspace(3, 1, 16)
    with torch.no_grad():
        before = vae.encode(clip)
        round_trip = vae.decode(before)
        fold_latent_scale(vae, mean, std, to_mean, to_std)
        after = vae.encode(clip)
        expected = (before.movedim(1, -1) - mean) / std * to_std + to_mean
        assert torch.allclose(after.movedim(1, -1), expected, atol=1e-4)
        assert torch.allclose(vae.decode(after), round_trip, atol=1e-4)


def test_the_training_attention_equals_the_fused_one(comfy: ModuleType) -> None:
    from throughline.training.video_training import plain_attention

    q, k, v = torch.randn(3, 2, 5, 12, generator=torch.Generator().manual_seed(0))
    heads = [x.unflatten(-1, (3, 4)).transpose(1, 2) for x in (q, k, v)]
    expected = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    assert torch.allclose(plain_attention(lambda: q, q, k, v, 3), expected, atol=1e-5)


def test_channels_of_a_prefix_are_the_ones_core_makes(comfy: ModuleType) -> None:
    """Against `comfy.model_base.WAN21.concat_cond` itself, on a stand-in of the model around it."""
    from types import SimpleNamespace

    import comfy.latent_formats
    import comfy.model_base

    from throughline.training.evaluate import prefix_conditioning
    from throughline.training.video_training import concat_channels

    form = comfy.latent_formats.Wan21()
    generator = torch.Generator().manual_seed(0)
    clean, grey = torch.randn(2, 16, 5, 4, 4, generator=generator)
    raw_prefix, raw_grey = form.process_out(clean[None, :, :2]), form.process_out(grey[None])
    keys = prefix_conditioning([[torch.zeros(1), {}]], raw_prefix, raw_grey)[0][1]
    weight = torch.zeros(8, 36, 1, 2, 2)
    wan = SimpleNamespace(
        diffusion_model=SimpleNamespace(patch_embedding=SimpleNamespace(weight=weight)),
        latent_format=form,
        process_latent_in=form.process_in,
        image_to_video=False,
    )
    noise = torch.zeros(1, 16, 5, 4, 4)
    concat_cond = comfy.model_base.WAN21.concat_cond
    given = concat_cond(wan, noise=noise, device="cpu", **keys)[0]
    assert torch.allclose(given, concat_channels(clean, 2, grey, None), atol=1e-5)
    without = concat_cond(wan, noise=noise, device="cpu")[0]
    assert torch.equal(without, concat_channels(clean, 0, grey, None))


def test_a_resumed_vae_training_is_the_same_training(comfy: ModuleType, tmp_path: Path) -> None:
    from throughline.training import vae_training
    from throughline.training.checkpoints import MovingAverage, save_checkpoint
    from throughline.training.vae_network import build_vae

    config = vae_training.VaeTrainingConfig(
        frame_steps=2, clip_steps=1, frame_batch=2, clip_batch=1, warm_up=2, threads=1
    )
    whole = dict(vae_training.train_vae(tmp_path / "whole", config).named_parameters())
    # the state after two steps, made by hand
    vae = build_vae(torch.Generator().manual_seed(config.seed))
    average = MovingAverage(vae, config.average_decay)
    optimiser = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.98), weight_decay=1e-4)
    for step in range(2):
        vae_training.training_step(vae, average, optimiser, config, step)
    save_checkpoint(
        tmp_path / "half" / "checkpoint.safetensors", vae, average, optimiser, 2, config
    )
    resumed = vae_training.train_vae(tmp_path / "half", config)
    for name, parameter in resumed.named_parameters():
        assert torch.equal(parameter, whole[name]), name


def test_the_text_warm_up_learns_and_keeps_what_a_model_reads(comfy: ModuleType) -> None:
    from throughline.training.text_warm_up import caption_batch, warm_up_text
    from throughline.training.video_network import VideoSizes, build_models

    ids, turns = caption_batch(np.random.default_rng(0))
    assert ids.shape == (128, 16) and set(turns.tolist()) == set(range(9))
    text = build_models(0, VideoSizes(num_layers=1))["text"]
    before = text(ids).detach()
    right = warm_up_text(text, steps=6, seed=0, keep_features=1000.0)
    assert len(right) == 6 and right[0] < 0.5
    moved = (text(ids) - before).square().mean()
    assert 0 < moved < 0.1 * before.square().mean()


def test_the_rate_warms_up_holds_and_decays() -> None:
    rates = [learning_rate(step, 100, 1.0, 10, 0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 == rates[49]
    assert all(a > b for a, b in zip(rates[50:], rates[51:], strict=False))
    assert rates[-1] == pytest.approx(0.02, abs=0.002)
