"""The workflow that plans and fills, shortened, in the real page: each part is redone by itself."""

from __future__ import annotations

import json
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
        """Select a node, press a segment on its timeline and redo; what was said to cost."""
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
        self.strip.locator(f"button.throughline-block[data-block='{segment}']").click()
        card = self.strip.locator(f"li[data-segment='{segment}'][data-open]")
        card.wait_for()
        cost = card.locator(".throughline-cost").inner_text()
        card.locator("button[data-action=redo]").click()
        return cost


def files_of(folder: Path) -> dict[int, tuple[str, int]]:
    """File of each segment (1-based) and when it was written, from the run folder."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = {record["index"] + 1: record["file"] for record in manifest["segments"]}
    return {number: (file, (folder / file).stat().st_mtime_ns) for number, file in files.items()}


def made_anew(before: dict[int, tuple[str, int]], after: dict[int, tuple[str, int]]) -> list[int]:
    return [number for number in after if after[number] != before[number]]


@pytest.mark.slow
def test_planned_and_filled_segments_are_redone_from_the_timeline(
    runs_root: Path, comfy_page: Any, renderer: str, request: pytest.FixtureRequest
) -> None:
    page = Page(comfy_page, renderer)
    folders = {kind: runs_root / name for kind, name in page.runs.items()}
    comfy_page.press_run()
    assert page.made() == {PLAN: [1, 2, 3], FILL: [1, 2, 3]}
    assert comfy_page.overlay() is None
    first = {kind: files_of(folder) for kind, folder in folders.items()}

    cost = page.redo(PLAN, 2)
    assert page.made() == {PLAN: [2, 3], FILL: [2, 3]}
    assert "rendered again too: 3. Their fills are made anew, too." in cost
    second = {kind: files_of(folder) for kind, folder in folders.items()}
    for kind in folders:
        assert made_anew(first[kind], second[kind]) == [2, 3]
    assert comfy_page.widgets(page.ids[PLAN])["retakes"] == "2:1"
    comfy_page.screenshot(request.node.name)

    cost = page.redo(FILL, 1)
    assert page.made() == {PLAN: [], FILL: [1]}
    assert "rendered again too" not in cost and "No other segment is filled again." in cost
    assert made_anew(second[PLAN], files_of(folders[PLAN])) == []
    assert made_anew(second[FILL], files_of(folders[FILL])) == [1]
    assert comfy_page.widgets(page.ids[FILL])["retakes"] == "1:1"
    assert comfy_page.widgets(page.ids[PLAN])["retakes"] == "2:1"
