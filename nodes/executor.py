"""ThroughlineExecutor: where the segments of a plan are filled."""

from __future__ import annotations

from comfy_api.latest import io

from ..planning.schedule import ORDERS
from ..runs.executor import KINDS, MOST_DEVICES, Executor
from .sockets import TL_EXECUTOR


class ExecutorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineExecutor",
            display_name="Executor",
            category="Throughline",
            description=(
                "Fills several segments of a plan at once, on the graphics cards of this machine "
                "or on a Ray cluster. The film is the same to the bit wherever it is made."
            ),
            search_aliases=["ray", "multi gpu", "parallel", "cluster", "distributed"],
            inputs=[
                io.Combo.Input(
                    "run_on",
                    options=list(KINDS),
                    default=KINDS[1],
                    tooltip="Devices of this machine load the model once for each graphics card. "
                    "Choose the Ray cluster for several machines; each needs ComfyUI and the same "
                    "model files.",
                ),
                io.Int.Input(
                    "devices",
                    default=0,
                    min=0,
                    max=MOST_DEVICES,
                    tooltip="How many at once; 0 is all there are. Lower it when main memory runs "
                    "out, since each device holds the model.",
                ),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default=next(iter(ORDERS)),
                    tooltip="Which segment goes first. Critical path first ends soonest. Choose "
                    "depth first to see the film's beginning first.",
                ),
                io.String.Input(
                    "address",
                    default="",
                    tooltip="Of a Ray cluster: ray://host:10001, or auto for the one on this "
                    "machine. Leave it empty to start workers here for this film only.",
                ),
            ],
            outputs=[TL_EXECUTOR.Output(display_name="executor", tooltip="For Populate segments.")],
        )

    @classmethod
    def execute(cls, run_on: str, devices: int, order: str, address: str) -> io.NodeOutput:
        executor = Executor(
            kind=run_on,  # type: ignore[arg-type]  # checked there
            devices=devices,
            order=order,
            address=address.strip(),
        )
        return io.NodeOutput(executor)


NODES: list[type[io.ComfyNode]] = [ExecutorNode]
