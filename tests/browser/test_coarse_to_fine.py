"""The workflow that plans coarsely first, shortened, in the real page: the film is made, its levels
are shown, and another step of the rollout is looked at without making anything again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "workflows" / "05_coarse_to_fine.json"
SAMPLER, DECODE = "ThroughlineARSegmentSampler", "ThroughlineHierarchyDecode"
ROLLOUT = "ThroughlineRolloutSchedule"
SCRIPT = "[2s] garden, Pell left, camera 8 to 4\n[2s, cut] garden, Pell left, camera 4 to 8"
SET = """([type, values]) => { const node = app.graph.nodes.find(n => n.type === type)
  for (const [name, value] of Object.entries(values)) {
    const widget = node.widgets.find(w => w.name === name)
    widget.value = value; widget.callback?.(value) }
  return node.id }"""
LISTEN = """() => { window.__made = []; window.__executed = {}
  const api = window.comfyAPI.api.api
  api.addEventListener('throughline.segment',
    ({ detail }) => detail.status === 'done' && window.__made.push(detail.segment))
  api.addEventListener('executed',
    ({ detail }) => { window.__executed[detail.node] = detail.output }) }"""
TAKE = """() => { const seen = [window.__made, window.__executed]
  window.__made = []; window.__executed = {}; return seen }"""
MINUTES = 60_000.0


@pytest.mark.slow
def test_a_film_is_planned_coarsely_and_its_levels_and_steps_are_shown(
    comfy_page: Any, renderer: str, request: pytest.FixtureRequest
) -> None:
    page = comfy_page.page
    comfy_page.load(WORKFLOW)
    values = {"script": SCRIPT, "steps": 2, "run_name": f"coarse {renderer}"}
    page.evaluate(SET, [SAMPLER, values])
    decode = page.evaluate(SET, [DECODE, {}])
    rollout = page.evaluate(SET, [ROLLOUT, {"shown_step": 4}])
    page.evaluate(LISTEN)

    ended = comfy_page.run_to_end(4 * MINUTES)
    assert ended is not None and ended[0] == "execution_success", ended
    assert comfy_page.overlay() is None
    made, executed = page.evaluate(TAKE)
    assert made == [1, 2]
    first = executed[str(rollout)]["images"][0]["filename"]
    assert executed[str(decode)]["images"]
    comfy_page.screenshot(request.node.name)

    page.evaluate(SET, [ROLLOUT, {"shown_step": 5}])
    ended = comfy_page.run_to_end(MINUTES)
    assert ended is not None and ended[0] == "execution_success", ended
    made, executed = page.evaluate(TAKE)
    assert made == [] and executed[str(rollout)]["images"][0]["filename"] != first
    assert "Rollout schedule" in comfy_page.open_help(rollout)
