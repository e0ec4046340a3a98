"""Streamed decoding against core's VAE.decode of the whole latent."""

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from throughline.adapters import decode
from throughline.adapters.decode import check_channels, decode_chain, regroup, vae_grid


def randomised(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights scaled by fan-in, so that features keep their size through all layers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(network.named_parameters()):
            fan_in = max(1, parameter[0].numel())
            value = torch.randn(parameter.shape, generator=generator)
            scale = fan_in**-0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(value * scale + (1.0 if name.endswith("gamma") else 0.0))
        for name, buffer in network.named_buffers():  # LTXV leaves its latent statistics empty
            buffer.fill_(1.0 if "std" in name else 0.0)
    return network


def wan21() -> Any:
    import comfy.ldm.wan.vae
    import comfy.sd

    network = comfy.ldm.wan.vae.WanVAE(
        dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True]
    )
    return comfy.sd.VAE(sd=randomised(network).state_dict())


def replaced(network: torch.nn.Module, channels: int, stride: int, pixels: int) -> Any:
    """A comfy.sd.VAE around a small network of a class that core builds in its full size only."""
    import comfy.model_patcher

    vae = wan21()
    vae.first_stage_model = randomised(network).eval()
    vae.patcher = comfy.model_patcher.CoreModelPatcher(
        vae.first_stage_model, load_device=vae.device, offload_device=vae.device
    )
    vae.latent_channels = channels
    vae.upscale_ratio = (lambda n: stride * (n - 1) + 1, pixels, pixels)
    return vae


def wan22() -> Any:
    """The class of Wan 2.2's VAE, small."""
    import comfy.ldm.wan.vae2_2

    network = comfy.ldm.wan.vae2_2.WanVAE(
        dim=8, dec_dim=8, z_dim=48, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True]
    )
    return replaced(network, 48, 4, 16)


def split(latent: torch.Tensor, lengths: Sequence[int]) -> Iterator[torch.Tensor]:
    assert sum(lengths) == latent.shape[2]
    return iter(torch.split(latent, list(lengths), 2))


def latent_for(vae: Any, latent_frames: int, side: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(latent_frames)
    return torch.randn(1, vae.latent_channels, latent_frames, side, side + 1, generator=generator)


@pytest.mark.parametrize("make", [wan21, wan22])
@pytest.mark.parametrize(
    "lengths", [[1], [2], [3], [1, 1], [5], [3, 2, 2], [1, 1, 1, 1, 1], [2, 5], [4, 3, 3, 2]]
)
def test_wan_is_streamed_exactly(
    comfy: ModuleType, make: Callable[[], Any], lengths: list[int]
) -> None:
    vae = make()
    latent = latent_for(vae, sum(lengths))
    with torch.no_grad():
        expected = vae.decode(latent)[0][..., :3]
    frames = torch.cat(list(decode_chain(vae, split(latent, lengths))))
    assert frames.shape == expected.shape
    assert frames.shape[0] == vae_grid(vae).frames(sum(lengths))
    assert torch.allclose(frames, expected, atol=1e-5)
    assert 0.05 < frames.std() < 0.6  # the picture is not clamped away


def test_frames_come_before_the_next_piece_is_read(comfy: ModuleType) -> None:
    vae = wan21()
    latent, read = latent_for(vae, 9), 0

    def pieces() -> Iterator[torch.Tensor]:
        nonlocal read
        for piece in split(latent, [3, 3, 3]):
            read += 1
            yield piece

    seen = []
    for frames in decode_chain(vae, pieces()):
        seen.append((read, frames.shape[0]))
    assert seen == [(1, 1), (1, 8), (2, 8), (3, 8), (3, 8)]


def test_interrupt_between_groups(comfy: ModuleType) -> None:
    from comfy import model_management

    vae = wan21()
    frames = decode_chain(vae, split(latent_for(vae, 5), [5]))
    next(frames)
    model_management.interrupt_current_processing()
    with pytest.raises(model_management.InterruptProcessingException):
        next(frames)


def ltxv() -> Any:
    """LTXV's VAE class, small: its decoder looks ahead."""
    import comfy.ldm.lightricks.vae.causal_video_autoencoder as lightricks

    blocks = [["res_x", {"num_layers": 1}], ["compress_all", {"residual": False}]]
    config = {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 128,
        "encoder_blocks": [
            ["res_x", {"num_layers": 1}],
            ["compress_all", {}],
            ["compress_all", {}],
            ["compress_all", {}],
        ],
        "decoder_blocks": [*blocks, *blocks, *blocks],
        "norm_layer": "pixel_norm",
        "patch_size": 4,
        "latent_log_var": "uniform",
        "use_quant_conv": False,
        "causal_decoder": False,
        "encoder_base_channels": 8,
        "decoder_base_channels": 8,
    }
    return replaced(lightricks.VideoVAE(version=0, config=config), 128, 8, 32)


def hunyuan() -> Any:
    """HunyuanVideo's VAE class, small."""
    import comfy.ldm.models.autoencoder

    config = {
        "double_z": True,
        "z_channels": 16,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
        "conv3d": True,
        "time_compress": 4,
    }
    network = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=config, embed_dim=16)
    return replaced(network, 16, 4, 8)


@pytest.mark.parametrize("make", [ltxv, hunyuan])
@pytest.mark.parametrize("lengths", [[1], [6], [9, 4], [9, 9, 9], [1] * 16])
def test_other_video_vaes_go_through_windows(
    comfy: ModuleType, make: Callable[[], Any], lengths: list[int]
) -> None:
    vae = make()
    latent = latent_for(vae, sum(lengths), side=2)
    with torch.no_grad():
        expected = vae.decode(latent)[0]
    frames = torch.cat(list(decode_chain(vae, split(latent, lengths))))
    assert frames.shape == expected.shape
    error = (frames - expected).abs().mean()
    assert expected.std() > 0.05
    assert error < (1e-5 if sum(lengths) <= decode.WINDOW else 0.01 * expected.std())


def test_running_out_of_memory_goes_on_in_windows(
    comfy: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vae = wan21()
    latent = latent_for(vae, 11)
    with torch.no_grad():
        expected = vae.decode(latent)[0]
    run_step, calls = decode._run_step, 0

    def short_of_memory(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise torch.cuda.OutOfMemoryError("no memory")
        return run_step(*args)

    monkeypatch.setattr(decode, "_run_step", short_of_memory)
    frames = torch.cat(list(decode_chain(vae, split(latent, [5, 6]))))
    assert frames.shape == expected.shape
    assert torch.allclose(frames[:17], expected[:17], atol=1e-5)
    assert (frames - expected).abs().mean() < 0.5 * expected.std()  # random weights: the worst
    assert "Out of memory while decoding" in caplog.text


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    comfy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae = wan21()

    def broken(*args: Any) -> torch.Tensor:
        raise RuntimeError("a broken weight")

    monkeypatch.setattr(decode, "_run_step", broken)
    with pytest.raises(RuntimeError, match="a broken weight"):
        list(decode_chain(vae, [latent_for(vae, 3)]))


def test_latents_of_another_model_are_refused(comfy: ModuleType) -> None:
    vae = wan21()
    with pytest.raises(ValueError, match="this VAE has 16 latent channels, the run has 48"):
        list(decode_chain(vae, [torch.zeros(1, 48, 3, 4, 4)]))
    with pytest.raises(ValueError, match=r"latents must be \[1, c, t, h, w\], got \[2, 16"):
        list(decode_chain(vae, [torch.zeros(2, 16, 3, 4, 4)]))
    check_channels(vae, 16)


def test_image_vaes_and_other_grids_are_refused_by_name(comfy: ModuleType) -> None:
    image = SimpleNamespace(latent_dim=2, first_stage_model=torch.nn.Identity())
    with pytest.raises(ValueError, match="vae must be a video VAE, got Identity"):
        vae_grid(image)
    other = SimpleNamespace(
        latent_dim=3,
        first_stage_model=torch.nn.Identity(),
        temporal_compression_decode=lambda: 3,
        upscale_ratio=(lambda n: max(1, (n - 2) // 5 * 17 + 5), 16, 16),
    )
    with pytest.raises(ValueError, match=r"3\(n-1\)\+1 frames to be streamed, got Identity"):
        vae_grid(other)


@pytest.mark.parametrize("lengths", [[1], [4], [1, 1, 1], [3, 2, 7], [2, 2]])
def test_regroup_keeps_everything_in_order(lengths: list[int]) -> None:
    whole = torch.arange(sum(lengths)).reshape(1, 1, -1, 1, 1)
    groups = list(regroup(split(whole, lengths), 1, 2))
    assert torch.equal(torch.cat(groups, 2), whole)
    sizes = [group.shape[2] for group in groups]
    assert sizes[0] == 1 and all(size == 2 for size in sizes[1:-1])
