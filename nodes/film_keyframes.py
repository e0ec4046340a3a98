"""The keyframes of a film: which segment uses which, decided before anything is sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.utils
import torch

from ..adapters.family import Capabilities, Family
from ..adapters.fingerprint import fingerprint_value
from ..adapters.wan_context import CONTEXT_WEIGHTS, ContextWeights
from ..planning.keyframe_use import KeyframePlan, unused_keyframes
from ..planning.segments import Segment
from ..planning.storyboard import Storyboard
from ..runs.keys import KEYFRAMES
from .keyframe_value import Keyframes

if TYPE_CHECKING:
    from .film import FilmRequest

START = "start frames"
START_AND_END = "start and end frames"
CONTEXT = "start, end and context"
WITH_WEIGHTS = {f"{CONTEXT} ({name})": weights for name, weights in CONTEXT_WEIGHTS.items()}
KEYFRAME_USES = (START, START_AND_END, CONTEXT, *WITH_WEIGHTS)
"""What the widget `keyframe_use` offers. Context without a name goes through the memory."""

PLANNED_SETTINGS = ("recall", "refs", "strength")
"""Settings of a shot that a keyframe planner followed when it made the keyframes."""


@dataclass(frozen=True, kw_only=True)
class FilmKeyframes:
    """`keyframes` is None for a film without. `shot_ids` are those of the film's storyboard.

    `weights` see pictures as context by themselves; `remembered`: the film's memory holds them.
    """

    keyframes: Keyframes | None = None
    shot_ids: tuple[str, ...] = ()
    plan: KeyframePlan = KeyframePlan()
    weights: ContextWeights | None = None
    remembered: bool = False

    @property
    def follows(self) -> tuple[str, ...]:
        """Settings of shots that took effect in the keyframes."""
        return PLANNED_SETTINGS if self.keyframes and self.keyframes.run_name else ()

    def picture(self, shot: int) -> torch.Tensor:
        """The keyframe [1, height, width, 3] of a shot, in the size that it came in."""
        assert self.keyframes is not None
        found = self.keyframes.of(self.shot_ids[shot])
        assert found is not None
        return found

    def parameters(self, segments: Sequence[Segment]) -> dict[str, dict[str, list[str]]]:
        """The entry of the run's parameters; none without keyframes."""
        if self.keyframes is None:
            return {}
        digests = {shot: fingerprint_value(self.picture(shot)) for shot in self.plan.shots}
        entries = {str(one.index): list(self._uses(one, digests)) for one in segments}
        return {KEYFRAMES: {index: uses for index, uses in entries.items() if uses}}

    def _uses(self, segment: Segment, digests: dict[int, str]) -> Iterator[str]:
        if segment.start_keyframe is not None:
            yield f"start {digests[segment.start_keyframe]}"
        if segment.end_keyframe is not None:
            yield f"end {digests[segment.end_keyframe]}"
        how = "memory" if self.weights is None else self.weights.name
        for shot in segment.context_keyframes:
            yield f"{how} {digests[shot]}"


def plan_keyframes(
    request: FilmRequest, storyboard: Storyboard, family: Family, capabilities: Capabilities
) -> FilmKeyframes:
    """Read the inputs `keyframes` and `keyframe_use`.

    Raises ValueError for another value, pictures that are not finite, keyframes of another
    storyboard, a second start of the first shot, and a use that the model has no way for.
    """
    given: object = request.keyframes
    use = START_AND_END if request.keyframe_use is None else request.keyframe_use
    if use not in KEYFRAME_USES:
        raise ValueError(f"keyframe_use must be one of {', '.join(KEYFRAME_USES)}, got {use!r}")
    if given is None:
        return FilmKeyframes()
    if not isinstance(given, Keyframes):
        raise ValueError(
            "keyframes must come from a Keyframe planner or Keyframes from images node, got "
            f"{type(given).__name__}"
        )
    _check_pictures(given)
    shots = _shots_of(given, storyboard)
    if 0 in shots and (request.start_image is not None or request.start_latent is not None):
        name = "start_image" if request.start_image is not None else request.latent_input
        raise ValueError(
            f"{name} and a keyframe of shot {storyboard.shots[0].id} cannot both start the film: "
            f"disconnect {name}, or leave the keyframe of that shot out"
        )
    weights = WITH_WEIGHTS.get(use)
    _check_context(request, use, weights, family, capabilities)
    remembered = use == CONTEXT
    return FilmKeyframes(
        keyframes=given,
        shot_ids=tuple(shot.id for shot in storyboard.shots),
        plan=KeyframePlan(
            shots=frozenset(shots),
            ends=use != START and capabilities.end_frame,
            most_context=0 if weights is None else weights.most_pictures,
            context_is_shared=remembered,
        ),
        weights=weights,
        remembered=remembered,
    )


def _check_pictures(keyframes: Keyframes) -> None:
    for name, picture in zip(keyframes.shot_ids, keyframes.images, strict=True):
        if not bool(torch.isfinite(picture).all()):
            raise ValueError(f"keyframes must be finite, shot {name} has NaN or infinity")


def _shots_of(keyframes: Keyframes, storyboard: Storyboard) -> list[int]:
    """Indices of the shots in the film's storyboard; what a shot shows must be the same."""
    places = {shot.id: place for place, shot in enumerate(storyboard.shots)}
    made_for = {shot.id: shot for shot in keyframes.storyboard.shots}
    for name in keyframes.shot_ids:
        if name not in places:
            raise ValueError(
                f"keyframes must belong to the film's storyboard, it has no shot {name!r}: connect "
                "the same storyboard to both nodes"
            )
        wanted, made = storyboard.shots[places[name]].caption, made_for[name].caption
        if wanted != made:
            raise ValueError(
                f"keyframes must belong to the film's storyboard, shot {name} is {wanted!r:.80} "
                f"and its keyframe was made for {made!r:.80}: connect the same storyboard to both "
                "nodes"
            )
    return [places[name] for name in keyframes.shot_ids]


def _check_context(
    request: FilmRequest,
    use: str,
    weights: ContextWeights | None,
    family: Family,
    capabilities: Capabilities,
) -> None:
    if use == CONTEXT and request.memory is None:
        named = " or ".join(repr(one) for one in WITH_WEIGHTS)
        raise ValueError(
            f"keyframe_use {use!r} needs memory: connect a memory encoder, or choose {named} with "
            "such weights"
        )
    if weights is not None and weights.name not in capabilities.context:
        raise ValueError(
            f"keyframe_use {use!r} needs {weights.name} weights, which load as Wan T2V, got "
            f"{family.name}"
        )


def describe_keyframes(
    film: FilmKeyframes,
    storyboard: Storyboard,
    segments: Sequence[Segment],
    family: Family,
    can_end: bool,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is done with the keyframes, and warnings, as sentences without full stops."""
    if film.keyframes is None:
        return (), ()
    started = sum(segment.start_keyframe is not None for segment in segments)
    ended = sum(segment.end_keyframe is not None for segment in segments)
    context = max((len(segment.context_keyframes) for segment in segments), default=0)
    counts = f"keyframes used: {started} as start frame, {ended} as end frame"
    if context:
        how = "the memory" if film.weights is None else film.weights.name
        counts += f", up to {context} as context through {how}"
    warnings = []
    unused = _ids(storyboard, unused_keyframes(segments, film.plan))
    if unused:
        warnings.append(f"keyframes of shots {unused} are not used: {_why(film, family, can_end)}")
    bare = {segment.shot for segment in segments if segment.start in ("text", "memory")}
    missing = _ids(storyboard, sorted(bare - film.plan.shots))
    if missing:
        warnings.append(f"shots {missing} have no keyframe and start from their text")
    return (counts,), tuple(warnings)


def _ids(storyboard: Storyboard, shots: Sequence[int]) -> str:
    return ", ".join(storyboard.shots[shot].id for shot in shots)


def _why(film: FilmKeyframes, family: Family, can_end: bool) -> str:
    """Why a keyframe of a shot that continues is not used."""
    if film.plan.ends:
        return "the segment before is too short to end on one"
    if can_end:
        return f"they continue the shot before; choose {START_AND_END!r} to let that end on them"
    return f"they continue the shot before, and {family.name} does not end on a picture"


def film_pixels(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Pictures [n, h, w, 3], cropped and scaled to the film's size in pixels."""
    return comfy.utils.common_upscale(
        picture[..., :3].movedim(-1, 1), width, height, "bilinear", "center"
    ).movedim(1, -1)  # b c h w -> b h w c
