"""Teach the addresses of a history encoder before the video model reads by them.

An address finds a memory token by the caption of the shot that asks. What it should find is known
in training: the cells whose latents look like the shot's own. Nothing else takes part, so a step
costs milliseconds. From the velocity loss alone the addresses found shots that the history repeats
and nothing else: after 400 steps of Stage II the cross-entropy for new views was 8.5, uniform
weights have 4.6 (measured, docs/log.md).
"""

import time

import numpy as np
import torch
from torch import Tensor, nn

from ..memory.encoder import HistoryEncoder, fit_to_cells
from ..memory.recall import latent_cells, likeness
from .memory_data import StepTensors, StoryFolder, step_tensors
from .memory_plan import StepShape, draw_step

PEAK_LEARNING_RATE = 2e-3
WARM_UP = 100
REPEAT_SHARE = 0.2
GRADIENT_CLIP = 1.0
REPORT_EVERY = 200


def warm_up_addresses(
    encoders: nn.ModuleDict, data: StoryFolder, shape: StepShape, steps: int, seed: int
) -> list[float]:
    """Train the addresses of all encoders in place; gives the mean cross-entropy of every step."""
    parameters = [p for encoder in encoders.values() for p in encoder.addresses.parameters()]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    for step in range(steps):
        rise, fall = (step + 1) / WARM_UP, (steps - step) / (0.4 * steps)
        for group in optimiser.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * min(1.0, rise, fall)
        generator = np.random.default_rng([seed, step, 3])
        task = "repeat" if generator.uniform() < REPEAT_SHARE else "shot"
        plan = draw_step(task, shape, len(data), data.segments, generator, data.scenes_if_any)
        tensors = step_tensors(data, plan, (), generator)
        missed = torch.stack([missed_by(encoder, tensors) for encoder in encoders.values()])
        optimiser.zero_grad(set_to_none=True)
        missed.sum().backward()
        nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
        optimiser.step()
        losses.append(missed.mean().item())
        if (step + 1) % REPORT_EVERY == 0:
            clock, mean = time.strftime("%H:%M:%S"), np.mean(losses[-REPORT_EVERY:])
            print(f"{clock} addresses {step + 1}/{steps}: missed {mean:.3f}", flush=True)
    return losses


def missed_by(encoder: HistoryEncoder, step: StepTensors) -> Tensor:
    """Cross-entropy of what an encoder's addresses find against what looks alike."""
    histories = step.latents.shape[0]
    flat = step.latents.flatten(0, 1)
    cells = encoder.config.memory_grid(flat.shape)
    held = encoder.held_addresses(step.captions.flatten(0, 1), cells)
    held = held.reshape(histories, -1, held.shape[-1])[step.history]
    asked = encoder.asked_addresses(
        step.text, step.targets.shape[2], encoder.config.memory_grid(step.targets.shape)
    )
    assert encoder.addresses is not None
    weights = encoder.addresses.weights(asked, held)
    return missed_likeness(encoder, step, weights)


def missed_likeness(encoder: HistoryEncoder, step: StepTensors, weights: Tensor) -> Tensor:
    """Cross-entropy of recall weights `q k m` against the likeness of the latents themselves."""
    stride = encoder.config.spatial_stride
    held = latent_cells(
        fit_to_cells(step.latents.flatten(0, 1), encoder.config),
        (encoder.config.rate.time, *stride),
    )
    held = held.unflatten(0, step.latents.shape[:2]).flatten(1, 2)[step.history]
    true = latent_cells(fit_to_cells(step.targets, encoder.config), (1, *stride))
    alike = likeness(true[:, :, 0], held)
    return -(alike * weights.clamp_min(1e-6).log()).sum(dim=-1).mean()
