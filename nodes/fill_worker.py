"""What a Ray worker is sent, and what it does with it: the fills of a plan in its own ComfyUI.

The driver sends the graph in front of Populate segments without the plan's part, the plan without
its latents, and with every job the anchors of one segment. The worker runs the loaders with the
host's own executor, so that models come by name from its own folders, and says by fingerprint what
it got; only a worker that has the very same things is given work. So equal results do not depend
on trust. The plan travels as JSON (sent_plan.py), which is read after versions are compared.
"""

from __future__ import annotations

import asyncio
import io
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import comfyui_version
import numpy as np
import torch
from blake3 import blake3
from PIL import Image

from ..planning.segments import Segment
from ..runs.keys import PLANNED
from ..runs.render import RenderedSegment
from .film_progress import Picture
from .plan_value import Plan
from .populating import FillRenderer, plan_population
from .sent_plan import SentRun, plan_from_json, plan_to_json

PACK = Path(__file__).resolve().parents[1]
CODE = ("adapters", "memory", "nodes", "planning", "runs")
HERE_ONLY = ("plan", "executor")
"""Inputs of Populate segments that a worker is not to make itself."""

PREVIEW_QUALITY = 80
"""Of the small pictures that travel with a step."""

Graph = dict[str, Any]


def versions() -> dict[str, str]:
    """What must be equal for equal results, by name."""
    digest = blake3()
    for folder in CODE:
        for file in sorted((PACK / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__,
        "ComfyUI": comfyui_version.__version__,
        "Throughline": digest.hexdigest()[:12],
    }


def brief_of(
    prompt: Graph,
    node_id: str,
    plan: Plan,
    to_make: frozenset[int],
    previews: str,
) -> dict[str, Any]:
    """What a worker must know before its first job, as plain data.

    `prompt` is the whole graph in API form; a worker gets what lies in front of the node's other
    inputs. Raises ValueError where the node is not in it (inside an expanded subgraph).
    """
    if node_id not in prompt:
        raise ValueError(
            "executor: a Ray cluster needs Populate segments in the graph itself, not inside of a "
            "node that expands"
        )
    inputs = {k: v for k, v in prompt[node_id]["inputs"].items() if k not in HERE_ONLY}
    return {
        "versions": versions(),
        "prompt": needed(prompt, inputs),
        "inputs": inputs,
        "plan": plan_to_json(plan),
        "to_make": sorted(to_make),
        "previews": previews,
        "threads": torch.get_num_threads(),
    }


def needed(prompt: Graph, inputs: Mapping[str, Any]) -> Graph:
    """The nodes that these inputs come from, and those that they come from in turn."""
    found: Graph = {}
    left = [value[0] for value in inputs.values() if is_link(value)]
    while left:
        node = left.pop()
        if node not in found:
            found[node] = prompt[node]
            left += [value[0] for value in prompt[node]["inputs"].values() if is_link(value)]
    return found


def is_link(value: object) -> bool:
    """Whether an input of a graph in API form comes from a node (comfy_execution.graph_utils)."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


class FillWorker:
    """One worker's own part. `server` is the host's server object, which listens to nobody."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._renderer: FillRenderer | None = None
        self._run: SentRun | None = None
        self._tell: Callable[[Any], None] = lambda told: None

    def prepare(self, brief: Mapping[str, Any]) -> dict[str, Any]:
        """Load what the graph names; gives versions, and the fingerprints of what came of it."""
        facts: dict[str, Any] = {"versions": versions()}
        if facts["versions"] != brief["versions"]:
            return facts
        import latent_preview

        torch.set_num_threads(brief["threads"])
        plan, self._run = plan_from_json(brief["plan"])
        latent_preview.set_preview_method(brief["previews"])
        with torch.inference_mode():
            inputs = {**given_inputs(self._server, brief), "plan": plan}
            population = plan_population(inputs)
            to_make = frozenset(brief["to_make"])
            self._renderer = FillRenderer(population, to_make, self._told)
        facts["parameters"] = comparable(population.film.parameters)
        return facts

    def work(self, order: Mapping[str, Any], tell: Callable[[Any], None]) -> dict[str, Any]:
        """Fill one segment from the anchors that came with the order."""
        assert self._renderer is not None and self._run is not None
        index, self._tell = order["segment"], tell
        self._run.latents.clear()
        self._run.latents[index] = torch.from_numpy(np.array(order["latent"]))
        with torch.inference_mode():
            made = self._renderer.fill(index)
        return {"latent": made.latent.numpy(), "preview": made.preview}

    def _told(self, segment: Segment, step: int, picture: Picture | None) -> None:
        shown = None if picture is None else packed(picture)
        self._tell({"segment": segment.index, "step": step, "picture": shown})


def comparable(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What worker and driver must agree in: all but the anchors, which are sent."""
    return {name: value for name, value in parameters.items() if name != PLANNED}


def received(made: Mapping[str, Any]) -> RenderedSegment:
    """What `FillWorker.work` gave, at the driver. What Ray hands over is read only."""
    return RenderedSegment(
        latent=torch.from_numpy(np.array(made["latent"])), preview=made["preview"]
    )


def packed(picture: Picture) -> tuple[str, bytes, int | None]:
    """A preview as bytes."""
    stream = io.BytesIO()
    picture[1].save(stream, "JPEG", quality=PREVIEW_QUALITY)
    return picture[0], stream.getvalue(), picture[2]


def unpacked(picture: tuple[str, bytes, int | None] | None) -> Picture | None:
    if picture is None:
        return None
    return picture[0], Image.open(io.BytesIO(picture[1])), picture[2]


def given_inputs(server: Any, brief: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of Populate segments but the plan, made by the graph's own nodes.

    Raises ValueError with the host's words where one of them fails.
    """
    from execution import CacheType, PromptExecutor

    inputs: dict[str, Any] = brief["inputs"]
    links = {name: value for name, value in inputs.items() if is_link(value)}
    executor = PromptExecutor(
        server,
        cache_type=CacheType.CLASSIC,
        cache_args={"lru": 0, "ram": 2.0, "ram_inactive": 2.0},
    )
    wanted = sorted({node for node, _ in links.values()})
    executor.execute(brief["prompt"], "throughline", {}, wanted)
    if not executor.success:
        kind, data = executor.status_messages[-1]
        raise ValueError(
            f"node {data.get('node_id')} ({data.get('node_type')}) failed: "
            f"{data.get('exception_message', kind)}"
        )
    made = {node: output_of(executor, node) for node in wanted}
    return {**inputs, **{name: made[node][slot] for name, (node, slot) in links.items()}}


def output_of(executor: Any, node: str) -> Sequence[Any]:
    """The values of a node's outputs."""
    entry = asyncio.run(executor.caches.outputs.get(node))
    return [values[0] for values in entry.outputs]
