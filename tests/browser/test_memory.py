"""The workflow of a film that remembers, shortened, in the real page: run, look, change, help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "workflows" / "02_memory.json"
SCRIPT = """[1s] garden, Pell left, camera 8 to 5
[1s, cut] kitchen, Juno right, camera 2 to 6
[1s, cut] garden, Pell left, camera 5 to 8"""
SET = """([type, values]) => { for (const node of app.graph.nodes.filter(n => n.type === type))
  for (const [name, value] of Object.entries(values)) {
    const widget = node.widgets.find(w => w.name === name)
    widget.value = value; widget.callback?.(value) } }"""
LISTEN = """() => { window.__segments = []; window.comfyAPI.api.api.addEventListener(
  'throughline.segment', ({ detail }) => window.__segments.push(detail)) }"""
MINUTES = 60_000.0
MEMORY_NODES = (
    "ThroughlineLoadMemoryEncoder",
    "ThroughlineMemoryEncoder",
    "ThroughlineMemoryPreview",
)


class Film:
    """The page with the shortened workflow."""

    def __init__(self, comfy_page: Any, run_name: str) -> None:
        self.comfy_page, self.page = comfy_page, comfy_page.page
        comfy_page.load(WORKFLOW)
        self.set("ThroughlineARSegmentSampler", script=SCRIPT, steps=2, run_name=run_name)
        self.set("ThroughlineMemoryPreview", steps=1)
        self.page.evaluate(LISTEN)

    def set(self, node_type: str, **values: Any) -> None:
        self.page.evaluate(SET, [node_type, values])

    def run(self) -> list[int]:
        """Numbers of the segments that this run made."""
        ended = self.comfy_page.run_to_end(4 * MINUTES)
        assert ended is not None and ended[0] == "execution_success", ended
        events = self.page.evaluate("() => window.__segments.splice(0)")
        return [event["segment"] for event in events if event["status"] == "done"]


@pytest.fixture
def film(runs_root: Path, comfy_page: Any) -> Film:
    """The page is closed before its runs are thrown away: it asks for them until then."""
    return Film(comfy_page, "browser_memory")


def test_a_film_that_remembers_runs_and_a_retake_costs_what_remembers_it(film: Film) -> None:
    assert film.run() == [1, 2, 3]
    film.comfy_page.screenshot("memory-finished")
    film.set("ThroughlineARSegmentSampler", retakes="2:1")
    assert film.run() == [2, 3]
    film.set("ThroughlineMemoryEncoder", recent_frames="anchors only")
    assert film.run() == [2, 3]  # now the last shot remembers the first alone
    film.set("ThroughlineARSegmentSampler", retakes="2:2")
    assert film.run() == [2]


@pytest.mark.parametrize("node_type", MEMORY_NODES)
def test_the_help_of_a_memory_node_opens(film: Film, node_type: str) -> None:
    node = film.page.evaluate("type => app.graph.nodes.find(n => n.type === type).id", node_type)
    text = film.comfy_page.open_help(node)
    title = (ROOT / "web" / "docs" / f"{node_type}.md").read_text(encoding="utf-8").split("\n")[0]
    assert title.removeprefix("# ") in text
