"""The page in Chinese and Japanese: our nodes, widgets and sockets carry the texts of locales/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LOCALES = Path(__file__).resolve().parents[2] / "locales"
ADD = """type => { app.graph.clear(); const node = LiteGraph.createNode(type)
  node.pos = [60, 60]; app.graph.add(node)
  const named = slots => Object.fromEntries((slots ?? []).map(
    slot => [slot.name, slot.label ?? slot.localized_name ?? slot.name]))
  return { title: node.title, inputs: { ...named(node.inputs), ...named(node.widgets) },
           outputs: (node.outputs ?? []).map(slot => slot.localized_name) } }"""


@pytest.fixture
def renderer() -> str:
    """One renderer is enough here: both take the texts from the same place."""
    return "vue"


@pytest.fixture(params=("zh", "ja"))
def language(request: pytest.FixtureRequest, server: Any) -> Iterator[str]:
    """The page's language, set before the page is opened."""
    server.post("/settings/Comfy.Locale", request.param)
    yield request.param
    server.post("/settings/Comfy.Locale", "en")


def test_every_node_is_translated_on_the_page(language: str, comfy_page: Any) -> None:
    file = LOCALES / language / "nodeDefs.json"
    for node_id, texts in json.loads(file.read_text(encoding="utf-8")).items():
        shown = comfy_page.page.evaluate(ADD, node_id)
        assert shown["title"] == texts["display_name"]
        wanted = {name: one["name"] for name, one in texts["inputs"].items()}
        assert {name: shown["inputs"].get(name) for name in wanted} == wanted
        assert shown["outputs"] == [one["name"] for one in texts["outputs"].values()]
