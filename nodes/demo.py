"""ThroughlineLoadDemoModels: the small trained models that the pack ships."""

from __future__ import annotations

from comfy_api.latest import io

from ..adapters.demo_models import load_demo_models


class LoadDemoModels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ThroughlineLoadDemoModels",
            display_name="Load demo models",
            category="Throughline",
            description=(
                "Loads the small video model, text encoder and VAE that come with Throughline. "
                "They draw a 64 x 64 toy world at 8 frames per second on any CPU: use them to "
                "learn the nodes, then swap in your own loaders."
            ),
            search_aliases=["demo", "toy", "example model"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="A Wan-class video model."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder."),
                io.Vae.Output(display_name="vae", tooltip="Its Wan 2.1-class VAE."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_demo_models())


NODES: list[type[io.ComfyNode]] = [LoadDemoModels]
