"""The workflow that plans and fills, shortened, in the real page: each part is redone by itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "workflows" / "04_plan_and_populate.json"
PLAN, FILL = "ThroughlineMacroPlan", "ThroughlinePopulateSegments"
SCRIPT = """[2s, continue] garden, Pell left, camera 8 to 5
[2s, continue] garden, Pell left, camera 5 to 8
[2s, continue] garden, Pell left, camera 8 to 4"""
SET = """([type, values]) => { const node = app.graph.nodes.find(n => n.type === type)
  for (const [name, value] of Object.entries(values)) {
    const widget = node.widgets.find(w => w.name === name)
    widget.value = value; widget.callback?.(value) }
  return node.id }"""
LISTEN = """() => { window.__segments = []; window.comfyAPI.api.api.addEventListener(
  'throughline.segment', ({ detail }) => window.__segments.push(detail)) }"""
SELECT = "id => { app.canvas.deselectAll(); app.canvas.selectNode(app.graph.getNodeById(id)) }"
MINUTES = 60_000.0


class Page:
    """The page with the shortened graph and the opened tab. `runs` are the names by node class."""

    def __init__(self, comfy_page: Any, renderer: str) -> None:
        self.comfy_page, self.page = comfy_page, comfy_page.page
        comfy_page.load(WORKFLOW)
        self.runs = {PLAN: f"plan {renderer}", FILL: f"fill {renderer}"}
        values = {PLAN: {"script": SCRIPT}, FILL: {}}
        self.ids = {
            kind: self.page.evaluate(SET, [kind, {**more, "steps": 2, "run_name": self.runs[kind]}])
            for kind, more in values.items()
        }
        self.page.evaluate(LISTEN)
        self.page.get_by_role("button", name=re.compile("^Throughline")).click()
        self.strip = self.page.locator("section.throughline")

    def made(self) -> dict[str, list[int]]:
        """Wait for the end of the queued graph: the segments that it made, by node class."""
        ended = self.comfy_page.wait_for_end(4 * MINUTES)
        assert ended is not None and ended[0] == "execution_success", ended
        events = self.page.evaluate("() => window.__segments.splice(0)")
        return {
            kind: [e["segment"] for e in events if e["run"] == name and e["status"] == "done"]
            for kind, name in self.runs.items()
        }

    def redo(self, kind: str, segment: int) -> str:
        """Select a node, press redo on a segment of its run; what the button says it costs."""
        self.page.evaluate(SELECT, self.ids[kind])
        self.page.wait_for_function(
            "name => document.querySelector('section.throughline select').value === name",
            arg=self.runs[kind],
        )
        ready = "section.throughline li:is([data-status=done], [data-status=reused])"
        self.page.wait_for_function(
            f"() => document.querySelectorAll('{ready}').length === {len(SCRIPT.splitlines())}"
        )
        self.page.evaluate("() => { window.__run = null }")
        button = self.strip.locator(f"li[data-segment='{segment}'] button[data-action=redo]")
        cost = button.get_attribute("title")
        button.click()
        return cost


@pytest.mark.slow
def test_planned_and_filled_segments_are_redone_from_the_strip(
    runs_root: Path, comfy_page: Any, renderer: str, request: pytest.FixtureRequest
) -> None:
    page = Page(comfy_page, renderer)
    comfy_page.press_run()
    assert page.made() == {PLAN: [1, 2, 3], FILL: [1, 2, 3]}
    assert comfy_page.overlay() is None

    cost = page.redo(PLAN, 2)
    assert page.made() == {PLAN: [2, 3], FILL: [2, 3]}
    assert "rendered again too: 3." in cost
    assert comfy_page.widgets(page.ids[PLAN])["retakes"] == "2:1"
    comfy_page.screenshot(request.node.name)

    cost = page.redo(FILL, 1)
    assert page.made() == {PLAN: [], FILL: [1]}
    assert "rendered again too" not in cost
    assert comfy_page.widgets(page.ids[FILL])["retakes"] == "1:1"
    assert comfy_page.widgets(page.ids[PLAN])["retakes"] == "2:1"
