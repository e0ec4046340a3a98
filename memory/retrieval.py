"""Recall by meaning: which earlier pictures a new shot should see, and why each was chosen.

Frames are ranked by what they show, not by when they came (Captain Cinema, arXiv 2507.18634,
"semantic-oriented retrieval"). The score is the shared design's, golden-memory-and-keyframes.md,
section 4 (inferred there; the paper publishes none), for shot k and candidate j with the
characters C:

    S_j = picture cos(caption, picture) + text cos(caption, caption)
        + characters |C_k ∩ C_j| / |C_k| + location [same place] + recency phi^-(k - j)

Pure: similarities come in as numbers, from `adapters/similarity.py` or from the words alone
(`tfidf_similarity`).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

DECAY = (1.0 + math.sqrt(5.0)) / 2.0
"""phi: a picture that is one shot older counts 1/phi as recent (design, section 4)."""

CandidateKind = Literal["shot", "reference"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A picture that may be recalled.

    `id` is a shot's id or, for a `reference`, a name that no shot has. `place` counts shots from 0;
    a reference belongs to no moment and its place is not read. `characters` and `location` are
    names of the storyboard. `pinned`: an anchor, never left out for a better score. `drifted`: no
    longer looks like its characters' anchor.
    """

    id: str
    place: int
    caption: str
    characters: tuple[str, ...] = ()
    location: str | None = None
    kind: CandidateKind = "shot"
    pinned: bool = False
    drifted: bool = False


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The shot that looks for pictures; `recall` are the ids and names that it asks for by hand."""

    shot_id: str
    place: int
    caption: str
    characters: tuple[str, ...] = ()
    location: str | None = None
    recall: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Weights:
    """How much each part of the score counts; the defaults are those of the design, section 4."""

    picture: float = 1.0
    text: float = 0.3
    characters: float = 0.7
    location: float = 0.3
    recency: float = 0.2

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"weight_{name} must be 0 or more, got {value}")


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A candidate with every part of its score, each already weighted; None: nothing measured it.

    `why` says what chose it, "" while it is only ranked.
    """

    candidate: Candidate
    picture: float | None
    text: float | None
    characters: float
    location: float
    recency: float
    why: str = ""

    @property
    def score(self) -> float:
        return (
            (self.picture or 0.0)
            + (self.text or 0.0)
            + self.characters
            + self.location
            + self.recency
        )


def rank(
    wanted: Wanted,
    candidates: Sequence[Candidate],
    picture_similarity: Sequence[float] | None,
    text_similarity: Sequence[float] | None,
    weights: Weights,
) -> tuple[Ranked, ...]:
    """All candidates that the shot may see, best score first.

    A similarity is one cosine per candidate, or None where there is no such scorer; then its weight
    goes to the other one, so that meaning keeps its share beside tags and time. The shot itself,
    later shots, and references of people and places that the shot neither is tagged with nor names,
    are left out unless `wanted.recall` has them. Equal scores: the newer one
    first, references before shots, then by id. Raises ValueError for two candidates of one id and
    for similarities of another number.
    """
    _check(candidates, picture_similarity, text_similarity)
    picture_weight = weights.picture + (weights.text if text_similarity is None else 0.0)
    text_weight = weights.text + (weights.picture if picture_similarity is None else 0.0)
    ranked = [
        Ranked(
            candidate=one,
            picture=_weighted(picture_similarity, at, picture_weight),
            text=_weighted(text_similarity, at, text_weight),
            characters=weights.characters * shared_characters(wanted.characters, one.characters),
            location=weights.location * same_name(wanted.location, one.location),
            recency=weights.recency * recency(wanted.place, one),
        )
        for at, one in enumerate(candidates)
        if _may_be_seen(one, wanted)
    ]
    return tuple(sorted(ranked, key=_order))


def choose(ranked: Sequence[Ranked], wanted: Wanted, most: int) -> tuple[Ranked, ...]:
    """At most `most` of the ranked candidates, in the order of their importance, with why.

    What the shot asks for by hand comes first, in its order. Then pinned anchors of its characters
    and place; then, greedily, whatever shows the most characters that nothing chosen shows yet;
    then the rest by score. Where the pins would crowd out a character, they wait. A drifted
    candidate is taken only when it is asked for by hand. Raises ValueError for `most` below 1.
    """
    if most < 1:
        raise ValueError(f"the number of pictures to recall must be 1 or more, got {most}")
    chosen = _asked_for(ranked, wanted)[:most]
    taken = {one.candidate.id for one in chosen}
    pool = [r for r in ranked if r.candidate.id not in taken and not r.candidate.drifted]
    missing = set(wanted.characters) - _characters(chosen)
    chosen += _covering(pool, wanted, missing, most - len(chosen))
    taken = {one.candidate.id for one in chosen}
    rest = [one for one in pool if one.candidate.id not in taken]
    pins = [replace(one, why="pinned") for one in rest if _is_anchor(one.candidate, wanted)]
    others = [replace(one, why="by score") for one in rest if not _is_anchor(one.candidate, wanted)]
    return tuple([*chosen, *pins, *others][:most])


def shared_characters(wanted: Sequence[str], held: Sequence[str]) -> float:
    """Which part of the wanted characters is held, 0..1; 0 where nobody is wanted."""
    asked = {name.casefold() for name in wanted}
    return len(asked & {name.casefold() for name in held}) / len(asked) if asked else 0.0


def same_name(wanted: str | None, held: str | None) -> bool:
    """Whether both name one place."""
    return wanted is not None and held is not None and wanted.casefold() == held.casefold()


def recency(place: int, candidate: Candidate) -> float:
    """phi^-(distance in shots); 0 for a reference, which belongs to no moment."""
    if candidate.kind == "reference":
        return 0.0
    return float(DECAY ** -abs(place - candidate.place))


def _check(candidates: Sequence[Candidate], *similarities: Sequence[float] | None) -> None:
    ids = Counter(one.id for one in candidates)
    twice = [name for name, count in ids.items() if count > 1]
    if twice:
        raise ValueError(f"candidates must have different ids, got {twice[0]!r} twice")
    for similarity in similarities:
        if similarity is not None and len(similarity) != len(candidates):
            raise ValueError(
                f"a similarity needs one number for each of the {len(candidates)} candidates, "
                f"got {len(similarity)}"
            )
        if similarity is not None and not all(map(math.isfinite, similarity)):
            raise ValueError(f"similarities must be finite, got {list(similarity)}")


def _weighted(similarity: Sequence[float] | None, at: int, weight: float) -> float | None:
    return None if similarity is None else weight * similarity[at]


def _may_be_seen(candidate: Candidate, wanted: Wanted) -> bool:
    if candidate.id in wanted.recall:
        return True
    if candidate.kind == "reference":
        return _concerns(candidate, wanted)
    return candidate.place < wanted.place


def _concerns(reference: Candidate, wanted: Wanted) -> bool:
    """Whether a reference is about this shot: it is tagged with one of its people or its place,
    names it in plain words, or asks for it; a reference of nobody and nowhere always is."""
    held = [*reference.characters, *([reference.location] if reference.location else [])]
    said = set(words_of(wanted.caption))
    tagged = {*wanted.characters, *wanted.recall, *([wanted.location] if wanted.location else [])}
    folded = {name.casefold() for name in tagged}
    return not held or any(
        name.casefold() in folded or set(words_of(name)) <= said for name in held
    )


def _order(one: Ranked) -> tuple[float, bool, int, str]:
    return (-one.score, one.candidate.kind == "shot", -one.candidate.place, one.candidate.id)


def _asked_for(ranked: Sequence[Ranked], wanted: Wanted) -> list[Ranked]:
    """What `recall` names: a shot by its id; for a character or place the best that shows it, a
    reference before a shot, one that has not drifted before one that has."""
    chosen: dict[str, Ranked] = {}
    for name in wanted.recall:
        exact = [one for one in ranked if one.candidate.id == name]
        showing = [
            one
            for one in ranked
            if one.candidate.id not in chosen
            and (shared_characters([name], one.candidate.characters)
                 or same_name(name, one.candidate.location))
        ]  # fmt: skip
        showing.sort(key=lambda one: (one.candidate.drifted, one.candidate.kind == "shot"))
        for one in (exact or showing)[:1]:
            chosen.setdefault(one.candidate.id, replace(one, why=f"asked for: {name}"))
    return list(chosen.values())


def _covering(
    pool: Sequence[Ranked], wanted: Wanted, missing: set[str], slots: int
) -> list[Ranked]:
    """Candidates that show the missing characters, anchors first if that leaves nobody out."""
    anchors = [one for one in pool if _is_anchor(one.candidate, wanted)]
    pinned = _greedy_cover(anchors, missing, slots)
    still = missing - _characters(pinned)
    pinned += _greedy_cover(pool, still, slots - len(pinned))
    plain = _greedy_cover(pool, missing, slots)
    more = len(missing & _characters(plain)) > len(missing & _characters(pinned))
    return plain if more else pinned


def _greedy_cover(pool: Sequence[Ranked], missing: set[str], slots: int) -> list[Ranked]:
    """Greedy set cover: each time the one with the most missing characters, ties by score."""
    missing = set(missing)
    chosen: list[Ranked] = []
    while missing and len(chosen) < slots:
        best = max(pool, key=lambda one: len(missing & _characters([one])), default=None)
        new = missing & _characters([best]) if best is not None else set()
        if best is None or not new:
            break
        pinned = "pinned, " if best.candidate.pinned else ""
        chosen.append(replace(best, why=f"{pinned}shows {', '.join(sorted(new))}"))
        missing -= new
    return chosen


def _characters(ranked: Iterable[Ranked]) -> set[str]:
    return {name for one in ranked for name in one.candidate.characters}


def _is_anchor(candidate: Candidate, wanted: Wanted) -> bool:
    """Whether a pinned candidate is about this shot: its people, else its place, else any shot."""
    if not candidate.pinned:
        return False
    if candidate.characters:
        return bool(shared_characters(candidate.characters, wanted.characters))
    return candidate.location is None or same_name(candidate.location, wanted.location)


WITHOUT_SPACES = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u3005\u3007\u3040-\u30ff\u31f0-\u31ff"  # iteration mark, kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\uac00-\ud7af"  # Hangul: words carry their particles
    "\U00020000-\U0003ffff"  # Han extensions
)
"""Letters of scripts whose words do not stand apart; their pairs are taken instead of words, as
Lucene's CJKAnalyzer does."""

_PIECE = re.compile(rf"[{WITHOUT_SPACES}]+|[^\W{WITHOUT_SPACES}]+(?:['’][^\W{WITHOUT_SPACES}]+)*")
_PAIRED = re.compile(rf"[{WITHOUT_SPACES}]")


def words_of(text: str) -> list[str]:
    """The words of a text, folded; overlapping pairs of letters where words do not stand apart."""
    words: list[str] = []
    for piece in _PIECE.findall(unicodedata.normalize("NFKC", text).casefold()):
        if _PAIRED.match(piece) and len(piece) > 1:
            words += [piece[at : at + 2] for at in range(len(piece) - 1)]
        else:
            words.append(piece)
    return words


def tfidf_similarity(text: str, texts: Sequence[str]) -> list[float]:
    """Cosine of `text` with each of `texts` by their words, 0..1; no model needed.

    Counts times ln((1 + n) / (1 + n_word)) + 1, n the number of texts and the asked one: what
    scikit-learn's TfidfVectorizer does by default.
    """
    counts = [Counter(words_of(one)) for one in (text, *texts)]
    holders = Counter(word for one in counts for word in one)
    rarity = {w: math.log((1 + len(counts)) / (1 + held)) + 1 for w, held in holders.items()}
    vectors = [{word: count * rarity[word] for word, count in one.items()} for one in counts]
    lengths = [math.sqrt(sum(value * value for value in one.values())) for one in vectors]
    asked = vectors[0]
    return [
        sum(asked[word] * one[word] for word in sorted(asked.keys() & one.keys()))
        / (lengths[0] * length)
        if lengths[0] and length
        else 0.0
        for one, length in zip(vectors[1:], lengths[1:], strict=True)
    ]
