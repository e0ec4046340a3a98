"""What a Ray worker does, without Ray: the worker's part in a thread of this process."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from .test_executor import SPARSE, on_devices
from .test_plan import graph, made, read  # noqa: F401  # `read` is a fixture

WORKERS = {"run_on": "Ray cluster", "address": ""}


@pytest.fixture
def worker_here(
    run_film: Any, prompt_server: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """`worker_here(changed=...)` puts one worker of this process into the cluster's place; what it
    is sent passes through `changed` first."""
    from types import SimpleNamespace

    from throughline.nodes import ray_fill
    from throughline.nodes.fill_worker import FillWorker
    from throughline.runs.executor import Here

    def crew(duty: Any, changed: Any) -> Any:
        worker = FillWorker(prompt_server)
        with ThreadPoolExecutor(1) as thread:  # a node runs inside of an event loop, a worker not
            duty.accept(thread.submit(worker.prepare, changed(duty.brief())).result())

        def work(job: Any) -> Any:
            with ThreadPoolExecutor(1) as thread:
                return duty.receive(thread.submit(worker.work, duty.order(job), duty.hear).result())

        return Here(work)

    def put(changed: Any = lambda brief: brief) -> None:
        monkeypatch.setattr(ray_fill, "connect", lambda *_: SimpleNamespace(close=lambda: None))
        monkeypatch.setattr(ray_fill, "RayCrew", lambda cluster, count, duty: crew(duty, changed))

    return put


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("wan22_i2v", {"fill_sampler_name": "euler_ancestral"}),
        ("wan_t2v", {"planner": SPARSE, "fill_filler": SPARSE}),
    ],
)
def test_a_worker_fills_what_this_process_fills(
    run_film: Any,
    worker_here: Any,
    read: Any,  # noqa: F811
    family: str,
    changes: dict[str, Any],
) -> None:
    briefs: list[dict[str, Any]] = []

    def keep(brief: dict[str, Any]) -> dict[str, Any]:
        briefs.append(brief)
        return brief

    alone = graph(family, fill=family, **changes)
    run_film(alone)
    worker_here(keep)
    _, events = run_film(on_devices(alone, **WORKERS))
    assert sorted(made(events, "devices")) == [1, 2, 3, 4]
    for one, two in zip(read("populated"), read("devices"), strict=True):
        assert torch.equal(one, two)
    steps = [
        (data["segment"], data["step"])
        for kind, data in events
        if kind == "throughline.segment" and data["run"] == "devices" and data["step"]
    ]
    assert {segment for segment, _ in steps} == {1, 2, 3, 4}
    assert set(briefs[0]["prompt"]) == {"n"}, "a worker gets the filler's own loaders alone"
    assert len(briefs[0]["plan"]) < 100_000, "no latents travel before their job"


def test_a_worker_with_another_model_is_refused(run_film: Any, worker_here: Any) -> None:
    def other(brief: dict[str, Any]) -> dict[str, Any]:
        loader = brief["prompt"]["n"]
        changed = {**loader, "inputs": {**loader["inputs"], "layers": 3}}
        return {**brief, "prompt": {"n": changed}}

    worker_here(other)
    with pytest.raises(Exception, match="its model differs from the one here"):
        run_film(on_devices(graph(fill="wan_t2v"), **WORKERS))


def test_a_worker_whose_loader_fails_says_which(run_film: Any, worker_here: Any) -> None:
    def other(brief: dict[str, Any]) -> dict[str, Any]:
        loader = brief["prompt"]["n"]
        changed = {**loader, "inputs": {**loader["inputs"], "family": "nobody"}}
        return {**brief, "prompt": {"n": changed}}

    worker_here(other)
    with pytest.raises(Exception, match=r"node n \(ThroughlineTestTinyModels\) failed: .*nobody"):
        run_film(on_devices(graph(fill="wan_t2v"), **WORKERS))


def test_other_versions_are_named(comfy: Any) -> None:
    from throughline.nodes.fill_worker import FillWorker, versions
    from throughline.nodes.ray_fill import check_facts

    here = versions()
    assert set(here) == {"Python", "torch", "ComfyUI", "Throughline"}
    brief = {"versions": {**here, "torch": "1.0"}}  # it has nothing else to be read
    facts = FillWorker(None).prepare(brief)
    assert facts == {"versions": here}
    with pytest.raises(
        ValueError, match=rf"^torch is {re.escape(torch.__version__)} there and 1.0 here$"
    ):
        check_facts(facts, brief["versions"], {"model": "a"})


def test_a_node_that_is_not_in_the_graph_is_refused(comfy: Any) -> None:
    from throughline.nodes.fill_worker import brief_of

    with pytest.raises(ValueError, match="needs Populate segments in the graph itself"):
        brief_of({}, "7.0.3", None, frozenset(), "none")  # type: ignore[arg-type]
