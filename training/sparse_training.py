"""Train the demo's sparse planner: MMPL on the demo video model, for whole camera paths at a time.

Macro-from-Micro Planning (arXiv 2508.03334; shared design `macro-micro-planning.md`, 2.6) with
teacher forcing: of a segment of 18 latent frames one group is noisy, every group before it stands
clean at timestep 0, each frame at its own rotary position, and a frame sees what its group may see.
The layout is MMPL's own table at this length. A step trains one group; a quarter of a chain's work,
two known latent frames and four new ones, is learned as well, so that a chain of the new weights
can be compared.

The model begins as the demo video model without the channels of its concat image, which are zero
where nothing is known. All of it is trained, and not self-attention alone as in MMPL, since the
captions are longer than it knew: the text encoder is taught them first (`teach_paths`), then the
video model where the camera stands in each latent frame (`teach_cameras`), and it has to name that
as long as it is trained. Without, near anchors followed their caption after 900 steps and far ones
did not (as `text_warm_up` tells of shorter captions).

The shipped files learned panning paths for 2,000 steps and went on (`--go-on`) with both kinds.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..adapters.demo_models import (
    SPARSE_TEXT_FILE,
    SPARSE_VIDEO_FILE,
    TEXT_FILE,
    VAE_FILE,
    VIDEO_FILE,
    DemoTokenizer,
)
from ..planning.layout import Layout, layout_of_steps, mmpl_t2v
from .checkpoints import MovingAverage, learning_rate, load_checkpoint, save_checkpoint
from .noise_levels import shifted
from .sparse_calls import Call, make_call, velocity
from .sparse_captions import TEACH_WARM_UP, teach_paths
from .sparse_data import (
    MOVE_LATENT_FRAMES,
    MOVES,
    PLANNED_LATENT_FRAMES,
    PathData,
    ensure_paths,
    retell,
)
from .vae_training import BUILD
from .video_network import VideoSizes, build_models, build_vocabulary
from .video_training import export_video
from .world import (
    HOLD_LATENT_FRAMES,
    NUM_POSES,
)

CAMERA_BLOCK = 3
"""The block behind which the camera is named: the fourth of six."""

CAMERA_SHIFT = 25.0  # as noise_shift, nearly all noise
CORNER = 4  # latent cells in height and width: a quarter of the tokens


@dataclass(frozen=True)
class Task:
    """One group of a layout, learned with what stands clean before it; the first `moves` told."""

    layout: Layout
    group: int
    moves: int


def tasks() -> dict[str, Task]:
    """The groups that are learned: those of a planned segment, and a chain's segment."""
    planned = mmpl_t2v(PLANNED_LATENT_FRAMES)
    steps = (0,) * HOLD_LATENT_FRAMES + (1,) * MOVE_LATENT_FRAMES
    chain = layout_of_steps("chain", steps)
    return {
        "plan": Task(planned, 1, MOVES),
        "first fill": Task(planned, 2, MOVES),
        "second fill": Task(planned, 3, MOVES),
        "chain": Task(chain, 1, 1),
    }


@dataclass(frozen=True)
class SparseTrainingConfig:
    """Everything that the result depends on."""

    seed: int = 0
    begin: Literal["demo", "shipped"] = "demo"  # the models it goes on from
    num_paths: int = 700
    num_swaying: int = 900
    swaying_share: float = 0.55
    text_steps: int = 400  # of teach_paths
    camera_steps: int = 600  # of teach_cameras
    camera_weight: float = 0.1  # of naming the camera, beside the velocity
    steps: int = 2000
    batch: int = 16
    shares: tuple[tuple[str, float], ...] = (
        ("plan", 0.66),
        ("first fill", 0.1),
        ("second fill", 0.1),
        ("chain", 0.14),
    )
    empty_caption_share: float = 0.05
    noise_shift: float = 5.0  # as in video_training
    peak_learning_rate: float = 7e-4
    warm_up: int = 100
    decay_from: float = 0.5
    weight_decay: float = 0.01
    average_decay: float = 0.998
    threads: int = 1
    sizes: VideoSizes = field(default_factory=lambda: VideoSizes(in_dim=16))


# --- data
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Latents `b 16 t 8 8`, token ids `b n`, the name of the task, and how far the camera is from
    its start in each latent frame (`b t`, poses to the right on the ring, -1 where not told)."""

    task: str
    latents: Tensor
    ids: Tensor
    cameras: Tensor


def draw_batch(data: PathData, config: SparseTrainingConfig, step: int) -> Batch:
    """The batch of a step, by its number: a resumed training sees the same data."""
    generator = np.random.default_rng([config.seed, step])
    names, shares = zip(*config.shares, strict=True)
    name = str(generator.choice(names, p=np.asarray(shares) / sum(shares)))
    task = tasks()[name]
    chosen = data.draw(generator, config.batch, config.swaying_share)
    length = task.layout.latent_frames
    tokenizer = DemoTokenizer(build_vocabulary())
    ids, cameras = [], []
    for index in chosen:
        path = data.paths[index]
        caption = retell(generator).caption(path, task.moves)
        told = generator.uniform() >= config.empty_caption_share
        ids.append(tokenizer.padded(tokenizer.ids(caption if told else "")))
        away = (np.asarray(path.take.poses[:length]) - path.stations[0]) % NUM_POSES
        cameras.append(torch.from_numpy(away if told else np.full(length, -1)))
    latents = data.latents[chosen, :, :length].float()
    return Batch(name, latents, torch.tensor(ids), torch.stack(cameras))


class CameraHead(nn.Module):
    """Names the camera's place on the ring from what a block gives: `b n d` over frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.named = nn.Linear(width, NUM_POSES)
        nn.init.zeros_(self.named.weight)
        nn.init.zeros_(self.named.bias)

    def loss(self, features: Tensor, call: Call, cameras: Tensor) -> tuple[Tensor, float]:
        """Cross entropy over the noisy frames that are told, and the share that is right."""
        frames = features.unflatten(1, (len(call.ids), -1)).mean(dim=2)[:, len(call.clean) :]
        named = self.named(frames.float())
        wanted = cameras[:, list(call.noisy)]
        right = (named.argmax(-1) == wanted)[wanted >= 0].float().mean().item()
        return F.cross_entropy(named.flatten(0, 1), wanted.flatten(), ignore_index=-1), right


@contextmanager
def watched(block: nn.Module) -> Iterator[list[Tensor]]:
    """What a block gives inside the context, call by call."""
    seen: list[Tensor] = []
    handle = block.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    try:
        yield seen
    finally:
        handle.remove()


def flow_loss(
    models: nn.ModuleDict, batch: Batch, config: SparseTrainingConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """Squared error of the velocity of the task's group; the loss of naming the cameras; the share
    of them that is right."""
    task = tasks()[batch.task]
    call = make_call(task.layout, task.layout.groups[task.group])
    uniform = torch.rand(len(batch.latents), generator=generator)
    sigma = shifted(uniform, config.noise_shift)
    target = batch.latents[:, :, list(call.noisy)]
    noise = torch.randn(target.shape, generator=generator)
    mixed = torch.lerp(target, noise, sigma.view(-1, 1, 1, 1, 1))
    video = models["video"]
    with torch.autocast("cpu", torch.bfloat16), watched(video.blocks[CAMERA_BLOCK]) as seen:
        context = models["text"](batch.ids)
        found = velocity(video, call, batch.latents, mixed, sigma, context)
    named, right = models["camera"].loss(seen[0], call, batch.cameras)
    return (found.float() - (noise - target)).square().mean(), named, right


def teach_cameras(
    models: nn.ModuleDict, data: PathData, config: SparseTrainingConfig
) -> list[float]:
    """Teach the first blocks to hold where the camera stands in each anchor, from the caption and
    little but noise, over a corner of the latents; in place. Returns the share of right ones."""
    alone = dataclasses.replace(
        config, shares=(("plan", 1.0),), batch=2 * config.batch, noise_shift=CAMERA_SHIFT
    )
    optimiser = torch.optim.AdamW(
        models.parameters(), betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    right = []
    for step in range(config.camera_steps):
        rise, fall = (step + 1) / TEACH_WARM_UP, (config.camera_steps - step) / TEACH_WARM_UP
        for group in optimiser.param_groups:
            group["lr"] = config.peak_learning_rate * min(1.0, rise, fall)
        batch = draw_batch(data, alone, step)
        corner = dataclasses.replace(batch, latents=batch.latents[..., :CORNER, :CORNER])
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        loss, named, share = flow_loss(models, corner, alone, generator)
        optimiser.zero_grad(set_to_none=True)
        (loss + named).backward()
        nn.utils.clip_grad_norm_(models.parameters(), 1.0)
        optimiser.step()
        right.append(share)
        if (step + 1) % 50 == 0:
            print(f"cameras, step {step + 1}: {np.mean(right[-50:]):.3f}", flush=True)
    return right


# --- training
# --------------------------------------------------------------------------------------------------


def begin_models(config: SparseTrainingConfig) -> nn.ModuleDict:
    """The demo video model without its concat channels, and its text encoder, to go on from, or
    the shipped planner and its own."""
    shipped = config.begin == "shipped"
    models = build_models(config.seed, config.sizes)
    state = load_file(SPARSE_VIDEO_FILE if shipped else VIDEO_FILE)
    name = "patch_embedding.weight"
    state[name] = state[name][:, : config.sizes.in_dim]
    models["video"].load_state_dict(state)
    models["text"].load_state_dict(load_file(SPARSE_TEXT_FILE if shipped else TEXT_FILE))
    models["camera"] = CameraHead(config.sizes.dim)
    return models


def train_sparse(
    data: PathData,
    folder: Path,
    config: SparseTrainingConfig,
    checkpoint_seconds: float = 300.0,
) -> MovingAverage:
    """Train or resume in `folder`, exporting the averaged weights there with every checkpoint."""
    import comfy.model_management

    comfy.model_management.in_training = True  # as in train_video
    torch.set_num_threads(config.threads)
    models = begin_models(config)
    path = folder / "checkpoint.safetensors"
    if config.begin == "demo" and not path.exists():
        teach_paths(models["text"], config.text_steps, config.seed)
        teach_cameras(models, data, config)
    average = MovingAverage(models, config.average_decay)
    optimiser = torch.optim.AdamW(
        models.parameters(), betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    start = load_checkpoint(path, models, average, optimiser) if path.exists() else 0
    saved, losses = time.monotonic(), no_losses()
    for step in range(start, config.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(
                step, config.steps, config.peak_learning_rate, config.warm_up, config.decay_from
            )
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        batch = draw_batch(data, config, step)
        loss, named, right = flow_loss(models, batch, config, generator)
        optimiser.zero_grad(set_to_none=True)
        (loss + config.camera_weight * named).backward()
        nn.utils.clip_grad_norm_(models.parameters(), 1.0)
        optimiser.step()
        average.add(models, step)
        losses[batch.task].append(loss.item())
        losses["cameras"].append(right)
        if (step + 1) % 100 == 0:
            means = ", ".join(f"{k} {np.mean(found):.4f}" for k, found in losses.items() if found)
            print(f"{time.strftime('%H:%M:%S')} step {step + 1}/{config.steps} {means}", flush=True)
            losses = no_losses()
        if time.monotonic() - saved > checkpoint_seconds or step + 1 == config.steps:
            save_checkpoint(path, models, average, optimiser, step + 1, config)
            export(average, config, folder / "video.safetensors", folder / "text.safetensors")
            saved = time.monotonic()
    return average


def no_losses() -> dict[str, list[float]]:
    """A list for each task, and one for the share of cameras that is named right."""
    return {name: [] for name in (*tasks(), "cameras")}


def export(average: MovingAverage, config: SparseTrainingConfig, video: Path, text: Path) -> None:
    """Write the averaged weights as the two shipped files."""
    export_video(average, config, video, text, "Throughline demo sparse planner")


def main(arguments: Sequence[str]) -> int:
    """Train on latents of the shipped VAE; `--ship` replaces the shipped files."""
    from .vae_export import load_vae

    parser = argparse.ArgumentParser(prog="dev.py train sparse", description=__doc__)
    parser.add_argument("--ship", action="store_true", help="write into weights/")
    parser.add_argument("--go-on", action="store_true", help="begin with the shipped planner")
    parser.add_argument("--paths", type=int, default=SparseTrainingConfig.num_paths)
    parser.add_argument("--swaying", type=int, default=SparseTrainingConfig.num_swaying)
    parser.add_argument("--steps", type=int, default=SparseTrainingConfig.steps)
    parser.add_argument("--batch", type=int, default=SparseTrainingConfig.batch)
    parser.add_argument("--seed", type=int, default=SparseTrainingConfig.seed)
    options = parser.parse_args(arguments)
    config = SparseTrainingConfig(
        seed=options.seed,
        begin="shipped" if options.go_on else "demo",
        num_paths=options.paths,
        num_swaying=options.swaying,
        steps=options.steps,
        batch=options.batch,
    )
    torch.set_num_threads(config.threads)
    folder, vae = BUILD / "sparse", load_vae(VAE_FILE)
    data = PathData(
        list(ensure_paths(vae, folder, config.num_paths)),
        list(ensure_paths(vae, folder, config.num_swaying, "swaying")),
    )
    average = train_sparse(data, folder, config)
    if options.ship:
        export(average, config, SPARSE_VIDEO_FILE, SPARSE_TEXT_FILE)
    print(f"wrote {'weights' if options.ship else folder.relative_to(BUILD.parent.parent)}")
    return 0
