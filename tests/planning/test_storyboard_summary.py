"""What the sampler passes over is said, shot by shot."""

from __future__ import annotations

from throughline.planning.script import parse_storyboard
from throughline.planning.storyboard_summary import ignored_settings


def test_settings_without_effect_are_named() -> None:
    storyboard = parse_storyboard(
        "@Ana = a woman\n<Ana> waits. {motion: slow; seed: 3}\n"
        "<Ana> leaves. {recall: Ana; strength: 0.5; lora: coat.safetensors}"
    )
    assert ignored_settings(storyboard) == (
        "recall of shot 1.2 has no effect here",
        "strength of shot 1.2 has no effect here",
        "lora of shot 1.2 has no effect here",
    )


def test_plain_lines_have_none() -> None:
    assert ignored_settings(parse_storyboard("A street.\n[2s, cut] A room.")) == ()
