"""StoryMem's story scripts: JSON with scenes, one prompt and one cut mark per five-second shot.

Learnt from the repository Kevin-thu/StoryMem: `story/*.json` (ST-Bench), the field instructions of
its README (where `cut` is the text "True" or "False") and `pipeline.py` (which reads JSON5).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from ..spans import CONTROLS
from ..storyboard import NO_SHOTS, Shot, Storyboard, Transition, video_prompt
from .json_text import JsonText, Way
from .written import Written, lost_fields, one_line, shots_named, untagged

SHOT_SECONDS = 5.0
"""Each prompt is a clip of five seconds (README, "To create your own story script")."""

_STORY = ("story_name", "story_overview", "scenes")
_SCENE = ("scene_num", "video_prompts", "first_frame_prompt", "cut")
_MOST_SCENES = 999_999  # six digits, as in a script's scene lines
_SAID = (
    "title",
    "style",
    "global",
    "story",
    "size",
    "seconds",
    "cut",
    "continue",
    "motion",
    "camera",
    "keyframe",
    "names",
    "places",
)


def is_storymem(value: object) -> bool:
    """Whether a JSON value looks like a story script."""
    return isinstance(value, dict) and "scenes" in value and "shots" not in value


def read(source: JsonText) -> Storyboard:
    """Raises StoryboardError with the line and column of the field."""
    story = source.value
    warnings = [
        source.warning((key,), f"{key!r} is not a field of StoryMem and is not used")
        for key in story
        if key not in _STORY
    ]
    shots: list[Shot] = []
    taken: set[int] = set()
    for index, scene in enumerate(_list(source, ("scenes",), story["scenes"])):
        way: Way = ("scenes", index)
        if not isinstance(scene, dict):
            raise source.error(way, f"a scene must be an object, got {scene!r:.80}")
        warnings += [
            source.warning((*way, key), f"{key!r} is not a field of StoryMem and is not used")
            for key in scene
            if key not in _SCENE
        ]
        number = _scene_number(source, way, scene, index + 1)
        if number in taken:
            raise source.error(
                (*way, "scene_num"), f"scene numbers must differ, got {number} again"
            )
        taken.add(number)
        shots += _shots(source, way, scene, number)
    if not shots:
        raise source.error(("scenes",), NO_SHOTS)
    return Storyboard(
        title=_text(source, ("story_name",), story.get("story_name")),
        story=_text(source, ("story_overview",), story.get("story_overview")),
        shots=tuple(shots),
        warnings=tuple(warnings),
    )


def _shots(source: JsonText, way: Way, scene: dict[str, Any], number: int) -> Iterator[Shot]:
    prompts_way = (*way, "video_prompts")
    prompts = _list(source, prompts_way, scene.get("video_prompts"))
    first_frames = _list(
        source, (*way, "first_frame_prompt"), scene.get("first_frame_prompt"), len(prompts)
    )
    # StoryMem begins a shot anew unless it is told otherwise.
    cuts = _list(source, (*way, "cut"), scene.get("cut", [True] * len(prompts)), len(prompts))
    for index, prompt in enumerate(prompts):
        caption = _text(source, (*prompts_way, index), prompt)
        if not caption:
            raise source.error((*prompts_way, index), "a shot needs a description, got none")
        yield Shot(
            id=f"{number}.{index + 1}",
            scene=number,
            caption=caption,
            seconds=SHOT_SECONDS,
            transition=_transition(source, (*way, "cut", index), cuts[index]),
            keyframe_prompt=_text(source, (*way, "first_frame_prompt", index), first_frames[index]),
        )


def _list(source: JsonText, way: Way, value: object, count: int | None = None) -> list[Any]:
    """The list at `way`, of `count` items where that is given; a missing one is full of None."""
    name = way[-1]
    if value is None and count is not None:
        return [None] * count
    if not isinstance(value, list):
        raise source.error(way, f"{name} must be a list, got {value!r:.80}")
    if count is not None and len(value) != count:
        raise source.error(
            way, f"{name} must have one entry per video prompt, {count}, got {len(value)}"
        )
    return value


def _text(source: JsonText, way: Way, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or CONTROLS.search(value):
        raise source.error(way, f"{_named(way)} must be text, got {value!r:.80}")
    return untagged(value)


def _named(way: Way) -> str:
    return next(str(step) for step in reversed(way) if isinstance(step, str))


def _scene_number(source: JsonText, way: Way, scene: dict[str, Any], default: int) -> int:
    value = scene.get("scene_num", default)
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value) if len(value) <= len(str(_MOST_SCENES)) else value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_SCENES:
        raise source.error(
            (*way, "scene_num"),
            f"scene_num must be a whole number from 1 to {_MOST_SCENES}, got {value!r:.80}",
        )
    return value


def _transition(source: JsonText, way: Way, value: object) -> Transition:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        value = value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise source.error(way, f"cut must be true or false, got {value!r:.80}")
    return "cut" if value else "continue"


def write(storyboard: Storyboard) -> Written:
    """One prompt per shot, each with all that the model must know; unmarked shots are cuts."""
    runs = [list(shots) for _, shots in groupby(storyboard.shots, key=lambda shot: shot.scene)]
    numbers = [shots[0].scene for shots in runs]
    warnings = list(lost_fields(storyboard, _SAID))
    if len(set(numbers)) < len(numbers) or not all(1 <= one <= _MOST_SCENES for one in numbers):
        warnings.append("scenes are numbered again, because their numbers must differ")
        numbers = list(range(1, len(runs) + 1))
    scenes = [_scene(storyboard, *one) for one in zip(numbers, runs, strict=True)]
    warnings += _length_warnings(storyboard)
    if storyboard.characters or storyboard.locations:
        warnings.append("characters and places become words of each prompt")
    story = {
        "story_name": one_line(storyboard.title),
        "story_overview": one_line(storyboard.story),
        "scenes": scenes,
    }
    return Written(json.dumps(story, ensure_ascii=False, indent=2) + "\n", tuple(warnings))


def _scene(storyboard: Storyboard, number: int, shots: list[Shot]) -> dict[str, Any]:
    scene: dict[str, Any] = {
        "scene_num": number,
        "video_prompts": [untagged(video_prompt(storyboard, shot)) for shot in shots],
    }
    if any(shot.keyframe_prompt for shot in shots):
        scene["first_frame_prompt"] = [untagged(shot.keyframe_prompt) for shot in shots]
    scene["cut"] = [shot.transition != "continue" for shot in shots]
    return scene


def _length_warnings(storyboard: Storyboard) -> Iterator[str]:
    other = [shot.id for shot in storyboard.shots if shot.seconds not in (None, SHOT_SECONDS)]
    if other:
        yield f"seconds of {shots_named(other)}: StoryMem makes every shot {SHOT_SECONDS:g} s long"
