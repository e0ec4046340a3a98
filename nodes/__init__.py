"""The pack's nodes: one module per system, each ending in its NODES list."""

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from . import sampling, storyboard

NODES: list[type[io.ComfyNode]] = [*sampling.NODES, *storyboard.NODES]


class ThroughlineExtension(ComfyExtension):
    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> ThroughlineExtension:
    return ThroughlineExtension()
