"""ThroughlineMemoryBudget in the host: the report on the node, its outputs and its refusals."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


def graph(family: str = "wan22_i2v", **changes: Any) -> dict[str, Any]:
    inputs = {
        "model": ["m", 0],
        "width": 832,
        "height": 480,
        "fps": 16.0,
        "seconds_per_segment": 5.0,
        "seconds_of_history": 20.0,
        "card": "12 GB",
        **changes,
    }
    return {
        "m": {
            "class_type": "ThroughlineTestTinyModels",
            "inputs": {"family": family, "seed": 0, "layers": 0},
        },
        "b": {"class_type": "ThroughlineMemoryBudget", "inputs": inputs},
    }


def report(outputs: Any) -> str:
    return "".join(outputs["b"]["text"])


def test_the_node_shows_the_report(run_film: Callable[..., Any]) -> None:
    outputs, _ = run_film(graph(vae=["m", 2]))
    text = report(outputs)
    assert text.startswith("Wan I2V, 832 x 480 at 16 fps, 20 s of history, on 12 GB: rate 2x2x2")
    assert "segments of 81 frames, weights in float32, all 2 blocks on the card." in text
    assert "activations of 15,600 memory tokens (32 % of all)" in text
    assert "Decoding a segment afterwards: 5.21 GB of 11.50 GB" in text
    assert text.count("4,160 tokens") == 1  # 8 bits are only compared where they would help


def test_a_storyboard_gives_history_and_frame_rate(run_film: Callable[..., Any]) -> None:
    prompt = graph(storyboard=["t", 0])
    script = "fps: 8\n[10s] A room.\n[20s] A garden.\nA street."
    prompt["t"] = {"class_type": "ThroughlineStoryboard", "inputs": {"script": script, "fps": 0.0}}
    text = report(run_film(prompt)[0])
    assert "at 8 fps, 30 s of history" in text  # 10 + 20 + 5 less the last 5
    assert "segments of 41 frames" in text


def test_outputs_are_the_recommendation(comfy: ModuleType) -> None:
    from development.tiny_models import FAMILIES
    from throughline.nodes.budget import MemoryBudget

    widgets = {"width": 832, "height": 480, "fps": 16.0, "card": "8 GB"}
    node = MemoryBudget.execute(
        FAMILIES["wan_t2v"].model(), seconds_per_segment=2.0, seconds_of_history=60.0, **widgets
    )
    text, rate, frames = node.args
    assert (rate, frames) == ("2x2x2", 33)
    assert f"rate {rate}, segments of {frames} frames" in text
    assert node.ui.as_dict()["text"] == (text,)


def test_when_nothing_fits_it_says_so_and_gives_the_least(comfy: ModuleType) -> None:
    """Core's estimate of a huge picture is above any card, whatever the model."""
    from development.tiny_models import FAMILIES
    from throughline.nodes.budget import MemoryBudget

    text, rate, frames = MemoryBudget.execute(
        FAMILIES["wan_t2v"].model(),
        width=16384,
        height=16384,
        fps=16.0,
        seconds_per_segment=5.0,
        seconds_of_history=600.0,
        card="8 GB",
    ).args
    assert "on 8 GB: nothing fits." in text
    assert "Warning, nothing fits" in text
    assert (rate, frames) == ("4x4x2", 17)


def test_another_kind_of_model_and_a_wrong_size_are_named(run_film: Callable[..., Any]) -> None:
    with pytest.raises(run_film.error, match="must be a Wan or HunyuanVideo model, got LTXV"):
        run_film(graph("ltxv"))
    with pytest.raises(run_film.error, match="width must be a multiple of 16 for .* got 840"):
        run_film(graph("wan_ti2v", width=840))


@pytest.mark.parametrize("card", ["10 GB", ""])
def test_an_unknown_card_is_named(card: str, comfy: ModuleType) -> None:
    from development.tiny_models import FAMILIES
    from throughline.nodes.budget import MemoryBudget

    with pytest.raises(ValueError, match="card must be one of 8 GB, 12 GB, 16 GB, 24 GB, got"):
        MemoryBudget.execute(FAMILIES["wan_t2v"].model(), 832, 480, 16.0, 5.0, 20.0, card)
