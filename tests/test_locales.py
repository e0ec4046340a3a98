"""locales/: every text of every node in every language, and nothing that is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LOCALES = Path(__file__).resolve().parents[1] / "locales"
LANGUAGES = ("en", "zh", "ja")
# vue-i18n reads these as its own signs; the frontend's files write {'@'} for a plain one.
SIGNS = re.compile(r"[{}@|$]")
CHINESE_OR_JAPANESE = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")


def read(language: str, file: str) -> Any:
    return json.loads((LOCALES / language / file).read_text(encoding="utf-8"))


def texts(value: Any, path: str = "") -> dict[str, str]:
    """Every text of a locale file by its path."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in texts(value[key], f"{path}/{key}").items()}
    assert isinstance(value, str), f"{path} must be text, got {value!r}"
    return {path: value}


@pytest.fixture(scope="module")
def schemas(comfy: ModuleType) -> dict[str, Any]:
    """What English must say, from the schemas of all nodes, in the form of nodeDefs.json."""
    from throughline.nodes import NODES

    defs = {}
    for schema in (node.GET_SCHEMA() for node in NODES):
        inputs = {one.id: {"name": one.id, "tooltip": one.tooltip} for one in schema.inputs}
        outputs = {
            str(index): {"name": one.display_name, "tooltip": one.tooltip}
            for index, one in enumerate(schema.outputs)
        }
        defs[schema.node_id] = {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": inputs,
            "outputs": outputs,
        }
    return defs


def test_english_says_what_the_schemas_say(schemas: dict[str, Any]) -> None:
    assert read("en", "nodeDefs.json") == schemas


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_exactly_the_nodes_inputs_and_outputs(
    language: str, schemas: dict[str, Any]
) -> None:
    there, wanted = texts(read(language, "nodeDefs.json")), texts(schemas)
    assert set(there) ^ set(wanted) == set()
    assert [path for path, text in there.items() if not text.strip()] == []


@pytest.mark.parametrize("language", ("zh", "ja"))
def test_a_translation_is_one_and_keeps_every_number(language: str) -> None:
    english = texts(read("en", "nodeDefs.json"))
    wrong = []
    for path, text in texts(read(language, "nodeDefs.json")).items():
        is_sentence = path.endswith(("/tooltip", "/description"))
        numbers = set(re.findall(r"\d+(?:\.\d+)?", english[path]))
        if is_sentence and not CHINESE_OR_JAPANESE.search(text):
            wrong.append(f"{path} is not translated: {text}")
        if not numbers <= set(re.findall(r"\d+(?:\.\d+)?", text)):
            wrong.append(f"{path} lacks a number of: {english[path]}")
    assert wrong == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_holds_a_sign_of_the_frontend(language: str) -> None:
    every = texts(read(language, "nodeDefs.json")) | texts(read(language, "main.json"))
    assert [path for path, text in every.items() if SIGNS.search(text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_category_and_sockets_have_a_name(language: str, comfy: ModuleType) -> None:
    from throughline.nodes import NODES, sockets

    main = read(language, "main.json")
    assert set(main["nodeCategories"]) == {node.GET_SCHEMA().category for node in NODES}
    ours = {value.io_type for name, value in vars(sockets).items() if name.startswith("TL_")}
    assert set(main["dataTypes"]) == ours
    assert all(text.strip() for text in texts(main).values())


def test_the_server_hands_every_text_to_the_page(server: Any) -> None:
    served = server.get("/i18n")
    for language in LANGUAGES:
        ours = read(language, "nodeDefs.json")
        assert {node: served[language]["nodeDefs"].get(node) for node in ours} == ours


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_input_has_one_word_in_all_nodes(language: str) -> None:
    """The page takes the label of the first node that it meets for all inputs of a name."""
    words: dict[str, set[str]] = {}
    for node in read(language, "nodeDefs.json").values():
        for name, one in node["inputs"].items():
            words.setdefault(name, set()).add(one["name"])
    assert {name: found for name, found in words.items() if len(found) > 1} == {}
