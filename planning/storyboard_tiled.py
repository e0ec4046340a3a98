"""Captain Cinema's tiled caption: what holds for a whole scene, said again in each shot's prompt.

Video from keyframes is conditioned on c_tiled (arXiv 2507.18634), one global caption repeated for
each shot. Where a script has no `global:`, the caption is built in the order of LCT's
global prompts, "[Character] [Environment] [Story]" (arXiv 2503.10589, section 3.2.1).
"""

from __future__ import annotations

from itertools import groupby

from .storyboard import Shot, Storyboard, joined, plain_words, video_prompt

MOST_SHOTS_TOLD = 9
"""Shots that may tell the story of their scene: LCT's context holds nine (its section 4)."""


def global_caption(storyboard: Storyboard, shot: Shot) -> str:
    """What all shots of this shot's scene share, without tags.

    The script's `global:`, else who is in the scene, its place, and the script's `story:` or what
    the scene's first shots show.
    """
    if storyboard.global_text:
        return plain_words(storyboard.global_text, storyboard.characters)
    shots = _scene_of(storyboard, shot)
    names = dict.fromkeys(name for one in shots for name in one.characters)
    people = [storyboard.character(name) for name in names]
    places = dict.fromkeys(one.location for one in shots if one.location)
    words = [
        "; ".join(f"{one.name}: {one.description}" for one in people if one.description),
        *(storyboard.location(place).description for place in places),
        *([storyboard.story] if storyboard.story else _told(shots)),
    ]
    plain = (plain_words(one, storyboard.characters).strip() for one in words)
    return " ".join(_ended(one) for one in plain if one)


def tiled_prompt(storyboard: Storyboard, shot: Shot) -> str:
    """The prompt of one shot with its scene's global caption in front.

    With a `global:` that is `video_prompt`, which has it in front already. Without, people and
    places stand in the global caption and are not said again.
    """
    if storyboard.global_text:
        return video_prompt(storyboard, shot)
    parts = (storyboard.style, shot.size, shot.caption, shot.motion, shot.camera)
    return joined(
        [
            global_caption(storyboard, shot),
            *(plain_words(part, storyboard.characters) for part in parts),
        ]
    )


def _scene_of(storyboard: Storyboard, shot: Shot) -> tuple[Shot, ...]:
    """The shots in a row of the same scene; a shot of another storyboard stands for itself."""
    for _, run in groupby(storyboard.shots, key=lambda one: one.scene):
        shots = tuple(run)
        if any(one.id == shot.id for one in shots):
            return shots
    return (shot,)


def _told(shots: tuple[Shot, ...]) -> list[str]:
    """What the shots show, for all of them to know; one shot alone says it in its own prompt."""
    return [one.caption for one in shots[:MOST_SHOTS_TOLD]] if len(shots) > 1 else []


def _ended(text: str) -> str:
    return text if text[-1] in ".!?…。！？" else text + "."
