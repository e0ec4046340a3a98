"""What keyframes are trained and measured on: stories with sheets, leads who return, a teacher."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from throughline.planning.script import parse_storyboard
from throughline.planning.storyboard import image_prompt
from throughline.training.keyframe_addresses import (
    NO_PLACE,
    SAME_FIGURE,
    Keyframes,
    draw_keyframes,
    teacher,
)
from throughline.training.memory_training import noisy_references
from throughline.training.returning_cast import (
    LEAST_AWAY,
    SHOTS,
    openings,
    returns,
    story_script,
    two_leads_story,
)
from throughline.training.world import (
    CHARACTER_NAMES,
    PLACE_WORDS,
    POSITIONS,
    Split,
    draw_character,
)
from throughline.training.world_rendering import render_sheet


@pytest.mark.parametrize("seed", range(40))
def test_both_leads_return_and_the_newest_shots_do_not_show_them(seed: int) -> None:
    story = two_leads_story(seed)
    cast = [shot.character for shot in story.shots]
    assert len(story.shots) == SHOTS and set(cast) >= {0, 1}
    assert openings(story) == (0, 2)
    back = returns(story)
    assert [cast[index] for index in back] == [0, 1]
    for index in back:
        before = cast[:index]
        assert cast[index] in before[:-LEAST_AWAY] and cast[index] not in before[-LEAST_AWAY:]
        assert story.shots[index].place == story.shots[before.index(cast[index])].place


def test_stories_follow_from_the_seed_and_the_split() -> None:
    assert two_leads_story(3) == two_leads_story(3)
    assert two_leads_story(3) != two_leads_story(4)
    assert two_leads_story(3).characters != two_leads_story(3, Split.TRAINING).characters


@pytest.mark.parametrize("seed", range(10))
def test_the_script_gives_the_captions_as_prompts(seed: int) -> None:
    """The demo model understands its captions to the letter."""
    story = two_leads_story(seed)
    storyboard = parse_storyboard(story_script(story))
    assert not storyboard.warnings
    prompts = tuple(image_prompt(storyboard, shot) for shot in storyboard.shots)
    assert prompts == story.captions
    for shot, true in zip(storyboard.shots, story.shots, strict=True):
        who = () if true.character is None else (story.characters[true.character].name,)
        assert shot.characters == who
        assert shot.location == story.places[true.place].word


def test_a_sheet_shows_the_figure_on_plain_grey() -> None:
    character = draw_character("Mara", np.random.default_rng(0))
    sheet = render_sheet(character)
    assert sheet.shape == (1, 64, 64, 3)
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    looks = (character.head, character.body, character.legs)
    assert colours == {(191, 191, 191), *(tuple(round(255 * c) for c in look) for look in looks)}
    left = POSITIONS["centre"]
    outside = np.delete(sheet[0], np.s_[left : left + 16], axis=1)
    assert (outside == 191).all()


def keyframes(*shown: tuple[int, int, int, int]) -> Keyframes:
    """Keyframes of these places, characters, first columns and poses; nobody reads the text."""
    return Keyframes(torch.zeros(len(shown), 1, 1), *torch.tensor(shown).unbind(1))


def found(asked: tuple[int, int, int, int], *held: tuple[int, int, int, int]) -> Any:
    """What the teacher wants found: keyframe, row and column for each row and column."""
    logits = teacher(keyframes(*held, *[asked] * len(held)), len(held))[:16]
    best = logits.argmax(dim=1)
    return [[(int(i) // 16, int(i) % 16 // 4, int(i) % 4) for i in row] for row in best.view(4, 4)]


def test_a_figure_is_looked_for_wherever_it_stood() -> None:
    """Person 1 asked for at the right; seen at the left of another place, the place without her."""
    answer = found((5, 1, 2, 0), (5, -1, 0, 0), (6, 1, 0, 8))
    for row in (2, 3):
        assert answer[row] == [(0, row, 0), (0, row, 1), (1, row, 0), (1, row, 1)]
    for row in (0, 1):
        assert answer[row] == [(0, row, column) for column in range(4)]


def test_a_place_is_looked_for_where_nobody_stands_before_it() -> None:
    """The same view with somebody at the left, and from two poses (16 px) further on."""
    answer = found((5, -1, 0, 2), (5, 2, 0, 2), (5, -1, 0, 1))
    assert answer[0] == [(0, 0, column) for column in range(4)]  # above the figure
    assert answer[3][0][0] == 1 and answer[3][2:] == [(0, 3, 2), (0, 3, 3)]


def test_without_the_person_the_place_is_looked_for() -> None:
    answer = found((5, 1, 1, 4), (5, -1, 0, 4), (6, 2, 1, 4))
    assert answer == [[(0, row, column) for column in range(4)] for row in range(4)]


def test_sheets_are_found_by_the_name_alone(comfy: ModuleType) -> None:
    from throughline.adapters.demo_models import TEXT_FILE, load_demo_text_encoder

    text = load_demo_text_encoder(TEXT_FILE).cond_stage_model
    drawn = draw_keyframes(text, np.random.default_rng(0), 200)
    sheets = drawn.places == NO_PLACE
    assert 0.05 < float(sheets.float().mean()) < 0.3
    assert bool((drawn.characters[sheets] >= 0).all()) and bool((drawn.columns[sheets] == 1).all())
    assert int(drawn.places[~sheets].max()) < len(PLACE_WORDS)
    assert int(drawn.characters.max()) < len(CHARACTER_NAMES)
    logits = teacher(keyframes((NO_PLACE, 3, 1, 0), (2, 3, 2, 5)), 1)
    assert float(logits.max()) == SAME_FIGURE and int((logits == SAME_FIGURE).sum()) == 4


def test_references_get_noise_of_levels_of_their_own() -> None:
    clean = torch.zeros(20, 4, 16, 1, 8, 8)
    noisy = noisy_references(clean, 0.2, np.random.default_rng(1))
    spread = noisy.flatten(2).std(dim=2)
    assert float(spread.max()) < 0.22 and float(spread.min()) < 0.02
    assert float(spread.mean()) == pytest.approx(0.1, abs=0.02)
    assert torch.equal(noisy, noisy_references(clean, 0.2, np.random.default_rng(1)))
