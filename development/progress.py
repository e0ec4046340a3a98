"""A progress bar on the terminal from the events that the server sends."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

WIDTH = 30
QUARTERS = 4
"""Where the output is no terminal a node's progress is told this often, each on a line."""


class Progress:
    """Follows one run. `segments`, `done` and `reused` count what the events told."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        """`names` says what each node id is called."""
        self._names = names or {}
        self.segments = 0
        self.done: set[int] = set()
        self._reused: set[int] = set()
        self._told: set[tuple[str, int]] = set()
        self._shown = ""

    @property
    def reused(self) -> int:
        """Segments that were finished on disk before this run."""
        return len(self._reused)

    def hear(self, kind: str, data: Any) -> None:
        """Take one event of the server."""
        if kind == "throughline.segment":
            self._hear_segment(data)
        elif kind == "progress_state":
            for node_id, node in data["nodes"].items():
                if node["state"] == "running" and node["max"] > 1:
                    self._hear_node(node_id, node["value"], node["max"])

    def _hear_segment(self, data: Mapping[str, Any]) -> None:
        before = len(self.done)
        self.segments = max(self.segments, data["segments"])
        if data["status"] in ("done", "reused"):
            self.done.add(data["segment"])
        if data["status"] == "reused":
            self._reused.add(data["segment"])
        if len(self.done) > before or data["status"] == "failed":
            share = len(self.done) / max(1, self.segments)
            self._show(f"segment {data['segment']}/{data['segments']} {data['status']}", share)

    def _hear_node(self, node_id: str, value: float, largest: float) -> None:
        quarter = (node_id, int(QUARTERS * value / largest))
        if sys.stderr.isatty() or (quarter not in self._told and quarter[1]):
            self._told.add(quarter)
            name = self._names.get(node_id, f"node {node_id}")
            self._show(f"{name} {value:g}/{largest:g}", value / largest)

    def _show(self, text: str, share: float) -> None:
        full = round(WIDTH * share)
        line = f"[{'#' * full}{'.' * (WIDTH - full)}] {text}"
        if line == self._shown:
            return
        self._shown = line
        end = "" if sys.stderr.isatty() else "\n"
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(start + line, end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the line of the bar."""
        if self._shown and sys.stderr.isatty():
            print(file=sys.stderr, flush=True)
