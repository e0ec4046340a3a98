"""ComfyUI's own Wan VAE class and a fast training form of the same network.

`comfy.ldm.wan.vae.WanVAE` streams a clip through caches in chunks. On a CPU that costs far more
than the arithmetic. The forward pass here computes the same function on whole clips, for weights
whose residual blocks look at one frame only (the earlier temporal taps of their kernels are zero
and stay zero: they get no gradient). Frames are then a batch of 2D convolutions in channels-last
order. Time is handled by the four `time_conv` layers, with all their taps. A test compares both
forms.

Tensors: clips are `b c t h w`; frames inside are `(b t) c h w` in channels-last memory.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Channels at full resolution: one AVX-512 register. 12 was slower: 168 against 330 GFLOPS a conv.
WIDTH = 16
LATENT_CHANNELS = 16
DIM_MULT = [
    1,
    2,
    4,
    4,
]  # comfy/sd.py reads only the width from the file, the rest is fixed to these values
TEMPORAL_DOWNSAMPLE = [False, True, True]
NORM_EPSILON = 1e-12  # the floor of F.normalize


class NormThenSilu(torch.autograd.Function):
    """`silu(F.normalize(x, dim=1) * sqrt(c) * gamma)` on channels-last frames.

    Five times faster than the composed operators on a CPU (6 ms against 31 ms for 32 x 16 x 64 x
    64, both passes).
    """

    @staticmethod
    def forward(ctx, x: Tensor, gamma: Tensor) -> Tensor:  # noqa: ANN001 (autograd context)
        n, c, h, w = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(-1, c)
        scale = torch.mm(rows * rows, rows.new_full((c, 1), 1.0 / c)).add_(NORM_EPSILON).rsqrt_()
        unit = rows * scale
        scaled = unit * gamma
        ctx.save_for_backward(unit, scale, scaled, gamma)
        ctx.frame_shape = x.shape
        return F.silu(scaled).view(n, h, w, c).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN001 (autograd context)
        unit, scale, scaled, gamma = ctx.saved_tensors
        n, c, h, w = ctx.frame_shape
        grad = torch.ops.aten.silu_backward(grad.permute(0, 2, 3, 1).reshape(-1, c), scaled)
        weighted = grad * unit
        grad_gamma = torch.mm(weighted.new_ones(1, weighted.shape[0]), weighted).view(-1)
        projection = torch.mm(weighted, (gamma / c).view(c, 1))
        grad = grad.mul_(gamma).sub_(unit * projection).mul_(scale)
        return grad.view(n, h, w, c).permute(0, 3, 1, 2), grad_gamma


def build_vae(generator: torch.Generator, width: int = WIDTH) -> nn.Module:
    """A `WanVAE` of ComfyUI, initialised for training.

    Last temporal tap Kaiming normal, earlier taps zero; second convolution of every residual block
    and the projection of the attention zero (both start as identity); `time_conv` passes the newest
    frame on unchanged.
    """
    from comfy.ldm.wan.vae import WanVAE

    vae = WanVAE(
        dim=width, z_dim=LATENT_CHANNELS, dim_mult=DIM_MULT, temperal_downsample=TEMPORAL_DOWNSAMPLE
    )
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(1.0)
                continue
            parameter.zero_()
            if name.endswith(("bias", "residual.6.weight", "proj.weight")):
                continue
            tap = parameter[:, :, -1] if parameter.ndim == 5 else parameter
            if "time_conv" in name:
                identity = torch.eye(tap.shape[1])[:, :, None, None]
                tap.copy_(identity.repeat(tap.shape[0] // tap.shape[1], 1, 1, 1))
                continue
            fan_in = tap[0].numel()
            tap.copy_(torch.randn(tap.shape, generator=generator) * fan_in**-0.5)
    return vae


def _frame_conv(layer: nn.Module, x: Tensor, padding: int) -> Tensor:
    """The newest temporal tap of a Conv3d, or a Conv2d, on frames."""
    weight = layer.weight[:, :, -1] if layer.weight.ndim == 5 else layer.weight
    return F.conv2d(x, weight, layer.bias, padding=padding)


def _norm_silu(norm: nn.Module, x: Tensor) -> Tensor:
    return NormThenSilu.apply(x, norm.gamma.view(-1))


def _residual(block: nn.Module, x: Tensor) -> Tensor:
    layers = block.residual
    y = _frame_conv(layers[2], _norm_silu(layers[0], x), 1)
    y = _frame_conv(layers[6], _norm_silu(layers[3], y), 1)
    shortcut = x if isinstance(block.shortcut, nn.Identity) else _frame_conv(block.shortcut, x, 0)
    return shortcut + y


def _time_conv(layer: nn.Module, clip: Tensor, stride: int) -> Tensor:
    """A (3, 1, 1) convolution over time without padding, `b c t h w`."""
    taps = [layer.weight[:, :, tap] for tap in range(3)]
    steps = range(0, clip.shape[2] - 2, stride)
    frames = [clip[:, :, tap : tap + stride * (len(steps) - 1) + 1 : stride] for tap in range(3)]
    total = sum(F.conv2d(_to_frames(part), tap) for part, tap in zip(frames, taps, strict=True))
    return _to_clip(total + layer.bias[:, None, None], clip.shape[0])


def _to_frames(clip: Tensor) -> Tensor:
    """`b c t h w` -> `(b t) c h w`, channels last."""
    b, c, t, h, w = clip.shape
    frames = clip.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w)
    return frames.contiguous(memory_format=torch.channels_last)


def _to_clip(frames: Tensor, batch: int) -> Tensor:
    """`(b t) c h w` -> `b c t h w`."""
    bt, c, h, w = frames.shape
    return frames.view(batch, bt // batch, c, h, w).permute(0, 2, 1, 3, 4)


def _downsample(layer: nn.Module, x: Tensor, batch: int) -> Tensor:
    convolution = layer.resample[1]
    x = F.conv2d(F.pad(x, (0, 1, 0, 1)), convolution.weight, convolution.bias, stride=2)
    clip = _to_clip(x, batch)
    if layer.mode == "downsample3d" and clip.shape[2] > 1:
        clip = torch.cat([clip[:, :, :1], _time_conv(layer.time_conv, clip, 2)], dim=2)
        x = _to_frames(clip)
    return x


def _upsample(layer: nn.Module, x: Tensor, batch: int) -> Tensor:
    clip = _to_clip(x, batch)
    if layer.mode == "upsample3d" and clip.shape[2] > 1:
        later = F.pad(
            clip[:, :, 1:], (0, 0, 0, 0, 2, 0)
        )  # the first latent frame is not in the cache
        pairs = _time_conv(layer.time_conv, later, 1)
        b, _, t, h, w = pairs.shape
        pairs = (
            pairs.reshape(b, 2, -1, t, h, w).permute(0, 2, 3, 1, 4, 5).reshape(b, -1, 2 * t, h, w)
        )
        x = _to_frames(torch.cat([clip[:, :, :1], pairs], dim=2))
    x = F.interpolate(x, scale_factor=2.0, mode="nearest-exact")
    convolution = layer.resample[1]
    return F.conv2d(x, convolution.weight, convolution.bias, padding=1)


def _layers(layers: nn.Module, x: Tensor, batch: int) -> Tensor:
    from comfy.ldm.wan.vae import Resample, ResidualBlock

    for layer in layers:
        if isinstance(layer, ResidualBlock):
            x = _residual(layer, x)
        elif isinstance(layer, Resample):
            x = _downsample(layer, x, batch) if "down" in layer.mode else _upsample(layer, x, batch)
        # the attention of the middle keeps its zero projection: identity
    return x


def encode_clip(vae: nn.Module, clip: Tensor) -> Tensor:
    """Mean latents, raw scale: `b 3 t h w` in -1..1, t = 4n + 1 -> `b 16 n+1 h/8 w/8`."""
    batch, encoder = clip.shape[0], vae.encoder
    x = _frame_conv(encoder.conv1, _to_frames(clip), 1)
    x = _layers(encoder.middle, _layers(encoder.downsamples, x, batch), batch)
    x = _frame_conv(encoder.head[2], _norm_silu(encoder.head[0], x), 1)
    x = _frame_conv(vae.conv1, x, 0)[:, :LATENT_CHANNELS]
    return _to_clip(x, batch)


def decode_clip(vae: nn.Module, latents: Tensor) -> Tensor:
    """The clip of latents `b 16 t h w`, raw scale -> `b 3 4t-3 8h 8w`, about -1..1."""
    batch, decoder = latents.shape[0], vae.decoder
    x = _frame_conv(vae.conv2, _to_frames(latents), 0)
    x = _frame_conv(decoder.conv1, x, 1)
    x = _layers(decoder.upsamples, _layers(decoder.middle, x, batch), batch)
    x = _frame_conv(decoder.head[2], _norm_silu(decoder.head[0], x), 1)
    return _to_clip(x, batch)
