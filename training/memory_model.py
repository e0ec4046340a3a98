"""Diffusers' WanTransformer3DModel with memory tokens in its sequence, and LoRA on it.

The sequence is [memory | segment]: memory tokens are clean (modulated with t = 0), carry positions
of their own and never reach the head. Diffusers' modules are called one by one, because its
`forward` knows no such tokens; the arithmetic of a segment without memory is the class's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .libraries import library

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")
"""Linear layers of a Wan block that get a LoRA: all of them, as in AlayaWorld's recipe (its rank is
256, the paper's 128)."""

WAN_KNOWN_CHANNELS = 20
"""Mask (4) and known latents (16) of an I2V model, see video_training.concat_channels."""

ROPE_THETA = 10_000.0
"""Base of Wan's rotary frequencies (diffusers, WanRotaryPosEmbed)."""


def rotary_tables(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines `b n 1 head_dim` of positions `b n 3` (time, row, column).

    Diffusers' own tables, for positions that need not be whole numbers.
    """
    side = 2 * (head_dim // 6)
    angles = []
    for axis, dim in enumerate((head_dim - 2 * side, side, side)):
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim
        angles.append(positions[..., axis, None].double() * ROPE_THETA**-exponents)
    turned = torch.cat(angles, dim=-1).repeat_interleave(2, dim=-1)[:, :, None]
    return turned.cos().float(), turned.sin().float()


def grid_positions(frames: int, height: int, width: int, start: Tensor) -> Tensor:
    """Positions `b (t h w) 3` of a segment whose first latent frame stands at time `start` (b)."""
    axes = [torch.arange(n, device=start.device).float() for n in (frames, height, width)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, 3)
    shift = torch.zeros(len(start), 1, 3, device=start.device)
    shift[:, 0, 0] = start
    return grid + shift


class PlainAttention:
    """Attention by two matrix products: twice as fast to train on a CPU as the fused kernel at a
    few hundred tokens (measured for the video model's training)."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        k = attn.norm_k(attn.to_k(source)).unflatten(2, (attn.heads, -1))
        v = attn.to_v(source).unflatten(2, (attn.heads, -1))
        if rotary_emb is not None:
            q, k = rotate(q, *rotary_emb), rotate(k, *rotary_emb)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        weights = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)).softmax(-1)
        mixed = torch.matmul(weights.to(v.dtype), v).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](mixed))


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn neighbouring pairs of `b n heads d`."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    cosines, sines = cosines[..., 0::2].to(x.dtype), sines[..., 1::2].to(x.dtype)
    turned = (first * cosines - second * sines, first * sines + second * cosines)
    return torch.stack(turned, dim=-1).flatten(-2)


class MemoryModel(nn.Module):
    """A frozen video model of diffusers whose LoRA is trained. Latents are in its input space.

    A family gives `patch_projection`, `patch`, `lora_targets` and `forward`.
    """

    lora_targets: tuple[str, ...]

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer.requires_grad_(False)

    @property
    def inner_dim(self) -> int:
        return int(self.transformer.config.num_attention_heads) * self.head_dim

    @property
    def head_dim(self) -> int:
        return int(self.transformer.config.attention_head_dim)

    @property
    def extra_channels(self) -> int:
        """Input channels beside the noisy latent: 0 for T2V, 20 for Wan I2V."""
        return int(self.transformer.config.in_channels - self.transformer.config.out_channels)

    @property
    def takes_known(self) -> bool:
        """Whether known latent frames come by extra channels, as in Wan I2V."""
        return False

    @property
    def text_dim(self) -> int:
        """Width of the text states that `forward` takes."""
        return int(self.transformer.config.text_dim)

    @property
    def patch_projection(self) -> nn.Conv3d:
        """The model's first projection, a convolution that cuts patches."""
        raise TypeError(f"{type(self).__name__} names no patch projection")

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of one token."""
        time, height, width = self.patch_projection.kernel_size
        return time, height, width

    def add_lora(self, rank: int, name: str) -> None:
        """A new LoRA on every linear layer of the blocks; those from before are frozen."""
        config = library("peft").LoraConfig(
            r=rank, lora_alpha=rank, target_modules=list(self.lora_targets)
        )
        self.transformer.add_adapter(config, adapter_name=name)

    def merge_lora(self) -> None:
        """Add the LoRA to the frozen weights and remove it: the model computes the same as before.

        Raises ValueError when it made a weight that is not finite.
        """
        self.transformer.fuse_lora(safe_fusing=True)
        self.transformer.unload_lora()
        self.transformer.requires_grad_(False)

    @torch.no_grad()
    def merge_factors(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add a LoRA's factors (down r x in, up out x r) to the frozen weights of these layers."""
        for layer, (down, up) in factors.items():
            weight = self.transformer.get_submodule(layer).weight
            weight += up.to(weight) @ down.to(weight)

    def project(self, low: Tensor) -> Tensor:
        """The model's own first projection of latents `b c t h w`; other channels are zero."""
        zeros = low.new_zeros(len(low), self.extra_channels, *low.shape[2:])
        return self.patch_projection(torch.cat([low, zeros], dim=1))

    def run_block(self, block: Callable[..., Any], *arguments: Any) -> Any:
        """Call one block, its activations computed again in the backward pass where that is on."""
        if torch.is_grad_enabled() and self.transformer.gradient_checkpointing:
            return checkpoint(block, *arguments, use_reentrant=False)
        return block(*arguments)


class WanMemoryModel(MemoryModel):
    """WanTransformer3DModel: 2.1 T2V, 2.2 T2V and I2V, TI2V-5B.

    Raises ValueError for a model that also reads image embeddings (Wan 2.1 I2V) or other channels
    than a mask and known latents.
    """

    lora_targets = LORA_TARGETS

    def __init__(self, transformer: Any) -> None:
        if transformer.config.image_dim is not None:
            raise ValueError(
                f"this Wan model reads image embeddings (image_dim {transformer.config.image_dim}),"
                " which no story holds: take a T2V model or Wan 2.2"
            )
        super().__init__(transformer)
        if self.extra_channels not in (0, WAN_KNOWN_CHANNELS):
            raise ValueError(
                f"a Wan model takes 0 or {WAN_KNOWN_CHANNELS} channels beside the latent, this one "
                f"takes {self.extra_channels}"
            )
        for block in transformer.blocks:
            if next(transformer.parameters()).device.type == "cpu":
                block.attn1.set_processor(PlainAttention())
                block.attn2.set_processor(PlainAttention())

    @property
    def patch_projection(self) -> nn.Conv3d:
        return self.transformer.patch_embedding

    @property
    def takes_known(self) -> bool:
        return self.extra_channels > 0

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        text: Tensor,
        memory: Tensor,
        memory_positions: Tensor,
        start: Tensor,
    ) -> Tensor:
        """Velocity `b c t h w` of `noisy` (b c+extra t h w) at `timestep` (b, 0..1000).

        `memory` b m d with positions b m 3 (m may be 0), `start` (b) the segment's first time.
        """
        model = self.transformer
        x = model.patch_embedding(noisy)
        frames, height, width = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        modulations = []
        for time in (torch.zeros_like(timestep), timestep):
            embedded, projected, states, _ = model.condition_embedder(time, text)
            modulations.append(projected.unflatten(1, (6, -1)))
        positions = [memory_positions, grid_positions(frames, height, width, start)]
        rotary = rotary_tables(torch.cat(positions, dim=1), self.head_dim)
        memory = memory.to(x.dtype)
        for block in model.blocks:
            memory, x = self.run_block(_block, block, memory, x, states, modulations, rotary)
        shift, scale = (model.scale_shift_table + embedded.unsqueeze(1)).chunk(2, dim=1)
        x = model.proj_out((model.norm_out(x.float()) * (1 + scale) + shift).type_as(x))
        return _unpatchify(x, (frames, height, width), model.config.patch_size)


def _block(
    block: Any,
    memory: Tensor,
    x: Tensor,
    text: Tensor,
    modulations: list[Tensor],
    rotary: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """One WanTransformerBlock over both parts, each with its own modulation."""
    parts = [memory, x]
    tables = [(block.scale_shift_table + m.float()).chunk(6, dim=1) for m in modulations]
    normed = [
        (block.norm1(part.float()) * (1 + table[1]) + table[0]).type_as(part)
        for part, table in zip(parts, tables, strict=True)
    ]
    attended = block.attn1(torch.cat(normed, dim=1), None, None, rotary)
    pieces = attended.split([memory.shape[1], x.shape[1]], dim=1)
    for i, (piece, table) in enumerate(zip(pieces, tables, strict=True)):
        parts[i] = (parts[i].float() + piece * table[2]).type_as(parts[i])
        parts[i] = parts[i] + block.attn2(block.norm2(parts[i].float()).type_as(x), text)
        fed = (block.norm3(parts[i].float()) * (1 + table[4]) + table[3]).type_as(parts[i])
        parts[i] = (parts[i].float() + block.ffn(fed).float() * table[5]).type_as(parts[i])
    return parts[0], parts[1]


def _unpatchify(x: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """`b (t h w) (patch c)` to `b c t h w`."""
    x = x.reshape(len(x), *grid, *patch, -1)
    x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def wan_from_comfy(path: Path) -> Any:
    """Diffusers' class with the weights of a file in ComfyUI's layout, float32.

    Sizes come from the metadata key `config`, as in core.
    """
    import json

    from diffusers import WanTransformer3DModel
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        sizes = json.loads(file.metadata()["config"])["transformer"]
    model = WanTransformer3DModel(
        num_attention_heads=sizes["num_heads"],
        attention_head_dim=sizes["dim"] // sizes["num_heads"],
        in_channels=sizes["in_dim"],
        out_channels=sizes["out_dim"],
        text_dim=sizes["text_dim"],
        freq_dim=sizes["freq_dim"],
        ffn_dim=sizes["ffn_dim"],
        num_layers=sizes["num_layers"],
    )
    state = {name: value.float() for name, value in load_file(path).items()}
    model.load_state_dict(convert_wan_transformer_to_diffusers(state))
    return model.float()
