"""Flux that denoises several keyframes with their captions together: the hybrid attention mask.

Captain Cinema (arXiv 2507.18634), section 3: in the double-stream blocks a pair of caption and
picture attends to itself, in the single-stream blocks all pairs of a film to each other. The pairs
of a film stand in the batch, so that the first is what diffusers' class does anyway and only the
single blocks get an attention processor of ours. All pairs have the same positions, as in the
joint mode of the nodes: Flux.1-dev was never trained to tell frames apart by position.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .libraries import library

Order = Literal["full", "causal"]
"""Whether a pair sees all pairs of its film, as in training, or those up to its own."""

LORA_LAYERS = (
    "attn.to_q",
    "attn.to_k",
    "attn.to_v",
    "attn.to_out.0",
    "attn.add_q_proj",
    "attn.add_k_proj",
    "attn.add_v_proj",
    "attn.to_add_out",
    "ff.net.0.proj",
    "ff.net.2",
    "ff_context.net.0.proj",
    "ff_context.net.2",
    "proj_mlp",
    "proj_out",
)
"""Every linear layer of the blocks but those of the modulation: the embedding of the distilled
guidance, which long training forgets (App., Fig. 8), stays as it is."""

PATCH = 2
"""Latent cells along a side of one token (diffusers, FluxPipeline._pack_latents)."""


class SharedAttention:
    """Attention of a single block over all pairs of a film; called by diffusers' FluxAttention.

    The batch is films x pairs. Nothing of size n x n is made: a causal order is one call per pair.
    """

    def __init__(self, pairs: int, order: Order) -> None:
        self.pairs, self.order = pairs, order

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """`hidden_states` films*pairs n d; the others are of diffusers' protocol."""
        rotate = library("diffusers.models.embeddings").apply_rotary_emb
        query, key, value = (
            layer(hidden_states).unflatten(-1, (-1, attn.head_dim))
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        query, key = (
            rotate(norm(states), image_rotary_emb, sequence_dim=1)
            for norm, states in ((attn.norm_q, query), (attn.norm_k, key))
        )
        films = [
            x.unflatten(0, (-1, self.pairs)).permute(0, 3, 1, 2, 4) for x in (query, key, value)
        ]
        mixed = _attend(*films, self.order)  # f heads p n d
        return mixed.permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 1).to(hidden_states.dtype)


def _attend(query: Tensor, key: Tensor, value: Tensor, order: Order) -> Tensor:
    """Attention of `f heads p n d` over the pairs of a film."""
    if order == "full":
        joined = (x.flatten(2, 3) for x in (query, key, value))
        return F.scaled_dot_product_attention(*joined).unflatten(2, query.shape[2:4])
    rows = [
        F.scaled_dot_product_attention(
            query[:, :, pair],
            key[:, :, : pair + 1].flatten(2, 3),
            value[:, :, : pair + 1].flatten(2, 3),
        )
        for pair in range(query.shape[2])
    ]
    return torch.stack(rows, dim=2)


class InterleavedFlux(nn.Module):
    """A frozen FluxTransformer2DModel of diffusers, a LoRA on it, and sequences of pairs."""

    def __init__(self, transformer: Any, guidance: float, order: Order = "full") -> None:
        """`guidance` is what a model with distilled guidance is told; unused by others."""
        super().__init__()
        self.transformer = transformer.requires_grad_(False)
        self.guidance, self.order = guidance, order

    @property
    def latent_channels(self) -> int:
        return int(self.transformer.config.in_channels) // PATCH**2

    def add_lora(self, rank: int, seed: int) -> None:
        """A new LoRA on every linear layer of the blocks. peft draws it from torch's global
        generator, which is left as it was."""
        layers = "|".join(map(re.escape, LORA_LAYERS))
        config = library("peft").LoraConfig(
            r=rank, lora_alpha=rank, target_modules=rf"(single_)?transformer_blocks.\d+.({layers})"
        )
        device = next(self.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self.transformer.add_adapter(config, adapter_name="keyframes")

    def lora(self) -> dict[str, Tensor]:
        """The LoRA's factors by diffusers' names, as files of LoRAs have them."""
        state = library("peft.utils").get_peft_model_state_dict(
            self.transformer, adapter_name="keyframes"
        )
        return {f"transformer.{name}": value for name, value in state.items()}

    def forward(self, latents: Tensor, levels: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        """Velocity (noise - picture) `f p c h w` of noisy `latents` `f p c h w`.

        `levels` f p in 0..1, `text` f p n d, `pooled` f p d. Sides of the latents are even.
        """
        films, pairs, _, height, width = latents.shape
        shared = SharedAttention(pairs, self.order)
        for block in self.transformer.single_transformer_blocks:
            block.attn.processor = shared
        given = latents.flatten(0, 1)
        guidance = None
        if self.transformer.config.guidance_embeds:
            guidance = given.new_full((films * pairs,), self.guidance)
        velocity = self.transformer(
            hidden_states=pack(given),
            encoder_hidden_states=text.flatten(0, 1),
            pooled_projections=pooled.flatten(0, 1),
            timestep=levels.flatten(),
            guidance=guidance,
            img_ids=picture_ids(height // PATCH, width // PATCH).to(given),
            txt_ids=torch.zeros(text.shape[2], 3).to(given),
            return_dict=False,
        )[0]
        return unpack(velocity, height, width).unflatten(0, (films, pairs))


def pack(latents: Tensor) -> Tensor:
    """Latents `b c h w` as tokens `b (h/2 w/2) 4c` (diffusers, FluxPipeline._pack_latents)."""
    b, c, h, w = latents.shape
    cells = latents.reshape(b, c, h // PATCH, PATCH, w // PATCH, PATCH)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // PATCH) * (w // PATCH), c * PATCH**2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """`pack` read backwards; `height` and `width` count latent cells."""
    b = tokens.shape[0]
    cells = tokens.reshape(b, height // PATCH, width // PATCH, -1, PATCH, PATCH)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(b, -1, height, width)


def picture_ids(height: int, width: int) -> Tensor:
    """Positions (t, h, w) of a picture's tokens, `height * width 3`, t = 0."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
