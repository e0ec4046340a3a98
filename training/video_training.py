"""Train the demo video model and its text encoder: flow matching after a clean prefix.

Conventions are core's: x_s = (1 - s) x0 + s noise with s in 0..1, the model gets 1000 s and returns
noise - x0 (`comfy.model_sampling`: CONST and ModelSamplingDiscreteFlow). The prefix comes by
channels, as core gives it to a 16-channel Wan 2.2 I2V model (`comfy.model_base.WAN21.concat_cond`):
mask (4 channels, 1 = known), then the known latents, unknown frames filled with the latents of
grey; without any prefix all 20 channels are zero.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..adapters.demo_models import DemoTokenizer
from .checkpoints import (
    MovingAverage,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    write_tensors,
)
from .noise_levels import shifted
from .text_warm_up import warm_up_text
from .vae_training import BUILD
from .video_data import WINDOW_LENGTHS, VideoData, ensure_shards, grey_latents, window_caption
from .video_network import VideoSizes, build_models, build_vocabulary

MASK_CHANNELS = 4
TIMESTEP_SCALE = 1000.0  # multiplier of ModelSamplingDiscreteFlow


@dataclass(frozen=True)
class VideoTrainingConfig:
    """Everything that the result depends on."""

    seed: int = 0
    num_takes: int = 2500
    text_steps: int = 400  # see text_warm_up
    steps: int = 9000
    batch: int = 32
    usual_length: int = 6  # latent frames: two known, four new
    usual_length_share: float = 0.6
    prefix_shares: tuple[float, ...] = (0.10, 0.25, 0.50, 0.15)  # of 0, 1, 2, 3 known latent frames
    rest_weight: float = 0.3  # of windows in which the camera stands: they are many and easy
    empty_caption_share: float = 0.1
    start_fill_share: float = (
        0.5  # of windows that know one frame: grey as core's WanImageToVideo encodes it
    )
    known_weight: float = 0.3  # loss of known latent frames; they are copied and learned at once
    noise_shift: float = 5.0  # s = shift u / (1 + (shift - 1) u), u uniform; see flow_loss
    peak_learning_rate: float = 1e-3
    warm_up: int = 200
    decay_from: float = 0.6
    weight_decay: float = 0.01
    average_decay: float = 0.999
    threads: int = 1
    sizes: VideoSizes = field(default_factory=VideoSizes)


@dataclass(frozen=True)
class Batch:
    """Latents `b 16 t 8 8`, concat channels `b 20 t 8 8`, known `b t`, token ids `b n`."""

    latents: Tensor
    concat: Tensor
    known: Tensor
    ids: Tensor


def draw_batch(data: VideoData, config: VideoTrainingConfig, step: int) -> Batch:
    """The batch of a step, by its number: a resumed training sees the same data."""
    generator = np.random.default_rng([config.seed, step])
    usual = generator.uniform() < config.usual_length_share
    length = config.usual_length if usual else int(generator.choice(list(WINDOW_LENGTHS)))
    chosen = generator.choice(data.usable[length], size=config.batch)
    tokenizer = DemoTokenizer(build_vocabulary())
    latents, concat, known, ids = [], [], [], []
    for index in chosen:
        starts = data.windows[length][index]
        weights = np.asarray([config.rest_weight if w.turns == (0,) else 1.0 for w in starts])
        window = starts[int(generator.choice(len(starts), p=weights / weights.sum()))]
        shares = np.asarray(config.prefix_shares)
        if not window.at_rest:  # the caption does not tell a first move: it must be known
            shares = np.where(np.arange(len(shares)) < 2, 0.0, shares)
        prefix = int(generator.choice(len(shares), p=shares / shares.sum()))
        clean = data.latents[index, :, window.start : window.start + length].float()
        use_start_fill = (
            window.start == 0 and prefix == 1 and generator.uniform() < config.start_fill_share
        )
        fill = data.start_fill[index].float() if use_start_fill else None
        caption = window_caption(
            data.takes[index], window.start, int(generator.choice(window.turns))
        )
        text = "" if generator.uniform() < config.empty_caption_share else caption
        latents.append(clean)
        concat.append(concat_channels(clean, prefix, data.grey, fill))
        known.append(torch.arange(length) < prefix)
        ids.append(tokenizer.padded(tokenizer.ids(text)))
    return Batch(torch.stack(latents), torch.stack(concat), torch.stack(known), torch.tensor(ids))


def concat_channels(clean: Tensor, prefix: int, grey: Tensor, start_fill: Tensor | None) -> Tensor:
    """Mask and known latents `20 t h w` of a window `16 t h w` that knows `prefix` latent frames.

    `start_fill` replaces the grey of the second latent frame.
    """
    length = clean.shape[1]
    mask = torch.zeros(MASK_CHANNELS, *clean.shape[1:])
    if prefix == 0:
        return torch.cat([mask, torch.zeros_like(clean)])
    mask[:, :prefix] = 1.0
    image = grey[:, :length].clone()
    image[:, :prefix] = clean[:, :prefix]
    if start_fill is not None:
        image[:, 1] = start_fill
    return torch.cat([mask, image])


def plain_attention(
    _: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, **kwargs: object
) -> Tensor:
    """Attention of `b n (heads d)`, an `optimized_attention_override` of core.

    At 144 tokens on a CPU twice as fast over a training step as the fused kernel (1.45 s -> 0.75 s,
    batch 32).
    """

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = split(q), split(k), split(v)
    weights = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)).softmax(-1)
    return torch.matmul(weights.to(v.dtype), v).transpose(1, 2).flatten(2)


def flow_loss(
    models: nn.ModuleDict, batch: Batch, config: VideoTrainingConfig, generator: torch.Generator
) -> Tensor:
    """Squared error of the velocity, known latent frames weighted down.

    Most samples are nearly all noise: down to s = 0.95 the noisy latents still tell which way the
    camera turns (a matched filter over 1,024 values), so only above it must the text be read.
    """
    size = len(batch.latents)
    uniform = torch.rand(size, generator=generator)
    sigma = shifted(uniform, config.noise_shift)
    noise = torch.randn(batch.latents.shape, generator=generator)
    mixed = torch.lerp(batch.latents, noise, sigma.view(-1, 1, 1, 1, 1))
    # bfloat16 products: 0.75 s -> 0.54 s on a CPU with avx512_bf16; weights and residual stream
    # stay float32
    with torch.autocast("cpu", torch.bfloat16):
        velocity = models["video"](
            torch.cat([mixed, batch.concat], dim=1),
            sigma * TIMESTEP_SCALE,
            models["text"](batch.ids),
            transformer_options={"optimized_attention_override": plain_attention},
        )
    error = (velocity.float() - (noise - batch.latents)).square().mean(dim=(1, 3, 4))
    weight = torch.where(batch.known, config.known_weight, 1.0)
    return (error * weight).sum() / weight.sum()


def export_video(
    average: MovingAverage, config: Any, video: Path, text: Path, title: str = "Throughline demo"
) -> None:
    """Write the averaged weights as the two shipped files, bfloat16.

    `config` is a training's, with the `sizes` of both models; `title` begins their names."""
    parts: dict[str, dict[str, Tensor]] = {"video": {}, "text": {}}
    for name, value in average.values.items():
        part, _, key = name.partition(".")
        if part in parts:  # a training may learn more than it ships
            parts[part][key] = value.to(torch.bfloat16)
    common = {
        "modelspec.license": "GPL-3.0-or-later",
        "training": json.dumps(dataclasses.asdict(config)),
    }
    video_config = {"transformer": config.sizes.transformer_config()}
    text_config = {
        "text": {
            "width": config.sizes.text_dim,
            "layers": config.sizes.text_layers,
            "heads": 4,
            "vocabulary": build_vocabulary(),
        }
    }
    for part, path, name, sizes in (
        ("video", video, "video model", video_config),
        ("text", text, "text encoder", text_config),
    ):
        named = {"modelspec.title": f"{title} {name}", "config": json.dumps(sizes)}
        write_tensors(path, parts[part], {**common, **named})


def train_video(
    data: VideoData,
    folder: Path,
    config: VideoTrainingConfig,
    checkpoint_seconds: float = 300.0,
    start_from: tuple[Path, Path] | None = None,
) -> MovingAverage:
    """Train or resume in `folder`, exporting the averaged weights there with every checkpoint.

    `start_from` are the files of video model and text encoder to begin with when the folder holds
    no checkpoint.
    """
    import comfy.model_management

    comfy.model_management.in_training = (
        True  # core's own switch: its fused rotary embedding has no gradient
    )
    torch.set_num_threads(config.threads)
    models = build_models(config.seed, config.sizes)
    if start_from is not None:
        for part, file in zip(("video", "text"), start_from, strict=True):
            models[part].load_state_dict(load_file(file))
    average = MovingAverage(models, config.average_decay)
    optimiser = torch.optim.AdamW(
        models.parameters(), betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    path = folder / "checkpoint.safetensors"
    start = load_checkpoint(path, models, average, optimiser) if path.exists() else 0
    if start == 0 and start_from is None:
        warm_up_text(models["text"], config.text_steps, config.seed)
    saved, losses = time.monotonic(), []
    for step in range(start, config.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(
                step, config.steps, config.peak_learning_rate, config.warm_up, config.decay_from
            )
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        loss = flow_loss(models, draw_batch(data, config, step), config, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(models.parameters(), 1.0)
        optimiser.step()
        average.add(models, step)
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            clock = time.strftime("%H:%M:%S")
            print(f"{clock} step {step + 1}/{config.steps} loss {np.mean(losses):.4f}", flush=True)
            losses = []
        if time.monotonic() - saved > checkpoint_seconds or step + 1 == config.steps:
            save_checkpoint(path, models, average, optimiser, step + 1, config)
            export_video(average, config, folder / "video.safetensors", folder / "text.safetensors")
            saved = time.monotonic()
    return average


def main(arguments: Sequence[str]) -> int:
    """Train both on latents of the shipped VAE; `--ship` replaces the shipped files."""
    from ..adapters.demo_models import TEXT_FILE, VAE_FILE, VIDEO_FILE
    from .vae_export import load_vae

    parser = argparse.ArgumentParser(prog="dev.py train video", description=__doc__)
    parser.add_argument("--ship", action="store_true", help="write into weights/")
    parser.add_argument("--continue", dest="again", action="store_true", help="start from weights/")
    parser.add_argument("--takes", type=int, default=VideoTrainingConfig.num_takes)
    parser.add_argument("--steps", type=int, default=VideoTrainingConfig.steps)
    parser.add_argument("--batch", type=int, default=VideoTrainingConfig.batch)
    parser.add_argument("--threads", type=int, default=VideoTrainingConfig.threads)
    parser.add_argument("--seed", type=int, default=VideoTrainingConfig.seed)
    options = parser.parse_args(arguments)
    config = VideoTrainingConfig(
        seed=options.seed,
        num_takes=options.takes,
        steps=options.steps,
        batch=options.batch,
        threads=options.threads,
    )
    torch.set_num_threads(config.threads)
    folder, vae = BUILD / "video", load_vae(VAE_FILE)
    data = VideoData(list(ensure_shards(vae, folder, config.num_takes)), grey_latents(vae))
    shipped = (VIDEO_FILE, TEXT_FILE)
    average = train_video(data, folder, config, start_from=shipped if options.again else None)
    if options.ship:
        export_video(average, config, *shipped)
    print(f"wrote {'weights' if options.ship else folder.relative_to(BUILD.parent.parent)}")
    return 0
