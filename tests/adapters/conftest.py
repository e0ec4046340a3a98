"""What the tests of the adapters share: tiny models of ComfyUI's classes, and state to compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def tiny(comfy: ModuleType) -> ModuleType:
    """`development.tiny_models`: FAMILIES by name, tiny_wan_vae()."""
    from development import tiny_models

    return tiny_models


@pytest.fixture(scope="session")
def tiny_vae(tiny: ModuleType) -> Any:
    """One tiny Wan 2.1 VAE for all tests; nothing mutates it."""
    return tiny.tiny_wan_vae()


@pytest.fixture(scope="session")
def state_of() -> Callable[[Any], Any]:
    """`state_of(value)`: a frozen picture of it that compares with ==, tensors by their bytes.

    Of other objects than tensors, containers and plain values it keeps which one it is.
    """

    def freeze(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            plain = value.detach().contiguous().reshape(-1).view(torch.uint8)
            return ("tensor", tuple(value.shape), value.dtype, plain.numpy().tobytes())
        if isinstance(value, Mapping):
            return {key: freeze(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [type(value), *map(freeze, value)]
        if value is None or isinstance(value, bool | int | float | str | bytes):
            return value
        return (type(value), id(value))

    return freeze


@pytest.fixture(scope="session")
def model_state(state_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`model_state(model)`: everything of a ModelPatcher that a sampler must leave as it was."""

    def freeze(model: Any) -> Any:
        return state_of(
            {
                "weights": dict(model.model.diffusion_model.state_dict()),
                "options": model.model_options,
                "patches": model.patches,
                "object_patches": model.object_patches,
                "wrappers": model.wrappers,
                "callbacks": model.callbacks,
                "attachments": model.attachments,
                "hooks": [model.current_hooks, model.forced_hooks],
            }
        )

    return freeze
