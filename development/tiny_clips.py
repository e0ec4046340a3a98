"""CLIP's two sides and Flux's pair of text encoders: core's classes, small sizes, random weights.

The text sides are read from files by core's own loader, as an artist's are, so that what it does
with a file that lacks its text projection is what the tests see.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.sd
import torch
from comfy.clip_model import CLIPTextModel
from comfy.ops import manual_cast
from comfy.text_encoders.t5 import T5
from safetensors.torch import save_file

from .tiny_models import randomise

WIDTH = 32

CLIP_TEXT = {
    "hidden_act": "quick_gelu",
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}

T5_TEXT = {
    "d_ff": 48,
    "d_kv": 8,
    "d_model": 24,
    "num_heads": 2,
    "num_layers": 2,
    "dense_act_fn": "gelu_pytorch_tanh",
    "is_gated_act": True,
    "model_type": "t5",
    "vocab_size": 32128,
    "relative_attention_num_buckets": 32,
}

CLIP_VISION = {
    "model_type": "clip_vision_model",
    "hidden_act": "quick_gelu",
    "hidden_size": 40,
    "intermediate_size": 48,
    "image_size": 32,
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 3,
    "patch_size": 8,
    "projection_dim": WIDTH,
}


def write_clip_l(path: Path, projection: str = "trained", seed: int = 0) -> Path:
    """A file of CLIP-L. `projection`: "trained" (random numbers), "missing" as in the common
    clip_l.safetensors, "zero", or "identity" as older versions of core saved it."""
    network = CLIPTextModel(CLIP_TEXT, torch.float32, "cpu", manual_cast)
    randomise(network, seed)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    weight = "text_projection.weight"
    if projection == "missing":
        del state[weight]
    elif projection == "zero":
        state[weight] = torch.zeros(WIDTH, WIDTH)
    elif projection == "identity":
        state[weight] = torch.eye(WIDTH)
    save_file(state, path)
    return path


def write_t5(path: Path, seed: int = 0) -> Path:
    """A file of T5's encoder."""
    network = T5(T5_TEXT, torch.float32, "cpu", manual_cast)
    randomise(network, seed)
    save_file({key: value.clone() for key, value in network.state_dict().items()}, path)
    return path


def load_clip(*paths: Path, kind: str = "STABLE_DIFFUSION") -> comfy.sd.CLIP:
    """A text encoder read by core's loader, as CLIPLoader and DualCLIPLoader read it.

    Sizes come through the options: CLIP-L's as `model_config` (`comfy/text_encoders/long_clipl.py`
    makes them its own), T5's under its name (`comfy/sd1_clip.py: SDClipModel`).
    """
    options = {
        "dtype": torch.float32,
        "model_config": dict(CLIP_TEXT),
        "t5xxl_model_config": T5_TEXT,
    }
    return comfy.sd.load_clip(
        [str(path) for path in paths],
        clip_type=getattr(comfy.sd.CLIPType, kind),
        model_options=options,
    )


def tiny_clip_vision(seed: int = 0, **changes: Any) -> comfy.clip_vision.ClipVisionModel:
    """CLIP's picture side; `changes` are values of its config, None takes one out."""
    config = {key: value for key, value in {**CLIP_VISION, **changes}.items() if value is not None}
    made = comfy.clip_vision.ClipVisionModel(config)
    randomise(made.model, seed)
    return made
