"""The manifest survives its own text; whatever else a file holds is refused with a ValueError."""

import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughline.runs.keys import canonical, canonical_json, hash_json
from throughline.runs.manifest import (
    Manifest,
    SegmentRecord,
    manifest_from_json,
    manifest_to_json,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NUMBER = st.integers(-(2**64), 2**64) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
TIME = st.datetimes().map(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ"))


@st.composite
def records(draw: st.DrawFn, index: int) -> SegmentRecord:
    latent_frames = draw(st.integers(1, 100))
    finished = draw(st.booleans())
    key = draw(HEX)
    done: dict[str, Any] = {}
    if finished:
        done = {
            "content": draw(HEX),
            "parent_content": draw(st.none() | HEX),
            "statistics": draw(st.dictionaries(TEXT, JSON, max_size=3)),
            "seconds": draw(st.floats(0, 1e6)),
            "finished_at": draw(TIME),
            "file": f"segments/{index + 1:04d}-{key[:12]}.safetensors",
            "preview": draw(st.none() | st.just(f"previews/{index + 1:04d}.jpg")),
        }
    kinds = ["text", "image", "latent", "memory"] + ["tail"] * (index > 0)
    return SegmentRecord(
        index=index,
        shot=draw(st.integers(0, 50)),
        shot_id=draw(TEXT),
        chain=draw(st.integers(0, 50)),
        start=draw(st.sampled_from(kinds)),
        latent_frames=latent_frames,
        known_latent_frames=draw(st.integers(0, latent_frames)),
        prompt=draw(TEXT),
        negative=draw(TEXT),
        seed=draw(st.integers(0, 2**64 - 1)),
        take=draw(st.integers(0, 99)),
        key=key,
        **done,
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    return Manifest(
        name=draw(TEXT),
        pack_version=draw(TEXT),
        created=draw(TIME),
        fps=draw(st.none() | st.floats(0.01, 1000)),
        parameters=draw(st.dictionaries(TEXT, JSON, max_size=5)),
        segments=tuple(draw(records(i)) for i in range(draw(st.integers(0, 4)))),
        unused=("segments/0009-0123456789ab.safetensors",) * draw(st.integers(0, 2)),
    )


@settings(max_examples=200, deadline=None)
@given(manifests())
def test_round_trip(manifest: Manifest) -> None:
    text = manifest_to_json(manifest)
    again = manifest_from_json(text, "film")
    assert again == manifest
    assert manifest_to_json(again) == text


@settings(max_examples=200, deadline=None)
@given(manifests(), st.data())
def test_a_damaged_manifest_is_a_value_error_or_a_manifest(
    manifest: Manifest, data: st.DataObject
) -> None:
    text = manifest_to_json(manifest)
    place = data.draw(st.integers(0, len(text) - 1))
    inserted = data.draw(st.text(string.printable, max_size=3))
    removed = data.draw(st.integers(0, 5))
    damaged = text[:place] + inserted + text[place + removed :]
    try:
        result = manifest_from_json(damaged, "film")
    except ValueError as error:
        assert "film" in str(error)
    else:
        assert isinstance(result, Manifest)


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_any_json_in_place_of_a_manifest_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match="film"):
        manifest_from_json(json.dumps(value), "film")


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_canonical_json_does_not_depend_on_order_or_on_how_numbers_are_written(
    value: object,
) -> None:
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text
    assert canonical(value) == value


def test_hashes_by_hand() -> None:
    assert canonical_json({"b": (1, 2.0), "a": None}) == b'{"a":null,"b":[1,2]}'
    assert hash_json({"a": 4.0}) == hash_json({"a": 4}) != hash_json({"a": 4.5})
    assert hash_json({"a": True}) != hash_json({"a": 1})
