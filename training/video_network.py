"""The demo video model (ComfyUI's WanModel) and its text encoder, initialised for training."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.demo_models import SPECIAL_WORDS, DemoTextModel
from .world import CHARACTER_NAMES, NUM_POSES, PLACE_WORDS, POSITIONS

POSE_HARMONICS = (
    8  # pairs of cosine and sine of the camera angle in the first embedding channels of a number
)


@dataclass(frozen=True)
class VideoSizes:
    """Sizes in the layout of Wan 2.2 I2V-A14B: 16 noisy + 4 mask + 16 known channels."""

    dim: int = 192
    num_layers: int = 6
    num_heads: int = 4
    ffn_dim: int = 768
    text_dim: int = 128
    text_layers: int = 2
    in_dim: int = 36
    out_dim: int = 16
    freq_dim: int = 256

    def transformer_config(self) -> dict[str, Any]:
        """What core cannot read from the tensors, for the metadata key `config`."""
        return {
            "dim": self.dim,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "ffn_dim": self.ffn_dim,
            "text_dim": self.text_dim,
            "freq_dim": self.freq_dim,
            "in_dim": self.in_dim,
            "out_dim": self.out_dim,
        }


def build_vocabulary() -> tuple[str, ...]:
    """Every word of the caption grammar after the special ones."""
    words = (*PLACE_WORDS, *CHARACTER_NAMES, *POSITIONS, "empty", "camera", "to", ",")
    numbers = (str(pose) for pose in range(NUM_POSES))
    return (*SPECIAL_WORDS, *(word.lower() for word in words), *numbers)


def _normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


@torch.no_grad()
def initialise_video(model: nn.Module, generator: torch.Generator) -> None:
    """Unit-gain linear layers, residual outputs scaled by depth, gates one, output head zero."""
    depth = len(model.blocks)
    for name, parameter in model.named_parameters():
        if name.endswith("modulation"):
            parameter.zero_()
            if parameter.shape[1] == 6:  # shift, scale, gate of attention, then of the feed-forward
                parameter[:, 2] = parameter[:, 5] = 1.0
        elif re.search(r"norm\w*\.weight$", name):
            parameter.fill_(1.0)
        elif name.endswith("bias") or name == "head.head.weight":
            parameter.zero_()
        elif name.startswith(("time_", "text_embedding.2")):
            _normal(parameter, 0.02, generator)
        else:
            std = parameter[0].numel() ** -0.5
            residual = re.search(r"(attn\.o|ffn\.2)\.weight$", name)
            _normal(parameter, std * (2 * depth) ** -0.5 if residual else std, generator)
    _normal(model.text_embedding[2].weight, model.dim**-0.5, generator)
    _normal(model.time_embedding[2].weight, model.dim**-0.5, generator)


@torch.no_grad()
def initialise_text(
    model: DemoTextModel, vocabulary: tuple[str, ...], generator: torch.Generator
) -> None:
    """Like the video model; numbers also carry their camera angle: 15 and 0 are neighbours."""
    depth = len(model.blocks)
    for name, parameter in model.named_parameters():
        if re.search(r"norm\w*\.weight$", name):
            parameter.fill_(1.0)
        elif name.endswith("bias"):
            parameter.zero_()
        elif name in ("token.weight", "position.weight"):
            _normal(parameter, 0.3 if name.startswith("token") else 0.1, generator)
        else:
            std = parameter.shape[1] ** -0.5
            residual = name.endswith(("out.weight",))
            _normal(parameter, std * (2 * depth) ** -0.5 if residual else std, generator)
    for pose in range(NUM_POSES):
        angles = 2 * torch.pi * pose / NUM_POSES * torch.arange(1, POSE_HARMONICS + 1)
        row = model.token.weight[vocabulary.index(str(pose))]
        row[: 2 * POSE_HARMONICS] = 0.5 * torch.cat([angles.cos(), angles.sin()])


def build_models(seed: int, sizes: VideoSizes) -> nn.ModuleDict:
    """`video` and `text`, float32 on the CPU."""
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    operations = comfy.ops.disable_weight_init
    generator = torch.Generator().manual_seed(seed)
    video = WanModel(
        model_type="t2v", **sizes.transformer_config(), operations=operations, dtype=torch.float32
    )
    vocabulary = build_vocabulary()
    text = DemoTextModel(
        len(vocabulary), operations, sizes.text_dim, sizes.text_layers, dtype=torch.float32
    )
    initialise_video(video, generator)
    initialise_text(text, vocabulary, generator)
    return nn.ModuleDict({"video": video, "text": text})
