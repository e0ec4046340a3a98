"""A node that gives tiny models, for tests through the host's executor and in real servers.

`write_pack(base)` makes it a pack of custom nodes in a server's base directory.
"""

from __future__ import annotations

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

        from .tiny_models import FAMILIES, tiny_text_encoder, tiny_wan_vae

        tiny = FAMILIES[family]
        if layers:
            tiny = replace(tiny, unet_config={**tiny.unet_config, "num_layers": layers})
        return (
            tiny.model(seed),
            tiny_text_encoder(tiny.text_width, seed),
            tiny_wan_vae(seed=seed),
            tiny.conditioning(1),
            tiny.conditioning(2),
        )


NODE_CLASS_MAPPINGS = {"ThroughlineTestTinyModels": TinyModels}


def write_pack(base: Path) -> None:
    """Write the pack into base/custom_nodes."""
    folder = Path(__file__).resolve().parent
    pack = base / "custom_nodes" / "throughline_tiny_models"
    pack.mkdir(parents=True, exist_ok=True)
    text = PACK.format(package=str(folder / "package.py"), folder=str(folder))
    (pack / "__init__.py").write_text(text, encoding="utf-8")
