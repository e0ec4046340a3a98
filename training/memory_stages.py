"""The two stages of training a history encoder, as commands: on the demo's world or a real model.

    python3 dev.py train encoder                                   Stage I, the demo
    python3 dev.py train memory --ship                             Stage II, into weights/
    python3 dev.py train encoder --model Wan2.1-T2V-1.3B-Diffusers --videos films --out trained

Stage II begins with Stage I's averaged result: its LoRA is merged into the frozen model, a new one
is trained, the encoders go on (paper v6, section 3; merging as in AlayaWorld). All stops and
continues at checkpoints; a folder that was begun with other options is refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..adapters.demo_models import TEXT_FILE, WEIGHTS, load_demo_text_encoder
from ..memory.rates import Rate
from ..memory.weight_format import read_encoder_file
from .address_warm_up import warm_up_addresses
from .checkpoints import MovingAverage, load_average, trained_parameters
from .launch import add_launch_options, launch, make_accelerator
from .memory_export import Provenance, export_memory, layer_factors, lora_factors
from .memory_model import MemoryModel
from .memory_recipes import ADDRESS_WEIGHT, Stage
from .memory_subject import Subject, demo_subject, model_subject
from .memory_training import (
    MemoryTrainer,
    MemoryTrainingConfig,
    encoder_configs,
    initialise_encoder,
    train,
)
from .memory_ways import MemoryWays, Way
from .story_videos import CutSettings
from .vae_training import BUILD
from .world import FRAMES_PER_SECOND

CHECKPOINT = "checkpoint.safetensors"
FREE_TO_CHANGE = ("steps", "threads", "stories")
"""Settings that a training may be continued with other values of."""


def command(stage: Stage, arguments: Sequence[str]) -> int:
    """Run a stage as `dev.py train` does; returns the exit status."""
    launch(run, parse(stage, arguments))
    return 0


def parse(stage: Stage, arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line of a stage; ends the program where it makes no sense."""
    parser = argparse.ArgumentParser(
        prog=f"dev.py train {stage.name}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="a diffusers folder; nothing: the demo model")
    parser.add_argument("--transformer", default="transformer", help="transformer_2: low noise")
    parser.add_argument("--videos", type=Path, help="videos with captions beside them")
    parser.add_argument("--stories", type=Path, help="encoded stories, made from the videos")
    parser.add_argument("--out", type=Path, help="folder of the results of both stages")
    parser.add_argument("--ship", action="store_true", help="the demo: write into weights/")
    parser.add_argument(
        "--continue",
        dest="again",
        action="store_true",
        help="the demo, Stage II: begin with the shipped memory and do its last phase once more",
    )
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, help="histories of a step, per process")
    parser.add_argument("--rates", type=_rates, help="such as 2x2x2,4x4x2: one encoder each")
    parser.add_argument("--rank", type=int, help="of the LoRA")
    parser.add_argument("--widths", type=_widths, help="of the encoder, such as 64,128,256,512")
    parser.add_argument("--seed", type=int, default=0)
    cut = parser.add_argument_group("how videos are cut")
    default = CutSettings()
    cut.add_argument("--size", type=_size, default=(default.height, default.width), help="HxW")
    cut.add_argument("--fps", type=float, default=default.fps)
    cut.add_argument("--segment-frames", type=int, default=default.frames, help="4n+1")
    cut.add_argument("--story-segments", type=int, default=default.segments)
    add_launch_options(parser)
    options = parser.parse_args(arguments, argparse.Namespace(stage=stage))
    if (options.model is None) != (options.videos is None and options.stories is None):
        parser.error("--model and --videos (or --stories) go together")
    if options.again and (options.model is not None or stage.after is None):
        parser.error("--continue is for the demo's Stage II")
    if options.ship and options.model is not None:
        parser.error("--ship is for the demo")
    return options


def _rates(text: str) -> tuple[str, ...]:
    return tuple(str(Rate.parse(each)) for each in text.split(","))


def _widths(text: str) -> tuple[int, ...]:
    widths = tuple(int(each) for each in text.split(","))
    if len(widths) != 4:
        raise argparse.ArgumentTypeError(f"an encoder has four widths, got {text}")
    return widths


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def run(options: argparse.Namespace) -> None:
    """Train one stage on this process's device; called in every process."""
    stage: Stage = options.stage
    torch.set_num_threads(options.threads)
    accelerator = make_accelerator(options)
    out = options.out or BUILD / ("memory" if options.model is None else options.model.name)
    defaults = (stage.demo if options.model is None else stage.real)[-1]
    rates = options.rates or defaults.rates
    if options.model is None:
        subject = demo_subject(rates, defaults.stories, stage.empty_captions, accelerator)
    else:
        subject = model_subject(options, rates, out / "stories", accelerator)
    if options.gradient_checkpointing:
        subject.model.transformer.enable_gradient_checkpointing()
    phases = stage_phases(stage, options, subject)
    folder = out / stage.folder
    if options.again:
        folder = out / f"{stage.folder}_continued"
    check_same_training(folder / CHECKPOINT, phases)
    kinds = {Way.parse(name).kind for config in phases for name, _ in config.ways}
    packed = bool(kinds & {"packed", "framepack"})
    earlier_lora: dict[str, Tensor] = {}
    if options.again:
        trainer, earlier_lora = continue_shipped(subject, phases[0], WEIGHTS)
    elif stage.after is None:
        trainer = begin(subject, phases[0], packed)
    else:
        checkpoint = out / stage.after / CHECKPOINT
        trainer, before = continue_from(subject, phases[0], checkpoint, packed)
        earlier_lora = lora_factors(before)
    new = not (options.again or (folder / CHECKPOINT).is_file())
    if options.model is None and stage.address_steps and new:  # by the demo's own captions
        steps = min(stage.address_steps, phases[-1].steps)
        last = phases[-1]
        text = load_demo_text_encoder(TEXT_FILE).cond_stage_model
        warm_up_addresses(trainer.ways.encoders, text, steps, last.seed)
    for config in phases:
        average = train(
            trainer,
            subject.data,
            folder,
            config,
            accelerator,
            empty_caption=subject.empty_caption,
            checkpoint_seconds=options.checkpoint_seconds,
        )
        # the next phase reads the checkpoint that process 0 writes, and wraps the model anew
        accelerator.wait_for_everyone()
        accelerator.free_memory()
    if accelerator.is_main_process:
        for path in export(trainer, average, earlier_lora, phases[-1], subject, options, folder):
            print(f"wrote {path}", flush=True)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def stage_phases(
    stage: Stage, options: argparse.Namespace, subject: Subject
) -> tuple[MemoryTrainingConfig, ...]:
    """The stage's phases with what the command line and the data say; those that `--steps` leaves
    nothing to do are left out."""
    recipe = stage.demo if options.model is None else stage.real
    phases: list[MemoryTrainingConfig] = []
    for config in recipe[-1:] if options.again else recipe:
        phase = _phase(config, options, subject)
        if not phases or phase.steps > phases[-1].steps:
            phases.append(phase)
    return tuple(phases)


def _phase(
    config: MemoryTrainingConfig, options: argparse.Namespace, subject: Subject
) -> MemoryTrainingConfig:
    shape = replace(config.shape, segment_latent_frames=int(subject.data.latent_shape[1]))
    if not subject.model.takes_known:
        shape = replace(shape, prefix_share=0.0)
    if options.batch is not None:
        shape = replace(shape, histories=options.batch)
    changes: dict[str, Any] = {"shape": shape, "threads": options.threads}
    changes["seed"] = config.seed + options.seed
    changes["stories"] = len(subject.data)
    if options.steps is not None:
        changes["steps"] = (
            min(options.steps, config.steps) if options.model is None else options.steps
        )
    for option, name in (("rank", "lora_rank"), ("widths", "widths")):
        if getattr(options, option) is not None:
            changes[name] = getattr(options, option)
    if options.rates is not None or options.model is not None:
        rates = options.rates or config.rates
        changes["rates"] = rates
        changes["ways"] = tuple((f"encoder {rate}", 1 / len(rates)) for rate in rates)
    return replace(config, **changes)


def begin(subject: Subject, config: MemoryTrainingConfig, packed: bool = True) -> MemoryTrainer:
    """A fresh LoRA and fresh encoders on the subject's model, with larger patches if `packed`."""
    _add_lora(subject.model, config)
    ways = MemoryWays(subject.model, encoder_configs(config, subject.model, subject.data), packed)
    generator = torch.Generator().manual_seed(config.seed)
    for encoder in ways.encoders.values():
        initialise_encoder(encoder, generator, config.gate)
    return MemoryTrainer(subject.model, ways, subject.grey, config.noise_shift)


def continue_from(
    subject: Subject, config: MemoryTrainingConfig, checkpoint: Path, packed: bool = True
) -> tuple[MemoryTrainer, dict[str, Tensor]]:
    """The result of an earlier stage with its LoRA merged, a new LoRA, and the merged one.

    Raises ValueError when that stage was not trained or has other rates or widths.
    """
    if not checkpoint.is_file():
        raise ValueError(f"Stage II begins with Stage I's result, {checkpoint} is missing")
    before = stored_config(checkpoint)
    for name in ("rates", "widths"):
        if list(before[name]) != list(getattr(config, name)):
            raise ValueError(
                f"Stage I was trained with {name} {before[name]}, Stage II is asked for "
                f"{list(getattr(config, name))}"
            )
    earlier = replace(
        config,
        seed=before["seed"],
        lora_rank=before["lora_rank"],
        lora_name=before["lora_name"],
    )
    trainer = begin(subject, earlier, packed)
    trainer.address_weight = ADDRESS_WEIGHT
    load_average(checkpoint, trainer)
    lora = {
        name: value.detach().cpu().clone()
        for name, value in trained_parameters(trainer)
        if ".lora_" in name
    }
    subject.model.merge_lora()
    _add_lora(subject.model, config)
    return trainer, lora


def continue_shipped(
    subject: Subject, config: MemoryTrainingConfig, weights: Path
) -> tuple[MemoryTrainer, dict[str, Tensor]]:
    """The shipped encoders and packing, their LoRA merged, a new LoRA, and the merged factors.

    The files are bfloat16, so that a training goes on from their rounded values.
    """
    lora = load_file(weights / "loras" / "throughline_demo_memory.safetensors")
    subject.model.merge_factors(layer_factors(lora))
    trainer = begin(subject, config)
    trainer.address_weight = ADDRESS_WEIGHT
    for rate, encoder in trainer.ways.encoders.items():
        file = weights / "memory_encoders" / f"throughline_demo_{rate}.safetensors"
        encoder.load_state_dict(read_encoder_file(file).tensors)
    packing = read_encoder_file(
        weights / "memory_encoders" / "throughline_demo_packing.safetensors"
    )
    state = {name.removeprefix("packer."): value for name, value in packing.tensors.items()}
    trainer.ways.packers.load_state_dict(state)
    return trainer, {name: value.float() for name, value in lora.items()}


def export(
    trainer: MemoryTrainer,
    average: MovingAverage,
    earlier_lora: dict[str, Tensor],
    config: MemoryTrainingConfig,
    subject: Subject,
    options: argparse.Namespace,
    folder: Path,
) -> list[Path]:
    """Write the averaged result as the files that the nodes load; gives their paths.

    `folder` gets `memory_encoders/` and `loras/`, with `--ship` the pack's weights/ gets them.
    """
    training = json.dumps(dataclasses.asdict(config))
    segment = config.shape.segment_latent_frames
    if options.model is None:
        provenance = Provenance(
            base="throughline-demo",
            stem="throughline_demo",
            title="Throughline demo memory",
            fps=float(FRAMES_PER_SECOND),
            segment_latents=segment,
            training=training,
        )
    else:
        settings = json.loads(subject.data.metadata.get("settings", "{}"))
        provenance = Provenance(
            base=options.model.name.lower(),
            stem=options.model.name.lower().replace(" ", "_"),
            title=f"Memory of {options.model.name}",
            fps=float(settings.get("fps", options.fps)),
            segment_latents=segment,
            training=training,
        )
    return export_memory(
        average.values,
        trainer.ways.encoders,
        trainer.ways.packers,
        WEIGHTS if options.ship else folder,
        provenance,
        earlier_lora,
    )


def _add_lora(model: MemoryModel, config: MemoryTrainingConfig) -> None:
    """peft draws a LoRA from torch's global generator, which is left as it was."""
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        model.add_lora(config.lora_rank, config.lora_name)


def stored_config(checkpoint: Path) -> dict[str, Any]:
    """The settings that a checkpoint was trained with."""
    with safe_open(checkpoint, "pt") as file:
        return dict(json.loads(file.metadata()["training"]))


def check_same_training(checkpoint: Path, phases: Sequence[Any]) -> None:
    """Raises ValueError when a folder holds a training of other settings than one of these."""
    if not checkpoint.is_file():
        return
    stored = stored_config(checkpoint)
    differences = [_difference(stored, config) for config in phases]
    if all(differences):
        raise ValueError(
            f"{checkpoint.parent} was trained with {differences[-1]}: give the same, or another "
            "--out"
        )


def _difference(stored: dict[str, Any], config: Any) -> str:
    """What a stored training has and the given one has otherwise; nothing when they are the same.
    Settings that are newer than the checkpoint are left out."""
    given = json.loads(json.dumps(dataclasses.asdict(config)))
    for name, value in given.items():
        if name not in stored or name in FREE_TO_CHANGE:
            continue
        old = stored[name]
        if isinstance(value, dict):
            value = {key: value[key] for key in old}
        if old != value:
            return f"{name} {old}, this is {value}"
    return ""
