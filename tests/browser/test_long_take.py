"""The demo workflow, shortened, in the real page: Run, cancel, go on, redo, go back, help."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "workflows" / "01_long_take.json"
SAMPLER = "ThroughlineARSegmentSampler"
SCRIPT = """[2s] garden, Pell left, camera 8 to 5
[1s, continue] garden, Pell left, camera 5 to 6
[1s, cut] garden, Pell left, camera 6 to 7
[1s, continue] garden, Pell left, camera 7 to 8"""
SHORTEN = """([type, values]) => { const node = app.graph.nodes.find(n => n.type === type)
  for (const [name, value] of Object.entries(values)) {
    const widget = node.widgets.find(w => w.name === name)
    widget.value = value; widget.callback?.(value) }
  return node.id }"""
LISTEN = """() => { window.__segments = []; window.comfyAPI.api.api.addEventListener(
  'throughline.segment', ({ detail }) => window.__segments.push(detail)) }"""
MINUTES = 60_000.0


class Film:
    """The page with the shortened demo graph and the opened tab."""

    def __init__(self, comfy_page: Any, run_name: str) -> None:
        self.comfy_page, self.page = comfy_page, comfy_page.page
        comfy_page.load(WORKFLOW)
        values = {"script": SCRIPT, "steps": 2, "run_name": run_name}
        self.sampler = self.page.evaluate(SHORTEN, [SAMPLER, values])
        self.page.evaluate(LISTEN)
        self.page.get_by_role("button", name=re.compile("^Throughline")).click()
        self.strip = self.page.locator("section.throughline")

    def end(self, count: int) -> list[str]:
        """Wait for the run's end; what became of each segment, by the events of this run."""
        ended = self.comfy_page.wait_for_end(4 * MINUTES)
        assert ended is not None and ended[0] == "execution_success", ended
        self.page.wait_for_function(
            "count => document.querySelectorAll("
            "'section.throughline li:is([data-status=done], [data-status=reused])').length"
            " === count",
            arg=count,
        )
        events = self.page.evaluate("() => window.__segments.splice(0)")
        assert {event["segments"] for event in events} == {count}
        return [
            next(e["status"] for e in reversed(events) if e["segment"] == number)
            for number in range(1, count + 1)
        ]

    def statuses(self) -> list[str]:
        """What the strip says of each segment, in order."""
        return self.strip.locator("li").evaluate_all(
            "cards => cards.map(card => card.dataset.status)"
        )

    def press(self, segment: int, name: str) -> None:
        """Press `redo` or `back` on a segment (1-based)."""
        self.page.evaluate("() => { window.__run = null }")
        self.strip.locator(f"li[data-segment='{segment}'] button[data-action={name}]").click()

    def settled(self, wanted: Callable[[list[str]], bool]) -> list[str]:
        """The thumbnails as soon as they are as wanted: the strip asks the disk when a run has
        ended, and the answer takes a moment. After ten seconds as they are."""
        for _ in range(100):
            found = self.pictures()
            if wanted(found):
                break
            self.page.wait_for_timeout(100)
        return found

    def pictures(self) -> list[str]:
        """Addresses of the thumbnails, each of which was loaded."""
        images = "[...document.querySelectorAll('section.throughline img:not([hidden])')]"
        self.page.wait_for_function(f"() => {images}.every(image => image.naturalWidth > 0)")
        return self.page.evaluate(f"() => {images}.map(image => image.src)")


@pytest.mark.slow
def test_a_long_take_from_run_to_redo(
    runs_root: Path, comfy_page: Any, server: Any, renderer: str, request: pytest.FixtureRequest
) -> None:
    film = Film(comfy_page, f"page {renderer}")
    comfy_page.press_run()
    film.page.wait_for_selector("section.throughline li[data-status=running]", timeout=2 * MINUTES)
    server.interrupt()
    ended = comfy_page.wait_for_end(MINUTES)
    assert ended is not None and ended[0] == "execution_interrupted"
    film.page.wait_for_selector("section.throughline li[data-status=interrupted]")
    finished = film.statuses().count("done")
    assert film.statuses() == ["done"] * finished + ["interrupted"] + ["waiting"] * (3 - finished)
    comfy_page.screenshot(f"{request.node.name}-interrupted")

    film.page.evaluate("() => window.__segments.splice(0)")
    comfy_page.press_run()
    assert film.end(4) == ["reused"] * finished + ["done"] * (4 - finished)
    assert "progress_state" in comfy_page.events() and comfy_page.overlay() is None
    first = film.settled(lambda found: len(found) == 4)
    assert len(first) == 4
    queued = comfy_page.prompt()[str(film.sampler)]["inputs"]
    assert all(name.isidentifier() for name in queued), queued  # no widget of the page's own
    comfy_page.screenshot(f"{request.node.name}-finished")

    film.press(3, "redo")
    assert film.end(4) == ["reused", "reused", "done", "done"]
    assert comfy_page.widgets(film.sampler)["retakes"] == "3:1"
    again = film.settled(lambda found: found[2] != first[2] and found[3] != first[3])
    assert again[:2] == first[:2] and again[2] != first[2] and again[3] != first[3]
    assert "take 1" in film.strip.locator("li[data-segment='3']").inner_text()

    film.press(3, "back")
    assert film.end(4) == ["reused"] * 4
    assert comfy_page.widgets(film.sampler)["retakes"] == ""
    assert film.settled(lambda found: found == first) == first


def test_help_opens_beside_the_demo_graph(comfy_page: Any) -> None:
    comfy_page.load(WORKFLOW)
    ids = comfy_page.page.evaluate(
        "() => app.graph.nodes.filter(n => n.type.startsWith('Throughline')).map(n => n.id)"
    )
    assert len(ids) == 4
    texts = {comfy_page.open_help(node_id) for node_id in ids}
    assert len(texts) == 4
    assert any("What is kept and what is made again" in text for text in texts)
