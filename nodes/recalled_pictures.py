"""What the node ThroughlineRecall does: its pictures become candidates, a shot chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..memory.retrieval import Candidate, Ranked, Weights
from ..planning.storyboard import (
    Character,
    Location,
    Storyboard,
    find_recall,
    find_tags,
    listed,
)
from .given_pictures import check_pictures
from .keyframe_value import Keyframes
from .recalling import DRIFT_THRESHOLD, Recaller, RecallSettings, reference_file
from .reference_files import read_references
from .retrieval import labelled, sheet_of

DEFAULT_WEIGHTS = Weights()


@dataclass(frozen=True, kw_only=True)
class RecallRequest:
    """The inputs of ThroughlineRecall."""

    storyboard: Storyboard
    shot: str
    how_many: int
    keyframes: Keyframes | None
    images: torch.Tensor | None
    captions: str
    clip: Any
    clip_vision: Any
    also_recall: str
    settings: RecallSettings


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """What was recalled: the pictures [1, h, w, 3] in order, and what the node says of them."""

    chosen: tuple[Ranked, ...]
    pictures: tuple[torch.Tensor, ...]
    report: str


def recall_pictures(request: RecallRequest) -> Recalled:
    """Choose, and say why. Raises ValueError for a shot or a name that is not there, and for what
    `read_references` refuses."""
    storyboard = request.storyboard
    index = shot_index(storyboard, request.shot)
    references = read_references(storyboard)
    seen, given = given_pictures(request)
    recaller = Recaller(
        storyboard,
        references.pictures,
        request.clip,
        request.clip_vision,
        request.settings,
        given=tuple(given.values()),
    )
    for place, picture in seen.items():
        recaller.see(place, picture)
    by_hand = asked_names(request.also_recall, storyboard, tuple(given))
    chosen = recaller.choose(index, request.how_many, seen, by_hand)
    report = recaller.explain(index, chosen, seen, by_hand)
    held = {storyboard.shots[place].id: picture for place, picture in seen.items()}
    held |= {name: picture for name, (_, picture) in given.items()}
    return Recalled(
        chosen=chosen,
        pictures=tuple(
            held[one.candidate.id]
            if one.candidate.id in held
            else references.pictures[reference_file(one.candidate.id)]
            for one in chosen
        ),
        report="\n".join([report, *references.notes]),
    )


def shot_index(storyboard: Storyboard, name: str) -> int:
    """Where a shot stands. Raises ValueError listing what there is."""
    ids = [shot.id for shot in storyboard.shots]
    if name.strip() not in ids:
        raise ValueError(f"shot must be one of {listed(ids)}, got {name.strip()!r}")
    return ids.index(name.strip())


def given_pictures(
    request: RecallRequest,
) -> tuple[dict[int, torch.Tensor], dict[str, tuple[Candidate, torch.Tensor]]]:
    """Pictures [1, h, w, 3] of shots by their index, and free ones by their name, "image 1".

    A line of `captions` that is a shot's id makes its picture that of the shot, in the place of a
    keyframe; any other line is what the picture shows, with `<Ana>` and `#diner` as tags.
    """
    storyboard = request.storyboard
    places = {shot.id: place for place, shot in enumerate(storyboard.shots)}
    seen: dict[int, torch.Tensor] = {}
    for at, name in enumerate(request.keyframes.shot_ids if request.keyframes else ()):
        if name not in places:
            raise ValueError(f"keyframes must belong to the storyboard, got one of shot {name!r}")
        assert request.keyframes is not None
        seen[places[name]] = request.keyframes.images[at : at + 1]
    free = {}
    if request.images is not None:
        check_pictures(request.images)
    count = 0 if request.images is None else len(request.images)
    for at, line in enumerate(image_captions(request.captions, count)):
        assert request.images is not None
        picture = request.images[at : at + 1, ..., :3]
        if line in places:
            seen[places[line]] = picture
        else:
            name = f"image {at + 1}"
            free[name] = (picture_candidate(storyboard, name, line), picture)
    return seen, free


def image_captions(text: str, count: int) -> list[str]:
    """One line per image, missing ones empty. Raises ValueError for more lines than images."""
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if len(lines) > count:
        raise ValueError(
            f"captions must have at most one line per image, got {len(lines)} lines for {count} "
            "images"
        )
    return lines + [""] * (count - len(lines))


def picture_candidate(storyboard: Storyboard, name: str, caption: str) -> Candidate:
    """A picture that belongs to no shot, with the people and the place that its caption tags."""
    tags = find_tags(caption, storyboard.characters)
    places = [
        place.name
        for place in storyboard.locations
        if f"#{place.name}".casefold() in caption.casefold()
    ]
    return Candidate(
        id=name,
        place=0,
        caption=caption,
        characters=tuple(dict.fromkeys(tag.name for tag in tags if tag.name is not None)),
        location=max(places, key=len, default=None),
        kind="reference",
    )


def asked_names(text: str, storyboard: Storyboard, images: tuple[str, ...]) -> tuple[str, ...]:
    """Names that are asked for by hand on the node, separated by commas: shots, also later ones,
    characters, places, "image 2". Raises ValueError for one that there is not."""
    known = [*(shot.id for shot in storyboard.shots), *images]
    named: list[Character | Location] = [*storyboard.characters, *storyboard.locations]
    wanted = [word.strip() for word in text.replace("，", ",").replace("、", ",").split(",")]
    return tuple(dict.fromkeys(find_recall(word, known, named) for word in wanted if word))


def recall_sheet(recalled: Recalled) -> torch.Tensor | None:
    """The pictures with their names and scores on one sheet, None where there are none."""
    tiles = [
        labelled([picture[0]], f"{place}. {one.candidate.id} | {one.score:.2f}")
        for place, (one, picture) in enumerate(
            zip(recalled.chosen, recalled.pictures, strict=True), 1
        )
    ]
    return sheet_of(tiles) if tiles else None


def recall_request(
    storyboard: object, shot: str, how_many: int, inputs: dict[str, Any]
) -> RecallRequest:
    """The node's inputs as one value. Raises ValueError for a value of another kind."""
    if not isinstance(storyboard, Storyboard):
        raise ValueError(
            f"storyboard must come from a Storyboard node, got {type(storyboard).__name__}"
        )
    keyframes = inputs.get("keyframes")
    if keyframes is not None and not isinstance(keyframes, Keyframes):
        raise ValueError(
            f"keyframes must come from a node that makes them, got {type(keyframes).__name__}"
        )
    weights = {
        name: inputs.get(f"weight_{name}", default)
        for name, default in vars(DEFAULT_WEIGHTS).items()
    }
    return RecallRequest(
        storyboard=storyboard,
        shot=shot,
        how_many=how_many,
        keyframes=keyframes,
        images=inputs.get("images"),
        captions=inputs.get("captions", ""),
        clip=inputs.get("clip"),
        clip_vision=inputs.get("clip_vision"),
        also_recall=inputs.get("also_recall", ""),
        settings=RecallSettings(
            weights=Weights(**weights),
            gate=inputs.get("drift_gate", True),
            threshold=inputs.get("drift_threshold", DRIFT_THRESHOLD),
        ),
    )
