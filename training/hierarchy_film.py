"""What a planner of films is trained on: coarse codes of the shots of a story, and their captions.

Its data are the stories of `train memory`: shots of six latent frames in three places with cuts
between them, in any order, so that places and people come back. It plans the levels that a video
model is guided by and no finer one (shared design `hierarchical-latents.md`, section 7.3,
"coarse-only planner"). What it is told of a latent frame is what any film can tell: the text states
of its shot and how far into the shot it stands. What these mean is taught first, as for the
addresses of the history encoders (address_warm_up): where the camera stands is a sum of words
modulo 16.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..adapters.demo_models import WEIGHTS, DemoTextModel
from ..memory.hierarchy import HierarchyHead
from ..memory.hierarchy_planner import TextReader, TokenSpan
from ..planning.film_plan import until
from ..planning.rollout import CoarseToFine, RolloutStep, Span, Windows
from .address_warm_up import HARMONICS, draw_shots
from .checkpoints import write_tensors
from .memory_story import SEGMENT_LATENT_FRAMES
from .world import CHARACTER_NAMES, NUM_POSES, PLACE_WORDS

ROLLOUT = CoarseToFine(Windows((1, 6, 48)), finest=1)
"""Level 1 shot by shot, level 2 for eight shots at once: it looks back nine shots."""

CONDITION = 128
COLD_SHARE = 0.1
"""Of the steps without any history."""

WARM_UP_SHOTS, WARM_UP_RATE, WARM_UP_REPORT = 64, 2e-3, 100
ADDRESSES = "memory_encoder.addresses."
"""Prefix of the address network in the file of a history encoder."""


@dataclass(frozen=True)
class FilmCodes:
    """Stories `n s t` as codes `n s t cells c` per level, float16, and their conditions
    `n s t k`."""

    levels: dict[int, Tensor]
    conditions: Tensor
    gain: Tensor

    @property
    def shots(self) -> int:
        return self.conditions.shape[1]

    def write(self, path: Path, head: str) -> None:
        """Keep them in a file; `head` names what made them."""
        tensors = {f"level.{level}": codes for level, codes in self.levels.items()}
        rest = {"conditions": self.conditions, "gain": self.gain}
        write_tensors(path, {**tensors, **rest}, {"head": head})

    @classmethod
    def read(cls, path: Path) -> FilmCodes:
        """What `write` kept."""
        tensors = load_file(path)
        levels = {level: tensors[f"level.{level}"] for level in ROLLOUT.levels}
        return cls(levels, tensors["conditions"], tensors["gain"])


@torch.no_grad()
def film_codes(head: HierarchyHead, reader: TextReader, stories: Sequence[Path]) -> FilmCodes:
    """Encode the levels that the planner plans, and read the captions."""
    levels: dict[int, list[Tensor]] = {level: [] for level in ROLLOUT.levels}
    conditions, squares = [], np.zeros(head.levels)
    frames = torch.arange(SEGMENT_LATENT_FRAMES)
    for path in stories:
        story = load_file(path)
        codes = head.encode(story["latents"].float(), frames == 0)
        for level, kept in levels.items():
            kept.append(codes[level].half())
        squares += [float(each.var()) for each in codes]
        conditions.append(reader(story["text"].float(), frames).half())
    return FilmCodes(
        {level: torch.stack(kept) for level, kept in levels.items()},
        torch.stack(conditions),
        torch.tensor((squares / len(stories)) ** -0.5, dtype=torch.float32),
    )


class FilmSteps:
    """Draws batches of steps of the rollout over stories whose shots were put into any order."""

    def __init__(self, codes: FilmCodes) -> None:
        self.codes = codes

    def draw(
        self, generator: np.random.Generator, step: int, batch: int
    ) -> tuple[list[TokenSpan], list[TokenSpan]]:
        """Targets and context of a batch, clean and not scaled; all of it makes the same step."""
        chosen = draw_step(generator, step, self.codes.shots)
        count = len(self.codes.conditions)
        stories = torch.from_numpy(generator.integers(count, size=(batch, 1)))
        orders = np.stack([generator.permutation(self.codes.shots) for _ in range(batch)])
        shots = torch.from_numpy(orders.repeat(SEGMENT_LATENT_FRAMES, axis=1))
        places = torch.arange(shots.shape[1]) % SEGMENT_LATENT_FRAMES

        def span(one: Span) -> TokenSpan:
            cut = slice(one.start, one.stop)
            at = stories, shots[:, cut], places[cut]
            return TokenSpan(
                one.level,
                self.codes.levels[one.level][at].float(),
                torch.arange(one.start, one.stop)[None] - chosen.target.start,
                torch.zeros(batch),
                self.codes.conditions[at].float(),
            )

        return [span(chosen.target)], [span(one) for one in chosen.context]


def draw_step(generator: np.random.Generator, step: int, shots: int) -> RolloutStep:
    """A step of a chunk that begins behind any number of shots; the levels take turns."""
    cold = generator.uniform() < COLD_SHARE
    history = 0 if cold else int(generator.integers(1, shots))
    level = ROLLOUT.levels[step % len(ROLLOUT.levels)]
    cut = (
        until(one, shots * SEGMENT_LATENT_FRAMES)
        for one in ROLLOUT.steps(history * SEGMENT_LATENT_FRAMES)
        if one.target.level == level
    )
    steps = [one for one in cut if one is not None]
    return steps[int(generator.integers(len(steps)))]


def demo_reader(seed: int) -> TextReader:
    """A reader that begins as the address network of the demo's history encoder."""
    torch.manual_seed(seed)
    reader = TextReader(CONDITION, CONDITION)
    file = load_file(WEIGHTS / "memory_encoders" / "throughline_demo_2x2x2.safetensors")
    known = {
        name.removeprefix(ADDRESSES).replace("caption_norm", "norm"): value.float()
        for name, value in file.items()
        if name.startswith(ADDRESSES)
    }
    reader.load_state_dict({name: known[name] for name in reader.state_dict()})
    return reader


def warm_up_reader(reader: TextReader, text: DemoTextModel, steps: int, seed: int) -> list[float]:
    """Teach the reader in place and character, and where the camera stands at each latent frame,
    by a linear head that is thrown away; gives what was missed in every step."""
    head = nn.Linear(CONDITION, 2 * HARMONICS + len(PLACE_WORDS) + len(CHARACTER_NAMES) + 1)
    parameters = [*reader.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    missed = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = WARM_UP_RATE * min(1.0, (step + 1) / 50, (steps - step) / (0.3 * steps))
        shots = draw_shots(text, np.random.default_rng([seed, step, 5]), WARM_UP_SHOTS)
        said = head(reader(shots.text, torch.arange(SEGMENT_LATENT_FRAMES)))
        angle, place, character = said.split(
            [2 * HARMONICS, len(PLACE_WORDS), len(CHARACTER_NAMES) + 1], dim=-1
        )
        turns = shots.poses.float() * (2 * math.pi / NUM_POSES)
        waves = [f(k * turns) for k in range(1, HARMONICS + 1) for f in (torch.cos, torch.sin)]
        pose_error = F.mse_loss(angle, torch.stack(waves, dim=-1))
        named = _named(place, shots.places) + _named(character, shots.characters + 1)
        optimiser.zero_grad(set_to_none=True)
        (pose_error + 0.1 * named).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        missed.append(pose_error.item())
        if (step + 1) % WARM_UP_REPORT == 0:
            clock = time.strftime("%H:%M:%S")
            print(f"{clock} reader {step + 1}/{steps}: pose {missed[-1]:.4f}, {named:.4f}")
    return missed


def _named(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of `b f n` against one class per sample `b`."""
    return F.cross_entropy(logits.flatten(0, 1), wanted.repeat_interleave(logits.shape[1]))
