"""The pack's nodes: one module per system, each ending in its NODES list."""

from comfy_api.latest import ComfyExtension, io
from typing_extensions import override

from ..adapters.demo_models import WEIGHTS, register_weight_folders
from ..adapters.encoders import CATEGORY as MEMORY_ENCODERS
from ..adapters.hierarchy_weights import CATEGORIES as HIERARCHY_WEIGHTS
from ..adapters.millivid import CATEGORY as MILLIVID
from ..adapters.packed_context import CATEGORY as PACKED_CONTEXT
from ..adapters.weight_folders import register_folders
from . import (
    assembly,
    budget,
    coarse_plan,
    demo,
    executor,
    golden,
    hierarchy,
    hierarchy_plan,
    keyframe_images,
    keyframes,
    lora,
    memory,
    micro,
    millivid,
    packed,
    plan,
    populate,
    recall,
    rollout,
    sampling,
    schedule,
    segment,
    storyboard,
)
from .routes import register_routes
from .storyboard_routes import register_storyboard_routes

NODES: list[type[io.ComfyNode]] = [
    *sampling.NODES,
    *segment.NODES,
    *storyboard.NODES,
    *assembly.NODES,
    *memory.NODES,
    *budget.NODES,
    *lora.NODES,
    *keyframes.NODES,
    *keyframe_images.NODES,
    *recall.NODES,
    *golden.NODES,
    *plan.NODES,
    *micro.NODES,
    *populate.NODES,
    *millivid.NODES,
    *packed.NODES,
    *rollout.NODES,
    *hierarchy.NODES,
    *hierarchy_plan.NODES,
    *coarse_plan.NODES,
    *executor.NODES,
    *schedule.NODES,
    *demo.NODES,
]


class ThroughlineExtension(ComfyExtension):
    @override
    async def on_load(self) -> None:
        register_weight_folders()
        register_folders(
            (MEMORY_ENCODERS, MILLIVID, PACKED_CONTEXT, *HIERARCHY_WEIGHTS), shipped=WEIGHTS
        )
        register_routes()
        register_storyboard_routes()

    @override
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> ThroughlineExtension:
    return ThroughlineExtension()
