"""A tiny Flux with sharp attention, prompts, context, and the same pairs for the slow reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .slow_flux import Pair, grid_ids, slow_joint

SIDE = (8, 12)
"""Latent cells of the pictures being made: 4 x 6 tokens."""

GUIDANCE = 3.5


def sharp_flux(family: Any, seed: int = 0) -> Any:
    """A tiny model whose queries and keys are long enough that attention picks tokens."""
    model = family.model(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.model.diffusion_model.named_parameters():
            if name.endswith(("query_norm.weight", "key_norm.weight")):
                parameter.copy_(1.5 + 0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def prompt(family: Any, seed: int, tokens: int = 7) -> list[list[Any]]:
    """A random CONDITIONING of so many text tokens."""
    [[_, options]] = family.conditioning(seed)
    generator = torch.Generator().manual_seed(100 + seed)
    return [[torch.randn(1, tokens, family.text_width, generator=generator), options]]


def picture(seed: int, height: int = SIDE[0], width: int = SIDE[1], rows: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(200 + seed)
    return torch.randn(rows, 16, height, width, generator=generator)


def sample(
    model: Any,
    noise: Tensor,
    positive: Any,
    negative: Any = None,
    cfg: float = 1.0,
    sigmas: Sequence[float] = (0.6, 0.0),
    callback: Any = None,
) -> Tensor:
    """Core's sampler (euler) from an empty latent. With one step the result is what the model says
    of noise * sigma, and nothing else."""
    import comfy.sample
    import comfy.samplers

    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model,
            noise,
            cfg,
            comfy.samplers.sampler_object("euler"),
            torch.tensor(sigmas),
            positive,
            positive if negative is None else negative,
            torch.zeros_like(noise),
            callback=callback,
            disable_pbar=True,
            seed=1,
        )


def slow_sample(
    model: Any,
    noise: Tensor,
    prompts: Sequence[Any],
    sees: Any,
    context: Sequence[Pair] = (),
    sigma: float = 0.6,
    time_step: float = 0.0,
    first_token: float = 0.0,
) -> Tensor:
    """What one step of `sample` must give: the pictures of one sequence [context, pairs]."""
    height, width = noise.shape[2] // 2, noise.shape[3] // 2
    made = [
        Pair(
            x=sigma * noise[i : i + 1],
            sigma=sigma,
            text=text,
            pooled=options["pooled_output"],
            guidance=GUIDANCE,
            ids=grid_ids(height, width, t=time_step * i),
        )
        for i, [[text, options]] in enumerate(prompts)
    ]
    with torch.no_grad():
        said = slow_joint(model.model.diffusion_model, [*context, *made], sees, first_token)
    denoised = [pair.x - sigma * one for pair, one in zip(made, said[len(context) :], strict=True)]
    return model.model.process_latent_out(torch.cat(denoised))


def sees_with_context(mode: str, context: int) -> Any:
    """Who sees whom in single blocks, from the words of the design alone."""

    def sees(q: int, k: int) -> bool:
        if k < context:
            return q >= context or k <= q
        if q < context:
            return False
        return {"separate": q == k, "causal": k <= q, "full": True}[mode]

    return sees
