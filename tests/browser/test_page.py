"""The page as a visitor finds it: it starts, the pack's script is there, a graph runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GREY = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 8421504},
    },
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


def test_a_graph_runs_in_the_page(comfy_page: Any) -> None:
    comfy_page.load(GREY)
    assert comfy_page.missing() == []
    ended = comfy_page.run_to_end()
    assert ended is not None and ended[0] == "execution_success"
    assert comfy_page.overlay() is None
    assert "progress_state" in comfy_page.events()


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)
def test_an_unknown_node_is_noticed(comfy_page: Any) -> None:
    comfy_page.load({"nodes": [{"id": 1, "type": "NoSuchNode"}], "links": [], "version": 0.4})
    assert comfy_page.missing() == ["NoSuchNode"]
