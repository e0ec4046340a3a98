"""From the micro plan node's inputs to the anchors of one segment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..adapters.families import family_of
from ..adapters.geometry import read_geometry
from ..planning.anchor_pictures import PLACES, Place
from ..planning.layout import HANDED
from ..planning.macro import hand_off
from ..planning.storyboard import Shot, Storyboard
from .anchor_pictures import AnchorPictures
from .film import film_request, new_latent_frames
from .given_pictures import check_pictures
from .macro_plan import MacroFilm, plan_macro
from .plan_value import Plan

UNNAMED = "one segment"
"""The words of a segment whose text comes as a finished conditioning."""


def plan_micro(inputs: Mapping[str, Any]) -> MacroFilm:
    """Check every input and decide the plan. Raises ValueError naming input, rule and value."""
    model, previous = inputs["model"], inputs.get("previous")
    prompt = str(inputs["prompt"]).strip()
    if not prompt and inputs.get("positive") is None:
        raise ValueError("prompt must say what the segment shows, got none")
    start: dict[str, Any] = {"start_latent_input": "start_latent"}
    if previous is not None:
        if inputs.get("start_image") is not None or inputs.get("start_latent") is not None:
            raise ValueError(
                "previous must be the only start, got a start_image or a start_latent beside it"
            )
        start = {"start_latent_input": "previous", "start_latent": _ended(previous)}
    given = {
        **inputs,
        **start,
        "script": "",
        "seconds_per_shot": 1.0,
        "unmarked_shots": "continue",
        "seed_from": "the end",
    }
    grid = read_geometry(model).grid
    trained = family_of(model).capabilities(model).segment_latent_frames
    new = new_latent_frames(film_request({**given, "tail_latent_frames": HANDED}), trained)
    seconds = new * grid.frames_per_latent / inputs["fps"]
    shot = Shot(id="1", caption=prompt or UNNAMED, seconds=seconds)
    return plan_macro({**given, "storyboard": Storyboard(shots=(shot,))}, _pictures(inputs))


def _pictures(inputs: Mapping[str, Any]) -> AnchorPictures:
    """The inputs `middle_image` and `end_image`."""
    pictures: dict[tuple[int, Place], torch.Tensor] = {}
    for place in PLACES:
        name = f"{place}_image"
        picture = inputs.get(name)
        if picture is None:
            continue
        check_pictures(picture, name)
        if len(picture) != 1:
            raise ValueError(f"{name} must be one picture, got {len(picture)}")
        pictures[0, place] = picture[..., :3]
    return AnchorPictures(pictures)


def _ended(previous: object) -> dict[str, Any]:
    """What a plan hands on, as a latent: the first anchor of its last segment and the two that the
    next segment starts from. Raises ValueError for a plan that ends on no such two."""
    if not isinstance(previous, Plan):
        raise ValueError(
            f"previous must come from a Plan film or Plan segment node, got "
            f"{type(previous).__name__}"
        )
    previous.run.require_finished()
    last = previous.segments[-1]
    anchors = previous.anchors(len(previous.segments) - 1)
    if last.places:
        if "end" not in last.places:
            raise ValueError("previous must end on a picture, got one in its middle only")
        end = max(anchors)  # a picture stands still
        ids = [0, end, end]
    else:
        step = hand_off(last.layout, previous.grid, previous.seed_from)
        ids = [step.decoded[0], *step.decoded[-2:]]
    return {"samples": torch.cat([anchors[i] for i in ids], dim=2)}
