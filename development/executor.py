"""Graphs in API form through the PromptExecutor of this process: tests of the level host, benches.

ComfyUI must be on sys.path with its arguments chosen, and the pack entered as `throughline`. The
pack's classes are the very ones that `from throughline.nodes...` gives; the host's own way of
loading the folder is tested at the level server.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

Events = list[tuple[str, Any]]
CLIENT = "here"


class GraphError(Exception):
    """A graph that the host refused, or that failed or was interrupted; `events` lie beside."""

    def __init__(self, message: str, events: Events) -> None:
        super().__init__(message)
        self.events = events


def make_prompt_server() -> Any:
    """The host's server object, not listening, with core's and the pack's nodes registered."""
    import nodes
    import server

    instance = server.PromptServer(asyncio.new_event_loop())
    instance.client_id = CLIENT

    async def register() -> None:
        await nodes.init_public_apis()
        await nodes.init_builtin_extra_nodes()
        extension = await sys.modules["throughline"].comfy_entrypoint()
        await extension.on_load()
        for node in await extension.get_node_list():
            nodes.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node

    asyncio.run(register())
    return instance


class GraphRunner:
    """Runs prompts: `runner(prompt)` gives (outputs by node id, events as (type, data) pairs).

    A graph that is refused, fails or is interrupted raises `runner.error`, whose text is the
    host's message. Nodes keep their results from call to call, as in the server.
    """

    error = GraphError

    def __init__(self, prompt_server: Any) -> None:
        from execution import CacheType, PromptExecutor

        self._server, self._count = prompt_server, 0
        self._executor = PromptExecutor(
            prompt_server,
            cache_type=CacheType.CLASSIC,
            cache_args={"lru": 0, "ram": 2.0, "ram_inactive": 2.0},
        )

    def __call__(self, prompt: Mapping[str, Any]) -> tuple[dict[str, Any], Events]:
        import execution

        self._count += 1
        prompt_id = f"graph-{self._count}"
        events: Events = []
        self._server.send_sync = lambda event, data, sid=None: events.append((event, data))
        valid, error, good_outputs, node_errors = asyncio.run(
            execution.validate_prompt(prompt_id, prompt, None)
        )
        if not valid:
            raise GraphError(f"{error} {node_errors}", events)
        self._executor.execute(prompt, prompt_id, {"client_id": CLIENT}, good_outputs)
        if not self._executor.success:
            kind, data = self._executor.status_messages[-1]
            raise GraphError(data.get("exception_message", kind), events)
        return self._executor.history_result["outputs"], events
