"""Fills on a Ray cluster, seen from the process that asks for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.options
import torch
from comfy.cli_args import args

from ..adapters.device_executor import devices_here
from ..planning.schedule import Job
from ..runs.executor import Executor
from ..runs.ray_cluster import connect
from ..runs.ray_crew import Duty, RayCrew
from ..runs.render import RenderedSegment
from .fill_worker import brief_of, comparable, received, unpacked
from .film_progress import TellStep
from .populating import Population

FOLDER, ARGUMENTS = "THROUGHLINE_COMFYUI", "THROUGHLINE_COMFYUI_ARGUMENTS"
"""Environment of a worker's machine: where its ComfyUI lies, and its command line."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The graph in API form that asks for the fills, and which node of it does."""

    prompt: Mapping[str, Any] | None
    node_id: str


def ray_crew(
    executor: Executor,
    population: Population,
    to_make: frozenset[int],
    tell: TellStep,
    source: Source,
) -> RayCrew[RenderedSegment]:
    """Workers that fill. Raises ValueError where there is no cluster, or none with room.

    The models of this process go to main memory: workers on this machine may need their place.
    """
    previews = args.preview_method.value
    brief = brief_of(dict(source.prompt or {}), source.node_id, population.plan, to_make, previews)
    segments, plan = population.film.segments, population.plan
    expected = comparable(population.film.parameters)

    def hear(told: Mapping[str, Any]) -> None:
        tell(segments[told["segment"]], told["step"], unpacked(told["picture"]))

    def order(job: Job) -> dict[str, Any]:
        latent = torch.cat(list(plan.anchors(job.segment).values()), dim=2)
        return {"segment": job.segment, "latent": latent.numpy()}

    duty: Duty[RenderedSegment] = Duty(
        boot=comfyui_boot(),
        brief=lambda: brief,
        accept=lambda facts: check_facts(facts, brief["versions"], expected),
        order=order,
        receive=received,
        hear=hear,
    )
    cluster = connect(executor.address, executor.devices or len(devices_here(0)))
    comfy.model_management.unload_all_models()
    try:
        return RayCrew(cluster, executor.devices, duty)
    except BaseException:
        cluster.close()
        raise


def check_facts(
    facts: Mapping[str, Any], versions: Mapping[str, str], expected: Mapping[str, Any]
) -> None:
    """Raises ValueError for a worker that is not the same, naming what differs."""
    differing = [
        f"{name} is {facts['versions'].get(name)} there and {own} here"
        for name, own in versions.items()
        if facts["versions"].get(name) != own
    ]
    if differing:
        raise ValueError("; ".join(differing))
    other = sorted(
        name
        for name in expected.keys() | facts["parameters"].keys()
        if expected.get(name) != facts["parameters"].get(name)
    )
    if other:
        raise ValueError(
            f"its {', '.join(name.replace('_', ' ') for name in other)} differs from the one here, "
            "by hash: put the same files under the same names into its folders"
        )


def comfyui_boot() -> Callable[[], Any]:
    """What starts ComfyUI in a worker: as on its own machine where its environment says how, else
    as here. It is sent by value, so it imports all that it needs."""
    here = str(Path(comfy.options.__file__).resolve().parents[1])
    command_line = sys.argv[1:] if comfy.options.args_parsing else ["--cpu"] * bool(args.cpu)
    folder_name, arguments_name = FOLDER, ARGUMENTS

    def boot() -> Any:
        import asyncio
        import getpass
        import importlib
        import os
        import shlex
        import sys
        import tempfile

        folder = os.environ.get(folder_name) or here
        said = os.environ.get(arguments_name)
        arguments = list(command_line) if said is None else shlex.split(said)
        if not os.path.isfile(os.path.join(folder, "main.py")):
            raise FileNotFoundError(f"there is no ComfyUI in {folder}: set {folder_name}")
        sys.argv = [os.path.join(folder, "main.py"), *arguments]
        sys.path.insert(0, folder)
        main = importlib.import_module("main")
        # another process may own, and empty, the folder that belongs to this command line
        own = os.path.join(tempfile.gettempdir(), f"throughline_workers_{getpass.getuser()}")
        main.folder_paths.set_temp_directory(own)
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        server = main.server.PromptServer(loop)
        loop.run_until_complete(
            main.nodes.init_extra_nodes(
                init_custom_nodes=not main.args.disable_all_custom_nodes,
                init_api_nodes=False,
            )
        )
        node = main.nodes.NODE_CLASS_MAPPINGS.get("ThroughlinePopulateSegments")
        if node is None:
            raise ImportError(f"ComfyUI in {folder} has no working Throughline")
        package = node.__module__.rpartition(".")[0]
        return importlib.import_module(f"{package}.fill_worker").FillWorker(server)

    return boot
