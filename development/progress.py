"""A progress bar on the terminal from the events that the server sends."""

from __future__ import annotations

import sys
from typing import Any

WIDTH = 30


class Progress:
    """Follows one run. `segments`, `done` and `reused` count what the events told."""

    def __init__(self) -> None:
        self.segments = 0
        self.done: set[int] = set()
        self._reused: set[int] = set()
        self._shown = ""

    @property
    def reused(self) -> int:
        """Segments that were finished on disk before this run."""
        return len(self._reused)

    def hear(self, kind: str, data: Any) -> None:
        """Take one event of the server."""
        if kind == "throughline.segment":
            self.segments = max(self.segments, data["segments"])
            if data["status"] in ("done", "reused"):
                self.done.add(data["segment"])
            if data["status"] == "reused":
                self._reused.add(data["segment"])
            self._show(f"segment {data['segment']}/{data['segments']} {data['status']}")
        elif kind == "progress_state" and sys.stderr.isatty():
            for node in data["nodes"].values():
                if node["state"] == "running" and node["max"] > 1:
                    share = node["value"] / node["max"]
                    self._show(f"step {node['value']:g}/{node['max']:g}", share)

    def _show(self, text: str, share: float | None = None) -> None:
        if share is None:
            share = len(self.done) / max(1, self.segments)
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
