"""The film planner's training: what a step shows, and what the file holds."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

STORIES, SHOTS, FRAMES = 3, 12, 6
CHANNELS = (64, 32, 32)


@pytest.fixture(scope="module")
def film(comfy: ModuleType) -> ModuleType:
    from throughline.training import hierarchy_film

    return hierarchy_film


@pytest.fixture(scope="module")
def codes(film: ModuleType) -> Any:
    """Codes and conditions that say which story, shot and frame they are."""
    index = torch.arange(STORIES * SHOTS * FRAMES).view(STORIES, SHOTS, FRAMES).half()
    levels = {
        level: index[..., None, None].expand(-1, -1, -1, cells, CHANNELS[level])
        for level, cells in ((1, 4), (2, 1))
    }
    conditions = index[..., None].expand(-1, -1, -1, film.CONDITION)
    return film.FilmCodes(levels, conditions, torch.ones(3))


def test_a_step_shows_codes_under_their_own_conditions(film: ModuleType, codes: Any) -> None:
    steps = film.FilmSteps(codes)
    lengths = set()
    for number in range(40):
        generator = np.random.default_rng([0, number])
        (target,), context = steps.draw(generator, number, 4)
        assert target.level == film.ROLLOUT.levels[number % 2]
        assert target.frames[0, 0] == 0
        lengths.add(sum(span.frames.shape[1] for span in context))
        shown = []
        for span in (target, *context):
            told = span.condition[..., 0]
            assert torch.equal(span.codes[..., 0, 0], told)
            shown.append(told)
        for row in torch.cat(shown, dim=1):  # one story each
            assert len(set((row // (SHOTS * FRAMES)).tolist())) == 1
    assert len(lengths) > 5  # many lengths of history, none among them


def test_the_rollout_looks_back_further_than_a_place_is_away(film: ModuleType) -> None:
    assert film.ROLLOUT.history == 54  # nine shots
    for number in range(200):
        step = film.draw_step(np.random.default_rng([1, number]), number, SHOTS)
        assert step.target.stop <= SHOTS * FRAMES
        assert all(span.start >= 0 for span in step.context)


def test_a_planner_is_written_with_its_reader(film: ModuleType, codes: Any, tmp_path: Path) -> None:
    from throughline.memory.hierarchy import HierarchyGrid
    from throughline.memory.hierarchy_format import read_planner_file
    from throughline.training import hierarchy_film_training as training
    from throughline.training.hierarchy_planner_training import PlannerTrainingConfig, train_planner

    class Head:
        """What the planner needs to know of a head."""

        code_channels, levels, name = CHANNELS, 3, "head"

    reader = film.demo_reader(0)
    planner = training.film_planner(Head(), reader, codes.gain)
    centres = training.centres(Head(), 8, 8)
    assert [len(each) for each in centres] == list(HierarchyGrid(8, 8, 3).tokens)
    config = PlannerTrainingConfig(steps=2, batch=2)
    average = train_planner(planner, film.FilmSteps(codes).draw, centres, tmp_path, config)
    path = tmp_path / "planner.safetensors"
    training.export_planner(planner, average, "head", path)
    loaded, card = read_planner_file(path)
    assert (card.head, card.reads, card.windows, card.finest) == ("head", "text", (1, 6, 48), 1)
    for name, kept in reader.state_dict().items():  # not trained any further
        assert torch.equal(loaded.reader.state_dict()[name], kept.to(torch.bfloat16).float())
    trained = average.values["code_in.1.weight"]
    assert torch.equal(loaded.code_in["1"].weight, trained.to(torch.bfloat16).float())


def test_the_reader_learns_where_the_camera_stands(film: ModuleType) -> None:
    from throughline.adapters.demo_models import load_demo_text_encoder

    text = load_demo_text_encoder().cond_stage_model
    missed = film.warm_up_reader(film.demo_reader(0), text, 40, 0)
    assert missed[0] > 0.4 and missed[-1] < 0.2 * missed[0]
