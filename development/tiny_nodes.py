"""A node that gives tiny models, for tests through the host's executor and in real servers.

`write_pack(base)` makes it a pack of custom nodes in a server's base directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

PACK = '''"""Written by a test: tiny models for graphs. Loads the test's own files by path."""

import importlib.util
import pathlib
import sys


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_load("throughline_test_package", {package!r}).enter_package(
    "development", pathlib.Path({folder!r}), execute=False
)
from development.tiny_nodes import NODE_CLASS_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS"]
'''


CALLS = "THROUGHLINE_TEST_CALLS"
"""Environment variable: a file that gets a line, the seed, whenever a sampler begins."""


def note_call(executor: Any, *arguments: Any, **keywords: Any) -> Any:
    """Wrapper around core's outer_sample; the seed is its eighth argument."""
    if CALLS in os.environ:
        with open(os.environ[CALLS], "a", encoding="utf-8") as file:
            file.write(f"{arguments[7]}\n")
    return executor(*arguments, **keywords)


class TinyModels:
    """Random weights of one family, its text encoder, VAE and two conditionings.

    `layers` 0 keeps the family's own; more make a step slower.
    """

    CATEGORY = "Throughline tests"
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL", "CLIP", "VAE", "CONDITIONING", "CONDITIONING")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "family": ("STRING", {"default": "wan22_i2v"}),
                "seed": ("INT", {"default": 0}),
                "layers": ("INT", {"default": 0}),
            }
        }

    def load(self, family: str, seed: int, layers: int) -> tuple[Any, ...]:
        from dataclasses import replace

        from comfy.patcher_extension import WrappersMP

        from .tiny_images import IMAGE_FAMILIES
        from .tiny_models import FAMILIES, tiny_text_encoder, tiny_wan_vae
        from .tiny_vae import CHANNELS, tiny_wan22_vae

        image = IMAGE_FAMILIES.get(family)
        tiny = image or FAMILIES[family]
        if layers:
            tiny = replace(tiny, unet_config={**tiny.unet_config, "num_layers": layers})
        model = tiny.model(seed)
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "note_call", note_call)
        wan_vae = tiny_wan_vae
        if model.get_model_object("latent_format").latent_channels == CHANNELS:
            wan_vae = tiny_wan22_vae
        return (
            model,
            image.text_encoder(seed=seed) if image else tiny_text_encoder(tiny.text_width, seed),
            image.vae(seed=seed) if image else wan_vae(seed=seed),
            tiny.conditioning(1),
            tiny.conditioning(2),
        )


class NoteCalls:
    """A model that notes its sampler calls, otherwise the same."""

    CATEGORY = "Throughline tests"
    FUNCTION = "note"
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": ("MODEL",)}}

    def note(self, model: Any) -> tuple[Any]:
        from comfy.patcher_extension import WrappersMP

        noted = model.clone()
        noted.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "note_call", note_call)
        return (noted,)


class TinyLatent:
    """An empty latent 1 16 3 4 4."""

    CATEGORY = "Throughline tests"
    FUNCTION = "make"
    RETURN_TYPES = ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {}}

    def make(self) -> tuple[dict[str, Any]]:
        import torch

        return ({"samples": torch.zeros(1, 16, 3, 4, 4)},)


class TinyPictures:
    """Random pictures of 40 x 48 pixels, one for each seed of a text such as "1, 2"."""

    CATEGORY = "Throughline tests"
    FUNCTION = "make"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"seeds": ("STRING", {"default": "1"})}}

    def make(self, seeds: str) -> tuple[Any]:
        import torch

        pictures = [
            torch.rand((40, 48, 3), generator=torch.Generator().manual_seed(int(seed)))
            for seed in seeds.split(",")
        ]
        return (torch.stack(pictures),)


NODE_CLASS_MAPPINGS = {
    "ThroughlineTestNoteCalls": NoteCalls,
    "ThroughlineTestTinyPictures": TinyPictures,
    "ThroughlineTestTinyModels": TinyModels,
    "ThroughlineTestTinyLatent": TinyLatent,
}


def write_pack(base: Path) -> None:
    """Write the pack into base/custom_nodes."""
    folder = Path(__file__).resolve().parent
    pack = base / "custom_nodes" / "throughline_tiny_models"
    pack.mkdir(parents=True, exist_ok=True)
    text = PACK.format(package=str(folder / "package.py"), folder=str(folder))
    (pack / "__init__.py").write_text(text, encoding="utf-8")
