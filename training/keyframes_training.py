"""Train the demo's keyframes: one picture from its caption and a few earlier ones of its story.

What the keyframe planner does with a video model as an image model: each reference is a segment of
one latent frame with its caption, the new keyframe is the one that follows. References are drawn at
random from the same story, so that they show the person and the place that the caption names, one
of them, or neither. The encoder keeps a picture whole (rate 1x1x1) and adds its caption, so that a
name is bound to a look; its addresses find the person as well as the place
(`keyframe_addresses`). Begins with the memory that the pack ships.
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
from safetensors.torch import load_file

from ..adapters.demo_models import TEXT_FILE, VAE_FILE, VIDEO_FILE, WEIGHTS, load_demo_text_encoder
from ..memory.weight_format import read_encoder_file
from .checkpoints import MovingAverage
from .keyframe_addresses import warm_up_keyframe_addresses
from .keyframe_stories import write_keyframes
from .launch import add_launch_options, launch, make_accelerator
from .memory_data import StoryFolder
from .memory_export import Provenance, export_memory, layer_factors
from .memory_model import MemoryModel, WanMemoryModel, wan_from_comfy
from .memory_plan import StepShape
from .memory_stages import CHECKPOINT, begin, check_same_training
from .memory_subject import Subject
from .memory_training import MemoryTrainer, MemoryTrainingConfig, train
from .vae_training import BUILD
from .world import FRAMES_PER_SECOND

RATE = "1x1x1"
STEM = "throughline_demo_keyframes"
MEMORY_LORA = WEIGHTS / "loras" / "throughline_demo_memory.safetensors"
MEMORY_ENCODER = WEIGHTS / "memory_encoders" / "throughline_demo_2x2x2.safetensors"
ADDRESS_STEPS = 1200

CONFIG = MemoryTrainingConfig(
    seed=11,
    stories=4000,
    steps=4300,
    tasks=(("shot", 1.0),),
    ways=((f"encoder {RATE}", 1.0),),
    rates=(RATE,),
    widths=(16, 32, 64, 128),
    lora_rank=128,  # that of the memory's LoRA, which it begins with
    lora_name="keyframes",
    gate=0.1,
    dropout=0.05,
    decay_from=0.6,
    reference_noise=0.15,
    shape=StepShape(
        histories=14, queries=3, segments=(1, 4), slots=5, segment_latent_frames=1, prefix_share=0.0
    ),
)


def main(arguments: Sequence[str]) -> int:
    """Train, or go on with a training that was stopped, and write what the nodes load."""
    parser = argparse.ArgumentParser(
        prog="dev.py train keyframes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=BUILD / "keyframes", help="results")
    parser.add_argument("--ship", action="store_true", help="write into weights/")
    parser.add_argument(
        "--continue", dest="again", action="store_true", help="begin with the shipped keyframes"
    )
    parser.add_argument("--steps", type=int, default=CONFIG.steps)
    parser.add_argument("--stories", type=int, default=CONFIG.stories)
    parser.add_argument("--batch", type=int, default=CONFIG.shape.histories, help="histories")
    parser.add_argument("--address-steps", type=int, default=ADDRESS_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    add_launch_options(parser)
    launch(run, parser.parse_args(arguments))
    return 0


def run(options: argparse.Namespace) -> None:
    """Train on this process's device; called in every process."""
    torch.set_num_threads(options.threads)
    accelerator = make_accelerator(options)
    config = replace(
        CONFIG,
        seed=CONFIG.seed + options.seed,
        steps=options.steps,
        stories=options.stories,
        threads=options.threads,
        shape=replace(CONFIG.shape, histories=options.batch),
    )
    folder = options.out / ("continued" if options.again else "film")
    check_same_training(folder / CHECKPOINT, (config,))
    subject = keyframe_subject(options.out / "stories", config.stories, accelerator)
    trainer = begin_keyframes(subject, config, WEIGHTS, options.again)
    if not options.again and not (folder / CHECKPOINT).is_file():
        text = load_demo_text_encoder(TEXT_FILE).cond_stage_model
        encoder = trainer.ways.encoders[RATE]
        warm_up_keyframe_addresses(encoder, text, options.address_steps, config.seed)
    average = train(
        trainer,
        subject.data,
        folder,
        config,
        accelerator,
        empty_caption=subject.empty_caption,
        checkpoint_seconds=options.checkpoint_seconds,
    )
    if accelerator.is_main_process:
        for path in export(trainer, average, config, WEIGHTS if options.ship else folder):
            print(f"wrote {path}", flush=True)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def keyframe_subject(stories: Path, count: int, accelerator: Any) -> Subject:
    """The demo model and the keyframes of its world, encoded into `stories` where they are
    missing."""
    import comfy.model_management

    from .vae_export import load_vae
    from .video_data import grey_latents

    comfy.model_management.in_training = True
    vae, clip = load_vae(VAE_FILE), load_demo_text_encoder(TEXT_FILE)
    seeds = range(count)[accelerator.process_index :: accelerator.num_processes]
    write_keyframes(vae, clip.cond_stage_model, stories, seeds)
    accelerator.wait_for_everyone()
    model = WanMemoryModel(wan_from_comfy(VIDEO_FILE).to(accelerator.device))
    empty = clip.encode_from_tokens(clip.tokenize(""))[0].float().detach()
    return Subject(model, StoryFolder(stories, count), grey_latents(vae), empty)


def begin_keyframes(
    subject: Subject, config: MemoryTrainingConfig, weights: Path, again: bool = False
) -> MemoryTrainer:
    """The shipped memory's LoRA and addresses with a new encoder or, `again`, what was shipped of
    the keyframes before."""
    trainer = begin(subject, config, packed=False)
    encoder = trainer.ways.encoders[RATE]
    if again:
        lora = weights / "loras" / f"{STEM}_memory.safetensors"
        file = read_encoder_file(weights / "memory_encoders" / f"{STEM}_{RATE}.safetensors")
        encoder.load_state_dict(file.tensors)
    else:
        lora = weights / "loras" / MEMORY_LORA.name
        file = read_encoder_file(weights / "memory_encoders" / MEMORY_ENCODER.name)
        part = "addresses."
        encoder.addresses.load_state_dict(
            {k.removeprefix(part): v for k, v in file.tensors.items() if k.startswith(part)}
        )
    load_lora(subject.model, lora, config.lora_name)
    return trainer


@torch.no_grad()
def load_lora(model: MemoryModel, path: Path, name: str) -> None:
    """Give the model's trained LoRA the factors of a file, in place; both have one rank."""
    for layer, (down, up) in layer_factors(load_file(path)).items():
        module = model.transformer.get_submodule(layer)
        module.lora_A[name].weight.copy_(down)
        module.lora_B[name].weight.copy_(up)


def export(
    trainer: MemoryTrainer, average: MovingAverage, config: MemoryTrainingConfig, folder: Path
) -> list[Path]:
    """Write the averaged result below `folder` as the files that the nodes load."""
    provenance = Provenance(
        base="throughline-demo",
        stem=STEM,
        title="Throughline demo keyframes",
        fps=float(FRAMES_PER_SECOND),
        segment_latents=config.shape.segment_latent_frames,
        training=json.dumps(dataclasses.asdict(config)),
        low_mode="latent",
    )
    return export_memory(
        average.values, trainer.ways.encoders, trainer.ways.packers, folder, provenance
    )
