"""The timeline of a plan and the chart of its schedule, with runs written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

MakeRun = Callable[..., Path]
PLAN, FILL, FILM = "plan", "fill", "film"
LENGTHS = (21, 21, 21, 21, 42, 21)
"""Latent frames of the six segments' layouts; all but the first and the fifth are handed two."""

ADD_NODES = """() => { app.graph.clear()
  const nodes = [['ThroughlineMacroPlan', 'plan'], ['ThroughlinePopulateSegments', 'fill']]
  for (const [i, [type, name]] of nodes.entries()) {
    const node = LiteGraph.createNode(type)
    node.pos = [40 + 460 * i, 60]; app.graph.add(node)
    node.widgets.find(widget => widget.name === 'run_name').value = name } }"""
ADD_SCHEDULE = """() => { const node = LiteGraph.createNode('ThroughlineAdaptiveSchedule')
  const fills = app.graph.nodes[1].outputs.findIndex(output => output.type === 'TL_FILLS')
  app.graph.add(node); app.graph.nodes[1].connect(fills, node, 0)
  return String(node.id) }"""
EXECUTED = """detail => window.comfyAPI.api.api.dispatchEvent(
  new CustomEvent('executed', { detail }))"""
WIDTHS = """() => [...document.querySelectorAll('button.throughline-block')]
  .map(block => block.getBoundingClientRect().width)"""
READY = """([blocks, cards]) =>
  document.querySelectorAll('button.throughline-block[data-status=done]').length === blocks &&
  document.querySelectorAll('section.throughline li').length === cards"""
ALL_CARDS = "() => document.querySelectorAll('section.throughline li:not([hidden])').length === 6"
FOCUSED = "() => document.activeElement.dataset.block ?? ''"


class Tab:
    """The opened tab; `blocks` are the segments on the timeline."""

    def __init__(self, comfy_page: Any) -> None:
        self.page = comfy_page.page
        self.page.get_by_role("button", name=re.compile("^Throughline")).click()
        self.root = self.page.locator("section.throughline")
        self.root.wait_for()
        self.blocks = self.root.locator("button.throughline-block")
        self.chart = self.root.locator("figure.throughline-gantt")

    def show(self, run: str, blocks: int, cards: int = 6) -> None:
        """Choose a run and wait until it is there."""
        self.root.locator(f"option[value='{run}']").wait_for(state="attached")
        self.root.locator("select").select_option(run)
        self.page.wait_for_function(READY, arg=[blocks, cards])

    def block(self, number: int) -> Any:
        return self.root.locator(f"button[data-block='{number}']")

    def press(self, number: int) -> None:
        """Press a segment on the timeline and wait until its card is the only one."""
        self.block(number).click()
        self.root.locator(f"li[data-segment='{number}'][data-open]").wait_for()

    def cards(self) -> list[str]:
        """Segments whose cards can be seen."""
        return self.root.locator("li:not([hidden])").evaluate_all(
            "cards => cards.map(card => card.dataset.segment)"
        )


@pytest.fixture
def tab(runs_root: Path, make_run: MakeRun, comfy_page: Any) -> Tab:
    planned = {str(index): ["MMPL T2V", length] for index, length in enumerate(LENGTHS)}
    make_run(runs_root, FILM, finished=6)
    make_run(runs_root, FILL, finished=6, parameters={"kind": "fill"})
    make_run(runs_root, PLAN, finished=6, parameters={"kind": "plan", "planned": planned})
    comfy_page.page.evaluate(ADD_NODES)
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


def test_blocks_are_as_long_as_the_segments_and_show_their_cuts(tab: Tab) -> None:
    tab.show(PLAN, 6)
    widths = tab.page.evaluate(WIDTHS)
    scale = widths[0] / 21
    assert [round(width / scale) for width in widths] == [21, 19, 19, 19, 42, 19]
    joins = tab.blocks.evaluate_all("blocks => blocks.map(block => block.dataset.join)")
    assert joins == ["cut", "continue", "continue", "continue", "cut", "continue"]
    assert tab.block(5).get_attribute("aria-label") == "Segment 5: done, after a cut"
    assert tab.block(6).get_attribute("aria-label") == "Segment 6: done, continues"
    tab.page.wait_for_function(
        "() => [...document.querySelectorAll('.throughline-block img:not([hidden])')]"
        ".every(picture => picture.naturalWidth > 0)"
    )
    assert tab.root.locator(".throughline-block img:not([hidden])").count() == 6
    tab.show(FILM, 0)  # a film that was not planned has cards only
    assert tab.root.locator(".throughline-timeline").is_hidden()


def test_a_pressed_segment_is_opened_with_what_redoing_it_costs(
    tab: Tab, queued: list[dict[str, Any]]
) -> None:
    tab.show(PLAN, 6)
    assert len(tab.cards()) == 6
    tab.press(2)
    assert tab.cards() == ["2"]
    card = tab.root.locator("li[data-segment='2']")
    words = card.inner_text()
    for said in ("Shot 2, a lamp in a quiet room.", "seed 6", "first take", "again too: 3–4."):
        assert said in words
    assert "Their fills are made anew, too." in words
    touched = tab.root.locator("button[data-touched]")
    assert touched.evaluate_all("all => all.map(one => one.dataset.block)") == ["2", "3", "4"]
    card.locator("button[data-action=redo]").click()
    tab.page.wait_for_function(
        "() => document.querySelectorAll('button.throughline-block[data-status=waiting]').length"
        " === 3"
    )
    tab.page.wait_for_function("() => !app.processingQueue")
    assert [graph["1"]["inputs"]["retakes"] for graph in queued] == ["2:1"]
    tab.block(2).click()  # pressed again it is closed
    tab.page.wait_for_function(ALL_CARDS)
    assert tab.root.locator("button[data-touched]").count() == 0


def test_a_fill_is_redone_alone(tab: Tab) -> None:
    tab.show(FILL, 6)
    tab.press(6)
    words = tab.root.locator("li[data-segment='6']").inner_text()
    assert "No other segment is filled again." in words
    tab.show(PLAN, 6)  # another run: nothing is open there
    tab.page.wait_for_function(ALL_CARDS)


def test_the_clip_of_an_opened_segment_can_be_played(tab: Tab, runs_root: Path) -> None:
    from throughline.runs.clips import FORMAT, clip_path
    from throughline.runs.run import open_run
    from throughline.runs.video_file import VideoWriter, frame_rate

    run = open_run(runs_root / FILL)
    file = clip_path(run, run.segments[1])
    file.parent.mkdir()
    with VideoWriter(file, FORMAT, frame_rate(8.0), 20, {}) as writer:
        writer.write(torch.rand((9, 64, 96, 3), generator=torch.Generator().manual_seed(0)))
    tab.root.get_by_role("button", name="Look at the disk again").click()
    tab.show(FILL, 6)
    tab.press(2)
    clip = tab.root.locator("li[data-segment='2'] video")
    clip.wait_for(state="visible")
    assert clip.get_attribute("aria-label") == "Clip of segment 2"
    clip.evaluate("video => { video.muted = true; video.play() }")
    tab.page.wait_for_function(
        "() => { const video = document.querySelector('li[data-open] video');"
        " return video.videoWidth === 96 && video.currentTime > 0 }"
    )
    tab.press(3)  # which has none
    assert tab.root.locator("li[data-segment='3'] video").is_hidden()
    assert clip.get_attribute("src") is None


def test_the_keyboard_walks_along_the_timeline(tab: Tab) -> None:
    tab.show(PLAN, 6)
    tab.block(1).focus()
    for number in ("2", "3"):
        tab.page.keyboard.press("ArrowRight")
        assert tab.page.evaluate(FOCUSED) == number
    tab.page.keyboard.press("ArrowLeft")
    assert tab.page.evaluate(FOCUSED) == "2"
    tab.page.keyboard.press("Enter")
    tab.root.locator("li[data-segment='2'][data-open]").wait_for()
    tab.page.keyboard.press("Tab")  # one stop for the whole timeline, then the card's button
    reached = "() => document.activeElement.closest('li')?.dataset.segment"
    assert tab.page.evaluate(reached) == "2"


def test_the_schedule_is_drawn_in_lanes(tab: Tab, runs_root: Path, renderer: str) -> None:
    from throughline.planning.forecast import lower_bounds
    from throughline.planning.schedule import Costs, Job, Slot, film_jobs, list_schedule
    from throughline.planning.schedule_chart import Chart, Timing, playable_at
    from throughline.runs.schedule_file import write_schedule

    costs = Costs(plan=2.0, fill_1=3.0)
    slots = list_schedule(film_jobs(2, costs), 2).slots
    ran = (Slot(0.0, 2.5, 0, Job(0, "plan")), Slot(2.5, 5.0, 1, Job(0, "fill 1")))
    chart = Chart(
        segments=2,
        devices=("cuda:0", "cuda:1"),
        seed_from="terminal",
        order="critical path first",
        reason="",
        costs=costs,
        measured=("plan",),
        bounds=lower_bounds(2, costs, 2),
        enough_devices=3,
        predicted=Timing(slots=slots, first_footage=playable_at(slots, "fill 1")),
        actual=Timing(slots=ran, first_footage=5.0),
        running=True,
    )
    tab.show(FILL, 6)
    assert tab.chart.is_hidden()
    write_schedule(runs_root / FILL, chart)
    tab.root.get_by_role("button", name="Look at the disk again").click()
    tab.chart.wait_for(state="visible")
    charts = tab.chart.get_by_role("img")
    assert charts.nth(0).get_attribute("aria-label") == "Expected: 7.0 s"
    assert charts.nth(1).get_attribute("aria-label") == "Measured: 5.0 s"
    assert charts.nth(0).locator(".throughline-slot").count() == 4
    second = charts.nth(1).locator(".throughline-lane").nth(1)
    assert second.locator(".throughline-slot").get_attribute("title") == (
        "Segment 1, fill: 2.5 s to 5.0 s"
    )
    box, lane = (
        second.locator(selector).bounding_box()
        for selector in (".throughline-slot", ".throughline-slots")
    )
    assert box["x"] - lane["x"] == pytest.approx(lane["width"] * 2.5 / 7.0, abs=1.5)
    assert box["width"] == pytest.approx(lane["width"] * 2.5 / 7.0, abs=1.5)
    assert "No schedule is shorter than 7.0 s; this one is 0 % longer." in tab.chart.inner_text()
    assert "First footage after 5.0 s." in tab.chart.inner_text()
    tab.show(PLAN, 6)
    tab.chart.wait_for(state="hidden")


def test_a_schedule_speaks_for_the_run_that_it_fills(tab: Tab) -> None:
    tab.show(FILL, 6)
    node = tab.page.evaluate(ADD_SCHEDULE)
    tab.page.evaluate(EXECUTED, {"node": node, "output": {"text": ["6 filled now"]}})
    tab.root.get_by_text("6 filled now").wait_for()
    tab.show(PLAN, 6)
    tab.root.get_by_text("6 filled now").wait_for(state="hidden")
