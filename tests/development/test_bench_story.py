"""The bench of returning leads: what it measures, and that the shipped keyframes recall."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def story(comfy: ModuleType) -> Any:
    """The bench's module, entered as dev.py does."""
    from development.package import enter_package

    if "benchmarks" not in sys.modules:
        enter_package("benchmarks", ROOT / "benchmarks", execute=False)
    return importlib.import_module("benchmarks.story")


@pytest.fixture(scope="module")
def keyframing(story: Any) -> Any:
    return importlib.import_module("benchmarks._keyframing")


def test_a_look_has_the_figure_and_its_colours(keyframing: Any) -> None:
    cast = keyframing.cast_of(0)
    for shot, look in zip(cast.story.shots, cast.looks, strict=True):
        assert look.picture.shape == (64, 64, 3)
        if shot.character is None:
            assert not look.figure.any() and look.parts == ()
            continue
        parts = torch.stack(look.parts)
        assert torch.equal(parts.sum(dim=0), look.figure.long())  # apart, and nothing left out
        assert len(parts) == 3 and 200 < int(look.figure.sum()) <= 32 * 16
        assert all(len(look.picture[part].unique(dim=0)) == 1 for part in look.parts)


def test_only_the_figure_is_measured(keyframing: Any) -> None:
    look = keyframing.cast_of(0).looks[0]
    elsewhere = torch.where(look.figure[..., None], look.picture, 1.0 - look.picture)
    found = keyframing.compare(elsewhere[None], look)
    assert found["psnr"] == pytest.approx(100.0) and found["colour_error"] == 0.0
    assert found["frame_psnr"] < 15.0
    brighter = keyframing.compare(look.picture[None] + 0.1, look)
    assert brighter["psnr"] == pytest.approx(20.0, abs=1e-3)
    assert brighter["colour_error"] == pytest.approx(25.5 * 3**0.5, abs=1e-2)


def test_recall_and_recency_show_as_many_pictures(keyframing: Any) -> None:
    """Recall finds the lead where the newest pictures do not show her."""
    from throughline.training.returning_cast import returns

    for seed in range(100, 104):
        cast = keyframing.cast_of(seed)
        true = [keyframing.Drawn(torch.zeros(0), look.picture[None]) for look in cast.looks]
        for index in returns(cast.story):
            who = cast.story.shots[index].character
            recalled = keyframing.picks("recall", cast, index, true)
            newest = keyframing.picks("recency", cast, index, true)
            assert len(recalled) == len(newest) == keyframing.REFERENCES
            assert newest == [index - 3, index - 2, index - 1]
            assert who in {cast.story.shots[i].character for i in recalled}
            assert who not in {cast.story.shots[i].character for i in newest}
        assert keyframing.picks("none", cast, 6, true) == []


def planner_graph(script: str, seed: int, keyframing: Any) -> dict[str, Any]:
    """The planner node with the demo models and the shipped keyframes."""
    from throughline.training.keyframes_training import RATE, STEM

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": f"Throughline{kind}", "inputs": inputs}

    size = {"width": keyframing.SIZE, "height": keyframing.SIZE}
    return {
        "demo": node("LoadDemoModels"),
        "encoder": node("LoadMemoryEncoder", encoder_name=f"{STEM}_{RATE}.safetensors"),
        "lora": node(
            "LoadMemoryLoRA",
            model=["demo", 0],
            encoder=["encoder", 0],
            lora_name=f"{STEM}_memory.safetensors",
            strength=1.0,
        ),
        "memory": node(
            "MemoryEncoder",
            model=["lora", 0],
            vae=["demo", 2],
            encoder=["encoder", 0],
            form="automatic",
            rate="2x2x2",
            recent_frames="automatic",
            window=0,
            pin="references only",
            captions="",
            **size,
        ),
        "board": node("Storyboard", script=script, fps=0.0),
        "planner": node(
            "KeyframePlanner",
            model=["lora", 0],
            vae=["demo", 2],
            clip=["demo", 1],
            storyboard=["board", 0],
            memory=["memory", 0],
            negative_prompt="",
            **size,
            references=keyframing.REFERENCES,
            reference_mode="automatic",
            group_size=0,
            levels=3,
            seed=seed,
            steps=keyframing.STEPS,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
            guidance=0.0,
            drift_gate=True,
            run_name="story",
            retakes="",
            when_queued="render",
        ),
    }


def test_the_bench_draws_what_the_planner_node_draws(
    keyframing: Any, run_graph: Any, comfy_folders: dict[str, Path]
) -> None:
    """All twelve keyframes of a story, none given, through the host's executor."""
    from throughline.runs.run import open_run
    from throughline.training.returning_cast import story_script

    cast, seed = keyframing.cast_of(104), 7
    run_graph(planner_graph(story_script(cast.story), seed, keyframing))
    run = open_run(comfy_folders["output"] / "throughline" / "story")
    with torch.inference_mode():
        made = keyframing.plan_story(keyframing.Keyframer(), cast, "recall", seed, ())
    assert len(run.segments) == len(made) == 12
    for record, drawn in zip(run.segments, made, strict=True):
        torch.testing.assert_close(run.latent(record.index), drawn.latent, atol=1e-5, rtol=0.0)


def test_the_shipped_keyframes_bring_the_leads_back(
    story: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On stories beside those of the bench's own seeds. There it is 13 dB and a sixth."""
    monkeypatch.setattr(story, "PICTURE", tmp_path / "story.png")
    rows = {row["method"]: row for row in story.run(range(100, 103))}
    assert set(rows) == {"recall", "recency", "none", "true recall", "true recency"}
    assert all({"psnr", "colour_error", "tokens", "n"} <= row.keys() for row in rows.values())
    assert rows["recall"]["n"] == 6
    assert rows["recall"]["tokens"] == rows["recency"]["tokens"] > rows["none"]["tokens"] == 0
    for other in ("recency", "none"):
        assert rows["recall"]["psnr"] > rows[other]["psnr"] + 6.0
        assert rows["recall"]["colour_error"] < 0.5 * rows[other]["colour_error"]
    assert (tmp_path / "story.png").is_file()


def test_a_character_sheet_says_how_a_lead_looks(keyframing: Any) -> None:
    """A reference file of the script: the figure on grey under its name, no other picture."""
    from throughline.training.evaluate import frames_to_image
    from throughline.training.returning_cast import returns
    from throughline.training.world_rendering import render_sheet

    keyframer = keyframing.Keyframer()
    beside: list[float] = []
    alone: list[float] = []
    with torch.inference_mode():
        for seed in range(100, 103):
            cast = keyframing.cast_of(seed)
            for index in returns(cast.story):
                lead = cast.story.characters[cast.story.shots[index].character]
                sheet = keyframer.given(frames_to_image(render_sheet(lead)))
                for found, shown in ((beside, [(lead.name, sheet)]), (alone, [])):
                    drawn = keyframer.draw(cast.prompts[index], shown, index)
                    compared = keyframing.compare(drawn.picture, cast.looks[index])
                    found.append(compared["colour_error"])
    assert sum(beside) < 0.5 * sum(alone)
