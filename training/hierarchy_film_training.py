"""Train a planner for films: coarse codes of shots of a story, conditioned on their captions.

Its data are in hierarchy_film; the loop is that of the ring's planners.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..adapters.demo_models import WEIGHTS
from ..memory.hierarchy import HierarchyGrid, HierarchyHead
from ..memory.hierarchy_format import PlannerCard, read_head_file, write_planner_file
from ..memory.hierarchy_heads import LearnedHead
from ..memory.hierarchy_planner import HierarchyPlanner, PlannerConfig, TextReader
from .checkpoints import MovingAverage, write_tensors
from .hierarchy_data import story_files
from .hierarchy_film import (
    CONDITION,
    ROLLOUT,
    FilmCodes,
    FilmSteps,
    demo_reader,
    film_codes,
    warm_up_reader,
)
from .hierarchy_planner_training import PlannerTrainingConfig, train_planner
from .hierarchy_training import HEAD_FILE
from .vae_training import BUILD
from .world import FRAME_SIZE, POSE_STEP

FOLDER = BUILD / "hierarchy_film"
PLANNER_FILE = WEIGHTS / "hierarchy_planners" / "throughline_demo_film_planner.safetensors"
LATENT_SIZE = FRAME_SIZE // POSE_STEP
"""Latent cells along a side: a camera step is one of them."""


def film_planner(head: HierarchyHead, reader: TextReader, gain: Tensor) -> HierarchyPlanner:
    """A planner with random weights but for its reader, which is not trained any further."""
    config = PlannerConfig(
        head.code_channels, finest=ROLLOUT.finest, condition=CONDITION, text=CONDITION
    )
    planner = HierarchyPlanner(config)
    assert planner.reader is not None
    planner.reader.load_state_dict(reader.state_dict())
    planner.reader.requires_grad_(False)
    planner.gain.copy_(gain)
    return planner


def centres(head: HierarchyHead, height: int, width: int) -> list[Tensor]:
    """Where the tokens of each level stand in a picture of `height` x `width` latent cells."""
    grid = HierarchyGrid(height, width, head.levels)
    return [grid.centres(level) for level in range(head.levels)]


def export_planner(
    planner: HierarchyPlanner, average: MovingAverage, head: str, path: Path
) -> None:
    """Write the averaged weights as bfloat16."""
    state = {**planner.state_dict(), **average.values}
    card = PlannerCard(
        planner.config,
        head,
        "Wan21",
        "coarse to fine",
        ROLLOUT.windows.frames,
        "text",
        title="Throughline demo film planner",
        license="GPL-3.0-or-later",
    )
    write_planner_file(path, {name: one.to(torch.bfloat16) for name, one in state.items()}, card)


def prepare(head: LearnedHead, folder: Path, stories: int, warm_up: int, seed: int) -> TextReader:
    """Teach the reader and encode the stories, as far as the folder lacks either."""
    from ..adapters.demo_models import load_demo_text_encoder

    reader, kept = demo_reader(seed), folder / "reader.safetensors"
    if kept.exists():
        reader.load_state_dict(load_file(kept))
    else:
        warm_up_reader(reader, load_demo_text_encoder().cond_stage_model, warm_up, seed)
        write_tensors(kept, reader.state_dict(), {})
    if not (folder / "codes.safetensors").exists():
        codes = film_codes(head, reader, story_files(stories))
        codes.write(folder / "codes.safetensors", head.name)
    return reader


def main(arguments: Sequence[str]) -> int:
    """Train the film planner on the shipped head; `--ship` replaces the shipped file."""
    parser = argparse.ArgumentParser(prog="dev.py train hierarchy-film", description=__doc__)
    parser.add_argument("--ship", action="store_true", help="write into weights/")
    parser.add_argument("--stories", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=400, help="steps of the reader")
    parser.add_argument("--steps", type=int, default=PlannerTrainingConfig.steps)
    parser.add_argument("--seed", type=int, default=PlannerTrainingConfig.seed)
    options = parser.parse_args(arguments)
    config = PlannerTrainingConfig(seed=options.seed, steps=options.steps)
    torch.set_num_threads(config.threads)
    head, _ = read_head_file(HEAD_FILE)
    reader = prepare(head, FOLDER, options.stories, options.warm_up, options.seed)
    codes = FilmCodes.read(FOLDER / "codes.safetensors")
    planner = film_planner(head, reader, codes.gain)
    average = train_planner(
        planner,
        FilmSteps(codes).draw,
        centres(head, LATENT_SIZE, LATENT_SIZE),
        FOLDER,
        config,
    )
    path = PLANNER_FILE if options.ship else FOLDER / PLANNER_FILE.name
    export_planner(planner, average, head.name, path)
    print(f"wrote {path.name} into {path.parent.name}")
    return 0
