"""The Storyboard node on the page: the table of shots, the place of a mistake, the help page."""

from __future__ import annotations

from typing import Any

TABLE = """() => app.graph.nodes[0].widgets.find(
  widget => widget.name === '$$node-text-preview')?.value"""
SCRIPT = "title: Rain\n[wide, 5s] A street in the rain.\n[3s, continue] <Bob> waits."


def graph(script: str) -> dict[str, Any]:
    return {"1": {"class_type": "ThroughlineStoryboard", "inputs": {"script": script, "fps": 0}}}


def test_run_alone_it_shows_its_table_of_shots(comfy_page: Any) -> None:
    """In the second renderer the result comes from the server's cache."""
    comfy_page.load(graph(SCRIPT))
    kind, _ = comfy_page.run_to_end()
    assert kind == "execution_success"
    comfy_page.page.wait_for_function(TABLE, timeout=120000)
    lines = comfy_page.page.evaluate(TABLE).splitlines()
    assert lines[:2] == ["Read as: script", "Rain: 2 shots, 8 s"]
    assert lines[2:4] == [
        "1.1 · 5 s · wide · A street in the rain.",
        "1.2 · 3 s · continue · Bob waits.",
    ]
    assert lines[4] == "Warning, line 3, column 16: nobody is called 'Bob'; read as words"


def test_a_mistake_is_shown_with_its_place_before_anything_runs(comfy_page: Any) -> None:
    comfy_page.load(graph("A street.\n[0s] A door."))
    assert comfy_page.run_to_end() is None
    assert comfy_page.events() == []
    errors = comfy_page.page.evaluate("() => JSON.stringify(app.lastNodeErrors)")
    assert "script, line 2, column 2: seconds per shot must be above 0" in errors
    assert comfy_page.page.evaluate("() => app.graph.nodes[0].has_errors")
    assert any("400" in error for error in comfy_page.errors)  # how the server refuses a graph
    comfy_page.errors.clear()


def test_its_help_page_lists_what_a_line_can_say(comfy_page: Any) -> None:
    comfy_page.load(graph(SCRIPT))
    text = comfy_page.open_help(1)
    assert "Reads a script with one shot per line" in text
    assert "recall" in text and "@Name = description" in text
