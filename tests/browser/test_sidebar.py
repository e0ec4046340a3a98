"""The sidebar tab, with runs written by hand and events sent by hand: no model is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MakeRun = Callable[..., Path]
SAMPLER = "ThroughlineARSegmentSampler"
FILM, OTHER = "long_take", "夜の雨 100%"
ADD_SAMPLERS = """names => { app.graph.clear(); for (const [i, name] of names.entries()) {
  const node = LiteGraph.createNode('ThroughlineARSegmentSampler')
  node.pos = [40 + 460 * i, 60]; app.graph.add(node)
  node.widgets.find(widget => widget.name === 'run_name').value = name } }"""
SELECT = "i => app.canvas.selectNode(app.graph.nodes[i])"
EVENT = """([kind, detail]) =>
  window.comfyAPI.api.api.dispatchEvent(new CustomEvent(kind, { detail }))"""


class Tab:
    """The opened tab. `cards` are the segments, `status()` their statuses in order."""

    def __init__(self, comfy_page: Any) -> None:
        self.page = comfy_page.page
        self.page.get_by_role("button", name=re.compile("^Throughline")).click()
        self.root = self.page.locator("section.throughline")
        self.root.wait_for()
        self.cards = self.root.locator("li")
        self.run = self.root.locator("select")

    def button(self, segment: int, name: str) -> Any:
        """The button `redo` or `back` of a segment (1-based)."""
        return self.root.locator(f"li[data-segment='{segment}'] button[data-action={name}]")

    def status(self) -> list[str]:
        return self.cards.evaluate_all("cards => cards.map(card => card.dataset.status)")

    def words(self, segment: int) -> str:
        """What can be read on the card of a segment (1-based)."""
        return self.root.locator(f"li[data-segment='{segment}']").inner_text()

    def wait(self, status: list[str]) -> None:
        """Wait until the segments have these statuses."""
        self.page.wait_for_function(
            "wanted => JSON.stringify([...document.querySelectorAll('section.throughline li')]"
            ".map(card => card.dataset.status)) === wanted",
            arg=json.dumps(status, separators=(",", ":")),
        )

    def event(self, kind: str, detail: dict[str, Any] | None = None) -> None:
        """Let the page hear an event as if the server had sent it."""
        self.page.evaluate(EVENT, [kind, detail or {}])

    def segment_event(self, segment: int, status: str, **more: Any) -> None:
        node = self.page.evaluate("String(app.graph.nodes[0].id)")
        detail = {"run": FILM, "node": node, "segments": 6, "segment": segment, "status": status}
        fields = {"shot": f"1.{segment}", "prompt": f"Shot {segment}", "seed": 5, "take": 0}
        self.event("throughline.segment", {**detail, **fields, "steps": 8, **more})

    def retakes(self, node: int = 0) -> str:
        """The text of the widget `retakes` of a node."""
        return self.page.evaluate(
            "i => app.graph.nodes[i].widgets.find(w => w.name === 'retakes').value", node
        )


@pytest.fixture
def tab(runs_root: Path, make_run: MakeRun, comfy_page: Any) -> Tab:
    """The tab beside two samplers, one for each of two runs on disk."""
    make_run(runs_root, OTHER, finished=6)
    make_run(runs_root, FILM, finished=4)
    comfy_page.page.evaluate(ADD_SAMPLERS, [FILM, OTHER])
    comfy_page.page.evaluate("() => app.canvas.deselectAll()")
    return Tab(comfy_page)


@pytest.fixture
def queued(comfy_page: Any) -> Iterator[list[dict[str, Any]]]:
    """The graphs that the page queues, in API form; the server does not get to see them."""
    prompts: list[dict[str, Any]] = []

    def accept(route: Any) -> None:
        prompts.append(route.request.post_data_json["prompt"])
        route.fulfill(json={"prompt_id": "test", "number": 1, "node_errors": {}})

    comfy_page.page.route("**/api/prompt", accept)
    yield prompts
    comfy_page.page.unroute("**/api/prompt")


def test_the_tab_shows_a_runs_segments(tab: Tab) -> None:
    tab.run.select_option(FILM)
    tab.wait(["done"] * 4 + ["waiting"] * 2)
    assert "4 of 6 segments finished" in tab.root.inner_text()
    first = tab.words(1)
    for words in ("Shot 1.1", "done", "Shot 1, a lamp", "1.5 s", "seed 5", "first take"):
        assert words in first
    pictures = tab.root.locator("img:not([hidden])")
    tab.page.wait_for_function(
        "() => [...document.querySelectorAll('section.throughline img:not([hidden])')]"
        ".every(picture => picture.naturalWidth > 0)"
    )
    assert pictures.count() == 4


def test_the_tab_follows_the_selected_sampler(tab: Tab, comfy_page: Any) -> None:
    comfy_page.page.evaluate(SELECT, 1)
    tab.wait(["done"] * 6)
    assert tab.run.input_value() == OTHER
    comfy_page.page.evaluate(SELECT, 0)
    tab.wait(["done"] * 4 + ["waiting"] * 2)
    assert tab.run.input_value() == FILM
    comfy_page.page.evaluate(
        "() => { app.graph.nodes[0].widgets.find(w => w.name === 'run_name').value = 'new' }"
    )
    tab.wait([])
    assert "Nothing of “new” is on disk yet" in tab.root.inner_text()


def test_redo_raises_the_take_and_queues_the_graph(
    tab: Tab, comfy_page: Any, queued: list[dict[str, Any]]
) -> None:
    comfy_page.page.evaluate(SELECT, 0)
    tab.wait(["done"] * 4 + ["waiting"] * 2)
    assert "rendered again too: 3–4." in tab.button(2, "redo").get_attribute("title")
    assert tab.button(2, "back").is_hidden()
    tab.button(2, "redo").click()
    tab.wait(["done", "waiting", "waiting", "waiting", "waiting", "waiting"])
    assert "queued" in tab.words(3)
    assert tab.retakes() == "2:1" and tab.retakes(1) == ""
    assert comfy_page.widgets(1)["retakes"] == "2:1"
    comfy_page.page.wait_for_function("() => !app.processingQueue")
    assert [graph["1"]["inputs"]["retakes"] for graph in queued] == ["2:1"]
    tab.button(2, "redo").click(force=True)  # not finished yet: nothing happens
    assert tab.retakes() == "2:1"
    tab.event("execution_interrupted")
    tab.wait(["done"] * 4 + ["waiting"] * 2)
    tab.button(2, "back").click()
    tab.wait(["done", "waiting", "waiting", "waiting", "waiting", "waiting"])
    assert tab.retakes() == ""
    assert [graph["1"]["inputs"]["retakes"] for graph in queued] == ["2:1", ""]


def test_redo_keeps_the_other_segments_takes(tab: Tab, queued: list[dict[str, Any]]) -> None:
    tab.page.evaluate(
        "() => { app.graph.nodes[0].widgets.find(w => w.name === 'retakes').value = '3:2, 1:1' }"
    )
    tab.run.select_option(FILM)
    tab.wait(["done"] * 4 + ["waiting"] * 2)
    tab.button(3, "redo").click()
    tab.wait(["done", "done", "waiting", "waiting", "waiting", "waiting"])
    assert tab.retakes() == "1:1, 3:3"


def test_a_refused_graph_leaves_the_takes_alone(tab: Tab, comfy_page: Any) -> None:
    tab.run.select_option(FILM)
    tab.wait(["done"] * 4 + ["waiting"] * 2)
    tab.button(1, "redo").click()  # the samplers' models are not connected
    comfy_page.page.wait_for_selector("[data-testid=error-overlay]")
    tab.wait(["done"] * 4 + ["waiting"] * 2)
    assert tab.retakes() == ""
    assert any("400" in error for error in comfy_page.errors)
    comfy_page.errors.clear()


def test_why_a_segment_cannot_be_redone_is_said(tab: Tab, comfy_page: Any) -> None:
    tab.run.select_option(FILM)
    tab.wait(["done"] * 4 + ["waiting"] * 2)
    comfy_page.page.evaluate(
        "() => { app.graph.nodes[0].widgets.find(w => w.name === 'seed').linkedWidgets[0].value"
        " = 'randomize' }"
    )
    note = tab.root.locator(".throughline-note")
    comfy_page.page.wait_for_function(
        "() => document.querySelector('.throughline-note').textContent.includes('fixed')"
    )
    tab.button(1, "redo").click(force=True)
    assert tab.retakes() == "" and tab.button(1, "redo").get_attribute("aria-disabled") == "true"
    comfy_page.page.evaluate("() => app.graph.clear()")
    tab.run.select_option(OTHER)
    tab.wait(["done"] * 6)
    assert "open the graph" in note.inner_text()


def test_the_strip_follows_a_run(tab: Tab) -> None:
    tab.event("execution_start")
    tab.segment_event(1, "reused", reason="on disk as planned")
    tab.segment_event(2, "running", reason="take '0' -> '1'", take=1)
    node = tab.page.evaluate("String(app.graph.nodes[0].id)")
    tab.event("progress_state", {"nodes": {node: {"value": 3, "max": 8, "state": "running"}}})
    tab.wait(["reused", "running", "done", "done", "waiting", "waiting"])
    assert tab.run.input_value() == FILM
    tab.root.locator("li[data-segment='2'] progress[value='3'][max='8']").wait_for()
    assert "Segment 2: running" in tab.root.get_by_role("status").inner_text()
    tab.segment_event(3, "changed", reason="seed '5' -> '6'")
    tab.segment_event(4, "damaged", reason="its file is truncated")
    tab.wait(["reused", "running", "changed", "damaged", "waiting", "waiting"])
    assert "its file is truncated" in tab.words(4)
    tab.event("executed", {"node": node, "output": {"text": ["2 of 6 would be rendered"]}})
    tab.root.get_by_text("2 of 6 would be rendered").wait_for()
    tab.event("execution_error", {"exception_message": "out of memory"})
    tab.wait(["reused", "failed", "changed", "damaged", "waiting", "waiting"])
    assert "out of memory" in tab.words(2)
    tab.event("execution_start")
    tab.segment_event(2, "running")
    tab.event("execution_interrupted")
    tab.wait(["done", "interrupted", "done", "done", "waiting", "waiting"])


def test_damaged_files_and_runs_are_shown(tab: Tab, runs_root: Path, make_run: MakeRun) -> None:
    files = sorted((runs_root / OTHER / "segments").iterdir())
    files[2].unlink()
    (make_run(runs_root, "bad", finished=1) / "manifest.json").write_text("{")
    tab.root.get_by_role("button", name="Look at the disk again").click()
    tab.run.locator("option[value=bad]").wait_for(state="attached")
    tab.run.select_option(OTHER)
    tab.wait(["done", "done", "damaged", "done", "done", "done"])
    assert "its file is gone" in tab.words(3)
    tab.run.select_option("bad")
    tab.root.get_by_role("alert").filter(has_text="malformed").wait_for()
    tab.wait([])


def test_the_keyboard_reaches_everything(tab: Tab, queued: list[dict[str, Any]]) -> None:
    tab.run.select_option(FILM)
    tab.wait(["done"] * 4 + ["waiting"] * 2)
    tab.run.focus()
    for _ in range(3):  # past the reload button, to the second card
        tab.page.keyboard.press("Tab")
    focused = "() => document.activeElement.closest('li')?.dataset.segment"
    assert tab.page.evaluate(focused) == "2"
    tab.page.keyboard.press("Enter")
    tab.wait(["done", "waiting", "waiting", "waiting", "waiting", "waiting"])
    assert tab.page.evaluate(focused) == "2"
    for control in tab.root.locator("button:not([hidden]), select").all():
        name = control.evaluate("e => e.ariaLabel || e.labels?.[0]?.textContent || ''")
        assert name, control.evaluate("e => e.outerHTML")


def test_our_script_adds_nothing_to_the_nodes(tab: Tab, comfy_page: Any) -> None:
    known = comfy_page.page.evaluate(
        "type => { const def = LiteGraph.registered_node_types[type].nodeData;"
        " return Object.keys({ ...def.input.required, ...def.input.optional }) }",
        SAMPLER,
    )
    control = comfy_page.page.evaluate(
        "() => app.graph.nodes[0].widgets.find(w => w.name === 'seed').linkedWidgets[0].name"
    )
    assert set(comfy_page.widgets(1)) - set(known) == {control}
    assert set(comfy_page.prompt()["1"]["inputs"]) <= set(known)


def test_opening_and_closing_leaves_nothing_behind(tab: Tab) -> None:
    for _ in range(3):
        tab.page.get_by_role("button", name=re.compile("^Throughline")).click()
        tab.root.wait_for(state="detached")
        tab.page.get_by_role("button", name=re.compile("^Throughline")).click()
        tab.root.wait_for()
    assert tab.root.count() == 1
    tab.run.select_option(FILM)
    tab.wait(["done"] * 4 + ["waiting"] * 2)


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)
@pytest.mark.parametrize(
    ("locale", "words"),
    [("zh", "已完成 4 / 6 个片段"), ("ja", "6 セグメント中 4 完了")],
    ids=["zh", "ja"],
)
def test_the_tab_speaks_the_pages_language(
    tab: Tab, comfy_page: Any, server: Any, locale: str, words: str
) -> None:
    server.post("/settings/Comfy.Locale", locale)
    try:
        comfy_page.page.reload()
        comfy_page.page.wait_for_function("() => window.app?.vueAppReady")
        reopened = Tab(comfy_page) if not tab.root.is_visible() else tab
        reopened.run.select_option(FILM)
        reopened.wait(["done"] * 4 + ["waiting"] * 2)
        assert words in reopened.root.inner_text()
    finally:
        server.post("/settings/Comfy.Locale", "en")
