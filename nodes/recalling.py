"""What a shot may recall: candidates from a storyboard and its pictures, the scorer that the given
inputs allow, and the drift gate. ThroughlineRecall and the keyframe planner both ask here.

A Recaller is made once per queue. It keeps a vector and a small copy of each picture, no pictures.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from ..adapters.similarity import (
    FEWEST,
    NoSharedSpace,
    caption_vector,
    check_joint_space,
    common_part,
    cosines,
    picture_vector,
    text_vector,
    without_common_part,
)
from ..memory.drift import SegmentMeasures
from ..memory.drift_gate import Drift, drift_from, picture_measures, reduced, short_side
from ..memory.retrieval import (
    Candidate,
    Ranked,
    Wanted,
    Weights,
    choose,
    rank,
    tfidf_similarity,
)
from ..planning.storyboard import Shot, Storyboard, plain_caption
from .recall_report import LeftOut, recall_report

if TYPE_CHECKING:
    from comfy.clip_vision import ClipVisionModel
    from comfy.sd import CLIP

DRIFT_THRESHOLD = 70.0
"""Percent (memory/drift_gate.py). Measured on the demo world: the same character in another place
is up to 68.6 % from its anchor (522 pairs, half of them below 24 %), in the same place up to 48.6 %
(360 pairs); of known drifts, contrast and saturation grown by 1.1 twelve times reach 61 %, eight
3 x 3 blurs 78 %. So what is left out is past what another place can explain."""


@dataclass(frozen=True, kw_only=True)
class RecallSettings:
    """How a recaller judges. `threshold` is the drift in percent from which the gate closes."""

    weights: Weights = field(default_factory=Weights)
    gate: bool = True
    threshold: float = DRIFT_THRESHOLD

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and self.threshold >= 0.0):
            raise ValueError(f"drift_threshold must be 0 percent or more, got {self.threshold}")


def reference_id(owner: str, file: str) -> str:
    """The id of a reference picture among candidates: "Ana: ana.png", "1.2: x.png"."""
    return f"{owner}: {file}"


def reference_file(candidate_id: str) -> str:
    """The file name in the id of a reference picture; a file name in a script holds no ':'."""
    return candidate_id.rpartition(": ")[2]


class Recaller:
    """Chooses what a shot recalls from what has been seen so far.

    `references` are the pictures [1, h, w, 3] that the script names, by name. CLIP compares
    captions with pictures where `clip` and `clip_vision` share a space; any other `clip` compares
    captions with captions; without one their words are compared. `given` are pictures [1, h, w, 3]
    that the script does not name.
    """

    def __init__(
        self,
        storyboard: Storyboard,
        references: Mapping[str, torch.Tensor],
        clip: CLIP | None = None,
        clip_vision: ClipVisionModel | None = None,
        settings: RecallSettings | None = None,
        given: Sequence[tuple[Candidate, torch.Tensor]] = (),
    ) -> None:
        self._storyboard, self._clip, self._clip_vision = storyboard, clip, clip_vision
        self._settings = settings or RecallSettings()
        self._tower, self.scorer = scorer_of(clip, clip_vision)
        self._references = reference_candidates(storyboard)
        self._of_shots = {
            reference_id(shot.id, file) for shot in storyboard.shots for file in shot.refs
        }
        self._vectors: dict[str, torch.Tensor] = {}
        self._small: dict[str, torch.Tensor] = {}
        self._measures: dict[tuple[str, int], SegmentMeasures] = {}
        self._texts: dict[str, torch.Tensor] = {}
        self._common: torch.Tensor | None = None
        self._asked: dict[str, torch.Tensor] = {}
        for one in self._references:
            self._keep(one.id, references[reference_file(one.id)])
        self._given = tuple(one for one, _ in given)
        for one, picture in given:
            self._keep(one.id, picture)

    @property
    def needs_pictures(self) -> bool:
        """Whether a choice depends on how the keyframes look, not on their words alone."""
        return self._tower is not None or self._settings.gate

    def see(self, shot_index: int, picture: torch.Tensor) -> None:
        """Look at the keyframe [1, h, w, 3] of a shot; a second one replaces the first."""
        self._keep(self._storyboard.shots[shot_index].id, picture)

    def _keep(self, name: str, picture: torch.Tensor) -> None:
        if self._tower is not None:
            assert self._clip_vision is not None
            self._vectors[name] = picture_vector(self._clip_vision, picture)
        if self._settings.gate:
            self._small[name] = reduced(picture).clone()
            self._measures = {key: one for key, one in self._measures.items() if key[0] != name}

    def choose(
        self, shot_index: int, most: int, available: Collection[int], by_hand: Sequence[str] = ()
    ) -> tuple[Ranked, ...]:
        """At most `most` pictures for a shot, in the order of their importance.

        `available` are indices of shots that have a picture; with `needs_pictures` each must have
        been seen. `by_hand` are ids and names beside the shot's own `recall`.
        """
        wanted = self.wanted(shot_index, by_hand)
        return choose(self.rank(shot_index, available, by_hand), wanted, most)

    def rank(
        self, shot_index: int, available: Collection[int], by_hand: Sequence[str] = ()
    ) -> tuple[Ranked, ...]:
        """All that the shot may see, best first, as `memory/retrieval.py: rank`."""
        wanted = self.wanted(shot_index, by_hand)
        candidates = self._candidates(shot_index, available)
        return rank(
            wanted,
            candidates,
            self._picture_similarity(wanted, candidates),
            self._text_similarity(wanted, candidates),
            self._settings.weights,
        )

    def wanted(self, shot_index: int, by_hand: Sequence[str] = ()) -> Wanted:
        """What the shot asks for; its own reference files count as asked for by hand."""
        shot = self._storyboard.shots[shot_index]
        own = [reference_id(shot.id, file) for file in shot.refs]
        return Wanted(
            shot_id=shot.id,
            place=shot_index,
            caption=plain_caption(self._storyboard, shot),
            characters=shot.characters,
            location=shot.location,
            recall=tuple(dict.fromkeys([*own, *shot.recall, *by_hand])),
        )

    def explain(
        self,
        shot_index: int,
        chosen: Sequence[Ranked],
        available: Collection[int],
        by_hand: Sequence[str] = (),
    ) -> str:
        """Why these were chosen, in lines of text: every part of each score, who was left out."""
        ranked = self.rank(shot_index, available, by_hand)
        taken = {one.candidate.id for one in chosen}
        return recall_report(
            self.wanted(shot_index, by_hand),
            self.scorer,
            chosen,
            [one for one in ranked if one.candidate.id not in taken],
            self.drifted(available),
        )

    def drifted(self, available: Collection[int]) -> tuple[LeftOut, ...]:
        """The keyframes that the gate leaves out, each with the anchor that it is furthest from."""
        if not self._settings.gate:
            return ()
        shots = [self._storyboard.shots[index] for index in sorted(available)]
        shots = [shot for shot in shots if shot.id in self._small]
        side = min((short_side(self._small[shot.id]) for shot in shots), default=0)
        measured = {name: self._measured(name, side) for name in self._small} if shots else {}
        found: dict[str, LeftOut] = {}
        for character in dict.fromkeys(name for shot in shots for name in shot.characters):
            showing = [shot.id for shot in shots if character in shot.characters]
            for one in self._strayed(character, showing, measured):
                if one.id not in found or found[one.id].drift.percent < one.drift.percent:
                    found[one.id] = one
        return tuple(found[shot.id] for shot in shots if shot.id in found)

    def _measured(self, name: str, side: int) -> SegmentMeasures:
        if (name, side) not in self._measures:
            self._measures[name, side] = picture_measures(self._small[name], side)
        return self._measures[name, side]

    def _strayed(
        self, character: str, showing: Sequence[str], measured: Mapping[str, SegmentMeasures]
    ) -> Iterable[LeftOut]:
        """Keyframes of a character that are further from the anchor than the threshold.

        The anchor is the reference picture, of several the nearest. Where even the first keyframe,
        made from it directly, is beyond the threshold, it is another kind of picture (a sheet on
        white paper), and the first keyframe is the anchor.
        """
        threshold = self._settings.threshold
        sheets = [
            one.id
            for one in self._references
            if one.characters == (character,) and one.id not in self._of_shots
        ]
        first = showing[0]
        if not sheets or _nearest(sheets, first, measured)[1].percent > threshold:
            sheets = [first]
        for name in showing:
            anchor, drift = _nearest(sheets, name, measured)
            if drift.percent > threshold:
                yield LeftOut(id=name, character=character, anchor=anchor, drift=drift)

    def _candidates(self, shot_index: int, available: Collection[int]) -> list[Candidate]:
        """References of people and places, the shot's own ones, and the shots with a picture; a
        file that the shot names itself stands there once."""
        shot = self._storyboard.shots[shot_index]
        own = {reference_id(shot.id, file) for file in shot.refs}
        sheets = [one for one in self._references if one.id in own]
        sheets += [
            one
            for one in self._references
            if one.id not in self._of_shots and reference_file(one.id) not in shot.refs
        ]
        left_out = {one.id for one in self.drifted(available)}
        frames = shot_candidates(self._storyboard, available)
        return [
            *sheets,
            *self._given,
            *(replace(one, drifted=one.id in left_out) for one in frames),
        ]

    def _picture_similarity(
        self, wanted: Wanted, candidates: Sequence[Candidate]
    ) -> list[float] | None:
        """Cosines of the caption with the pictures; each side without what is common to it, where
        there are enough pictures to tell."""
        if self._tower is None:
            return None
        pictures = [self._vectors[one.id] for one in candidates]
        if len(pictures) < FEWEST:
            return cosines(self._joint(wanted.caption), pictures)
        every = [self._joint(self.wanted(at).caption) for at in range(len(self._storyboard.shots))]
        common = common_part(pictures)
        return cosines(
            without_common_part(self._joint(wanted.caption), common_part(every)),
            [without_common_part(one, common) for one in pictures],
        )

    def _joint(self, caption: str) -> torch.Tensor:
        """The caption in CLIP's joint space."""
        assert self._clip is not None and self._tower is not None
        if caption not in self._asked:
            self._asked[caption] = text_vector(self._clip, self._tower, caption)
        return self._asked[caption]

    def _text_similarity(self, wanted: Wanted, candidates: Sequence[Candidate]) -> list[float]:
        captions = [compared_words(one) for one in candidates]
        if self._clip is None:
            return tfidf_similarity(compared_words(wanted), captions)
        return cosines(self._text(compared_words(wanted)), [self._text(one) for one in captions])

    def _text(self, text: str) -> torch.Tensor:
        """The vector of a caption without what all captions of the storyboard share."""
        assert self._clip is not None
        if self._common is None:
            every = [compared_words(self.wanted(at)) for at in range(len(self._storyboard.shots))]
            for one in dict.fromkeys(every):
                self._texts[one] = caption_vector(self._clip, one)
            self._common = common_part([self._texts[one] for one in every])
        if text not in self._texts:
            self._texts[text] = caption_vector(self._clip, text)
        return without_common_part(self._texts[text], self._common)


def _nearest(
    anchors: Sequence[str], name: str, measured: Mapping[str, SegmentMeasures]
) -> tuple[str, Drift]:
    drifts = {anchor: drift_from(measured[anchor], measured[name]) for anchor in anchors}
    nearest = min(drifts, key=lambda anchor: drifts[anchor].percent)
    return nearest, drifts[nearest]


def compared_words(one: Candidate | Wanted) -> str:
    """What is compared: the caption with its tags and its place."""
    return " ".join([one.caption, *one.characters, one.location or ""]).strip()


def scorer_of(clip: CLIP | None, clip_vision: ClipVisionModel | None) -> tuple[str | None, str]:
    """CLIP's text tower that may be compared with pictures, or None; and in words what is compared
    and why."""
    if clip is None:
        missing = "clip is not connected"
        return None, f"captions are compared by their words (TF-IDF): {missing}"
    kind = type(clip.cond_stage_model).__name__
    if clip_vision is None:
        return None, f"captions are compared with captions by {kind}: clip_vision is not connected"
    try:
        tower = check_joint_space(clip, clip_vision)
    except NoSharedSpace as problem:
        return None, f"captions are compared with captions by {kind}: {problem}"
    return tower, f"captions are compared with pictures by CLIP (clip_{tower}), and with captions"


def reference_candidates(storyboard: Storyboard) -> tuple[Candidate, ...]:
    """The reference pictures that the script names: of characters, of places, of single shots."""
    people = [
        Candidate(
            id=reference_id(one.name, file),
            place=0,
            caption=f"{one.name}, {one.description}".rstrip(", "),
            characters=(one.name,),
            kind="reference",
            pinned=one.pin,
        )
        for one in storyboard.characters
        for file in dict.fromkeys(one.refs)
    ]
    places = [
        Candidate(
            id=reference_id(f"#{one.name}", file),
            place=0,
            caption=f"{one.name}, {one.description}".rstrip(", "),
            location=one.name,
            kind="reference",
            pinned=True,
        )
        for one in storyboard.locations
        for file in dict.fromkeys(one.refs)
    ]
    own = [
        Candidate(
            id=reference_id(shot.id, file),
            place=0,
            caption=plain_caption(storyboard, shot),
            characters=tuple(one.name for one in storyboard.characters if file in one.refs),
            kind="reference",
        )
        for shot in storyboard.shots
        for file in dict.fromkeys(shot.refs)
    ]
    return (*people, *places, *own)


def shot_candidates(storyboard: Storyboard, available: Collection[int]) -> list[Candidate]:
    """The shots that have a picture. The first of a pinned character without a reference file is
    that character's anchor."""
    anchored = {one.name for one in storyboard.characters if one.refs or not one.pin}
    found = []
    for index in sorted(available):
        shot: Shot = storyboard.shots[index]
        new = set(shot.characters) - anchored
        anchored |= new
        found.append(
            Candidate(
                id=shot.id,
                place=index,
                caption=plain_caption(storyboard, shot),
                characters=shot.characters,
                location=shot.location,
                pinned=bool(new),
            )
        )
    return found
