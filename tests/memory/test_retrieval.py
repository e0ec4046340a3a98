"""Recall by meaning: the score by hand, the order of choosing, words without a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from throughline.memory.retrieval import (
    DECAY,
    Candidate,
    Ranked,
    Wanted,
    Weights,
    choose,
    rank,
    recency,
    tfidf_similarity,
    words_of,
)


def candidate(id: str, place: int, **more: Any) -> Candidate:
    return Candidate(id=id, place=place, **{"caption": "", **more})


def wanted(place: int = 9, **more: Any) -> Wanted:
    return Wanted(**{"shot_id": "now", "place": place, "caption": "", **more})


def ids(ranked: Sequence[Ranked]) -> list[str]:
    return [one.candidate.id for one in ranked]


def chosen(wish: Wanted, candidates: Sequence[Candidate], most: int = 3) -> list[tuple[str, str]]:
    """Chosen ids in order, each with why."""
    ranked = rank(wish, candidates, None, None, Weights())
    return [(one.candidate.id, one.why) for one in choose(ranked, wish, most)]


def test_the_defaults_are_those_of_the_design() -> None:
    assert vars(Weights()) == {
        "picture": 1.0,
        "text": 0.3,
        "characters": 0.7,
        "location": 0.3,
        "recency": 0.2,
    }


def test_a_score_by_hand() -> None:
    """1 * 0.5 + 0.3 * 0.4 + 0.7 * 1/2 + 0.3 + 0.2 / phi^2, phi^2 = phi + 1 = 2.618034."""
    wish = wanted(5, characters=("Ana", "Tom"), location="diner")
    held = candidate("a", 3, characters=("Tom", "Kim"), location="Diner")
    (only,) = rank(wish, [held], [0.5], [0.4], Weights())
    parts = (only.picture, only.text, only.characters, only.location, only.recency)
    assert parts == pytest.approx((0.5, 0.12, 0.35, 0.3, 0.2 / 2.618034), abs=1e-6)
    assert only.score == pytest.approx(1.27 + 0.0763932, abs=1e-6)
    assert only.why == ""


def test_a_missing_scorer_leaves_its_weight_to_the_other() -> None:
    held = [candidate("a", 3)]
    (text,) = rank(wanted(), held, None, [0.5], Weights())
    assert (text.picture, text.text) == (None, pytest.approx(1.3 * 0.5))
    (picture,) = rank(wanted(), held, [0.5], None, Weights())
    assert (picture.picture, picture.text) == (pytest.approx(1.3 * 0.5), None)
    (neither,) = rank(wanted(), held, None, None, Weights())
    assert (neither.picture, neither.text) == (None, None)


def test_recency_falls_by_phi_and_a_reference_has_none() -> None:
    falling = [recency(9, candidate("a", 9 - back)) for back in (1, 2, 3)]
    assert falling == pytest.approx([0.618034, 0.381966, 0.236068], abs=1e-6)
    assert falling[0] == pytest.approx(falling[1] + falling[2])
    assert recency(9, candidate("sheet", 8, kind="reference")) == 0.0
    assert pytest.approx(DECAY + 1) == DECAY**2


def test_the_shot_itself_and_later_ones_are_seen_only_when_asked_for() -> None:
    held = [candidate(name, place) for name, place in (("a", 3), ("now", 4), ("b", 5), ("c", 6))]
    assert ids(rank(wanted(4), held, None, None, Weights())) == ["a"]
    assert chosen(wanted(4, recall=("c", "now")), held) == [
        ("c", "asked for: c"),
        ("now", "asked for: now"),
        ("a", "by score"),
    ]


def test_equal_scores_have_one_order_whatever_the_input_order() -> None:
    held = [
        candidate("b", 2),
        candidate("a", 2),
        candidate("new", 7),
        candidate("sheet", 0, kind="reference"),
    ]
    flat = Weights(recency=0.0)
    for order in (held, held[::-1], held[2:] + held[:2]):
        assert ids(rank(wanted(), order, None, None, flat)) == ["sheet", "new", "a", "b"]


def test_what_is_asked_for_comes_first_in_its_order_even_drifted() -> None:
    held = [
        candidate("1.1", 0, drifted=True),
        candidate("1.2", 1, characters=("Ana",)),
        candidate("1.3", 2, characters=("Ana",), location="diner"),
        candidate("1.4", 3),
    ]
    wish = wanted(4, characters=("Ana",), recall=("1.1", "diner"))
    assert chosen(wish, held, most=4) == [
        ("1.1", "asked for: 1.1"),
        ("1.3", "asked for: diner"),
        ("1.2", "by score"),
        ("1.4", "by score"),
    ]
    assert [name for name, _ in chosen(wish, held, most=1)] == ["1.1"]


def test_a_name_asks_for_the_reference_then_for_what_has_not_drifted() -> None:
    drifted = candidate("near", 8, characters=("Ana",), drifted=True)
    far = candidate("far", 1, characters=("ana",))
    sheet = candidate("sheet", 0, characters=("Ana",), kind="reference")
    wish = wanted(recall=("Ana",))
    assert [name for name, _ in chosen(wish, [drifted, far, sheet], most=1)] == ["sheet"]
    assert [name for name, _ in chosen(wish, [drifted, far], most=1)] == ["far"]
    assert [name for name, _ in chosen(wish, [drifted], most=1)] == ["near"]
    assert chosen(wish, [candidate("x", 1, characters=("Tom",))]) == [("x", "by score")]


def test_drifted_candidates_are_never_chosen_by_themselves() -> None:
    drifted = candidate("bad", 8, characters=("Ana",), drifted=True, pinned=True)
    wish = wanted(characters=("Ana",))
    assert chosen(wish, [drifted, candidate("other", 1)]) == [("other", "by score")]
    assert chosen(wish, [drifted]) == []
    assert [name for name, _ in chosen(wish, [replace(drifted, drifted=False)])] == ["bad"]


def test_every_character_has_a_picture_before_the_slots_are_filled() -> None:
    """By score alone the three newest with Ana would be taken and Tom forgotten."""
    held = [candidate(f"ana {n}", 5 + n, characters=("Ana",), location="bar") for n in range(4)]
    held.append(candidate("tom", 0, characters=("Tom",)))
    wish = wanted(characters=("Ana", "Tom"), location="bar")
    assert chosen(wish, held) == [
        ("ana 3", "shows Ana"),
        ("tom", "shows Tom"),
        ("ana 2", "by score"),
    ]


def test_the_cover_is_greedy_one_picture_of_two_people_costs_one_slot() -> None:
    held = [
        candidate("ana", 8, characters=("Ana",)),
        candidate("tom", 7, characters=("Tom",)),
        candidate("both", 0, characters=("Ana", "Tom")),
    ]
    wish = wanted(characters=("Ana", "Tom"))
    assert chosen(wish, held, most=1) == [("both", "shows Ana, Tom")]


def test_pins_of_the_shot_come_before_better_scores_and_other_pins_do_not() -> None:
    held = [
        candidate("new", 8, characters=("Ana",), location="bar"),
        candidate("sheet", 0, characters=("Ana",), kind="reference", pinned=True),
        candidate("second sheet", 0, characters=("Ana",), kind="reference", pinned=True),
        candidate("tom", 0, characters=("Tom",), kind="reference", pinned=True),
        candidate("bar", 0, location="bar", kind="reference", pinned=True),
        candidate("cave", 0, location="cave", kind="reference", pinned=True),
    ]
    wish = wanted(characters=("Ana",), location="bar")
    assert chosen(wish, held, most=5) == [
        ("second sheet", "pinned, shows Ana"),
        ("sheet", "pinned"),
        ("bar", "pinned"),
        ("new", "by score"),
    ]


def test_a_reference_of_others_is_seen_only_when_it_is_named_or_asked_for() -> None:
    tom = candidate("tom", 0, characters=("Tom",), kind="reference")
    cave = candidate("cave", 0, location="old cave", kind="reference")
    loose = candidate("loose", 0, kind="reference")
    held = [tom, cave, loose]

    def seen(**more: Any) -> list[str]:
        return sorted(name for name, _ in chosen(wanted(**more), held))

    assert seen(characters=("Ana",), location="bar") == ["loose"]
    assert seen(caption="waves on a beach") == ["loose"]
    assert seen(caption="a tomb in a cave") == ["loose"]
    assert seen(caption="Tom enters the old cave") == ["cave", "loose", "tom"]
    assert seen(characters=("Ana", "tom")) == ["loose", "tom"]
    assert seen(location="Old Cave") == ["cave", "loose"]
    assert seen(characters=("Ana",), location="bar", recall=("Tom",)) == ["loose", "tom"]


def test_pins_wait_where_they_would_crowd_out_a_character() -> None:
    held = [
        candidate("ana", 0, characters=("Ana",), kind="reference", pinned=True),
        candidate("both", 3, characters=("Ana", "Tom")),
    ]
    wish = wanted(characters=("Ana", "Tom"))
    assert chosen(wish, held, most=1) == [("both", "shows Ana, Tom")]
    assert chosen(wish, held, most=2) == [("ana", "pinned, shows Ana"), ("both", "shows Tom")]


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: choose([], wanted(), 0), "must be 1 or more, got 0"),
        (lambda: Weights(text=-1.0), "weight_text must be 0 or more, got -1"),
        (lambda: Weights(location=math.nan), "weight_location must be 0 or more, got nan"),
        (
            lambda: rank(wanted(), [candidate("a", 1)] * 2, None, None, Weights()),
            "different ids, got 'a' twice",
        ),
        (
            lambda: rank(wanted(), [candidate("a", 1)], [0.1, 0.2], None, Weights()),
            "each of the 1 candidates, got 2",
        ),
        (
            lambda: rank(wanted(), [candidate("a", 1)], None, [math.nan], Weights()),
            "must be finite",
        ),
    ],
)
def test_wrong_input_names_itself(ask: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ask()


def test_no_candidates_is_no_error() -> None:
    assert choose(rank(wanted(recall=("1.1",)), [], None, None, Weights()), wanted(), 3) == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The DINER's door, 1950", ["the", "diner's", "door", "1950"]),
        ("Straße café", ["strasse", "café"]),
        ("雨の夜", ["雨の", "の夜"]),
        ("灯台", ["灯台"]),
        ("雪", ["雪"]),
        ("她走进Diner，坐下", ["她走", "走进", "diner", "坐下"]),
        ("ﾃｽﾄ", ["テス", "スト"]),
        ("비가 온다", ["비가", "온다"]),
        ("...", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_tfidf_by_hand() -> None:
    """Of three texts, "red" is in two and the others in one: ln(4/3) + 1 and ln(4/2) + 1."""
    common, rare = math.log(4 / 3) + 1, math.log(2) + 1
    length = math.sqrt(common**2 + rare**2)
    found = tfidf_similarity("red door", ["red car", "green sea"])
    assert found == pytest.approx([common**2 / length**2, 0.0])


def test_tfidf_is_a_cosine() -> None:
    text = "a rainy night in the old harbour"
    same, other, empty = tfidf_similarity(text, [text, "a dry day", ""])
    assert same == pytest.approx(1.0)
    assert 0.0 < other < 0.5
    assert empty == 0.0
    assert tfidf_similarity("", ["a"]) == [0.0]
    assert tfidf_similarity("a", []) == []


def test_tfidf_reads_text_without_spaces() -> None:
    night, day = tfidf_similarity(
        "她又回到雨夜的码头", ["雨夜的码头，船灯摇晃", "清晨的市场人声鼎沸"]
    )
    assert night > 0.3 > day
    lamp, sea = tfidf_similarity("灯台の光がまた回る", ["灯台の光が霧を切る", "魚を売る声"])
    assert lamp > 0.3 > sea
