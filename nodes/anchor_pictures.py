"""Pictures as anchors of a plan: an artist's own, and the keyframes of shots that continue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..adapters.fingerprint import fingerprint_value
from ..planning.anchor_pictures import PLACES, Place, parse_places
from .given_pictures import check_pictures

if TYPE_CHECKING:
    from torch import Tensor

    from .film import Film


@dataclass(frozen=True)
class AnchorPictures:
    """Pictures [1, height, width, 3] in 0..1, in the size that they came in, by index of a segment
    and place."""

    by_place: Mapping[tuple[int, Place], Tensor] = field(default_factory=dict)

    @property
    def places(self) -> dict[int, tuple[Place, ...]]:
        """The places of each segment that has any."""
        found: dict[int, tuple[Place, ...]] = {}
        for index, place in self.by_place:
            found[index] = (*found.get(index, ()), place)
        return found

    def of(self, index: int) -> dict[Place, Tensor]:
        """The pictures of one segment."""
        found = ((place, self.by_place.get((index, place))) for place in PLACES)
        return {place: picture for place, picture in found if picture is not None}

    def digests(self, index: int) -> dict[str, str]:
        """What the key of a segment holds of them."""
        return {place: fingerprint_value(picture) for place, picture in self.of(index).items()}

    def with_keyframes(self, film: Film) -> AnchorPictures:
        """These, and the keyframes that segments of `film` end on. Raises ValueError for a segment
        that has both at its end."""
        together = dict(self.by_place)
        for segment in film.segments:
            if segment.end_keyframe is None:
                continue
            if (segment.index, "end") in together:
                shot = film.storyboard.shots[segment.end_keyframe].id
                raise ValueError(
                    f"segment {segment.number} ends on the keyframe of shot {shot} and on a "
                    f"picture of anchor_images: leave '{segment.number}:end' out"
                )
            together[segment.index, "end"] = film.keyframes.picture(segment.end_keyframe)
        return AnchorPictures(together)


def given_anchors(inputs: Mapping[str, Any]) -> AnchorPictures:
    """Read the inputs `anchor_images` and `anchor_places`.

    Raises ValueError for pictures that are none or not finite, and for another count of places.
    """
    images, text = inputs.get("anchor_images"), inputs.get("anchor_places") or ""
    places = parse_places(text)
    count = 0 if images is None else len(images)
    if images is not None:
        check_pictures(images, "anchor_images")
    if len(places) != count:
        raise ValueError(
            f"anchor_places must name one place for each of anchor_images, got {len(places)} "
            f"places for {count} pictures"
        )
    pictures = () if images is None else images[..., :3].split(1)
    return AnchorPictures(dict(zip(places, pictures, strict=True)))
