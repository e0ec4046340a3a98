"""The recaller: candidates from a script and its pictures, the scorer it picks, the drift gate."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from throughline.memory.retrieval import Ranked
from throughline.planning.script import parse_storyboard
from throughline.planning.storyboard import Storyboard

SCRIPT = """\
@Ana = woman, red hair | ref: ana.png
@Tom = tall man
#diner = a roadside diner | ref: diner.png
#pier = a wooden pier
== 1 #diner ==
<Ana> sits alone at the counter with a cold coffee.
<Tom> comes in and shakes the rain off his coat.
== 2 #pier ==
<Tom> walks to the end of the planks.
Waves break below. {refs: waves.png}
== 3 #diner ==
<Ana> and <Tom> share the counter again.
"""


@pytest.fixture
def recalling(comfy: ModuleType) -> ModuleType:
    from throughline.nodes import recalling

    return recalling


def board(script: str = SCRIPT) -> Storyboard:
    return parse_storyboard(script)


def picture(seed: int, size: tuple[int, int] = (64, 96)) -> torch.Tensor:
    """A picture [1, h, w, 3] of smooth colours."""
    coarse = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    return smooth.movedim(1, -1)


def references(storyboard: Storyboard) -> dict[str, torch.Tensor]:
    from throughline.planning.references import reference_names

    return {name: picture(50 + at) for at, name in enumerate(reference_names(storyboard))}


def recaller(recalling: ModuleType, storyboard: Storyboard, **more: Any) -> Any:
    """With every shot seen; the gate is off unless settings say otherwise."""
    settings = more.pop("settings", recalling.RecallSettings(gate=False))
    made = recalling.Recaller(storyboard, references(storyboard), settings=settings, **more)
    for index in range(len(storyboard.shots)):
        made.see(index, picture(7))
    return made


def why(chosen: tuple[Ranked, ...]) -> list[tuple[str, str]]:
    return [(one.candidate.id, one.why) for one in chosen]


def test_references_anchors_and_shots(recalling: ModuleType) -> None:
    """Ana has a picture file, Tom's anchor is his first keyframe, the place has a file."""
    chosen = recaller(recalling, board()).choose(4, 5, range(5))
    assert why(chosen) == [
        ("1.2", "pinned, shows Tom"),
        ("Ana: ana.png", "pinned, shows Ana"),
        ("#diner: diner.png", "pinned"),
        ("1.1", "by score"),
        ("2.1", "by score"),
    ]
    assert recalling.reference_file(chosen[1].candidate.id) == "ana.png"


def test_a_shot_without_a_picture_is_not_recalled(recalling: ModuleType) -> None:
    chosen = recaller(recalling, board()).choose(4, 9, [2])
    assert [name for name, _ in why(chosen)] == ["2.1", "Ana: ana.png", "#diner: diner.png"]


def test_the_first_shot_has_the_references_only(recalling: ModuleType) -> None:
    chosen = recaller(recalling, board()).choose(0, 9, range(5))
    assert [name for name, _ in why(chosen)] == ["Ana: ana.png", "#diner: diner.png"]


def test_a_shots_own_files_are_asked_for_and_nobody_elses(recalling: ModuleType) -> None:
    made = recaller(recalling, board())
    assert why(made.choose(3, 1, range(5))) == [("2.2: waves.png", "asked for: 2.2: waves.png")]
    assert "waves.png" not in str(why(made.choose(4, 9, range(5))))


def test_a_file_that_is_named_twice_is_one_picture(recalling: ModuleType) -> None:
    script = SCRIPT.replace(
        "Waves break below. {refs: waves.png}", "<Ana> {refs: ana.png, ana.png}"
    )
    chosen = recaller(recalling, board(script)).choose(3, 9, range(5))
    assert why(chosen)[0] == ("2.2: ana.png", "asked for: 2.2: ana.png")
    assert [name for name, _ in why(chosen)].count("Ana: ana.png") == 0
    assert chosen[0].candidate.characters == ("Ana",)


def test_a_script_without_tags_ranks_by_words(recalling: ModuleType) -> None:
    story = board(
        "A lamp swings in the flooded mine.\nChildren fly kites.\nA dog sleeps.\n"
        "Back in the mine the lamp still swings."
    )
    (best,) = recaller(recalling, story).choose(3, 1, range(3))
    assert best.candidate.id == "1.1"


def test_by_hand_wins_also_for_later_shots(recalling: ModuleType) -> None:
    made = recaller(recalling, board())
    assert why(made.choose(1, 2, range(5), by_hand=("3.1", "diner"))) == [
        ("3.1", "asked for: 3.1"),
        ("#diner: diner.png", "asked for: diner"),
    ]


def test_pin_no_gives_up_the_anchor(recalling: ModuleType) -> None:
    script = SCRIPT.replace("tall man", "tall man | pin: no")
    chosen = dict(why(recaller(recalling, board(script)).choose(4, 9, range(5))))
    assert chosen["Ana: ana.png"] == "pinned, shows Ana"
    assert chosen["1.2"] == "shows Tom"


def drifting(recalling: ModuleType, anchor: torch.Tensor, **settings: Any) -> Any:
    """Tom's keyframes: 1.2 as the anchor, 2.1 the same picture bleached and sharpened."""
    story = board(SCRIPT)
    made = recalling.Recaller(
        story, references(story), settings=recalling.RecallSettings(**settings)
    )
    made.see(0, picture(7))
    made.see(1, anchor)
    noise = torch.rand(anchor.shape, generator=torch.Generator().manual_seed(1))
    made.see(2, ((anchor - 0.5) * 3.0 + 0.5 + 0.5 * noise).clamp(0, 1))
    made.see(3, picture(8))
    return made


def test_a_drifted_keyframe_is_left_out_and_named(recalling: ModuleType) -> None:
    made = drifting(recalling, picture(3))
    (left_out,) = made.drifted(range(4))
    assert (left_out.id, left_out.character, left_out.anchor) == ("2.1", "Tom", "1.2")
    assert left_out.drift.percent > recalling.DRIFT_THRESHOLD
    assert left_out.drift.worst == "texture"
    chosen = made.choose(4, 9, range(4))
    assert "2.1" not in dict(why(chosen))
    report = made.explain(4, chosen, range(4))
    assert (
        f"left out: 2.1 has drifted by {left_out.drift.percent:.0f} % from 1.2, the anchor of Tom "
        f"(most in texture, +{left_out.drift.measures['texture']:.0f} %)"
    ) in report


def test_the_gate_can_be_turned_off_and_its_threshold_moved(recalling: ModuleType) -> None:
    off = drifting(recalling, picture(3), gate=False)
    assert off.drifted(range(4)) == ()
    assert "2.1" in dict(why(off.choose(4, 9, range(4))))
    drift = drifting(recalling, picture(3)).drifted(range(4))[0].drift.percent
    assert drifting(recalling, picture(3), threshold=drift + 1).drifted(range(4)) == ()
    assert len(drifting(recalling, picture(3), threshold=drift - 1).drifted(range(4))) == 1


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -1.0])
def test_a_threshold_that_is_none_is_named(threshold: float, recalling: ModuleType) -> None:
    with pytest.raises(ValueError, match=f"drift_threshold must be 0 .* got {threshold}"):
        recalling.RecallSettings(threshold=threshold)


def test_a_drifted_keyframe_comes_when_asked_for(recalling: ModuleType) -> None:
    made = drifting(recalling, picture(3))
    chosen = made.choose(4, 2, range(4), by_hand=("2.1",))
    assert why(chosen)[0] == ("2.1", "asked for: 2.1")
    assert "left out" not in made.explain(4, chosen, range(4), by_hand=("2.1",))


def test_a_reference_picture_is_the_anchor_where_the_first_keyframe_is_like_it(
    recalling: ModuleType,
) -> None:
    story = board("@Ana = a | ref: ana.png\n<Ana> a\n<Ana> b\n<Ana> c")
    sheet = picture(3)
    bleached = (sheet * 0.2 + 0.8).clamp(0, 1)
    near = recalling.Recaller(story, {"ana.png": sheet})
    near.see(0, sheet * 0.98)
    near.see(1, bleached)
    assert [(one.id, one.anchor) for one in near.drifted([0, 1])] == [("1.2", "Ana: ana.png")]
    paper = torch.ones(1, 200, 100, 3)
    white = recalling.Recaller(story, {"ana.png": paper})
    white.see(0, sheet)
    white.see(1, sheet * 0.98)
    assert white.drifted([0, 1]) == ()
    white.see(1, bleached)
    assert [(one.id, one.anchor) for one in white.drifted([0, 1])] == [("1.2", "1.1")]


def test_the_report_has_every_part(recalling: ModuleType) -> None:
    made = recaller(recalling, board())
    chosen = made.choose(4, 2, range(4))
    report = made.explain(4, chosen, range(4), by_hand=("3.1",))
    lines = report.splitlines()
    assert lines[0] == "shot 3.1: Ana, Tom at diner"
    assert lines[1].startswith("captions are compared by their words (TF-IDF): clip is not conn")
    assert lines[3].split() == [
        "recalled", "score", "picture", "text", "characters", "location", "recency",
    ]  # fmt: skip
    first = lines[5].split()
    assert lines[5].startswith("2. Ana: ana.png")
    assert lines[5].endswith("pinned, shows Ana")
    assert first[4] == "-"
    text, people, place, recent = map(float, first[5:9])
    assert (people, place, recent) == (0.35, 0.0, 0.0)
    assert float(first[3]) == pytest.approx(text + people, abs=0.011)
    assert "not recalled" in lines
    assert "asked for by hand, but there is no picture of it: 3.1" in lines


def test_the_report_names_who_has_no_picture(recalling: ModuleType) -> None:
    made = recaller(recalling, board())
    assert "nothing that is recalled shows Tom" in made.explain(1, made.choose(1, 3, [0]), [0])
    alone = board("<a> b")
    first = recaller(recalling, alone)
    assert "nothing: there is no earlier picture yet" in first.explain(0, (), [])


def test_what_needs_pictures(recalling: ModuleType) -> None:
    story = board("a\nb")
    assert recalling.Recaller(story, {}).needs_pictures
    words = recalling.Recaller(story, {}, settings=recalling.RecallSettings(gate=False))
    assert not words.needs_pictures
    assert [one.candidate.id for one in words.choose(1, 1, [0])] == ["1.1"]
