"""What the tests that kill a server share: its runs, the sampler calls that it notes, waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Files = dict[int, tuple[int, bytes]]
"""Finished segments on disk by index: time of the last change, and content."""


class FilmHost:
    """A server that has the tests' nodes, and notes the seed of each sampler call."""

    def __init__(self, new_server: Callable[..., Any], base: Path) -> None:
        from development.tiny_nodes import CALLS, write_pack

        write_pack(base)
        self.calls_file = base / "calls.txt"
        self.server = new_server(base=base, environ={CALLS: str(self.calls_file)})
        self.runs = base / "output" / "throughline"

    def noted(self) -> list[int]:
        """Seeds of the sampler calls since they were last cleared."""
        text = self.calls_file.read_text(encoding="utf-8") if self.calls_file.exists() else ""
        return [int(line) for line in text.split()]

    def calls(self) -> list[int]:
        """Seeds of the sampler calls since the last time."""
        seeds = self.noted()
        self.calls_file.unlink(missing_ok=True)
        return seeds

    def files(self, run_name: str) -> Files:
        folder = self.runs / run_name / "segments"
        paths = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        found = {int(p.name[:4]) - 1: (p.stat().st_mtime_ns, p.read_bytes()) for p in paths}
        assert len(found) == len(paths)
        return found

    def latents(self, run_name: str) -> list[torch.Tensor]:
        from throughline.runs.run import open_run

        run = open_run(self.runs / run_name)
        return [run.latent(record.index) for record in run.segments]

    def finish(self, prompt: dict[str, Any]) -> None:
        """Queue a graph and see it succeed."""
        _, entry = self.server.run(prompt)
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]


def wait_for(happened: Callable[[], bool], seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit, "nothing was sampled"
        time.sleep(0.005)
