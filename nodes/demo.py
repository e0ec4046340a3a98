"""ThroughlineLoadDemoModels: the small trained models that the pack ships."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

from ..adapters.demo_models import (
    SPARSE_TEXT_FILE,
    SPARSE_VIDEO_FILE,
    TEXT_FILE,
    VIDEO_FILE,
    WEIGHTS,
    load_demo_models,
)

START_IMAGE = WEIGHTS / "demo_start.png"

CONTINUES, PLANS = "continue clips", "plan camera paths"
FILES = {CONTINUES: (VIDEO_FILE, TEXT_FILE), PLANS: (SPARSE_VIDEO_FILE, SPARSE_TEXT_FILE)}
"""Video model and text encoder by what they were trained for."""


def demo_start_image() -> torch.Tensor:
    """First frame of a take that the demo models never saw, [1, height, width, 3] in 0..1."""
    with Image.open(START_IMAGE) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0
    return torch.from_numpy(pixels).unsqueeze(0)


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
            inputs=[
                io.Combo.Input(
                    "models",
                    options=list(FILES),
                    default=CONTINUES,
                    optional=True,
                    tooltip="What they were trained for. Choose plan camera paths for Plan film "
                    "and Populate segments with planner and filler sparse.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="A Wan-class video model."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder."),
                io.Vae.Output(display_name="vae", tooltip="Its Wan 2.1-class VAE."),
                io.Image.Output(
                    display_name="start_image",
                    tooltip="A first frame to try: a garden that the models never saw.",
                ),
            ],
        )

    @classmethod
    def execute(cls, models: str = CONTINUES) -> io.NodeOutput:
        return io.NodeOutput(*load_demo_models(*FILES[models]), demo_start_image())


NODES: list[type[io.ComfyNode]] = [LoadDemoModels]
