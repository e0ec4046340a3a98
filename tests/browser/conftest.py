"""The real page in a real browser, once in each of ComfyUI's two node renderers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RENDERERS = ("classic", "vue")
READY = "() => window.app?.vueAppReady && !document.querySelector('#splash-loader')"
WATCH = """() => { window.__run = null; window.__events = [];
  for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
    window.comfyAPI.api.api.addEventListener(kind, e => { window.__run = [kind, e.detail] });
  for (const kind of ['execution_start', 'progress_state', 'executed'])
    window.comfyAPI.api.api.addEventListener(kind, event => { window.__events.push(kind) }); }"""
LOAD = """async flow => {
  if (flow.nodes) await app.loadGraphData(flow, true, true, null)
  else await app.loadApiJson(flow, 'test') }"""
MISSING = """() => { const found = [];
  const walk = graph => { for (const node of graph.nodes)
    if (node.isSubgraphNode?.()) walk(node.subgraph)
    else if (!(node.type in LiteGraph.registered_node_types)) found.push(node.type) }
  walk(app.rootGraph ?? app.graph)
  return found }"""
OVERLAY = "[data-testid=error-overlay]"
# The page's own noise: a settings file that nobody has, checks that want the internet, and help in
# the page's language, which it asks for before it takes docs/<node>.md.
NOISE = (
    "user.css",
    "/en.md",
    "ComfyApp graph accessed before initialization",
    "Content Security Policy",
    "huggingface.co",
)


class ComfyPage:
    """ComfyUI's page. `page` is playwright's; `errors` must be empty at the end of each test."""

    def __init__(self, page: Any, address: str, screenshots: Path) -> None:
        self.page, self.errors, self._screenshots = page, [], screenshots
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._hear)
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=60000)
        page.evaluate(WATCH)

    def _hear(self, message: Any) -> None:
        text = f"{message.text} {message.location}"
        if message.type == "error" and not any(noise in text for noise in NOISE):
            self.errors.append(text)

    def load(self, workflow: dict[str, Any] | Path) -> None:
        """Open a workflow in UI or API form, as a dictionary or a file."""
        if isinstance(workflow, Path):
            workflow = json.loads(workflow.read_text(encoding="utf-8"))
        self.page.evaluate(LOAD, workflow)

    def missing(self) -> list[str]:
        """Types of the nodes in the graph that the page does not know (red boxes)."""
        return self.page.evaluate(MISSING)

    def overlay(self) -> str | None:
        """The text of the error overlay, None when there is none."""
        found = self.page.query_selector(OVERLAY)
        return found.inner_text() if found else None

    def widgets(self, node_id: int) -> dict[str, Any]:
        """Widget values of one node by name."""
        return self.page.evaluate(
            "id => Object.fromEntries("
            "app.graph.getNodeById(id).widgets.map(w => [w.name, w.value]))",
            node_id,
        )

    def prompt(self) -> dict[str, Any]:
        """The graph in API form, as the page would queue it."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def press_run(self) -> None:
        """Press Run and return at once."""
        self.page.evaluate("() => { window.__run = null; window.__events = [] }")
        self.page.get_by_test_id("queue-button").click()

    def run_to_end(self, timeout_ms: float = 60000) -> list[Any] | None:
        """Press Run and wait: [event, detail] of the end, None when the graph was refused."""
        self.press_run()
        return self.wait_for_end(timeout_ms)

    def wait_for_end(self, timeout_ms: float = 60000) -> list[Any] | None:
        """Wait for the end of the run that was started by press_run."""
        self.page.wait_for_function(
            f"() => window.__run || document.querySelector('{OVERLAY}')", timeout=timeout_ms
        )
        return self.page.evaluate("() => window.__run")

    def events(self) -> list[str]:
        """Types of the progress events since Run was pressed."""
        return self.page.evaluate("() => window.__events")

    def extensions(self) -> list[str]:
        """Names of the page's extensions."""
        return self.page.evaluate("() => app.extensions.map(extension => extension.name)")

    def open_help(self, node_id: int) -> str:
        """Select a node, press its info button, and return the text of the panel."""
        self.page.evaluate("id => app.canvas.selectNode(app.graph.getNodeById(id))", node_id)
        self.page.get_by_test_id("info-button").click()
        panel = self.page.locator(".node-help-content")
        panel.filter(has_text=re.compile(r"\S")).wait_for(timeout=20000)  # it opens empty
        text = ""
        for _ in range(100):  # and may be drawn a second time, empty in between
            before, text = text, panel.inner_text().strip()
            if text and text == before:
                break
            self.page.wait_for_timeout(200)
        return text

    def screenshot(self, name: str) -> Path:
        """Keep a picture of the page and return its file."""
        self._screenshots.mkdir(parents=True, exist_ok=True)
        file = self._screenshots / f"{re.sub('[^a-z0-9_]+', '-', name.lower())}.png"
        self.page.screenshot(path=file)
        return file


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The browser program, started once for all tests."""
    program = os.environ.get("THROUGHLINE_BROWSER")
    if not program:
        pytest.skip("needs Chrome, Chromium or Edge: `python3 dev.py test browser` says how")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=flags)
        yield started
        started.close()


@pytest.fixture(params=RENDERERS)
def renderer(request: pytest.FixtureRequest) -> str:
    """Which of the two renderers draws the nodes; a test that asks for it runs in both."""
    return request.param


@pytest.fixture
def comfy_page(
    browser: Any, server: Any, renderer: str, request: pytest.FixtureRequest
) -> Iterator[ComfyPage]:
    """A fresh visit to the page. At the end: a screenshot, and no error in the console."""
    from development.server import SETTINGS

    for name, value in {**SETTINGS, "Comfy.VueNodes.Enabled": renderer == "vue"}.items():
        server.post(f"/settings/{name}", value)
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    page = ComfyPage(context.new_page(), server.address, ROOT / ".host" / "screenshots")
    yield page
    page.screenshot(request.node.name)
    context.close()
    assert page.errors == []
