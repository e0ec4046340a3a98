"""The slow way to sample a layout: no keys or values are kept, everything runs in one sequence.

At every step all finished frames run clean beside the noisy group, each frame with its own
timestep, and an explicit mask says which frame may look at which.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _mask(layout: Any, order: list[int], tokens: int) -> Tensor:
    """True where a token of one frame may look at one of another, over the frames of `order`."""
    sees = {}
    for group in layout.groups:
        for i in group.ids:
            sees[i] = {*group.ids, *group.visible}
    frames = torch.tensor([[other in sees[own] for other in order] for own in order])
    return frames.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)


@torch.no_grad()
def velocity(
    network: Any, layout: Any, latents: dict[int, Tensor], sigmas: dict[int, float], text: Tensor
) -> dict[int, Tensor]:
    """What the network gives for each frame b c 1 h w, in its input space; `sigmas` 0 is clean."""
    order = sorted(latents)
    x = torch.cat([latents[i] for i in order], dim=2)
    tokens = (x.shape[-2] // 2) * (x.shape[-1] // 2)
    dense = network.rope_encode(layout.latent_frames, *x.shape[-2:], device=x.device, dtype=x.dtype)
    table = dense.unflatten(1, (layout.latent_frames, tokens))
    positions = table[:, order].flatten(1, 2)
    mask = _mask(layout, order, tokens)

    def attention(function: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kw: Any) -> Tensor:
        if q.shape[1] == k.shape[1] == len(mask):
            kw["mask"] = torch.where(mask, 0.0, float("-inf"))[None, None]
        return function(q, k, v, *args, **kw)

    def block(args: dict[str, Any], extra: dict[str, Any]) -> Any:
        return extra["original_block"]({**args, "pe": positions})

    options = {
        "optimized_attention_override": attention,
        "patches_replace": {
            "dit": {("double_block", i): block for i in range(len(network.blocks))}
        },
    }
    times = torch.tensor([[1000.0 * sigmas[i] for i in order]]).expand(len(x), -1)
    out = network(x, times, text, transformer_options=options)
    return {i: out[:, :, place : place + 1] for place, i in enumerate(order)}


def euler(
    model: Any,
    layout: Any,
    known: dict[int, Tensor],
    noise: Tensor,
    texts: tuple[Tensor, Tensor],
    sigmas: Tensor,
    cfg: float,
) -> dict[int, Tensor]:
    """All groups of a layout by Euler's method with guidance; latents in the VAE's space."""
    network, form = model.model.diffusion_model, model.get_model_object("latent_format")
    finished = {i: form.process_in(latent) for i, latent in known.items()}
    for group in layout.groups:
        if all(i in finished for i in group.ids):
            continue
        now = {i: sigmas[0] * noise[:, :, i : i + 1] for i in group.ids}
        for level, after in zip(sigmas.tolist(), sigmas.tolist()[1:], strict=False):
            levels = {**dict.fromkeys(finished, 0.0), **dict.fromkeys(now, level)}
            wanted, unwanted = (
                velocity(network, layout, {**finished, **now}, levels, text) for text in texts
            )
            for i in now:
                guided = unwanted[i] + cfg * (wanted[i] - unwanted[i])
                now[i] = now[i] + (after - level) * guided
        finished |= now
    return {i: form.process_out(latent) for i, latent in finished.items()}
