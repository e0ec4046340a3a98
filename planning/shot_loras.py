"""Which LoRAs a shot is made with: names in the script, files from the graph.

A shot names them in its braces, `{lora: coat 0.8, night}`, and a character behind a bar,
`@Ana = a woman | lora: ana 0.9`; a character's LoRAs belong to every shot that the character is
in. The graph says which file a name stands for, and may place a LoRA by itself (`used_in`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .lora_words import NamedLora, check_lora_name, check_lora_strength, parse_loras
from .storyboard import (
    Character,
    Location,
    Shot,
    Storyboard,
    StoryboardError,
    find_recall,
    listed,
)


@dataclass(frozen=True, kw_only=True)
class LoraOffer:
    """A LoRA that the graph offers to the script.

    `names`: what the script may call it, in any case. `used_in`: shot ids, character and location
    names where it is applied although the script does not name it.
    """

    names: tuple[str, ...]
    strength: float
    used_in: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_lora_strength(self.strength)
        for name in self.names:
            check_lora_name(name)


@dataclass(frozen=True)
class AppliedLora:
    """The LoRA at `index` of the offers, with the strength that counts in one shot."""

    index: int
    strength: float


def loras_of_shots(
    storyboard: Storyboard, offers: Sequence[LoraOffer]
) -> tuple[tuple[AppliedLora, ...], ...]:
    """The LoRAs of each shot, in the order of the offers; strength 0 is no LoRA.

    Where several say a strength, the shot's own word counts, then its first character's, then the
    graph's. Raises StoryboardError for a name that no offer has, for one that two have, and for a
    place in `used_in` that the script has not.
    """
    by_name = _by_name(offers)
    placed = [_places(storyboard, offer) for offer in offers]
    shots = []
    for shot in storyboard.shots:
        strengths = {
            index: offers[index].strength
            for index, places in enumerate(placed)
            if places & {shot.id, shot.location, *shot.characters}
        }
        for where, text in reversed(_words(storyboard, shot)):
            for named in _parsed(text, where, shot):
                if named.name.casefold() not in by_name:
                    raise StoryboardError(
                        f"{where}: no LoRA is called {named.name!r}; connected are "
                        f"{listed([offer.names[0] for offer in offers])}",
                        *_place(shot),
                    )
                index = by_name[named.name.casefold()]
                own = offers[index].strength if named.strength is None else named.strength
                strengths[index] = own
        shots.append(
            tuple(AppliedLora(i, strengths[i]) for i in sorted(strengths) if strengths[i] != 0.0)
        )
    return tuple(shots)


def _words(storyboard: Storyboard, shot: Shot) -> list[tuple[str, str]]:
    """Who speaks of LoRAs in a shot and in which words, the one that counts most first."""
    people = [storyboard.character(name) for name in shot.characters]
    said = [(f"shot {shot.id}", shot.lora)]
    said += [(f"character {one.name} in shot {shot.id}", one.lora) for one in people]
    return [(where, text) for where, text in said if text]


def _parsed(text: str, where: str, shot: Shot) -> tuple[NamedLora, ...]:
    try:
        return parse_loras(text)
    except ValueError as error:
        raise StoryboardError(f"{where}: {error}", *_place(shot)) from None


def _place(shot: Shot) -> tuple[int, int] | tuple[()]:
    return (shot.line, 1) if shot.line else ()


def _by_name(offers: Iterable[LoraOffer]) -> dict[str, int]:
    """Offers by folded name. The first name of an offer goes before the further names of others."""
    found: dict[str, int] = {}
    for index, offer in enumerate(offers):
        if offer.names[0].casefold() in found:
            raise StoryboardError(f"two LoRAs are called {offer.names[0]!r}: give one another name")
        found[offer.names[0].casefold()] = index
    for index, offer in enumerate(offers):
        for name in offer.names[1:]:
            found.setdefault(name.casefold(), index)
    return found


def _places(storyboard: Storyboard, offer: LoraOffer) -> set[str]:
    """Shot ids and names where the graph itself places a LoRA, spelled as they were defined."""
    ids = [shot.id for shot in storyboard.shots]
    named: list[Character | Location] = [*storyboard.characters, *storyboard.locations]
    places = set()
    for wanted in offer.used_in:
        try:
            places.add(find_recall(wanted, ids, named))
        except StoryboardError:
            raise StoryboardError(
                f"used_in of the LoRA {offer.names[0]!r} must name shots, characters or locations, "
                f"got {wanted!r}; shots: {listed(ids)}; names: {listed([n.name for n in named])}"
            ) from None
    return places
