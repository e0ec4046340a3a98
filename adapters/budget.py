"""What the memory budget reads from a loaded model: sizes, dims, and core's own estimate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import comfy.model_management
import torch

from ..memory.rates import RATES, Grid, memory_grid
from ..planning.budget import GIB, Card, MemoryRate, SegmentLength, TokenCost, Weights
from .families import family_of
from .geometry import LatentGeometry, read_geometry

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import VAE

BLOCKS = ("blocks", "double_blocks", "single_blocks", "vace_blocks")
"""How core's Wan and HunyuanVideo classes name their lists of blocks."""

ESTIMATE = 0.01
"""Megabytes of 2^20 per latent cell and byte of a value, before the model's own factor: the branch
of `BaseModel.memory_required` for attention that keeps no matrix, as every card named here has."""

STREAMS = 2
"""Streams that core offloads with on NVIDIA cards (`comfy.model_management.NUM_STREAMS`)."""

SHORTEST = 5
"""Latent frames below which no segment is recommended: one handed over and four new ones, a second
of Wan at 16 fps (section 3 of `memory-encoder.md`: a practical segment has 4 to 8)."""

SIXTEEN_BIT = 2
"""Bytes of a value as a card computes with it, and as memory tokens are kept."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the sums need to know of a loaded model. `patch` is a token's size (t, h, w) in latent
    cells, `longest` the latent frames of the clips that it was trained on."""

    name: str
    geometry: LatentGeometry
    patch: tuple[int, int, int]
    width: int
    longest: int
    weights: tuple[Weights, ...]
    cost: TokenCost

    def grid(self, latent_frames: int, height: int, width: int) -> Grid:
        """The token grid of a clip; an odd row or column is padded to a whole token, as core does.

        Height and width in pixels. Raises ValueError for sizes that the model does not take.
        """
        shape = self.geometry.latent_shape(max(1, latent_frames), height, width)[2:]
        cells = (latent_frames, *shape[1:])
        return Grid(*(-(-size // patch) for size, patch in zip(cells, self.patch, strict=True)))

    def asked_frames(self, seconds: float, fps: float) -> int:
        """Frames of a segment with `seconds` of new ones after one that was handed over."""
        grid = self.geometry.grid
        return grid.frames(1 + grid.new_latent_frames(seconds, fps))


def read_model(model: ModelPatcher) -> ModelFacts:
    """Read a loaded model. Raises ValueError for a model that the memory does not know."""
    family = family_of(model)
    inner = model.model.diffusion_model
    patch = getattr(inner, "patch_size", None)
    width = getattr(inner, "dim", None) or getattr(inner, "hidden_size", None)
    if not patch or not width:
        raise ValueError(f"model must be a Wan or HunyuanVideo model, got {family.name}")
    geometry = read_geometry(model)
    size_t, size_h, size_w = (int(size) for size in patch)
    return ModelFacts(
        name=family.name,
        geometry=geometry,
        patch=(size_t, size_h, size_w),
        width=int(width),
        longest=family.capabilities(model).segment_latent_frames,
        weights=read_weights(model),
        cost=_token_cost(model, geometry, size_t * size_h * size_w, int(width)),
    )


def read_weights(model: ModelPatcher) -> tuple[Weights, ...]:
    """The weights as they are loaded, and in 8 bits where those are at least a quarter smaller.

    In 8 bits every matrix takes a byte a value, as ComfyUI's `weight_dtype` fp8_e4m3fn stores them;
    vectors stay as they are (inferred: a ready-made fp8 file may keep some matrices wider).
    """
    inner = model.model.diffusion_model
    blocks = [block for name in BLOCKS for block in getattr(inner, name, ())]
    size = comfy.model_management.module_size
    loaded = _weights(_name(model), blocks, size, size(model.model))
    narrow = _weights("fp8_e4m3fn", blocks, _eight_bit_size, _eight_bit_size(model.model))
    return (loaded, narrow) if 4 * narrow.total <= 3 * loaded.total else (loaded,)


def _name(model: ModelPatcher) -> str:
    """The type as ComfyUI's loader nodes write it: bfloat16, fp8_e4m3fn..."""
    return str(model.model.get_dtype()).removeprefix("torch.").replace("float8", "fp8")


def _weights(
    dtype: str,
    blocks: list[torch.nn.Module],
    size: Callable[[torch.nn.Module], int],
    total: int,
) -> Weights:
    leaves = [
        module for block in blocks for module in block.modules() if not list(module.children())
    ]
    largest = max((size(leaf) for leaf in leaves), default=0)
    sizes = tuple(size(block) for block in blocks)
    return Weights(
        dtype=dtype, blocks=sizes, other=total - sum(sizes), buffer=(1 + STREAMS) * largest
    )


def _eight_bit_size(module: torch.nn.Module) -> int:
    tensors = module.state_dict().values()
    return sum(t.numel() if t.ndim > 1 else t.nbytes for t in tensors)


def _token_cost(model: ModelPatcher, geometry: LatentGeometry, cells: int, width: int) -> TokenCost:
    """A memory token is kept as its encoded values and the latents that it is projected from."""
    kept = SIXTEEN_BIT * (width + cells * geometry.channels)
    return TokenCost(activation=math.ceil(cells * cell_activation(model)), cached=kept)


def cell_activation(model: ModelPatcher) -> float:
    """Bytes of activations per latent cell of one pass, by core's own formula, with 16 bits to a
    value unless the weights are wider. ComfyUI takes both passes of guidance at once where there is
    room, and one after the other where not (`sampler_helpers.estimate_memory`)."""
    value = max(SIXTEEN_BIT, comfy.model_management.dtype_size(model.model.get_dtype()))
    return ESTIMATE * value * model.model.memory_usage_factor * (1 << 20)


def read_card(gigabytes: int) -> Card:
    """A card of so many GB with what this ComfyUI keeps free on it."""
    management = comfy.model_management
    return Card(
        total=gigabytes * GIB,
        reserve=int(management.extra_reserved_memory()),
        least=int(management.minimum_inference_memory()),
    )


def segment_lengths(
    facts: ModelFacts, seconds: float, fps: float, height: int, width: int
) -> tuple[SegmentLength, ...]:
    """The lengths to try, longest first: one latent frame and `seconds` of new ones, or what the
    model was trained on where that is shorter, down to SHORTEST."""
    wanted = facts.geometry.grid.latent_frames(facts.asked_frames(seconds, fps))
    longest = min(wanted, facts.longest)
    return tuple(
        SegmentLength(
            frames=facts.geometry.grid.frames(count),
            latent_frames=count,
            tokens=facts.grid(count, height, width).tokens,
        )
        for count in range(longest, min(longest, SHORTEST) - 1, -1)
    )


def memory_rates(
    facts: ModelFacts, seconds: float, fps: float, height: int, width: int
) -> tuple[MemoryRate, ...]:
    """The tokens of `seconds` of history at each rate (table 1.4, rounded up as we train)."""
    latent_frames = round(seconds * fps / facts.geometry.grid.frames_per_latent)
    grid = facts.grid(latent_frames, height, width)
    return tuple(
        MemoryRate(name=str(rate), tokens=memory_grid(grid, rate, "ceil").tokens) for rate in RATES
    )


def decode_bytes(vae: VAE, facts: ModelFacts, latent_frames: int, height: int, width: int) -> int:
    """Bytes that decoding one segment takes on the card, the VAE's weights included, by the VAE's
    own estimate, in bfloat16 where it works in that."""
    shape = facts.geometry.latent_shape(latent_frames, height, width)
    wide = torch.bfloat16 not in vae.working_dtypes
    used = vae.memory_used_decode(shape, vae.vae_dtype if wide else torch.bfloat16)
    return int(used) + int(vae.patcher.model_size())
