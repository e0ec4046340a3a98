"""The storyboard in the sidebar: its cards read and write the text of a node, in both renderers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

STORYBOARD = "ThroughlineStoryboard"
SAMPLER = "ThroughlineARSegmentSampler"
UNDO, REDO = "Undo the last change of this script", "Redo the change of this script"
SCRIPT = """\
title: Rain
@Ana = woman, 30, green raincoat | ref: editor/ana.png, gone.png
@Tom = tall man
== Scene 1 #diner ==
// nobody else is here
[wide, 5s] <Ana> waits.   // hold this
[close-up, 3s] A key turns. {recall: 1.1}

== Scene 2 ==
[continue] <Tom> runs.
"""
ADD = """([type, values]) => {
  const node = LiteGraph.createNode(type); node.pos = [60, 60]; app.graph.add(node)
  for (const [name, value] of Object.entries(values)) {
    const widget = node.widgets.find(w => w.name === name)
    widget.value = value; widget.callback?.(value) }
  return node.id }"""
TEXT = "() => app.graph.nodes[0].widgets.find(w => w.name === 'script').value"
TYPE = """text => { const widget = app.graph.nodes[0].widgets.find(w => w.name === 'script')
  widget.value = text; widget.callback?.(text) }"""
LATE = """text => { const api = window.comfyAPI.api.api, ask = api.fetchApi
  api.fetchApi = async function (path, options) {
    const answer = await ask.call(this, path, options)
    if (path.endsWith('/storyboard/edit'))
      app.graph.nodes[0].widgets.find(w => w.name === 'script').value = text
    return answer } }"""
LINK = """() => { const node = LiteGraph.createNode('PrimitiveStringMultiline')
  app.graph.add(node)
  const target = app.graph.nodes[1]
  node.connect(0, target, target.inputs.findIndex(input => input.widget?.name === 'script')) }"""
SHOWN = """() => [...document.querySelectorAll('.throughline-shot-card')].map(
  card => [card.dataset.shot, card.querySelector('.throughline-caption').value])"""
MODIFIED = "() => app.extensionManager.workflow.activeWorkflow.isModified"
TRACKER = "app.extensionManager.workflow.activeWorkflow.changeTracker"


class Board:
    """The opened storyboard. `shows` waits for the cards' captions, `text()` is the node's."""

    def __init__(self, comfy_page: Any) -> None:
        self.page = comfy_page.page
        self.page.get_by_role("button", name=re.compile("^Throughline")).click()
        self.root = self.page.locator("section.throughline")
        self.root.locator("[data-view=storyboard]").wait_for()

    def card(self, shot: str) -> Any:
        return self.root.locator(f"[data-shot='{shot}']")

    def button(self, name: str) -> Any:
        return self.root.get_by_role("button", name=name, exact=True)

    def box(self, name: str) -> Any:
        """The field with that label."""
        return self.root.get_by_label(name, exact=True)

    def caption(self, shot: str) -> Any:
        return self.box(f"What shot {shot} shows")

    def text(self) -> str:
        return self.page.evaluate(TEXT)

    def shows(self, *captions: str) -> None:
        """Wait until these shots are there, by their captions, and nothing is being changed."""
        self.page.wait_for_function(
            f"wanted => JSON.stringify(({SHOWN})().map(one => one[1])) === wanted"
            " && !document.querySelector('.throughline-editor > [inert]')",
            arg=json.dumps(captions, separators=(",", ":"), ensure_ascii=False),
        )

    def holds(self, words: str) -> None:
        """Wait until the node's text has these words; a card shows them while they are typed."""
        self.page.wait_for_function(f"words => ({TEXT})().includes(words)", arg=words)

    def says(self, words: str) -> None:
        """Wait until a message says these words."""
        self.root.get_by_text(words).first.wait_for()

    def lines(self, text: str) -> list[str]:
        """Lines of the node's text that `text` does not have, after waiting for a difference."""
        self.page.wait_for_function(f"old => ({TEXT})() !== old", arg=text)
        return [line for line in self.text().splitlines() if line not in text.splitlines()]

    def press_for_the_graph(self, key: str, wanted: str) -> None:
        """Press a key of the graph's own undo until the text is `wanted`; a step at a time."""
        steps = f"() => [{TRACKER}.undoQueue.length, {TRACKER}.redoQueue.length]"
        for _ in range(12):
            if self.text() == wanted:
                return
            before = self.page.evaluate(steps)
            self.page.keyboard.press(key)
            self.page.wait_for_function(
                f"old => String(({steps})()) !== String(old) && !{TRACKER}._restoringState",
                arg=before,
            )
        assert self.text() == wanted


@pytest.fixture
def references(server: Any) -> Iterator[Path]:
    """A picture in ComfyUI's input folder."""
    folder = server.base / "input" / "editor"
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (64, 48), (30, 120, 90)).save(folder / "ana.png")
    yield folder
    (folder / "ana.png").unlink()


@pytest.fixture
def board(comfy_page: Any, references: Path) -> Iterator[Board]:
    """The storyboard of a graph with one Storyboard node."""
    comfy_page.load({"1": {"class_type": STORYBOARD, "inputs": {"script": SCRIPT, "fps": 0}}})
    comfy_page.page.evaluate(f"() => {TRACKER}.captureCanvasState()")
    made = Board(comfy_page)
    made.shows("<Ana> waits.", "A key turns.", "<Tom> runs.")
    yield made
    comfy_page.errors[:] = [one for one in comfy_page.errors if "gone.png" not in one]


def test_shots_are_added_moved_edited_and_taken_back(board: Board, renderer: str) -> None:
    first = board.text()
    board.caption("1.2").fill("A key turns slowly.")
    board.caption("1.2").press("Enter")
    assert board.lines(first) == ["[close-up, 3s] A key turns slowly. {recall: 1.1}"]
    assert board.page.evaluate(MODIFIED)

    edited = board.text()
    board.button("Add a shot after shot 1.1").click()
    board.shows("<Ana> waits.", "New shot", "A key turns slowly.", "<Tom> runs.")
    board.page.keyboard.type("Rain on glass.")  # the new words are selected
    board.page.keyboard.press("Enter")
    board.holds("Rain on glass.")
    assert board.lines(edited) == ["Rain on glass."]

    board.button("Move shot 1.2 down").click()
    board.shows("<Ana> waits.", "A key turns slowly.", "Rain on glass.", "<Tom> runs.")
    focused = "() => document.activeElement.getAttribute('aria-label')"
    assert board.page.evaluate(focused) == "Move shot 1.3 down"
    board.page.keyboard.press("Alt+ArrowDown")  # over the border of the scene
    board.page.wait_for_function(f"() => ({SHOWN})()[2][0] === '2.1'")
    board.page.keyboard.press("Alt+ArrowUp")
    board.page.wait_for_function(f"() => ({SHOWN})()[2][0] === '1.3'")
    board.card("2.1").locator(".throughline-grip").drag_to(
        board.card("1.2"), target_position={"x": 60, "y": 4}
    )
    board.shows("<Ana> waits.", "<Tom> runs.", "A key turns slowly.", "Rain on glass.")
    board.button("Delete shot 1.4").click()
    board.button("Duplicate shot 1.3").click()
    board.shows("<Ana> waits.", "<Tom> runs.", *["A key turns slowly."] * 2)
    board.button("Move shot 1.1 down").click()  # 1.3 recalls it, and still comes later
    board.shows("<Tom> runs.", "<Ana> waits.", *["A key turns slowly."] * 2)
    assert board.text() == (
        SCRIPT.replace(
            "[wide, 5s] <Ana> waits.   // hold this\n[close-up, 3s] A key turns. {recall: 1.1}\n",
            "[continue] <Tom> runs.\n[wide, 5s] <Ana> waits.   // hold this\n"
            + "[close-up, 3s] A key turns slowly. {recall: 1.2}\n" * 2,
        ).replace("== Scene 2 ==\n[continue] <Tom> runs.\n", "== Scene 2 ==\n")
    )
    board.button("Move shot 1.3 up").click()  # above the shot that it recalls
    board.says("shot 1.3 recalls shot 1.2, which must stay before it")
    board.button(UNDO).click()
    board.shows("<Ana> waits.", "<Tom> runs.", *["A key turns slowly."] * 2)
    assert board.page.get_by_text("must stay before it").count() == 0


def test_both_ways_to_undo(board: Board) -> None:
    """The button takes back changes of this script; Ctrl+Z those of the graph, with the text."""
    first = board.text()
    board.caption("1.1").fill("<Ana> sleeps.")
    board.box("Seconds of shot 1.2").fill("2.5")  # leaving the caption saves it
    board.box("Size of shot 1.2").fill("wide")
    board.box("Size of shot 1.2").press("Enter")
    board.box("How shot 1.2 begins").select_option("continue")
    board.holds("[wide, 2.5s, continue] A key")
    last = board.text()
    assert "[wide, 5s] <Ana> sleeps.   // hold this" in last
    board.button(UNDO).click()
    board.holds("[wide, 2.5s] A key")
    board.button(REDO).click()
    board.page.wait_for_function(f"old => ({TEXT})() === old", arg=last)
    board.page.mouse.click(1100, 800)  # the empty canvas
    board.press_for_the_graph("Control+z", first)
    board.shows("<Ana> waits.", "A key turns.", "<Tom> runs.")
    board.press_for_the_graph("Control+y", first.replace("waits", "sleeps"))
    board.shows("<Ana> sleeps.", "A key turns.", "<Tom> runs.")
    board.button(UNDO).click()
    board.shows("<Ana> waits.", "A key turns.", "<Tom> runs.")
    assert board.text() == first


def test_what_was_edited_is_saved_and_there_after_a_reload(
    board: Board, comfy_page: Any, server: Any, renderer: str
) -> None:
    name = f"board {renderer} {time.time_ns()}"
    board.caption("2.1").fill("<Tom> runs away.")
    board.caption("2.1").press("Enter")
    board.holds("runs away")
    board.page.keyboard.press("Control+s")
    board.page.get_by_role("dialog").locator("input").fill(name)
    board.page.keyboard.press("Enter")
    board.page.wait_for_function(f"() => !({MODIFIED})()")
    comfy_page.page.reload()
    comfy_page.page.wait_for_function("() => window.app?.vueAppReady")
    comfy_page.load(server.base / "user" / "default" / "workflows" / f"{name}.json")
    opened = Board(comfy_page)
    opened.shows("<Ana> waits.", "A key turns.", "<Tom> runs away.")
    assert opened.text() == SCRIPT.replace("runs.", "runs away.")


def test_the_cards_follow_the_nodes_text(board: Board) -> None:
    box = board.page.locator("textarea.comfy-multiline-input, [data-node-id] textarea").first
    box.fill("A door.\nA street.\n// the end")
    board.shows("A door.", "A street.")
    markup = "<img src=x onerror='window.__markup = 1'> & <b>bold</b>"
    box.fill(markup)
    board.shows(markup)
    assert board.page.evaluate("() => window.__markup") is None
    assert board.root.locator("b, img").count() == 0

    box.fill("A door.\n[0s] A street.")
    board.says("Line 2, column 2: seconds per shot must be above 0")
    assert board.caption("1.1").evaluate("e => !!e.closest('[inert]')")
    board.button("Show it in the text").click()
    selected = "() => [document.activeElement.selectionStart, document.activeElement.selectionEnd]"
    assert board.page.evaluate(selected) == [9, 22]
    box.fill("A door.")
    board.shows("A door.")

    # Text that came while the server was at work is never replaced.
    board.page.evaluate(LATE, "Newer words.")
    board.caption("1.1").fill("Older words.")
    board.caption("1.1").press("Enter")
    board.says("The text has changed in its node meanwhile")
    assert board.caption("1.1").input_value() == "Older words."  # not lost without a word
    board.caption("1.1").press("Escape")
    board.shows("Newer words.")
    assert board.text() == "Newer words."


def test_which_script_is_shown(board: Board) -> None:
    page = board.page
    page.evaluate(ADD, [SAMPLER, {"script": "A sampler's own words."}])
    choice = board.root.get_by_label("Script", exact=True)
    choice.select_option(index=1)
    board.shows("A sampler's own words.")
    choice.select_option(index=0)
    board.shows("<Ana> waits.", "A key turns.", "<Tom> runs.")
    page.evaluate("() => app.canvas.selectNode(app.graph.nodes[1])")
    board.shows("A sampler's own words.")
    page.evaluate(LINK)
    board.says("This script comes from another node")
    page.evaluate("() => app.graph.remove(app.graph.nodes[1])")
    board.shows("<Ana> waits.", "A key turns.", "<Tom> runs.")
    page.evaluate(TYPE, '{"scenes": [{"scene_num": 1, "video_prompts": ["A door.", "Rain."]}]}')
    board.says("This storyboard is written as StoryMem")
    board.button("Turn into a script").click()
    board.shows("A door.", "Rain.")
    page.evaluate(TYPE, "title: Rain\n")
    board.says("No shot yet")
    board.button("Shot").click()
    board.shows("New shot")
    assert board.text() == "title: Rain\nNew shot\n"
    page.evaluate("() => app.graph.clear()")
    board.says("No script in this graph")
    assert board.root.locator("li").count() == 0


def test_characters_and_scenes(board: Board, renderer: str, comfy_page: Any) -> None:
    pictures = "[...document.querySelectorAll('.throughline-chip img')]"
    board.page.wait_for_function(f"() => {pictures}.some(image => image.naturalWidth === 64)")
    board.root.get_by_text("Characters and places (3)").click()
    role = board.root.locator(".throughline-role").first
    role.locator(".throughline-missing").wait_for()  # gone.png
    role.get_by_label("Name").fill("Bea Lou")
    role.get_by_label("Name").press("Enter")
    board.shows("<Bea Lou> waits.", "A key turns.", "<Tom> runs.")
    board.box("Add a character to shot 1.2").select_option("Tom")
    board.shows("<Bea Lou> waits.", "<Tom> A key turns.", "<Tom> runs.")
    board.button("Take Tom out of shot 2.1; the name stays in its words").click()
    board.shows("<Bea Lou> waits.", "<Tom> A key turns.", "Tom runs.")
    board.box("Place of scene 2").fill("#diner")
    board.box("Place of scene 2").press("Enter")
    board.holds("== Scene 2 #diner ==")
    board.button("Scene").click()
    board.button("Add a shot at the end of scene 3").click()
    board.page.wait_for_function(f"() => ({SHOWN})()[3]?.[0] === '3.1'")
    board.page.keyboard.press("Escape")  # nothing was typed: nothing happens
    comfy_page.screenshot(f"storyboard {renderer}")
    last = board.text()
    board.caption("3.1").fill("A // B")
    board.caption("3.1").press("Enter")
    board.says("would be read as something else")
    assert board.caption("3.1").input_value() == "A // B"  # kept to be mended
    board.caption("3.1").press("Escape")
    assert board.caption("3.1").get_attribute("aria-invalid") is None
    assert (board.caption("3.1").input_value(), board.text()) == ("New shot", last)

    board.card("1.1").get_by_text("More").click()
    for control in board.root.locator("button, select, input, textarea").all():
        if control.is_visible():
            name = control.evaluate("e => e.ariaLabel || e.labels?.[0]?.textContent || e.innerText")
            assert name.strip(), control.evaluate("e => e.outerHTML")
    asked: list[str] = []
    board.page.on("request", lambda request: asked.append(request.url))
    for _ in range(2):
        board.page.get_by_role("button", name=re.compile("^Throughline")).click()
        board.root.wait_for(state="detached")
        board.page.evaluate(TYPE, "Rain.")
        board.page.get_by_role("button", name=re.compile("^Throughline")).click()
        board.shows("Rain.")
        board.page.evaluate(TYPE, "Sun.")
        board.shows("Sun.")
    assert sum("/storyboard/parse" in url for url in asked) == 4


@pytest.mark.parametrize("renderer", ["vue"], indirect=True)
@pytest.mark.parametrize(
    ("locale", "words"),
    [("zh", "2 个镜头，5 秒以上"), ("ja", "2 ショット、5 秒以上")],
    ids=["zh", "ja"],
)
def test_the_storyboard_speaks_the_pages_language(
    comfy_page: Any, server: Any, locale: str, words: str
) -> None:
    server.post("/settings/Comfy.Locale", locale)
    try:
        comfy_page.page.reload()
        comfy_page.page.wait_for_function("() => window.app?.vueAppReady")
        script = "[5s] A door.\nRain."
        comfy_page.load({"1": {"class_type": STORYBOARD, "inputs": {"script": script, "fps": 0}}})
        Board(comfy_page).says(words)
    finally:
        server.post("/settings/Comfy.Locale", "en")
